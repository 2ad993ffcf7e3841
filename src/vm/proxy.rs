//! The proxy of an exec: a process on the host that represents the program in the guest, as the
//! monitor represents the container's first program.

use super::host_process::{Forwarded, block_signals, decode_ended, exit_as, forwarded};
use super::stdio::{self, Ends, Stdio};
use crate::backend::errors;
use crate::step::draft::Plan;
use crate::sys::fd::Fd;
use crate::sys::process::{self, Ended};
use crate::sys::{event, file, ids};
use crate::vm::channel::client::{self, Answer, MonitorRequest, ToParent};
use crate::vm::channel::message::{FromGuest, Task};
use crate::{Context, Error, Result};
use nix::sys::signalfd::SignalFd;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the proxy waits for the reader of the output of a program that was killed, while the
/// reader does not read and no pipe can hold the rest.
const READER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the proxy of an exec needs.
pub(super) struct ProxyConfig<'a> {
    /// The container's directory.
    pub directory: &'a Path,
    /// The host steps that the guest executes.
    pub task: Task,
    /// The plan, whose container steps are sent to the guest and name the field of a failed step.
    pub plan: &'a Plan,
    /// The console socket, which gets the terminal's master.
    pub console: Option<Fd>,
    /// How long the guest may take until the program runs.
    pub timeout: Duration,
    /// The terminal's size: rows, columns.
    pub size: (u16, u16),
}

/// The main function of the proxy's process; `parent` is the socket to the process that cloned it.
pub(super) fn run(config: ProxyConfig, parent: &Fd) -> ! {
    match Proxy::start(config, parent) {
        Ok(mut proxy) => match proxy.wait() {
            Ok(ended) => exit_as(ended),
            Err(error) => {
                crate::log::warn(&error.to_string());
                process::exit(255)
            }
        },
        Err(error) => {
            let report = ToParent::Failed(error.to_string(), error.status());
            let _ = client::send(parent, &report, &[]);
            process::exit(1)
        }
    }
}

struct Proxy {
    /// The connection to the monitor.
    socket: Fd,
    stdio: Stdio,
    signals: SignalFd,
}

impl Proxy {
    /// Has the monitor start the program, and reports to the parent that it runs.
    fn start(config: ProxyConfig, parent: &Fd) -> Result<Self> {
        event::name_process(c"hull-exec");
        let _ = process::setsid();
        ids::prctl(libc::PR_SET_DUMPABLE, 0, 0).on("clear", "PR_SET_DUMPABLE")?;
        let signals = block_signals()?;
        let socket = client::connect(config.directory)?;
        let (mut stdio, ends) = match &config.console {
            Some(console) => Stdio::terminal(console, config.size)?,
            None => Stdio::pipes(stdio::copy_own()?)?,
        };
        send_exec(&socket, config.plan, config.task, ends)?;
        if let Some((rows, columns)) = stdio.size() {
            client::send(&socket, &MonitorRequest::Resize(rows, columns), &[])?;
        }
        match client::receive_answer(&socket, config.timeout)? {
            Answer::Message(FromGuest::Ready(_)) => {}
            Answer::Message(FromGuest::Failed(step, errno, detail, ended)) => {
                return Err(errors::failed_step(
                    config.plan,
                    &errors::Failure {
                        step,
                        errno,
                        detail,
                        ended: ended.map(decode_ended),
                        said: Vec::new(),
                    },
                ));
            }
            Answer::Message(FromGuest::Refused(why)) => return Err(Error::new(why)),
            Answer::Message(_) => return Err(client::unexpected_answer()),
            Answer::Closed => return Err(Error::new("container not running")),
            Answer::Timeout => return Err(client::no_answer(config.directory, config.timeout)),
        }
        if matches!(stdio, Stdio::Pipes { .. }) {
            stdio::release_own()?;
        }
        client::send(parent, &ToParent::Ready(Vec::new(), None), &[])?;
        stdio.start();
        Ok(Self {
            socket,
            stdio,
            signals,
        })
    }

    /// Passes signals on until the program has ended and its output is read.
    fn wait(&mut self) -> Result<Ended> {
        loop {
            let (readable, signalled) =
                process::poll2(self.socket.0, self.signals.as_raw_fd(), None)
                    .on("poll", "the monitor's socket")?;
            if signalled {
                self.forward_signals()?;
            }
            if !readable {
                continue;
            }
            let ended = match client::receive::<FromGuest>(&self.socket)? {
                Some((FromGuest::Exited(status), _)) => Ended::Exited(status),
                Some((FromGuest::Killed(signal), _)) => Ended::Killed(signal),
                Some(_) => continue,
                // The monitor has ended, and all processes of the container with it.
                None => Ended::Killed(libc::SIGKILL),
            };
            self.wait_for_readers(matches!(ended, Ended::Killed(_)));
            return Ok(ended);
        }
    }

    /// Waits until the output is read or a pipe holds it. For a program that was killed the wait
    /// ends when the reader does not read for [`READER_TIMEOUT`]. A signal that ends a program by
    /// default ends the wait too.
    fn wait_for_readers(&self, killed: bool) {
        let (mut progress, mut until) = (None, Instant::now());
        while !self.stdio.is_done() && (progress.is_none() || !killed || Instant::now() < until) {
            let now = Some(self.stdio.read_by_readers());
            if progress != now {
                (progress, until) = (now, Instant::now() + READER_TIMEOUT);
            } else {
                self.stdio.enlarge_pipes();
            }
            let ends = |signal: u32| {
                [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM]
                    .contains(&(signal as i32))
            };
            if matches!(self.signals.read_signal(), Ok(Some(info)) if ends(info.ssi_signo)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn forward_signals(&mut self) -> Result<()> {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let request = match forwarded(&info, &self.stdio) {
                Some(Forwarded::Signal(signal)) => MonitorRequest::Signal(signal),
                Some(Forwarded::Resize(rows, columns)) => MonitorRequest::Resize(rows, columns),
                None => continue,
            };
            client::send(&self.socket, &request, &[])?;
        }
        Ok(())
    }
}

/// Sends the steps and the ends of the program's stdio to the monitor.
fn send_exec(socket: &Fd, plan: &Plan, task: Task, ends: Ends) -> Result<()> {
    let steps = Fd(file::memfd(c"hull:steps", 0).on("create", "a memfd for the steps")?);
    file::write(steps.0, &plan.encode()).on("write", "the steps")?;
    let mut descriptors = vec![steps.0, ends.stdin.0, ends.stdout.0];
    descriptors.extend(ends.stderr.iter().map(|fd| fd.0));
    client::send(socket, &MonitorRequest::Exec(Box::new(task)), &descriptors)
}
