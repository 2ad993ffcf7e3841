//! What a process may do: its seccomp filter, capabilities, LSM labels, resource limits and
//! scheduling. All of it is computed before the clone; the child only loads bytes and masks.

#![forbid(unsafe_code)]

pub(crate) mod caps;
pub(crate) mod default_profile;
pub mod lsm;
pub(crate) mod process;
pub mod rlimits;
pub(crate) mod seccomp;
