//! What a container asks of its cgroups.

use crate::spec::config::Resources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What makes the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// hull, by mkdir(2) in the mounted cgroup file systems.
    Cgroupfs,
    /// systemd, over D-Bus.
    Systemd {
        /// The user's own instance of systemd, and not the system's.
        user: bool,
    },
    /// Nothing: the container stays in the caller's cgroup.
    Disabled,
}

/// What a container asks of its cgroups.
#[derive(Clone, Copy, Debug)]
pub struct CgroupRequest<'a> {
    /// The container's id, which is the name of its cgroup without `path`.
    pub id: &'a str,
    /// `linux.cgroupsPath`.
    pub path: Option<&'a str>,
    /// What makes the cgroup.
    pub driver: Driver,
    /// `linux.resources`.
    pub resources: Option<&'a Resources>,
    /// Whether hull applies device rules: those of the resources, then the default devices.
    pub device_rules: bool,
    /// The config's annotations, for `org.systemd.property.*`.
    pub annotations: &'a BTreeMap<String, String>,
    /// Whether the caller is an ordinary user, or root of a user namespace, and so may have no
    /// rights in the tree.
    pub rootless: bool,
}
