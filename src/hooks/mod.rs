//! Hooks (config.md, POSIX-platform Hooks): `plan.rs` plans them, `host.rs` runs those of the
//! runtime namespace, `child.rs` those of the container namespace. `listener.rs` sends the seccomp
//! listener to its agent.

#![forbid(unsafe_code)]

pub mod child;
pub mod host;
pub mod listener;
pub mod plan;
