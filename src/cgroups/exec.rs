//! Where a further process of a container goes.

use super::file;
use super::group::{Group, open_dir};
use super::plan::Place;
use super::tree::Version;
use crate::{Context, Error, Result};
use nix::fcntl::OFlag;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// The cgroups for a further process.
#[derive(Debug)]
pub struct ExecTarget {
    /// v2: for CLONE_INTO_CGROUP.
    pub unified: Option<OwnedFd>,
    /// v1: the `tasks` files to which the child writes `0`.
    pub tasks: Vec<OwnedFd>,
    /// The folders, for messages.
    pub dirs: Vec<String>,
}

impl Group {
    /// The container's cgroups, or the sub-cgroups that are asked for: by controller, the empty name meaning all. On v2, when
    /// the container has made sub-cgroups and given them controllers, its own cgroup takes no process (EBUSY): then where init is.
    ///
    /// # Errors
    /// A sub-cgroup is not there, or is asked for a controller that the container does not have.
    pub fn exec_target(&self, init: Pid, subs: &BTreeMap<String, String>) -> Result<ExecTarget> {
        let unknown = subs.keys().find(|name| !name.is_empty() && !self.places.iter().any(|p| p.controllers.contains(name)));
        if let Some(name) = unknown {
            return Err(Error::new(format!("unknown controller {name} in --cgroup")));
        }
        let mut target = ExecTarget { unified: None, tasks: Vec::new(), dirs: Vec::new() };
        for place in &self.places {
            let sub = place.controllers.iter().find_map(|c| subs.get(c)).or_else(|| subs.get(""));
            let dir = match sub.map(|s| super::plan::clean(s)).filter(|s| !s.is_empty()) {
                Some(sub) => format!("{}/{sub}", place.dir),
                None if place.version == Version::V2 && is_inner(&place.dir) => dir_of(place, init)?,
                None => place.dir.clone(),
            };
            match place.version {
                Version::V2 => target.unified = Some(open_dir(&dir)?),
                Version::V1 => {
                    let tasks = file::open_in(&dir, "tasks", OFlag::O_WRONLY);
                    target.tasks.push(tasks.on("open", format_args!("{dir}/tasks"))?);
                }
            }
            target.dirs.push(dir);
        }
        Ok(target)
    }
}

/// Whether a v2 cgroup gives controllers to its children: then it may take no processes (`cgroup_migrate_vet_dst`), unless it
/// has some, in which case init is one of them.
fn is_inner(dir: &str) -> bool {
    file::read(dir, "cgroup.subtree_control").is_ok_and(|given| !given.trim().is_empty())
}

/// A process's cgroup of one hierarchy, as a folder.
pub(super) fn dir_of(place: &Place, pid: Pid) -> Result<String> {
    let path = format!("/proc/{pid}");
    let text = file::read(&path, "cgroup").on("read", format_args!("{path}/cgroup"))?;
    let is_it = |names: &str| match place.version {
        Version::V2 => names.is_empty(),
        Version::V1 => names.split(',').any(|name| place.controllers.iter().any(|c| c == name)),
    };
    let own = text.lines().find_map(|line| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        is_it(names).then_some(path)
    });
    let own = own.unwrap_or_default();
    let below = if place.root == "/" { Some(own) } else { own.strip_prefix(place.root.as_str()) };
    match below {
        Some(below) => Ok(format!("{}{}", place.mount_point, below.trim_end_matches('/'))),
        None => Err(Error::new(format!("cgroup {own} of process {pid} is not within the mount on {}", place.mount_point))),
    }
}
