//! What the tests use: a harness that reports what a test leaves behind, bundles and their root
//! filesystems, the runtime under test, and what several subjects share.
//!
//! - [`harness`] runs each test in a process of its own; [`leaks`] finds what it left behind;
//!   [`macros`] has the macros that tests are written in.
//! - [`bundle`], [`spec`], [`fixture`] and [`users`] make a bundle; [`runtime`] drives the runtime
//!   on it and has the guard of a container.
//! - [`backend`] says in which backend the suite runs, and which tests apply to it; [`vm`] is for
//!   tests that make a VM themselves.
//! - [`cgroups`], [`checkpoint`], [`console`], [`network`], [`plan`] and [`compare`] belong to a
//!   subject each.
//! - [`raw`], [`programs`] and [`share_attack`] run in containers, as `/bin/probe`.

#[macro_use]
mod macros;

pub mod backend;
pub mod bundle;
pub mod cgroups;
pub mod checkpoint;
pub mod compare;
pub mod console;
pub mod fixture;
pub mod harness;
pub mod leaks;
pub mod network;
pub mod plan;
pub mod programs;
pub mod raw;
pub mod runtime;
pub mod share_attack;
pub mod spec;
pub mod users;
pub mod vm;

pub use bundle::Bundle;
pub use runtime::{Container, until};
