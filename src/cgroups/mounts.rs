//! What a mount of type `cgroup` becomes inside the container.

use super::plan::{Place, Plan};
use super::tree::Version;

/// One thing to make below the mount's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupMount {
    /// The tmpfs that holds the hierarchies of v1.
    Tmpfs,
    /// A cgroup file system, seen through the container's cgroup namespace.
    File {
        /// Below the target, with a leading slash; empty for the target itself.
        below: String,
        /// `cgroup` or `cgroup2`.
        fstype: &'static str,
        /// The controllers of v1.
        data: String,
        /// What is bound where the kernel refuses the mount.
        host: String,
    },
    /// The container's own folder of a hierarchy, bound.
    Bind {
        /// Below the target.
        below: String,
        /// The host's folder.
        source: String,
    },
    /// `cpu` for a hierarchy mounted as `cpu,cpuacct`.
    Symlink {
        /// Below the target.
        below: String,
        /// The hierarchy's folder.
        to: String,
    },
}

impl CgroupMount {
    /// The path below the mount's target.
    pub fn below(&self) -> &str {
        match self {
            CgroupMount::Tmpfs => "",
            CgroupMount::File { below, .. } | CgroupMount::Bind { below, .. } | CgroupMount::Symlink { below, .. } => below,
        }
    }
}

/// The mounts, in order: on v2 one, on v1 and hybrid trees the v1 hierarchies, as runc has it.
pub fn mounts_for_container(plan: &Plan, has_cgroup_namespace: bool) -> Vec<CgroupMount> {
    let one = |place: &Place, below: String| {
        if has_cgroup_namespace {
            let (fstype, data) = match place.version {
                Version::V1 => ("cgroup", place.controllers.join(",")),
                Version::V2 => ("cgroup2", String::new()),
            };
            CgroupMount::File { below, fstype, data, host: place.dir.clone() }
        } else {
            CgroupMount::Bind { below, source: place.dir.clone() }
        }
    };
    if let [only] = &plan.places[..]
        && only.version == Version::V2
    {
        return vec![one(only, String::new())];
    }
    let mut mounts = vec![CgroupMount::Tmpfs];
    for place in plan.places.iter().filter(|place| place.version == Version::V1) {
        let name = place.mount_point.rsplit('/').next().unwrap_or_default();
        mounts.push(one(place, format!("/{name}")));
        for controller in place.controllers.iter().filter(|controller| name.contains(',') && *controller != name) {
            mounts.push(CgroupMount::Symlink { below: format!("/{controller}"), to: name.to_owned() });
        }
    }
    mounts
}
