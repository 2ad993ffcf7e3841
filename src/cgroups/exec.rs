//! The cgroup for a further process of a container (`hull exec`).

use super::directory::{dir_of, join, open_dir};
use super::file;
use super::group::Group;
use super::place::clean;
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
    /// v2: the directory. hull itself moves the process there ([`Group::join_unified`]).
    pub unified: Option<String>,
    /// v1: the open `tasks` files, to each of which the child writes `0`.
    pub tasks: Vec<OwnedFd>,
    /// The directories, for errors.
    pub dirs: Vec<String>,
}

/// Parses the values of `exec --cgroup` into paths by controller: `PATH` for every hierarchy, which
/// has the empty name, or `CONTROLLER[,CONTROLLER]:PATH` for some (runc's form).
///
/// # Errors
/// A controller's name is empty or comes twice; there are several values and one has no controller.
pub fn sub_cgroups(words: &[String]) -> Result<BTreeMap<String, String>> {
    let mut subs = BTreeMap::new();
    for word in words {
        let refuse = |why: &str| {
            Err(Error::new(format!(
                "invalid --cgroup argument: {word} ({why})"
            )))
        };
        let (controllers, path) = match word.split_once(':') {
            None if words.len() > 1 => return refuse("missing <controller>: prefix"),
            None => ("", word.as_str()),
            Some(("", _)) => return refuse("empty <controller> prefix"),
            Some(both) => both,
        };
        for controller in controllers.split(',') {
            if controller.is_empty() && !controllers.is_empty() {
                return refuse("empty <controller> prefix");
            }
            if subs
                .insert(controller.to_owned(), path.to_owned())
                .is_some()
            {
                return refuse(&format!("controller {controller} specified multiple times"));
            }
        }
    }
    Ok(subs)
}

impl Group {
    /// The container's cgroups, or the sub-cgroups of `subs` ([`sub_cgroups`]). On v2, where the
    /// container has made sub-cgroups and given them controllers, its own cgroup takes no process
    /// (EBUSY): then it is the cgroup of the container's init.
    ///
    /// # Errors
    /// A sub-cgroup does not exist; the container has no cgroup of a controller in `subs`.
    pub fn exec_target(&self, init: Pid, subs: &BTreeMap<String, String>) -> Result<ExecTarget> {
        let unknown = subs.keys().find(|name| {
            !name.is_empty() && !self.places.iter().any(|p| p.controllers.contains(name))
        });
        if let Some(name) = unknown {
            return Err(Error::new(format!("unknown controller {name} in --cgroup")));
        }
        let mut target = ExecTarget {
            unified: None,
            tasks: Vec::new(),
            dirs: Vec::new(),
        };
        for place in &self.places {
            let sub = place
                .controllers
                .iter()
                .find_map(|c| subs.get(c))
                .or_else(|| subs.get(""));
            let dir = match sub.map(|s| clean(s)).filter(|s| !s.is_empty()) {
                Some(sub) => format!("{}/{sub}", place.dir),
                None if place.version == Version::V2 && is_inner(&place.dir) => {
                    dir_of(place, init)?
                }
                None => place.dir.clone(),
            };
            match place.version {
                Version::V2 => {
                    open_dir(&dir)?;
                    target.unified = Some(dir.clone());
                }
                Version::V1 => {
                    let tasks = file::open_in(&dir, "tasks", OFlag::O_WRONLY);
                    target
                        .tasks
                        .push(tasks.on("open", format_args!("{dir}/tasks"))?);
                }
            }
            target.dirs.push(dir);
        }
        Ok(target)
    }

    /// Moves the process of an exec into the target's v2 cgroup. CLONE_INTO_CGROUP would not do: an
    /// intermediate process clones it, which has left hull's user namespace and has no rights in
    /// the tree; and clone3(2) would fail in a container at its limit of processes.
    ///
    /// # Errors
    /// Writing to `cgroup.procs` fails, and where an ordinary user may not write there, systemd
    /// refuses to move the process, or does not manage the container.
    pub fn join_unified(&self, target: &ExecTarget, pid: Pid, init: Pid) -> Result<()> {
        let (Some(dir), Some(place)) = (
            &target.unified,
            self.places.iter().find(|p| p.version == Version::V2),
        ) else {
            return Ok(());
        };
        match join(dir, pid) {
            // The container has given controllers to a sub-cgroup since `exec_target`.
            Err(error) if error.errno() == Some(Errno::EBUSY) && *dir == place.dir => {
                join(&dir_of(place, init)?, pid)
            }
            Err(error)
                if matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM))
                    && self.unit.is_some() =>
            {
                self.attach(
                    pid,
                    dir.strip_prefix(place.dir.as_str()).unwrap_or_default(),
                )
            }
            other => other,
        }
    }
}

/// Whether a v2 cgroup gives controllers to its children: then the kernel moves no process into it
/// (`cgroup_migrate_vet_dst`), unless it has processes, of which the container's init is one then.
fn is_inner(dir: &str) -> bool {
    file::read(dir, "cgroup.subtree_control").is_ok_and(|given| !given.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_cgroups_are_for_all_controllers_or_for_some() {
        let of = |words: &[&str]| {
            sub_cgroups(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
        };
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(c, p)| ((*c).to_owned(), (*p).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        assert_eq!(of(&["below"]).unwrap(), map(&[("", "below")]));
        assert_eq!(
            of(&["cpu,cpuacct:a", "memory:b"]).unwrap(),
            map(&[("cpu", "a"), ("cpuacct", "a"), ("memory", "b")])
        );
        for (words, why) in [
            (&["a", "b"][..], "missing <controller>"),
            (&[":a"], "empty"),
            (&["cpu,:a"], "empty"),
            (&["cpu:a", "cpu:b"], "multiple times"),
        ] {
            assert!(
                of(words).unwrap_err().to_string().contains(why),
                "{words:?}"
            );
        }
    }
}
