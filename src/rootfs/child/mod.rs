//! The container steps that concern the root file system, one short function for each. They are
//! executed after the clone: nothing here allocates, locks or logs.

pub mod copyup;
pub mod layers;
pub mod mount;
pub mod path;
pub mod root;
