//! The log keeper of a detached container: a process of hull's that reads the container's stdout
//! and stderr, or its terminal, and writes the log.
//!
//! ```text
//! container ──stdout──▶ │        │    log       <time> stdout F <line>
//!           ──stderr──▶ │ keeper │──▶ log.1     the previous log, when that was full
//!         or a terminal │        │    log.lock  locked as long as the keeper runs
//! ```
//! The format of the lines is that of Kubernetes' container logs. The keeper has no other
//! descriptor open, and its working directory is `/`. It ends when no process can write any more.

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

/// The name of the log in the container's directory.
pub const LOG: &str = "log";
/// The name that a full log is renamed to.
pub const OLD_LOG: &str = "log.1";
/// The name of the file that the keeper has locked.
pub const LOCK: &str = "log.lock";
/// Size of a full log, in bytes: it is renamed then, which removes the previous one.
const FULL: u64 = 16 << 20;

/// The output of a container that will be logged.
pub struct LoggedOutput {
    /// Read by the keeper.
    source: Source,
    /// Given to the container.
    sink: Option<Sink>,
}

/// What the keeper reads.
enum Source {
    /// The read ends of two pipes.
    Pipes { stdout: OwnedFd, stderr: OwnedFd },
    /// The socket over which the child sends the terminal's master.
    Terminal(OwnedFd),
}

/// What the container gets.
enum Sink {
    /// The write ends of the pipes.
    Pipes { stdout: OwnedFd, stderr: OwnedFd },
    /// The child's end of the console socket.
    Terminal(Fd),
}

impl LoggedOutput {
    /// Makes two pipes, or a console socket pair with `terminal`.
    ///
    /// # Errors
    /// pipe2(2) or socketpair(2) fails.
    pub fn new(terminal: bool) -> Result<Self> {
        if terminal {
            let (ours, theirs) = console_pair()?;
            return Ok(Self {
                source: Source::Terminal(ours),
                sink: Some(Sink::Terminal(theirs)),
            });
        }
        let (stdout, stdout_write) = pipe2(OFlag::O_CLOEXEC).on("make", "a pipe for stdout")?;
        let (stderr, stderr_write) = pipe2(OFlag::O_CLOEXEC).on("make", "a pipe for stderr")?;
        Ok(Self {
            source: Source::Pipes { stdout, stderr },
            sink: Some(Sink::Pipes {
                stdout: stdout_write,
                stderr: stderr_write,
            }),
        })
    }

    /// Calls `work` while hull's own stdout and stderr are the pipes, so that a child created
    /// meanwhile inherits them; or passes the console socket to it.
    ///
    /// # Errors
    /// `work` fails; dup2(2) fails.
    pub fn while_redirected<T>(&mut self, work: impl FnOnce(Option<Fd>) -> Result<T>) -> Result<T> {
        let (out, err) = match self.sink.take() {
            None => return work(None),
            Some(Sink::Terminal(console)) => return work(Some(console)),
            Some(Sink::Pipes { stdout, stderr }) => (stdout, stderr),
        };
        let saved =
            |fd: std::os::fd::BorrowedFd| fd.try_clone_to_owned().on("save", "stdout and stderr");
        let (own_out, own_err) = (
            saved(std::io::stdout().as_fd())?,
            saved(std::io::stderr().as_fd())?,
        );
        dup2_stdout(&out).on("redirect", "stdout")?;
        dup2_stderr(&err).on("redirect", "stderr")?;
        let result = work(None);
        dup2_stdout(&own_out).on("restore", "stdout")?;
        dup2_stderr(&own_err).on("restore", "stderr")?;
        result
    }

    /// Starts the keeper for the container with this directory. With `remove` the keeper deletes
    /// that container at its end. hull locks the file here and the keeper inherits the lock, so
    /// that it is locked all the time.
    ///
    /// # Errors
    /// The log or the lock file cannot be made; flock(2) fails; the process cannot be started.
    pub fn start_keeper(self, directory: &Path, remove: Option<(&Store, &str)>) -> Result<()> {
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
        // The lock stays as long as a copy of the descriptor is open. Dropping the guard would
        // unlock it for all of them.
        let kept = lock.try_clone().on("copy", path.display())?;
        std::mem::forget(lock);
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("log-keeper")
            .arg("--directory")
            .arg(directory)
            .current_dir("/")
            .env_clear();
        let (stdin, stdout) = match self.source {
            Source::Pipes { stdout, stderr } => (stdout, Stdio::from(stderr)),
            Source::Terminal(socket) => {
                command.arg("--terminal");
                (socket, Stdio::null())
            }
        };
        if let Some((store, id)) = remove {
            command
                .arg("--root")
                .arg(store.root())
                .arg("--remove")
                .arg(id);
        }
        command.stdin(stdin).stdout(stdout).stderr(kept);
        process::in_own_session(&mut command);
        command.spawn().map(drop).on("start", "the log keeper")
    }
}

/// The arguments of the keeper.
pub struct KeeperOptions {
    /// The container's directory.
    pub directory: PathBuf,
    /// Whether stdin is the socket over which the child sends the terminal's master.
    pub terminal: bool,
    /// The container to delete at its end, and its store.
    pub remove: Option<(Store, String)>,
}

/// Runs the keeper. Its stdin and stdout are what it reads, its stderr is the locked file.
///
/// # Errors
/// The child does not send the terminal; the container cannot be deleted.
pub fn run(options: &KeeperOptions) -> Result<()> {
    file::close_all_but(3, &mut []);
    let copy = |fd: std::os::fd::BorrowedFd| fd.try_clone_to_owned().on("copy", "a stream");
    let mut sources = if options.terminal {
        vec![(
            "stdout",
            receive_terminal(&copy(std::io::stdin().as_fd())?)?,
        )]
    } else {
        vec![
            ("stdout", copy(std::io::stdin().as_fd())?),
            ("stderr", copy(std::io::stdout().as_fd())?),
        ]
    };
    // Only the copies stay open, so that the keeper sees the end of the input.
    file::close(0);
    file::close(1);
    let mut log = Log {
        directory: options.directory.clone(),
        file: open_log(&options.directory).ok(),
        size: 0,
    };
    while !sources.is_empty() {
        let ready = wait(&sources);
        let mut index = 0;
        sources.retain(|(name, source)| {
            let open = !ready.get(index).copied().unwrap_or(false) || log.relay(name, source);
            index += 1;
            open || options.terminal && may_open_again(&options.directory)
        });
    }
    match &options.remove {
        Some((store, id)) => remove(store, id),
        None => Ok(()),
    }
}

/// Whether a container's program, which has closed its terminal, may open it again: waits a moment
/// and looks whether the container still runs.
fn may_open_again(directory: &Path) -> bool {
    std::thread::sleep(std::time::Duration::from_millis(100));
    let (Some(root), Some(id)) = (directory.parent(), directory.file_name()) else {
        return false;
    };
    let store = Store::new(root.to_path_buf());
    Container::open(&store, &id.to_string_lossy())
        .is_ok_and(|container| container.status() != crate::container::Status::Stopped)
}

/// Waits until sources are readable or at their end, and tells which.
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
    /// Reads once and logs it; returns false at the end of the input. If the log cannot be written,
    /// the keeper still reads on, since otherwise the container would block.
    fn relay(&mut self, name: &str, source: &OwnedFd) -> bool {
        let mut buffer = [0_u8; 65536];
        match nix::unistd::read(source, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.write(name, &buffer[..count]);
                true
            }
            Err(Errno::EINTR | Errno::EAGAIN) => true,
            // EIO: no process has the terminal open any more.
            Err(_) => false,
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8]) {
        let time = now();
        let mut text = Vec::with_capacity(bytes.len() + 64);
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            // The tag is P for a part of a line, F for a whole line or its end.
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

/// Whether the keeper of the container with this directory still runs.
pub fn is_running(directory: &Path) -> bool {
    let Ok(file) = File::open(directory.join(LOCK)) else {
        return false;
    };
    // A shared lock, which needs no permission to write the file.
    matches!(
        Flock::lock(file, FlockArg::LockSharedNonblock),
        Err((_, Errno::EWOULDBLOCK))
    )
}
