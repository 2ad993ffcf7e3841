//! The spec's `process`: `plan.rs` plans it for a container, `exec.rs` for `exec`; `child/` has the
//! container steps.

#![forbid(unsafe_code)]

pub mod child;
pub mod exec;
pub mod plan;
