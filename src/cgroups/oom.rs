//! Telling of OOM kills when they happen.

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

/// How long v1's word of a cgroup's removal may come after the removal (`css_offline` defers it to
/// a worker), in milliseconds.
const REMOVAL: u16 = 1000;

/// How long before its removal a v2 cgroup may have told of memory that ran out for its parent's
/// new kill to be its own.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Readable (poll) when something happened; then ask [`OomEvents::read`].
#[derive(Debug)]
pub struct OomEvents {
    dir: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The kernel signals an eventfd when it begins to kill, and once more when the cgroup is
    /// removed.
    V1 {
        event: EventFd,
        _control: OwnedFd,
        removed: bool,
    },
    /// `memory.events` is modified; its `oom_kill` counts. The kernel tells at most every 10 ms,
    /// and systemd removes a scope as soon as it is empty: so what the parent counted, its
    /// children's kills included, is known too, and when the file was last modified.
    V2 {
        watch: Inotify,
        seen: u64,
        parents: Option<u64>,
        stirred: Option<Instant>,
        gone: bool,
    },
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oom {
    /// Nothing of interest.
    Nothing,
    /// So many more OOM kills.
    Kills(u64),
    /// The cgroup has been removed: no more will come.
    Gone,
}

impl Group {
    /// Begins to watch. Nothing before this is told.
    ///
    /// # Errors
    /// The container has no memory controller; the kernel refuses.
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
                    stirred: None,
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
    /// What happened since the last time; does not wait.
    ///
    /// # Errors
    /// The kernel's answer cannot be read.
    pub fn read(&mut self) -> Result<Oom> {
        match &mut self.source {
            Source::V1 { removed: true, .. } => Ok(Oom::Gone),
            Source::V1 { event, removed, .. } => {
                let count = read_event(event).on("read OOM events of", &self.dir)?;
                match count {
                    0 => Ok(Oom::Nothing),
                    n if std::path::Path::new(&self.dir).exists() => Ok(Oom::Kills(n)),
                    // Its removal is told as well, once and at last, but a moment after the
                    // directory is gone. So of two the first was a kill.
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
                        // The end is still to be told: whoever polls shall come back for it.
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
                stirred,
                gone,
            } => {
                match watch.read_events() {
                    Ok(events)
                        if events
                            .iter()
                            .any(|event| event.mask.contains(AddWatchFlags::IN_MODIFY)) =>
                    {
                        *stirred = Some(Instant::now())
                    }
                    Ok(_) | Err(Errno::EAGAIN) => {}
                    Err(errno) => return Err(Error::sys("read OOM events of", &self.dir, errno)),
                }
                // The parent first: a kill in between is then the own file's to tell.
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
                        let last_words = stirred.is_some_and(|time| time.elapsed() < LAST_WORDS);
                        Ok(if unseen > 0 && last_words {
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

/// What an eventfd has counted since the last time.
fn read_event(event: &EventFd) -> nix::Result<u64> {
    match event.read() {
        Err(Errno::EAGAIN) => Ok(0),
        other => other,
    }
}

/// The kills of the parent and all below it; the root counts none.
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
