//! What a process may do: its seccomp filter, capabilities, LSM labels, resource limits and
//! scheduling. All of it is computed before the clone; the child only loads bytes and masks.

#![forbid(unsafe_code)]

pub mod caps;
pub mod default_profile;
pub mod lsm;
pub mod process;
pub mod rlimits;
pub mod seccomp;
