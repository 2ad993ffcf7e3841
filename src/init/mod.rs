//! The child's side: `walk.rs` is the one executor of container steps, `fresh.rs` the entry of
//! `hull init`.

#![forbid(unsafe_code)]

pub mod executor;
pub mod fresh;
