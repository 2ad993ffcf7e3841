//! The processes of a container's cgroups: listing, freezing and killing them; and the removal of
//! the cgroups.

use super::directory::{PATIENCE, below, pids_below, pids_in, remove_until};
use super::file;
use super::freezer::{is_frozen, set_frozen};
use super::group::Group;
use super::place::{Place, find};
use super::tree::Version;
use crate::{Error, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

impl Group {
    /// The cgroup that lists the container's processes: on v1 the freezer's, so that the listed
    /// processes are those that freezing stops.
    fn processes(&self) -> Option<&Place> {
        find(&self.places, "freezer").or_else(|| self.places.first())
    }

    /// The container's processes, sorted; with `recursive` also those of sub-cgroups. A cgroup that
    /// is gone has none.
    ///
    /// # Errors
    /// `cgroup.procs` or a directory cannot be read.
    pub fn pids(&self, recursive: bool) -> Result<Vec<Pid>> {
        match self.processes() {
            None => Ok(Vec::new()),
            Some(place) if recursive => pids_below(&place.dir),
            Some(place) => Ok(pids_in(&place.dir)?.into_iter().collect()),
        }
    }

    /// Whether the container is frozen, by its own freezer or by one above.
    ///
    /// # Errors
    /// `freezer.state` (v1) or `cgroup.events` (v2) cannot be read.
    pub fn frozen(&self) -> Result<bool> {
        find(&self.places, "freezer").map_or(Ok(false), is_frozen)
    }

    /// Freezes all processes; returns when all have stopped.
    ///
    /// # Errors
    /// The container has no freezer; the kernel refuses; not all processes stopped within ten
    /// seconds, and hull thawed them again.
    pub fn freeze(&self) -> Result<()> {
        let place = find(&self.places, "freezer").ok_or_else(no_freezer)?;
        let end = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(10);
        loop {
            // v1 may stay in FREEZING when a process was forked meanwhile; the kernel freezes that
            // one only at another write.
            set_frozen(place, true)?;
            if is_frozen(place)? {
                return Ok(());
            }
            if Instant::now() > end {
                let thawed = set_frozen(place, false);
                let error = Error::new(format!(
                    "freeze {}: not all processes stopped within {} s",
                    place.dir,
                    PATIENCE.as_secs()
                ));
                return Err(thawed.map_or_else(|e| error.clone().within(e), |()| error.clone()));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Thaws the processes.
    ///
    /// # Errors
    /// The container has no freezer, or the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        set_frozen(find(&self.places, "freezer").ok_or_else(no_freezer)?, false)
    }

    /// Sends a signal to all processes, also those of sub-cgroups. A process that forks cannot
    /// escape: v2 has `cgroup.kill` for SIGKILL, and for other signals and on v1 the container is
    /// frozen meanwhile. After SIGKILL a frozen container is thawed, because on v1 a frozen process
    /// does not die; after another signal it is frozen again if it was before.
    ///
    /// # Errors
    /// kill(2) fails for another reason than the end of the process; the freezer cannot be read or
    /// written.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        let Some(place) = self.processes() else {
            return Ok(());
        };
        if place.version == Version::V2 && signal == Signal::SIGKILL {
            match file::write(&place.dir, "cgroup.kill", "1") {
                Ok(()) | Err(Errno::ENODEV) => return Ok(()),
                // Linux before 5.14 has no such file; or the cgroup is gone and has no processes.
                Err(Errno::ENOENT) => {}
                Err(errno) => {
                    return Err(Error::sys(
                        "write 1 to",
                        format_args!("{}/cgroup.kill", place.dir),
                        errno,
                    ));
                }
            }
        }
        let was_frozen = self.frozen().unwrap_or(false);
        let freezes = was_frozen || self.freeze().is_ok();
        let mut result = signal_all(place, signal);
        if signal == Signal::SIGKILL {
            result = result.and(self.thaw_all());
        } else if freezes && !was_frozen {
            result = result.and(self.thaw_if_there());
        }
        if !freezes && signal == Signal::SIGKILL {
            result = result.and_then(|()| kill_until_empty(place));
        }
        result
    }

    /// Thaws the container's v1 freezer and those of sub-cgroups, which the container may have
    /// frozen itself: on v1 a frozen process does not die of SIGKILL. On v2 it does, and there is
    /// nothing to do.
    ///
    /// # Errors
    /// Writing to a `freezer.state` fails; a directory cannot be read.
    pub fn thaw_all(&self) -> Result<()> {
        let Some(place) =
            find(&self.places, "freezer").filter(|place| place.version == Version::V1)
        else {
            return Ok(());
        };
        let mut todo = vec![place.dir.clone()];
        while let Some(dir) = todo.pop() {
            match file::write(&dir, "freezer.state", "THAWED") {
                Ok(()) => todo.extend(below(&dir)?),
                Err(Errno::ENOENT | Errno::ENODEV) => {}
                Err(errno) => {
                    return Err(Error::sys(
                        "write THAWED to",
                        format_args!("{dir}/freezer.state"),
                        errno,
                    ));
                }
            }
        }
        Ok(())
    }

    fn thaw_if_there(&self) -> Result<()> {
        match self.thaw() {
            Err(e) if matches!(e.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(()),
            other => other,
        }
    }

    /// Removes the cgroups with all below them, and waits up to ten seconds for processes that are
    /// ending. The cgroups above stay, as with runc: they may have limits of their own.
    ///
    /// # Errors
    /// rmdir(2) fails for a cgroup, or systemd cannot stop the unit. The error names all of them;
    /// the other cgroups are removed.
    pub fn remove(&mut self) -> Result<()> {
        self.commit();
        let stopped = self.stop_unit();
        let end = Instant::now() + PATIENCE;
        let mut failed: Vec<String> = self
            .places
            .iter()
            .filter_map(|p| remove_until(&p.dir, end).err())
            .map(|e| e.to_string())
            .collect();
        failed.extend(stopped.err().map(|e| e.to_string()));
        if failed.is_empty() {
            Ok(())
        } else {
            Err(Error::new(failed.join("; ")))
        }
    }
}

fn no_freezer() -> Error {
    Error::new("cannot toggle freezer: cgroups not configured for container")
}

fn signal_all(place: &Place, signal: Signal) -> Result<()> {
    let mut result = Ok(());
    for pid in pids_below(&place.dir)? {
        match kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                result = Err(Error::sys(
                    &format!("send {signal} to"),
                    format_args!("process {pid}"),
                    errno,
                ))
            }
        }
    }
    result
}

/// Kills all processes of a cgroup without a freezer: a process can fork between the listing and
/// the signal, so this repeats both until the list is empty.
fn kill_until_empty(place: &Place) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !pids_below(&place.dir)?.is_empty() {
        signal_all(place, Signal::SIGKILL)?;
        if Instant::now() > end {
            return Err(Error::new(format!(
                "kill all processes of {}: some are left after {} s",
                place.dir,
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
