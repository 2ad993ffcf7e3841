//! Checkpoint and restore of containers, by CRIU.
//!
//! hull executes the host steps of the plan, and CRIU does what the container steps do at create.
//! From the plan hull also takes what CRIU must neither dump nor create: mounts of the host,
//! namespaces that are joined by path, the cgroup, the terminal.
//!
//! A directory of checkpoint images holds CRIU's images and runc's `descriptors.json`, so that hull
//! restores runc's images and runc restores hull's.

#![forbid(unsafe_code)]

pub(crate) mod archive;
mod attributes;
pub(crate) mod backend;
pub(crate) mod cgroups;
pub(crate) mod clone;
pub(crate) mod criu;
pub(crate) mod criu_log;
pub(crate) mod criu_network_lock;
pub(crate) mod dump;
pub(crate) mod external_mounts;
pub(crate) mod images;
pub(crate) mod layers;
pub(crate) mod manifest;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod network_lock;
pub(crate) mod options;
pub(crate) mod overlay_diff;
pub mod plan;
pub(crate) mod proto;
pub(crate) mod request;
pub(crate) mod restore;
pub(crate) mod session;
pub(crate) mod stdio_files;
pub(crate) mod targets;
pub(crate) mod tmpfs;
pub(crate) mod writeback;
