//! What a container asks of its cgroups.

use crate::spec::config::Resources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who makes the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// hull, in the mounted file system.
    Cgroupfs,
    /// systemd, asked over D-Bus: the system's, or the user's own.
    Systemd {
        /// The user's instance.
        user: bool,
    },
    /// Nobody: the container stays in the caller's cgroup.
    Disabled,
}

/// What the container asks for.
#[derive(Clone, Copy, Debug)]
pub struct CgroupRequest<'a> {
    /// The container's id, the name of its cgroup when no path is given.
    pub id: &'a str,
    /// `linux.cgroupsPath`.
    pub path: Option<&'a str>,
    /// Who makes it.
    pub driver: Driver,
    /// `linux.resources`.
    pub resources: Option<&'a Resources>,
    /// Whether device rules are to be applied: those of the resources, then the default devices.
    pub device_rules: bool,
    /// The config's annotations, for `org.systemd.property.*`.
    pub annotations: &'a BTreeMap<String, String>,
    /// Whether the caller is an ordinary user, or root of a user namespace, who may have no rights
    /// in the tree.
    pub rootless: bool,
}
