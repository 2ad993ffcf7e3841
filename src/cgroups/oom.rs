//! OOM kills, reported when they happen.

use super::file;
use super::group::Group;
use super::place::find;
use super::tree::Version;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long after a cgroup's removal v1's notification of it may come (`css_offline` defers it to a
/// worker), in milliseconds.
const REMOVAL: u16 = 1000;

/// A kill that only the parent of a removed v2 cgroup counts is taken for the cgroup's own, if its
/// `memory.events` changed at most this long before.
const LAST_CHANGE: Duration = Duration::from_secs(1);

/// A watch on a container's OOM kills: its descriptor becomes readable (poll(2)) when something
/// happened, which [`OomEvents::read`] then returns.
#[derive(Debug)]
pub struct OomEvents {
    dir: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The kernel adds to an eventfd when it begins to kill, and once more when the cgroup is
    /// removed.
    V1 {
        event: EventFd,
        _control: OwnedFd,
        removed: bool,
    },
    /// The kernel modifies `memory.events`, which has the number of kills as `oom_kill`. It reports
    /// a modification at most every 10 ms, and systemd removes a scope as soon as it is empty. So
    /// the parent's number, which includes that of its children, is kept too, and the time of the
    /// last modification.
    V2 {
        watch: Inotify,
        seen: u64,
        parents: Option<u64>,
        changed: Option<Instant>,
        gone: bool,
    },
}

/// What happened since the last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oom {
    /// Nothing of interest.
    Nothing,
    /// This many more processes were killed.
    Kills(u64),
    /// The cgroup has been removed: nothing more will happen.
    Gone,
}

impl Group {
    /// Begins to watch. Kills before this call are not reported.
    ///
    /// # Errors
    /// The container has no cgroup with the memory controller; eventfd(2), inotify(7) or opening
    /// and writing the cgroup's files fails.
    pub fn oom_events(&self) -> Result<OomEvents> {
        let place =
            find(&self.places, "memory").ok_or_else(|| Error::new("memory controller missing"))?;
        let dir = place.dir.clone();
        let source = match place.version {
            Version::V1 => {
                let event = EventFd::from_value_and_flags(
                    0,
                    EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
                )
                .on("eventfd for", &dir)?;
                let path = format!("{dir}/memory.oom_control");
                let control =
                    file::open_in(&dir, "memory.oom_control", OFlag::O_RDONLY).on("open", path)?;
                let value = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
                file::write(&dir, "cgroup.event_control", &value)
                    .on("write to", format_args!("{dir}/cgroup.event_control"))?;
                Source::V1 {
                    event,
                    _control: control,
                    removed: false,
                }
            }
            Version::V2 => {
                let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
                    .on("inotify for", &dir)?;
                let path = format!("{dir}/memory.events");
                watch
                    .add_watch(path.as_str(), AddWatchFlags::IN_MODIFY)
                    .on("watch", &path)?;
                let seen = kills(&dir).on("read", &path)?;
                Source::V2 {
                    watch,
                    seen,
                    parents: parents(&dir),
                    changed: None,
                    gone: false,
                }
            }
        };
        Ok(OomEvents { dir, source })
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1 { event, .. } => event.as_fd(),
            Source::V2 { watch, .. } => watch.as_fd(),
        }
    }
}

impl OomEvents {
    /// What happened since the last read; does not wait.
    ///
    /// # Errors
    /// The eventfd, the inotify descriptor or `memory.events` cannot be read.
    pub fn read(&mut self) -> Result<Oom> {
        match &mut self.source {
            Source::V1 { removed: true, .. } => Ok(Oom::Gone),
            Source::V1 { event, removed, .. } => {
                let count = read_event(event).on("read OOM events of", &self.dir)?;
                match count {
                    0 => Ok(Oom::Nothing),
                    n if std::path::Path::new(&self.dir).exists() => Ok(Oom::Kills(n)),
                    // The last notification is for the removal of the cgroup, and it comes a moment
                    // after the directory is gone. So of two notifications the first is for a kill.
                    n => {
                        let last = nix::poll::poll(
                            &mut [PollFd::new(event.as_fd(), PollFlags::POLLIN)],
                            REMOVAL,
                        );
                        last.on("wait for the end of", &self.dir)?;
                        let n = n + read_event(event).on("read OOM events of", &self.dir)?;
                        *removed = true;
                        if n == 1 {
                            return Ok(Oom::Gone);
                        }
                        // The removal is still to be reported: the caller's poll(2) must return
                        // once more for it.
                        event.write(1).on("tell the end of", &self.dir)?;
                        Ok(Oom::Kills(n - 1))
                    }
                }
            }
            Source::V2 { gone: true, .. } => Ok(Oom::Gone),
            Source::V2 {
                watch,
                seen,
                parents: before,
                changed,
                gone,
            } => {
                match watch.read_events() {
                    Ok(events)
                        if events
                            .iter()
                            .any(|event| event.mask.contains(AddWatchFlags::IN_MODIFY)) =>
                    {
                        *changed = Some(Instant::now())
                    }
                    Ok(_) | Err(Errno::EAGAIN) => {}
                    Err(errno) => return Err(Error::sys("read OOM events of", &self.dir, errno)),
                }
                // The parent is read first: a kill between the two reads is then in the cgroup's
                // own file.
                let all = parents(&self.dir);
                match kills(&self.dir) {
                    Ok(now) => {
                        let new = now.saturating_sub(*seen);
                        *seen = now;
                        *before = if new > 0 { parents(&self.dir) } else { all };
                        Ok(if new > 0 {
                            Oom::Kills(new)
                        } else {
                            Oom::Nothing
                        })
                    }
                    Err(Errno::ENOENT | Errno::ENODEV) => {
                        *gone = true;
                        let unseen = all
                            .zip(*before)
                            .map_or(0, |(now, before)| now.saturating_sub(before));
                        let recent = changed.is_some_and(|time| time.elapsed() < LAST_CHANGE);
                        Ok(if unseen > 0 && recent {
                            Oom::Kills(unseen)
                        } else {
                            Oom::Gone
                        })
                    }
                    Err(errno) => Err(Error::sys(
                        "read",
                        format_args!("{}/memory.events", self.dir),
                        errno,
                    )),
                }
            }
        }
    }
}

/// What an eventfd has counted since the last read.
fn read_event(event: &EventFd) -> nix::Result<u64> {
    match event.read() {
        Err(Errno::EAGAIN) => Ok(0),
        other => other,
    }
}

/// The number of kills of the parent cgroup and all below it; none where the parent is the root,
/// which has no `memory.events`.
fn parents(dir: &str) -> Option<u64> {
    kills(dir.rsplit_once('/')?.0).ok()
}

fn kills(dir: &str) -> nix::Result<u64> {
    let text = file::read(dir, "memory.events")?;
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
    Ok(count.unwrap_or(0))
}
