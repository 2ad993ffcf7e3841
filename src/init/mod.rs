//! What the child runs: `executor.rs` executes the container steps, `fresh.rs` is the entry of
//! `hull init`.

#![forbid(unsafe_code)]

pub mod executor;
pub mod fresh;
