//! Where a further process of a container goes.

use super::file;
use super::group::{Group, open_dir};
use super::plan::Place;
use super::tree::Version;
use crate::{Context, Error, Result};
use nix::errno::Errno;
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
                None if place.version == Version::V2 && is_inner(&place.dir) => init_dir(place, init)?,
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

/// init's v2 cgroup, as a folder.
fn init_dir(place: &Place, init: Pid) -> Result<String> {
    let path = format!("/proc/{init}");
    let text = file::read(&path, "cgroup").on("read", format_args!("{path}/cgroup"))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let below = if place.root == "/" { Some(own) } else { own.strip_prefix(place.root.as_str()) };
    match below {
        Some(below) => Ok(format!("{}{}", place.mount_point, below.trim_end_matches('/'))),
        None => Err(Error::sys("find the cgroup of init", format_args!("{init} ({own})"), Errno::EBUSY)),
    }
}
