//! hull: an OCI container runtime. A bundle is compiled into a plan; a wall carries it out.

pub mod cgroups;
pub mod checkpoint;
pub mod cli;
pub mod container;
pub mod error;
pub mod facts;
pub mod features;
pub mod foreign;
pub mod init;
pub mod log;
pub mod namespaces;
pub mod net;
pub mod people;
pub mod plan;
pub mod rootfs;
pub mod security;
pub mod settings;
pub mod spec;
pub mod state;
pub mod sys;
pub mod vm;
pub mod wall;

pub use error::{Context, Error, Result};
