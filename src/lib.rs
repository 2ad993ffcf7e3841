//! hull: an OCI container runtime. A bundle is compiled into a plan; a backend executes it.

pub mod adhoc;
pub mod backend;
pub mod binfmt;
pub mod cgroups;
pub mod checkpoint;
pub mod cli;
pub mod compile;
pub mod container;
pub mod error;
pub mod facts;
pub mod features;
pub mod foreign;
pub mod guest;
pub mod hooks;
pub mod init;
pub mod log;
pub mod namespaces;
pub mod net;
pub mod plan;
pub mod process;
pub mod rootfs;
pub mod security;
pub mod settings;
pub mod spec;
pub mod state;
pub mod stdio;
pub mod step;
pub mod store;
pub mod sys;
pub mod vm;

pub use error::{Context, Error, Result};
