//! The processes of a cgroup: who they are, stopping them, ending them, and the end of the cgroup
//! itself.

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
    /// The place that tells the container's processes: the freezer's on v1, so that what is listed
    /// is what freezing holds still.
    fn processes(&self) -> Option<&Place> {
        find(&self.places, "freezer").or_else(|| self.places.first())
    }

    /// The container's processes, sorted; with those of sub-cgroups if asked. A cgroup that is gone
    /// has none.
    ///
    /// # Errors
    /// The cgroup cannot be read.
    pub fn pids(&self, recursive: bool) -> Result<Vec<Pid>> {
        match self.processes() {
            None => Ok(Vec::new()),
            Some(place) if recursive => pids_below(&place.dir),
            Some(place) => Ok(pids_in(&place.dir)?.into_iter().collect()),
        }
    }

    /// Whether the container is stopped by the freezer, its own or one above.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn frozen(&self) -> Result<bool> {
        find(&self.places, "freezer").map_or(Ok(false), is_frozen)
    }

    /// Stops all processes; returns when all have stopped.
    ///
    /// # Errors
    /// There is no freezer; or not all stopped within ten seconds: then they go on.
    pub fn freeze(&self) -> Result<()> {
        let place = find(&self.places, "freezer").ok_or_else(no_freezer)?;
        let end = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(10);
        loop {
            // v1 may stay in FREEZING when a process was forked meanwhile, and looks again only
            // when it is written to.
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

    /// Lets the processes go on.
    ///
    /// # Errors
    /// There is no freezer, or the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        set_frozen(find(&self.places, "freezer").ok_or_else(no_freezer)?, false)
    }

    /// Sends a signal to all processes, those of sub-cgroups too, none of which can get away by
    /// forking: v2 has a file for SIGKILL; for other signals, and on v1, they are frozen meanwhile.
    /// After SIGKILL a frozen container is thawed, since on v1 a frozen process does not die; after
    /// another signal it is as it was.
    ///
    /// # Errors
    /// A process cannot be signalled, for another reason than its end.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        let Some(place) = self.processes() else {
            return Ok(());
        };
        if place.version == Version::V2 && signal == Signal::SIGKILL {
            match file::write(&place.dir, "cgroup.kill", "1") {
                Ok(()) | Err(Errno::ENODEV) => return Ok(()),
                // Before 5.14 there is none; the cgroup may be gone too, then there is nobody.
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

    /// Lets every process go on that v1's freezer holds, in the cgroups below as well, which the
    /// container may have frozen itself: a frozen process does not die of SIGKILL there. On v2 it
    /// does.
    ///
    /// # Errors
    /// The kernel refuses.
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

    /// Removes the cgroups with all below them, waiting up to ten seconds for processes that are
    /// ending. Parents stay, as with runc: they may have limits of somebody else.
    ///
    /// # Errors
    /// All cgroups that could not be removed, in one sentence; the others are gone.
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

/// Without a freezer a process can fork between the list and the signal: so until the list is
/// empty.
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
