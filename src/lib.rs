//! hull: an OCI container runtime. A bundle is compiled into a plan; a wall carries it out.

pub mod cgroups;
pub mod error;
pub mod features;
pub mod init;
pub mod plan;
pub mod security;
pub mod spec;
pub mod sys;

pub use error::{Context, Error, Result};
