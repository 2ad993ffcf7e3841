//! What a mount of type `cgroup` of the config becomes in the container.

use super::place::Place;
use super::plan::Plan;
use super::tree::Version;

/// One mount or link to make at or below the mount's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupMount {
    /// The tmpfs that holds the hierarchies of v1.
    Tmpfs,
    /// A cgroup file system, mounted in the container's cgroup namespace.
    File {
        /// The path below the target, with a leading slash; empty for the target itself.
        below: String,
        /// `cgroup` or `cgroup2`.
        fstype: &'static str,
        /// The mount's data: on v1 the controllers.
        data: String,
        /// The host's directory that is bound where the kernel refuses the mount.
        host: String,
    },
    /// The container's own directory of a hierarchy, bound.
    Bind {
        /// The path below the target.
        below: String,
        /// The host's directory.
        source: String,
    },
    /// A symbolic link, such as `cpu` to a hierarchy that is mounted as `cpu,cpuacct`.
    Symlink {
        /// The path below the target.
        below: String,
        /// The name of the hierarchy's directory.
        to: String,
    },
}

impl CgroupMount {
    /// The path below the mount's target.
    pub fn below(&self) -> &str {
        match self {
            CgroupMount::Tmpfs => "",
            CgroupMount::File { below, .. }
            | CgroupMount::Bind { below, .. }
            | CgroupMount::Symlink { below, .. } => below,
        }
    }
}

/// The mounts in their order, as runc has them: on v2 one, on v1 and hybrid trees the v1
/// hierarchies. Without a cgroup namespace v2 shows the whole tree (bound where a user namespace
/// may not mount it), and each hierarchy of v1 only the container's own cgroup. With `only_v2`
/// (type `cgroup2`) it is the v2 tree of a hybrid host.
pub fn mounts_for_container(
    plan: &Plan,
    has_cgroup_namespace: bool,
    only_v2: bool,
) -> Vec<CgroupMount> {
    let all = || plan.places.iter().chain(&plan.stays);
    let one = |place: &Place, below: String| match (place.version, has_cgroup_namespace) {
        (Version::V1, true) => CgroupMount::File {
            below,
            fstype: "cgroup",
            data: place.controllers.join(","),
            host: place.dir.clone(),
        },
        (Version::V1, false) => CgroupMount::Bind {
            below,
            source: place.dir.clone(),
        },
        (Version::V2, own) => {
            let host = if own { &place.dir } else { &place.mount_point };
            CgroupMount::File {
                below,
                fstype: "cgroup2",
                data: String::new(),
                host: host.clone(),
            }
        }
    };
    if let Some(place) = all().find(|place| only_v2 && place.version == Version::V2) {
        return vec![one(place, String::new())];
    }
    if let (Some(place), true) = (
        all().next(),
        all().all(|place| place.version == Version::V2),
    ) {
        return vec![one(place, String::new())];
    }
    let mut mounts = vec![CgroupMount::Tmpfs];
    let mut links = Vec::new();
    for place in all().filter(|place| place.version == Version::V1) {
        let name = place.mount_point.rsplit('/').next().unwrap_or_default();
        mounts.push(one(place, format!("/{name}")));
        let others = name.split(',').filter(|controller| *controller != name);
        links.extend(others.map(|controller| CgroupMount::Symlink {
            below: format!("/{controller}"),
            to: name.to_owned(),
        }));
    }
    mounts.append(&mut links);
    mounts
}
