//! The keeper of a detached container's output: a small process of hull's own, which reads two
//! pipes or a terminal and writes the log.
//!
//! ```text
//! container ──stdout──▶ │        │   log      <time> stdout F <line>     (the format of Kubernetes' container logs)
//!           ──stderr──▶ │ keeper │──▶ log.1    what was there when the log was full
//!         or a terminal │        │   log.lock held as long as the keeper lives
//! ```
//! It holds nothing else: no descriptor of the caller's, no terminal, not a directory. It ends when
//! nobody can write any more.

use crate::container::{Container, delete};
use crate::stdio::foreground::{console_pair, receive_terminal};
use crate::store::Store;
use crate::sys::clock::now;
use crate::sys::fd::Fd;
use crate::sys::{file, process};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup2_stderr, dup2_stdout, pipe2};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The log's name in the container's directory.
pub const LOG: &str = "log";
/// Where a full log goes.
pub const OLD_LOG: &str = "log.1";
/// Locked by the keeper.
pub const LOCK: &str = "log.lock";
/// A log that has grown to this many bytes is put aside, and the one before it is forgotten.
const FULL: u64 = 16 << 20;

/// The two ends of a container's output, before it has a keeper.
pub struct Streams {
    /// Read by the keeper: stdout and stderr, or the socket on which the terminal comes.
    read: (OwnedFd, Option<OwnedFd>),
    /// Written by the container.
    write: Option<(OwnedFd, OwnedFd)>,
    console: Option<Fd>,
}

impl Streams {
    /// Makes pipes, or the way of a terminal.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make(terminal: bool) -> Result<Self> {
        if terminal {
            let (ours, theirs) = console_pair()?;
            return Ok(Self {
                read: (ours, None),
                write: None,
                console: Some(theirs),
            });
        }
        let (out, out_write) = pipe2(OFlag::O_CLOEXEC).on("make", "a pipe for stdout")?;
        let (err, err_write) = pipe2(OFlag::O_CLOEXEC).on("make", "a pipe for stderr")?;
        Ok(Self {
            read: (out, Some(err)),
            write: Some((out_write, err_write)),
            console: None,
        })
    }

    /// Does something while hull's own stdout and stderr are the container's, which a child made
    /// meanwhile inherits.
    ///
    /// # Errors
    /// The work's own; the kernel's.
    pub fn while_redirected<T>(&mut self, work: impl FnOnce(Option<Fd>) -> Result<T>) -> Result<T> {
        let console = self.console.take();
        let Some((out, err)) = self.write.take() else {
            return work(console);
        };
        let saved =
            |fd: std::os::fd::BorrowedFd| fd.try_clone_to_owned().on("save", "stdout and stderr");
        let (own_out, own_err) = (
            saved(std::io::stdout().as_fd())?,
            saved(std::io::stderr().as_fd())?,
        );
        dup2_stdout(&out).on("redirect", "stdout")?;
        dup2_stderr(&err).on("redirect", "stderr")?;
        let result = work(console);
        dup2_stdout(&own_out).on("restore", "stdout")?;
        dup2_stderr(&own_err).on("restore", "stderr")?;
        result
    }

    /// Starts the keeper. The lock is taken here and goes over to it, so that there is no moment
    /// without.
    ///
    /// # Errors
    /// The log cannot be made; the process cannot be started.
    pub fn hand_over(self, directory: &Path, remove: Option<(&Store, &str)>) -> Result<()> {
        open_log(directory)?;
        let path = directory.join(LOCK);
        let lock = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .on("make", path.display())?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| Error::sys("lock", path.display(), errno))?;
        // Closing a descriptor leaves the lock in place as long as a copy is open; only unlocking
        // would end it.
        let kept = lock.try_clone().on("copy", path.display())?;
        std::mem::forget(lock);
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("log-keeper")
            .arg("--directory")
            .arg(directory)
            .current_dir("/")
            .env_clear();
        if self.read.1.is_none() {
            command.arg("--terminal");
        }
        if let Some((store, id)) = remove {
            command
                .arg("--root")
                .arg(store.root())
                .arg("--remove")
                .arg(id);
        }
        command
            .stdin(self.read.0)
            .stdout(self.read.1.map_or_else(Stdio::null, Stdio::from))
            .stderr(kept);
        command
            .spawn()
            .map(drop)
            .on("start", "the keeper of the log")
    }
}

/// What the keeper was told.
pub struct Keep {
    /// The container's directory.
    pub directory: PathBuf,
    /// stdin is a socket on which a terminal comes.
    pub terminal: bool,
    /// The container to remove at its end.
    pub remove: Option<(Store, String)>,
}

/// The keeper's whole life: stdin and stdout are what it reads, stderr is the lock.
///
/// # Errors
/// The terminal does not come; the container cannot be removed.
pub fn keep(keep: &Keep) -> Result<()> {
    let _ = process::setsid();
    file::close_all_but(3, &mut []);
    let own = |fd: std::os::fd::BorrowedFd| fd.try_clone_to_owned().on("copy", "a stream");
    let mut sources = if keep.terminal {
        vec![("stdout", receive_terminal(&own(std::io::stdin().as_fd())?)?)]
    } else {
        vec![
            ("stdout", own(std::io::stdin().as_fd())?),
            ("stderr", own(std::io::stdout().as_fd())?),
        ]
    };
    // The originals are closed: what is left open is what is read.
    file::close(0);
    file::close(1);
    let mut log = Log {
        directory: keep.directory.clone(),
        file: open_log(&keep.directory).ok(),
        size: 0,
    };
    while !sources.is_empty() {
        let ready = wait(&sources);
        let mut index = 0;
        sources.retain(|(name, source)| {
            let open = !ready.get(index).copied().unwrap_or(false) || log.take(name, source);
            index += 1;
            open
        });
    }
    match &keep.remove {
        Some((store, id)) => remove(store, id),
        None => Ok(()),
    }
}

/// Which of them have something to read, or have ended.
fn wait(sources: &[(&str, OwnedFd)]) -> Vec<bool> {
    let mut fds: Vec<PollFd> = sources
        .iter()
        .map(|(_, source)| PollFd::new(source.as_fd(), PollFlags::POLLIN))
        .collect();
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => fds
            .iter()
            .map(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
            .collect(),
        Err(_) => Vec::new(),
    }
}

fn remove(store: &Store, id: &str) -> Result<()> {
    if let Ok(pidfd) = Container::open(store, id).and_then(|container| container.pidfd()) {
        while !crate::sys::process::wait_gone(pidfd.0, std::time::Duration::from_secs(3600)) {}
    }
    delete::delete(store, id, true)
}

fn open_log(directory: &Path) -> Result<File> {
    let path = directory.join(LOG);
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .on("open", path.display())
}

struct Log {
    directory: PathBuf,
    file: Option<File>,
    size: u64,
}

impl Log {
    /// One bufferful; false at the end. A log that cannot be written must not stop the container:
    /// it is read on.
    fn take(&mut self, name: &str, source: &OwnedFd) -> bool {
        let mut buffer = [0_u8; 65536];
        match nix::unistd::read(source, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.write(name, &buffer[..count]);
                true
            }
            Err(Errno::EINTR | Errno::EAGAIN) => true,
            // EIO: nobody has the terminal open any more.
            Err(_) => false,
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8]) {
        let time = now();
        let mut text = Vec::with_capacity(bytes.len() + 64);
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            // P is a part of a line, F its end.
            let (line, tag) = line
                .strip_suffix(b"\n")
                .map_or((line, 'P'), |line| (line, 'F'));
            text.extend_from_slice(format!("{time} {name} {tag} ").as_bytes());
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        if self.size + text.len() as u64 > FULL {
            let _ = std::fs::rename(self.directory.join(LOG), self.directory.join(OLD_LOG));
            self.file = open_log(&self.directory).ok();
            self.size = 0;
        }
        if self
            .file
            .as_mut()
            .is_some_and(|file| file.write_all(&text).is_ok())
        {
            self.size += text.len() as u64;
        }
    }
}

/// Whether a keeper lives that still writes.
pub fn is_kept(directory: &Path) -> bool {
    let Ok(file) = File::open(directory.join(LOCK)) else {
        return false;
    };
    // Reading needs no right to write: a shared lock tells as much.
    matches!(
        Flock::lock(file, FlockArg::LockSharedNonblock),
        Err((_, Errno::EWOULDBLOCK))
    )
}
