//! The life of a container: created, started, entered, killed, deleted. The record is on disk; the
//! truth is the kernel's.

#![forbid(unsafe_code)]

pub mod create;
pub mod delete;
pub mod exec;
pub mod signal;
pub mod start;
pub mod stats;
pub mod update;

use crate::cgroups::group::Group;
use crate::spec::state::state_document;
use crate::state::{Phase, Record};
use crate::store::START_FIFO;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::sys::process;
use crate::vm::channel::client::MonitorRequest;
use crate::vm::client::Vm;
use crate::{Error, Result};
use nix::errno::Errno;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// runtime.md, State; `paused` is everybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// create has not come to its end.
    Creating,
    /// The program waits for start.
    Created,
    /// The program runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// The program has ended.
    Stopped,
}

impl Status {
    /// The word of the spec.
    pub fn word(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// A container that exists.
pub struct Container {
    /// What was made.
    pub record: Record,
    pub(crate) store: Store,
}

impl Container {
    /// Reads a container's record.
    ///
    /// # Errors
    /// `container does not exist`.
    pub fn open(store: &Store, id: &str) -> Result<Self> {
        Ok(Self {
            record: store.read(id)?,
            store: store.clone(),
        })
    }

    /// A container that has just been made, by its record.
    pub fn made(record: Record, store: &Store) -> Self {
        Self {
            record,
            store: store.clone(),
        }
    }

    /// The container's directory in the store.
    pub fn directory(&self) -> PathBuf {
        self.store.directory(&self.record.id)
    }

    /// How it stands now.
    pub fn status(&self) -> Status {
        if !self.record.init_lives() || self.record.boot_id != crate::sys::procfs::boot_id() {
            return Status::Stopped;
        }
        if self.record.phase == Phase::Creating {
            return Status::Creating;
        }
        // Before the fifo: a created container can be paused too, and must be resumed before it can
        // be started.
        if self.is_paused() {
            Status::Paused
        } else if self.directory().join(START_FIFO).exists() {
            Status::Created
        } else {
            Status::Running
        }
    }

    /// Whether its processes, or its VM, are stopped by `pause`.
    fn is_paused(&self) -> bool {
        if self.record.vm.is_some() {
            return self
                .directory()
                .join(crate::vm::monitor::state::PAUSED)
                .exists();
        }
        matches!(self.group(), Ok(Some(group)) if group.frozen().unwrap_or(false))
    }

    /// The status for a reader who holds no lock: while `create` works the container is `creating`
    /// (runtime.md, State), also before it has a process.
    pub fn seen_status(&self) -> Status {
        match self.status() {
            Status::Stopped
                if self.record.phase == Phase::Creating
                    && self.record.pid == 0
                    && self.store.is_locked(&self.record.id) =>
            {
                Status::Creating
            }
            status => status,
        }
    }

    /// Init's process id, 0 when it is not there.
    pub fn pid(&self) -> i32 {
        if self.record.init_lives() {
            self.record.pid
        } else {
            0
        }
    }

    /// A descriptor of init, checked to be the same process after it was taken.
    ///
    /// # Errors
    /// `container not running`.
    pub fn pidfd(&self) -> Result<Fd> {
        let gone = || Error::new("container not running");
        match process::pidfd_open(self.record.pid) {
            Ok(pidfd) => {
                let held = Fd(pidfd);
                if self.record.init_lives() {
                    Ok(held)
                } else {
                    Err(gone())
                }
            }
            Err(Errno::ESRCH | Errno::EINVAL) => Err(gone()),
            Err(errno) => Err(Error::sys("open process", self.record.pid, errno)),
        }
    }

    /// Its VM, where it has one.
    pub fn vm(&self) -> Vm {
        Vm::of(self.directory())
    }

    /// The container's cgroup.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn group(&self) -> Result<Option<Group>> {
        let recorded = self.record.cgroup.as_ref();
        Ok(recorded
            .filter(|cgroup| !cgroup.places.is_empty())
            .map(Group::open))
    }

    /// Its cgroup, for a command that needs one.
    ///
    /// # Errors
    /// It has none.
    pub fn needed_group(&self) -> Result<Group> {
        self.group()?
            .ok_or_else(|| Error::new(format!("container {} has no cgroup", self.record.id)))
    }

    /// The state document, as `hull state` prints it: the spec's fields, and runc's beside them.
    pub fn state(&self) -> Value {
        let status = self.seen_status();
        let pid = if status == Status::Stopped {
            0
        } else {
            self.pid()
        };
        let mut document =
            state_document(&self.record.spec, &self.record.id, status.word(), Some(pid));
        if let Value::Object(map) = &mut document {
            map.insert(
                "rootfs".into(),
                Value::String(self.record.spec.rootfs().to_string_lossy().into_owned()),
            );
            map.insert("created".into(), Value::String(self.record.created.clone()));
            map.insert("owner".into(), Value::String(String::new()));
        }
        document
    }

    /// Freezes every process.
    ///
    /// # Errors
    /// It is not running; it has no cgroup.
    pub fn pause(&self) -> Result<()> {
        let _lock = self.store.lock(&self.record.id)?;
        match self.status() {
            Status::Running | Status::Created if self.record.vm.is_some() => {
                drop(self.vm().request(&MonitorRequest::Pause)?)
            }
            Status::Running | Status::Created => self.needed_group()?.freeze()?,
            _ => return Err(Error::new("container not running")),
        }
        crate::log::debug(|| format!("container {}: frozen", self.record.id));
        Ok(())
    }

    /// Thaws every process.
    ///
    /// # Errors
    /// It is not paused.
    pub fn resume(&self) -> Result<()> {
        let _lock = self.store.lock(&self.record.id)?;
        match self.status() {
            Status::Paused if self.record.vm.is_some() => {
                drop(self.vm().request(&MonitorRequest::Resume)?)
            }
            Status::Paused => self.needed_group()?.thaw()?,
            _ => return Err(Error::new("container not paused")),
        }
        crate::log::debug(|| format!("container {}: thawed", self.record.id));
        Ok(())
    }

    /// The process ids of everything in the container.
    ///
    /// # Errors
    /// The cgroup cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        if self.record.vm.is_some() {
            return Ok(self
                .vm()
                .processes()?
                .into_iter()
                .map(|process| process.pid)
                .collect());
        }
        match self.group()? {
            Some(group) => Ok(group
                .pids(true)?
                .into_iter()
                .map(nix::unistd::Pid::as_raw)
                .collect()),
            None => Ok(Some(self.pid())
                .filter(|pid| *pid > 0)
                .into_iter()
                .collect()),
        }
    }
}
