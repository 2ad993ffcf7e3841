//! Namespaces: making and joining them by clone, the id maps of user namespaces.

pub mod idmap;
pub mod spawn;
