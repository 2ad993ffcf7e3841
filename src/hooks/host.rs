//! Runs hooks in hull's own namespaces: the state document on stdin, a wait with a timeout, and the
//! hook's output in the error.

use crate::spec::Spec;
use crate::spec::config::Hook;
use crate::spec::state::state_document;
use crate::sys::fd::Fd;
use crate::sys::process;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::ErrorKind::{Interrupted, WouldBlock};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs one hook (config.md, POSIX-platform Hooks).
///
/// # Errors
/// The hook cannot be executed, exits with a status other than 0, or runs longer than its timeout.
pub fn run(list: &str, index: usize, hook: &Hook, state: &Value, bundle: &Path) -> Result<()> {
    let Hook {
        path,
        args,
        env,
        timeout,
    } = hook;
    let mut command = Command::new(path);
    command
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir(bundle);
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    for variable in env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    let context = format!("error running hook #{index}: error running {list} hook #{index}");
    // Children of a hook that is killed go with it.
    command.process_group(0);
    // The hook inherits no descriptors that hull's caller left open. (The container's process has a
    // copy of the descriptor table by now.)
    let _ = crate::sys::file::cloexec_from(3);
    let begin = Instant::now();
    let child = command
        .spawn()
        .map_err(|error| Error::io("run", path, &error).within(&context))?;
    let limit = timeout.map(|seconds| Duration::from_secs(seconds.max(0) as u64));
    let mut talk = Talk::new(child, state.to_string().into_bytes())?;
    if !talk.until_its_end(limit.map(|limit| begin + limit))? {
        return Err(Error::new(format!(
            "{context}: {path}: still running after its timeout of {} s{}",
            timeout.unwrap_or(0),
            talk.said()
        )));
    }
    let status = talk.child.wait().on("wait for", path)?;
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    Err(Error::new(format!("{context}: {how}{}", talk.said())))
}

/// Runs the poststop hooks. One that fails is warned of, and the rest run (runtime.md, Lifecycle
/// 13).
pub fn poststop(spec: &Spec, id: &str) {
    let Some(hooks) = &spec.config().hooks else {
        return;
    };
    for (index, hook) in hooks.poststop.iter().enumerate() {
        let state = state_document(spec, id, "stopped", Some(0));
        if let Err(error) = run("poststop", index, hook, &state, spec.bundle()) {
            crate::log::warn(&error.to_string());
        }
    }
}

/// A hook that runs: hull writes the state and reads what the hook says meanwhile, so that neither
/// waits for the other.
struct Talk {
    child: Child,
    pidfd: Fd,
    /// What is not yet written of the state.
    state: Vec<u8>,
    out: Said<ChildStdout>,
    err: Said<ChildStderr>,
}

/// An output of a hook, of which the first [`Said::MOST`] bytes are kept.
struct Said<P> {
    pipe: Option<P>,
    text: Vec<u8>,
}

impl<P: Read + AsFd> Said<P> {
    const MOST: usize = 4096;

    /// Reads what is there; at the end of the output the pipe is closed.
    fn read(&mut self) {
        let mut window = [0_u8; 65536];
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.read(&mut window) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                let room = Self::MOST.saturating_sub(self.text.len()).min(count);
                self.text.extend_from_slice(&window[..room]);
            }
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => {}
            Err(_) => self.pipe = None,
        }
    }

    fn poll_fd(&self) -> Option<PollFd<'_>> {
        let pipe = self.pipe.as_ref()?;
        Some(PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.text).trim().to_owned()
    }
}

impl Talk {
    fn new(mut child: Child, state: Vec<u8>) -> Result<Self> {
        let pidfd = process::pidfd_open(child.id() as i32).map(Fd);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let pipes = [
            child.stdin.as_ref().map(AsRawFd::as_raw_fd),
            out.as_ref().map(AsRawFd::as_raw_fd),
            err.as_ref().map(AsRawFd::as_raw_fd),
        ];
        for pipe in pipes.into_iter().flatten() {
            crate::sys::event::nonblocking(pipe).on("set up", "a hook's pipe")?;
        }
        Ok(Self {
            child,
            pidfd: pidfd.on("watch", "a hook")?,
            state,
            out: Said {
                pipe: out,
                text: Vec::new(),
            },
            err: Said {
                pipe: err,
                text: Vec::new(),
            },
        })
    }

    /// Stays until the hook ends. At its deadline the hook and its children are killed, and the
    /// answer is false.
    fn until_its_end(&mut self, deadline: Option<Instant>) -> Result<bool> {
        loop {
            if self.round(deadline)? {
                break;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let group = Pid::from_raw(self.child.id() as i32);
                let _ = killpg(group, Signal::SIGKILL);
                let _ = self.child.wait();
                self.read_rest();
                return Ok(false);
            }
        }
        self.read_rest();
        Ok(true)
    }

    /// Waits for something to do, and does it. Tells whether the hook has ended.
    fn round(&mut self, deadline: Option<Instant>) -> Result<bool> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = left.map_or(PollTimeout::NONE, |left| {
            // Rounded up, so that the last round does not spin.
            let whole = left.as_millis().saturating_add(1);
            i32::try_from(whole).map_or(PollTimeout::MAX, |ms| {
                PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
            })
        });
        let ended = {
            let watched = crate::sys::socket::borrow(self.pidfd.0);
            let mut fds = vec![PollFd::new(watched, PollFlags::POLLIN)];
            let stdin = self.child.stdin.as_ref();
            fds.extend(stdin.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
            fds.extend(self.out.poll_fd());
            fds.extend(self.err.poll_fd());
            match poll(&mut fds, limit) {
                Err(Errno::EINTR) => return Ok(false),
                done => done.on("wait for", "a hook")?,
            };
            fds[0].revents().is_some_and(|events| !events.is_empty())
        };
        self.write();
        self.out.read();
        self.err.read();
        Ok(ended)
    }

    /// Writes what the pipe takes of the state, and closes it after the last byte. A hook that
    /// closes its stdin without reading it is no error.
    fn write(&mut self) {
        let Some(stdin) = &mut self.child.stdin else {
            return;
        };
        match stdin.write(&self.state) {
            Ok(count) => drop(self.state.drain(..count)),
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => {}
            Err(_) => self.state.clear(),
        }
        if self.state.is_empty() {
            self.child.stdin = None;
        }
    }

    /// Reads what is in the pipes, and does not wait for their end: children of the hook may keep
    /// them open.
    fn read_rest(&mut self) {
        self.out.read();
        self.err.read();
    }

    fn said(&self) -> String {
        let (out, err) = (self.out.shown(), self.err.shown());
        format!(", stdout: {out}, stderr: {err}")
    }
}
