//! An exec's process on the host: it stands for a program in the guest as the monitor stands for
//! the container's, and ends as it ends.

use super::stdio::{self, Ends, Stdio};
use crate::step::draft::Plan;
use crate::sys::fd::Fd;
use crate::sys::process::{self, Ended};
use crate::sys::{event, file, ids};
use crate::vm::channel::client;
use crate::vm::channel::client::{News, Request};
use crate::vm::channel::message::{FromGuest, Task};
use crate::vm::monitor::boot::hold_signals;
use crate::vm::monitor::end_as;
use crate::vm::monitor::life::ended_as;
use crate::{Context, Error, Result};
use nix::sys::signalfd::SignalFd;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a reader may take nothing of what the program wrote and no pipe can hold, once it was
/// killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an exec's process is to do.
pub struct Job<'a> {
    /// The container's directory.
    pub directory: &'a Path,
    /// The guest's steps.
    pub task: Task,
    /// For the words of an error.
    pub plan: &'a Plan,
    /// The socket that takes the terminal.
    pub console: Option<Fd>,
    /// How long the guest may take until the program runs.
    pub patience: Duration,
    /// The terminal's size: rows, columns.
    pub size: (u16, u16),
}

/// The process's life.
pub fn run(job: Job, maker: &Fd) -> ! {
    let failed = |error: &Error| {
        let _ = client::send(maker, &News::Failed(error.to_string(), error.status()), &[]);
        process::exit(1)
    };
    match begin(job, maker) {
        Ok(mut proxy) => match proxy.attend() {
            Ok(ended) => end_as(ended),
            Err(error) => {
                crate::log::warn(&error.to_string());
                process::exit(255)
            }
        },
        Err(error) => failed(&error),
    }
}

struct Proxy {
    socket: Fd,
    stdio: Stdio,
    signals: SignalFd,
}

fn begin(job: Job, maker: &Fd) -> Result<Proxy> {
    event::name_process(c"hull-exec");
    let _ = process::setsid();
    ids::prctl(libc::PR_SET_DUMPABLE, 0, 0).on("become", "undumpable")?;
    let signals = hold_signals()?;
    let socket = client::connect(job.directory)?;
    let script = Fd(file::memfd(c"hull:inside", 0).on("make", "a memory file for the script")?);
    file::write(script.0, &job.plan.encode()).on("write", "the script")?;
    let (mut stdio, ends) = match &job.console {
        Some(console) => Stdio::terminal(console, job.size)?,
        None => Stdio::pipes(stdio::own()?)?,
    };
    let Ends {
        stdin,
        stdout,
        stderr,
    } = ends;
    let mut descriptors = vec![script.0, stdin.0, stdout.0];
    descriptors.extend(stderr.iter().map(|held| held.0));
    client::send(&socket, &Request::Exec(Box::new(job.task)), &descriptors)?;
    drop((stdin, stdout, stderr));
    if let Some((rows, columns)) = stdio.size() {
        client::send(&socket, &Request::Resize(rows, columns), &[])?;
    }
    let answer = client::answer(&socket, job.patience)?
        .ok_or_else(|| client::silent(job.directory, job.patience))?;
    match answer {
        Some(FromGuest::Ready(_)) => {}
        Some(FromGuest::Failed(step, errno, detail, ended)) => {
            return Err(crate::backend::errors::failed_step(
                job.plan,
                &crate::backend::errors::Failure {
                    step,
                    errno,
                    detail,
                    ended: ended.map(ended_as),
                },
            ));
        }
        Some(FromGuest::Refused(why)) => return Err(Error::new(why)),
        Some(_) => return Err(Error::new("the container's monitor answers something else")),
        None => return Err(Error::new("container not running")),
    }
    if matches!(stdio, Stdio::Pipes { .. }) {
        stdio::let_go()?;
    }
    client::send(maker, &News::Ready(Vec::new(), None), &[])?;
    stdio.start();
    Ok(Proxy {
        socket,
        stdio,
        signals,
    })
}

impl Proxy {
    fn attend(&mut self) -> Result<Ended> {
        loop {
            let (spoken, signalled) = process::poll2(self.socket.0, self.signals.as_raw_fd(), None)
                .on("wait for", "the program")?;
            if signalled {
                self.signalled()?;
            }
            if !spoken {
                continue;
            }
            let ended = match client::receive::<FromGuest>(&self.socket)? {
                Some((FromGuest::Exited(status), _)) => Ended::Exited(status),
                Some((FromGuest::Killed(signal), _)) => Ended::Killed(signal),
                Some(_) => continue,
                // The container, and with it all that ran there, was killed.
                None => Ended::Killed(libc::SIGKILL),
            };
            self.wait_for_readers(matches!(ended, Ended::Killed(_)));
            return Ok(ended);
        }
    }

    /// What the program wrote stays in its pipe for as long as the reader likes. What no pipe can
    /// hold, this process keeps: of a program that was killed until its reader has taken nothing
    /// for long. A signal that would end the program ends the wait.
    fn wait_for_readers(&self, killed: bool) {
        let (mut taken, mut until) = (None, Instant::now());
        while !self.stdio.is_done() && (taken.is_none() || !killed || Instant::now() < until) {
            let now = Some(self.stdio.taken());
            if taken != now {
                (taken, until) = (now, Instant::now() + PATIENCE);
            } else {
                self.stdio.make_room();
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

    fn signalled(&mut self) -> Result<()> {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = info.ssi_signo as i32;
            let request = match signal {
                libc::SIGCHLD if info.ssi_code > 0 => continue,
                libc::SIGPIPE | libc::SIGURG => continue,
                libc::SIGWINCH => match self.stdio.size() {
                    Some((rows, columns)) => Request::Resize(rows, columns),
                    None => Request::Signal(signal),
                },
                _ => Request::Signal(signal),
            };
            client::send(&self.socket, &request, &[])?;
        }
        Ok(())
    }
}
