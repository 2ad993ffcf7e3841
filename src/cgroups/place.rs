//! A container's cgroup in one hierarchy, as data.

use super::tree::Version;
use serde::{Deserialize, Serialize};

/// What hull does where the kernel refuses to make a cgroup (EACCES, EPERM, EROFS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IfDenied {
    /// It fails.
    Fail,
    /// It leaves the container in the caller's cgroup of that hierarchy, as runc does for an
    /// ordinary user without `cgroupsPath`.
    Skip,
}

/// The container's cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which interface the hierarchy has.
    pub version: Version,
    /// The controllers that are available there. v2 always has freezer and device rules, which are
    /// not listed.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount_point: String,
    /// The cgroup that is the mount's root, as /proc/PID/cgroup names it.
    pub root: String,
    /// The cgroup's directory; hull makes missing directories above it too.
    pub dir: String,
    /// v2: the controllers that hull enables in the cgroups above where they are not enabled.
    pub enable: Vec<String>,
    /// v2: those of `enable` that a limit needs, so that hull fails without them.
    pub required: Vec<String>,
    /// What hull does where the kernel refuses to make it.
    pub if_denied: IfDenied,
}

/// The cgroup with a controller. The core files of v2 (`cgroup`) and what v2 has without a
/// controller (device rules and freezer, where v1 has none) are in the v2 cgroup.
pub(super) fn find<'a>(places: &'a [Place], controller: &str) -> Option<&'a Place> {
    places
        .iter()
        .find(|p| p.controllers.iter().any(|c| c == controller))
        .or_else(|| {
            let of_v2 = matches!(controller, "cgroup" | "devices" | "freezer");
            places.iter().find(|p| of_v2 && p.version == Version::V2)
        })
}

/// A path without `.`, `..` and repeated slashes, relative to `/`, so that it cannot lead above.
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
