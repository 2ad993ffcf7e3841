//! What the tests stand on: a root filesystem, bundles, a runtime to drive, and a harness that sees
//! what is left behind.

#[macro_use]
mod macros;

pub mod attack;
pub mod bundle;
pub mod cgroups;
pub mod compare;
pub mod console;
pub mod fixture;
pub mod harness;
pub mod leaks;
pub mod life;
pub mod machine;
pub mod raw;
pub mod runtime;
pub mod spec;
pub mod users;
pub mod wall;

pub use bundle::Bundle;
pub use runtime::{Container, until};
