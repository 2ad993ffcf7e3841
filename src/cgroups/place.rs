//! A container's cgroup in one hierarchy, as data.

use super::tree::Version;
use serde::{Deserialize, Serialize};

/// What happens when the kernel refuses to make a cgroup (EACCES, EPERM, EROFS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IfDenied {
    /// An error.
    Fail,
    /// The container stays in the caller's cgroup of that hierarchy. (runc's way for rootless
    /// without a path.)
    Skip,
}

/// One cgroup to make: the container's in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which interface the hierarchy speaks.
    pub version: Version,
    /// The controllers that can be had there. v2 has `freezer` and `devices` always, and they are
    /// not listed.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount_point: String,
    /// Which cgroup the mount's root is, as /proc/PID/cgroup names it.
    pub root: String,
    /// The cgroup's directory; missing parents are made too.
    pub dir: String,
    /// v2: controllers to be turned on in each cgroup above that has them off. Those that a limit
    /// needs must come on.
    pub enable: Vec<String>,
    /// v2: the ones of `enable` whose failure is an error.
    pub required: Vec<String>,
    /// What a refusal means.
    pub if_denied: IfDenied,
}

/// The place that has a controller. What v2 has without a controller goes there: its own files, and
/// device rules when v1 has none.
pub(super) fn find<'a>(places: &'a [Place], controller: &str) -> Option<&'a Place> {
    places
        .iter()
        .find(|p| p.controllers.iter().any(|c| c == controller))
        .or_else(|| {
            let of_v2 = matches!(controller, "cgroup" | "devices" | "freezer");
            places.iter().find(|p| of_v2 && p.version == Version::V2)
        })
}

/// The path without `.`, `..` and doubled slashes, resolved against `/` so that it cannot lead
/// above.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}
