//! The life of a container: created, started, entered, killed, deleted. The record is on disk; the truth is the kernel's.

#![forbid(unsafe_code)]

pub mod create;
pub mod delete;
pub mod exec;
pub mod foreground;
pub mod signal;
mod stats;
mod update;

use crate::cgroups::Group;
use crate::init::Held;
use crate::plan::state_document;
use crate::state::{self, Phase, Record, Store};
use crate::sys::process;
use crate::wall::START_FIFO;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

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
    store: Store,
}

impl Container {
    /// Reads a container's record.
    ///
    /// # Errors
    /// `container does not exist`.
    pub fn open(store: &Store, id: &str) -> Result<Self> {
        Ok(Self { record: store.read(id)?, store: store.clone() })
    }

    /// The container's folder in the store.
    pub fn folder(&self) -> PathBuf {
        self.store.folder(&self.record.id)
    }

    /// Whether init is there: the same process, in this boot, and no zombie.
    fn init_lives(&self) -> bool {
        let Record { pid, start_time, .. } = self.record;
        pid > 0 && matches!(state::process_stat(pid), Some((letter, started)) if started == start_time && !matches!(letter, 'Z' | 'X'))
    }

    /// How it stands now.
    pub fn status(&self) -> Status {
        if !self.init_lives() || self.record.boot_id != state::boot_id() {
            return Status::Stopped;
        }
        if self.record.phase == Phase::Creating {
            return Status::Creating;
        }
        if self.folder().join(START_FIFO).exists() {
            return Status::Created;
        }
        match self.group() {
            Ok(Some(group)) if group.frozen().unwrap_or(false) => Status::Paused,
            _ => Status::Running,
        }
    }

    /// Init's process id, 0 when it is not there.
    pub fn pid(&self) -> i32 {
        if self.init_lives() { self.record.pid } else { 0 }
    }

    /// A descriptor of init, checked to be the same process after it was taken.
    ///
    /// # Errors
    /// `container not running`.
    pub fn pidfd(&self) -> Result<Held> {
        let gone = || Error::new("container not running");
        match process::pidfd_open(self.record.pid) {
            Ok(pidfd) => {
                let held = Held(pidfd);
                if self.init_lives() { Ok(held) } else { Err(gone()) }
            }
            Err(Errno::ESRCH | Errno::EINVAL) => Err(gone()),
            Err(errno) => Err(Error::sys("open process", self.record.pid, errno)),
        }
    }

    /// The container's cgroup.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn group(&self) -> Result<Option<Group>> {
        self.record.cgroup.as_ref().filter(|cgroup| !cgroup.places.is_empty()).map(Group::open).transpose()
    }

    /// Its cgroup, for a command that needs one.
    ///
    /// # Errors
    /// It has none.
    pub fn needed_group(&self) -> Result<Group> {
        self.group()?.ok_or_else(|| Error::new(format!("container {} has no cgroup", self.record.id)))
    }

    /// The state document, as `hull state` prints it: the spec's fields, and runc's beside them.
    pub fn state(&self) -> Value {
        let status = self.status();
        let pid = if status == Status::Stopped { 0 } else { self.pid() };
        let mut document = state_document(&self.record.spec, &self.record.id, status.word(), Some(pid));
        if let Value::Object(map) = &mut document {
            map.insert("rootfs".into(), Value::String(self.record.spec.rootfs().to_string_lossy().into_owned()));
            map.insert("created".into(), Value::String(self.record.created.clone()));
            map.insert("owner".into(), Value::String(String::new()));
        }
        document
    }

    /// Lets the program begin, and runs the poststart hooks.
    ///
    /// # Errors
    /// It is not `created`; it died while it waited.
    pub fn start(&self) -> Result<()> {
        let lock = self.store.lock(&self.record.id)?;
        match self.status() {
            Status::Created => {}
            Status::Stopped => return Err(Error::new("cannot start a container that has stopped")),
            Status::Running | Status::Paused => return Err(Error::new("cannot start an already running container")),
            Status::Creating => return Err(Error::new("cannot start a container that is still being created")),
        }
        let fifo = self.folder().join(START_FIFO);
        let name = crate::rootfs::c_path(&fifo)?;
        let held = crate::sys::file::openat(libc::AT_FDCWD, &name, libc::O_WRONLY | libc::O_NONBLOCK, 0).map(Held);
        let held = held.on("open", fifo.display())?;
        std::fs::remove_file(&fifo).on("remove", fifo.display())?;
        crate::sys::file::write(held.0, b"0").on("start container", &self.record.id)?;
        drop(lock);
        self.wait_for_program();
        // A signal that follows at once is to find the program's own handlers.
        self.wait_for_first_rest(10);
        crate::log::debug(|| format!("container {}: started", self.record.id));
        self.poststart()
    }

    /// The same for whoever has just made the container and holds its fifo.
    ///
    /// # Errors
    /// It died while it waited; a hook failed.
    pub fn start_made(&self, start: &Held) -> Result<()> {
        let fifo = self.folder().join(START_FIFO);
        std::fs::remove_file(&fifo).on("remove", fifo.display())?;
        crate::sys::file::write(start.0, b"0").on("start container", &self.record.id)?;
        self.poststart()
    }

    /// The hooks that run after the program has begun. One that fails stops the container (as runc has it).
    fn poststart(&self) -> Result<()> {
        let Some(hooks) = &self.record.spec.config().hooks else { return Ok(()) };
        if !hooks.poststart.is_empty() {
            self.wait_for_program();
            self.wait_for_first_rest(50);
        }
        for (index, hook) in hooks.poststart.iter().enumerate() {
            let state = state_document(&self.record.spec, &self.record.id, "running", Some(self.record.pid));
            if let Err(error) = crate::wall::run_hook("poststart", index, hook, &state, self.record.spec.bundle()) {
                let _ = self.pidfd().and_then(|pidfd| process::pidfd_send_signal(pidfd.0, libc::SIGKILL).on("kill", &self.record.id));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Until execve init's program is hull's own sealed copy, and a signal sent to it is lost: process 1 has no default actions. Bounded,
    /// for a program may be that copy too.
    fn wait_for_program(&self) {
        let link = format!("/proc/{}/exe", self.record.pid);
        for _ in 0..5000 {
            match std::fs::read_link(&link) {
                Ok(program) if program.to_string_lossy().starts_with("/memfd:hull") => std::thread::sleep(Duration::from_micros(200)),
                _ => return,
            }
        }
    }

    /// The poststart hooks are to find a program that has begun: one that waits for something, or has ended. Bounded, in milliseconds.
    fn wait_for_first_rest(&self, limit: u32) {
        for _ in 0..limit {
            match state::process_stat(self.record.pid) {
                Some(('R', _)) => std::thread::sleep(Duration::from_millis(1)),
                _ => return,
            }
        }
    }

    /// Freezes every process.
    ///
    /// # Errors
    /// It is not running; it has no cgroup.
    pub fn pause(&self) -> Result<()> {
        let _lock = self.store.lock(&self.record.id)?;
        match self.status() {
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
        match self.group()? {
            Some(group) => Ok(group.pids(true)?.into_iter().map(nix::unistd::Pid::as_raw).collect()),
            None => Ok(Some(self.pid()).filter(|pid| *pid > 0).into_iter().collect()),
        }
    }
}
