//! The cgroup tree: which hierarchies there are, where they are mounted, and the caller's cgroup in
//! each. All of it is read, and none assumed.

use super::file;
use crate::sys::mountinfo::{self, Mount};
use crate::{Context, Result};
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

/// Which of the two interfaces a hierarchy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// `cgroup`: a hierarchy for one controller, or for a few together.
    V1,
    /// `cgroup2`: the unified hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Which interface it has.
    pub version: Version,
    /// Where it is mounted, e.g. `/sys/fs/cgroup/memory`.
    pub mount_point: String,
    /// The cgroup that is the mount's root, as the caller's cgroup namespace names it.
    pub root: String,
    /// v1: the mount's controllers (`name=systemd` for one without any). v2: `cgroup.controllers`
    /// of the mount's root.
    pub controllers: Vec<String>,
    /// v2: `cgroup.controllers` of the parent of the caller's own cgroup, where a relative path
    /// begins.
    pub near_controllers: Vec<String>,
    /// The caller's own cgroup as /proc/self/cgroup names it.
    pub own: String,
    /// Whether the caller may make cgroups in its own cgroup (v2: next to it).
    pub writable: bool,
}

/// All hierarchies that a mount shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// The hierarchies, in the order of their mounts.
    pub hierarchies: Vec<Hierarchy>,
    /// The caller's effective user id, which is in the name of the cgroup of the user's instance of
    /// systemd.
    #[serde(default)]
    pub uid: u32,
}

impl Hierarchy {
    /// The directory of the caller's own cgroup; none where the mount does not show it (a mount
    /// that was made outside the caller's cgroup namespace).
    pub fn own_dir(&self) -> Option<String> {
        if self.root.starts_with("/..") || self.own.starts_with("/..") {
            return None;
        }
        let rest = if self.root == "/" {
            self.own.as_str()
        } else {
            self.own.strip_prefix(self.root.as_str())?
        };
        match rest {
            "" | "/" => Some(self.mount_point.clone()),
            _ if rest.starts_with('/') => Some(format!("{}{rest}", self.mount_point)),
            _ => None,
        }
    }

    /// The directory to which a relative `cgroupsPath` is relative. On v1 it is the caller's own
    /// cgroup; on v2 its parent, since the own one has processes, and a cgroup with processes
    /// cannot give controllers to its children (cgroup-v2.rst, "No Internal Process Constraint").
    /// runc does the same.
    pub fn relative_dir(&self) -> Option<String> {
        let own = self.own_dir()?;
        if self.version == Version::V1 || own == self.mount_point {
            return Some(own);
        }
        own.rsplit_once('/').map(|(parent, _)| parent.to_owned())
    }
}

impl Tree {
    /// Reads /proc/self/mountinfo, /proc/self/cgroup and, for v2, `cgroup.controllers`. `uid` is
    /// the caller's effective user id; `in_user_namespace` tells that the caller is in another user
    /// namespace than the initial one.
    ///
    /// # Errors
    /// One of these files cannot be read.
    pub fn probe(uid: u32, in_user_namespace: bool) -> Result<Self> {
        let mounts = mountinfo::of("self")?;
        let own = file::read("/proc/self", "cgroup").on("read", "/proc/self/cgroup")?;
        let mut tree = Self::of(&mounts, &own);
        tree.uid = uid;
        // Root of the initial user namespace may write wherever the mount is writable. For other
        // callers access(2) tells.
        let privileged = uid == 0 && !in_user_namespace;
        for hierarchy in &mut tree.hierarchies {
            let begin = hierarchy.relative_dir();
            if hierarchy.version == Version::V2 {
                hierarchy.controllers = controllers(&hierarchy.mount_point)?;
                hierarchy.near_controllers = match &begin {
                    Some(dir) if *dir != hierarchy.mount_point => controllers(dir)?,
                    _ => hierarchy.controllers.clone(),
                };
            }
            if hierarchy.writable && !privileged {
                hierarchy.writable =
                    begin.is_some_and(|dir| access(dir.as_str(), AccessFlags::W_OK).is_ok());
            }
        }
        Ok(tree)
    }

    /// The tree that some mounts and the text of /proc/self/cgroup describe; v2's controllers are
    /// not in them.
    pub(crate) fn of(mounts: &[Mount], own: &str) -> Self {
        let groups: Vec<(Vec<&str>, &str)> = own.lines().filter_map(parse_own).collect();
        let mut tree = Self::default();
        for mount in mounts {
            let Some(version) = version(mount).filter(|_| !is_covered(mount, mounts)) else {
                continue;
            };
            let group = groups.iter().find(|(names, _)| match version {
                Version::V2 => names == &[""],
                Version::V1 => names
                    .iter()
                    .any(|name| mount.super_options.iter().any(|option| option == name)),
            });
            let Some((names, path)) = group else { continue };
            let hierarchy = Hierarchy {
                version,
                mount_point: mount.mount_point.to_string_lossy().into_owned(),
                root: mount.root.to_string_lossy().into_owned(),
                controllers: if version == Version::V1 {
                    names.iter().map(|&n| n.to_owned()).collect()
                } else {
                    Vec::new()
                },
                near_controllers: Vec::new(),
                own: path.trim_end_matches(" (deleted)").to_owned(),
                writable: !is_read_only(mount),
            };
            tree.offer(hierarchy);
        }
        tree
    }

    /// Adds a hierarchy. One that is mounted more than once (bind mounts for containers) is taken
    /// from the mount that shows most of it.
    fn offer(&mut self, new: Hierarchy) {
        let same =
            |h: &&mut Hierarchy| h.version == new.version && h.controllers == new.controllers;
        match self.hierarchies.iter_mut().find(same) {
            None => self.hierarchies.push(new),
            Some(old) => {
                let rank = |h: &Hierarchy| {
                    (
                        h.own_dir().is_some(),
                        h.writable,
                        std::cmp::Reverse(h.root.len()),
                    )
                };
                if rank(&new) > rank(old) {
                    *old = new;
                }
            }
        }
    }

    /// Whether there is no v1 hierarchy: runc's "unified mode".
    pub fn is_pure_v2(&self) -> bool {
        !self.hierarchies.is_empty() && self.hierarchies.iter().all(|h| h.version == Version::V2)
    }
}

fn controllers(dir: &str) -> Result<Vec<String>> {
    let text = file::read(dir, "cgroup.controllers")
        .on("read", format_args!("{dir}/cgroup.controllers"))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// `4:memory:/user`: the controllers, and the cgroup's path (which may have colons).
fn parse_own(line: &str) -> Option<(Vec<&str>, &str)> {
    let mut fields = line.splitn(3, ':').skip(1);
    Some((fields.next()?.split(',').collect(), fields.next()?))
}

/// Which interface a mount speaks; none where it is not a cgroup file system.
fn version(mount: &Mount) -> Option<Version> {
    match mount.fstype.as_str() {
        "cgroup" => Some(Version::V1),
        "cgroup2" => Some(Version::V2),
        _ => None,
    }
}

fn is_read_only(mount: &Mount) -> bool {
    let mut options = mount.options.iter().chain(&mount.super_options);
    options.any(|option| option == "ro")
}

/// Whether another mount lies over a mount's path. The path leads through the mounts that this one
/// is mounted on; it is cut where one of those, or this one, carries another mount at or above the
/// place where the path goes on.
fn is_covered(mount: &Mount, all: &[Mount]) -> bool {
    let mut chain = vec![mount];
    while let Some(below) = all
        .iter()
        .find(|m| m.id == chain[chain.len() - 1].parent && chain.iter().all(|c| c.id != m.id))
    {
        chain.push(below);
    }
    all.iter()
        .filter(|other| chain.iter().all(|c| c.id != other.id))
        .any(|other| {
            let Some(at) = chain.iter().position(|c| c.id == other.parent) else {
                return false;
            };
            // Where the path goes on: at the next mount of the chain, or at this one's own root.
            chain[at.saturating_sub(1)]
                .mount_point
                .starts_with(&other.mount_point)
        })
}
