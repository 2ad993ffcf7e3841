//! Namespaces: `plan.rs` plans which are made and joined, `spawn.rs` makes the child in them,
//! `idmap.rs` writes id maps, `subid.rs` finds an unprivileged user's subordinate ids, `sysctl.rs`
//! plans kernel parameters.

#![forbid(unsafe_code)]

pub mod idmap;
pub mod plan;
pub mod spawn;
pub mod subid;
pub mod sysctl;
