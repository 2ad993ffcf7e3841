//! A container or exec in the foreground: signals go in, the terminal is carried both ways, the
//! status comes out.

use crate::stdio::notify::Notify;
use crate::stdio::streams::Stream;
use crate::sys::fd::Fd;
use crate::sys::process::{self, Ended};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Signals held back from the moment before the child is made, so that none is lost between.
pub struct Signals {
    descriptor: SignalFd,
    former: SigSet,
}

impl Signals {
    /// Holds back all signals that can be passed on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hold() -> Result<Self> {
        let mut set = SigSet::all();
        for signal in [
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
        ] {
            set.remove(signal);
        }
        let mut former = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut former)).on("block", "signals")?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .on("make", "a signalfd")?;
        Ok(Self { descriptor, former })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.former), None);
    }
}

/// hull's own terminal in raw mode, put back when dropped.
struct Raw {
    former: Termios,
}

impl Raw {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let former = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = former.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { former })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.former);
    }
}

/// A socket pair for a terminal that hull keeps itself: (hull's end, the child's).
///
/// # Errors
/// The kernel's.
pub fn console_pair() -> Result<(OwnedFd, Fd)> {
    let (ours, theirs) = crate::sys::fd::socket_pair()?;
    Ok((crate::sys::socket::owned(ours.keep()), theirs))
}

/// Receives the terminal that the child sent.
///
/// # Errors
/// The child sent none.
pub fn receive_terminal(socket: &OwnedFd) -> Result<OwnedFd> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut bytes = [0_u8; 64];
    let mut iov = [std::io::IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!(std::os::fd::RawFd);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .on("receive", "the terminal")?;
    for control in message.cmsgs().on("receive", "the terminal")? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(descriptor) = descriptors.first()
        {
            return Ok(crate::sys::socket::owned(*descriptor));
        }
    }
    Err(Error::new("receive the terminal: the container sent none"))
}

/// What hull carries while it stays with a child.
#[derive(Default)]
pub struct Carried {
    /// The container's terminal.
    pub terminal: Option<OwnedFd>,
    /// Pipes in place of stdio that does not block.
    pub pipes: Vec<Stream>,
    /// The container's notification socket.
    pub notify: Option<Notify>,
}

/// Stays with a child until it ends: passes signals on, and carries what there is to carry.
///
/// # Errors
/// The kernel's.
pub fn attend(pidfd: &Fd, signals: &Signals, carried: Carried) -> Result<Ended> {
    stay(pidfd, None, signals, carried)
}

/// The same, and what a signal does to a program that does nothing about it is done by hull: the
/// kernel spares the first process of a process namespace (pid_namespaces(7)), so that ^C would not
/// end a `sleep`.
///
/// # Errors
/// The kernel's.
pub fn attend_acting(
    pidfd: &Fd,
    leaves_to_default: &dyn Fn(i32) -> bool,
    signals: &Signals,
    carried: Carried,
) -> Result<Ended> {
    stay(pidfd, Some(leaves_to_default), signals, carried)
}

fn stay(
    pidfd: &Fd,
    leaves_to_default: Option<&dyn Fn(i32) -> bool>,
    signals: &Signals,
    carried: Carried,
) -> Result<Ended> {
    let mut carrier = Carrier::new(carried)?;
    let mut ended_by = None;
    let _raw = if carrier.terminal.is_some() && std::io::stdin().is_terminal() {
        Raw::enter()
    } else {
        None
    };
    carrier.resize();
    loop {
        let (ended, signalled) = carrier.wait(pidfd, signals)?;
        if signalled {
            while let Ok(Some(info)) = signals.descriptor.read_signal() {
                let signal = info.ssi_signo as i32;
                pass_on(signal, pidfd, &carrier);
                if ENDING.contains(&signal)
                    && leaves_to_default.is_some_and(|leaves| leaves(signal))
                {
                    let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
                    ended_by = Some(signal);
                }
            }
        }
        if ended {
            let ended = process::wait(pidfd.0, false).on("wait for", "the container's process")?;
            carrier.out.iter_mut().for_each(Stream::drain);
            let ended = match (ended, ended_by) {
                (Some(Ended::Killed(libc::SIGKILL)), Some(signal)) => Some(Ended::Killed(signal)),
                (ended, _) => ended,
            };
            return ended
                .ok_or_else(|| Error::new("wait for the container's process: it has not ended"));
        }
    }
}

/// Signals by which people and their tools end a program.
const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

fn pass_on(signal: i32, pidfd: &Fd, carrier: &Carrier) {
    match signal {
        libc::SIGCHLD | libc::SIGURG | libc::SIGPIPE => {}
        libc::SIGWINCH => carrier.resize(),
        other => drop(process::pidfd_send_signal(pidfd.0, other)),
    }
}

struct Carrier {
    terminal: Option<OwnedFd>,
    /// From the container, drained after its end.
    out: Vec<Stream>,
    /// To the container.
    into: Option<Stream>,
    notify: Option<Notify>,
}

impl Carrier {
    fn new(carried: Carried) -> Result<Self> {
        let Carried {
            terminal,
            pipes,
            notify,
        } = carried;
        let (mut out, mut into) = (Vec::new(), None);
        for stream in pipes {
            if stream.is_input() {
                into = Some(stream)
            } else {
                out.push(stream)
            }
        }
        if let Some(terminal) = &terminal {
            out.push(Stream::new(terminal.as_fd(), std::io::stdout().as_fd())?);
            into = Stream::new(std::io::stdin().as_fd(), terminal.as_fd()).ok();
        }
        Ok(Self {
            terminal,
            out,
            into,
            notify,
        })
    }

    /// Sleeps until something happens; carries what there is. (the child ended, a signal came)
    fn wait(&mut self, pidfd: &Fd, signals: &Signals) -> Result<(bool, bool)> {
        let child = crate::sys::socket::borrow(pidfd.0);
        let mut fds = vec![
            PollFd::new(child, PollFlags::POLLIN),
            PollFd::new(signals.descriptor.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.notify.iter().map(|notify| {
            PollFd::new(
                crate::sys::socket::borrow(notify.descriptor()),
                PollFlags::POLLIN,
            )
        }));
        fds.extend(self.into.iter().chain(&self.out).map(Stream::wish));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Ok((false, true)),
            other => other.on("wait for", "the container")?,
        };
        let mut ready = fds
            .iter()
            .map(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
            .collect::<Vec<bool>>()
            .into_iter();
        drop(fds);
        let (ended, signalled) = (ready.next() == Some(true), ready.next() == Some(true));
        if self.notify.is_some() && ready.next() == Some(true) {
            self.notify.take_if(|notify| {
                notify
                    .take()
                    .inspect_err(|error| crate::log::warn(&error.to_string()))
                    .map_or(true, |told| told.is_some())
            });
        }
        self.into
            .iter_mut()
            .chain(&mut self.out)
            .filter(|_| ready.next() == Some(true))
            .for_each(Stream::carry);
        // A stream that is dropped closes the container's stdin.
        self.into.take_if(|stream| !stream.is_open());
        self.out.retain(Stream::is_open);
        if self.terminal.is_some() && self.out.is_empty() {
            // Nobody sees it any more: hanging up tells the container.
            (self.terminal, self.into) = (None, None);
        }
        Ok((ended, signalled))
    }

    /// Gives the container's terminal the size of hull's own.
    fn resize(&self) {
        if let Some(terminal) = &self.terminal
            && let Some((rows, columns)) = crate::sys::socket::terminal_size(1)
        {
            let _ = crate::sys::socket::window_size(terminal.as_raw_fd(), rows, columns);
        }
    }
}
