//! Namespaces: making and joining them by clone, the id maps of user namespaces.

#![forbid(unsafe_code)]

pub mod idmap;
pub mod own_ids;
pub mod spawn;
