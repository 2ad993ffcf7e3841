//! What init does to the root filesystem, one short function for each container step. It runs after
//! clone: nothing here allocates, locks or logs.

pub mod copyup;
pub mod layers;
pub mod mount;
pub mod path;
pub mod root;
