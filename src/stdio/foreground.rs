//! A container or exec in the foreground: hull forwards signals to its process, relays its terminal
//! and pipes, and returns its exit status.

use crate::stdio::notify::Notify;
use crate::stdio::streams::Stream;
use crate::sys::fd::Fd;
use crate::sys::process::{self, Ended};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{
    LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr,
    tcsetattr,
};
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Signals that are blocked from the moment before hull creates the child, so that none is lost
/// until hull forwards them. Dropping this restores the signal mask.
pub struct Signals {
    descriptor: SignalFd,
    former: SigSet,
}

impl Signals {
    /// Blocks all signals that hull forwards, and reads them from a signalfd instead.
    ///
    /// # Errors
    /// sigprocmask(2) or signalfd(2) fails.
    pub fn block() -> Result<Self> {
        let mut set = SigSet::all();
        for signal in [
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

/// Switches ONLCR off on a container's terminal that hull relays: where hull's stdout is a terminal
/// too, that one ends the lines, and where it is a file, lines end as the program wrote them (runc
/// does the same).
fn plain_line_ends(terminal: &OwnedFd) {
    if let Ok(mut settings) = tcgetattr(terminal) {
        settings.output_flags.remove(OutputFlags::ONLCR);
        let _ = tcsetattr(terminal, SetArg::TCSANOW, &settings);
    }
}

/// The size of hull's own terminal: rows and columns.
pub fn own_size() -> Option<(u16, u16)> {
    let mut stdio = [1, 0, 2].into_iter();
    stdio.find_map(crate::sys::socket::terminal_size)
}

/// Gives a container's terminal the size of hull's own.
fn take_own_size(terminal: &OwnedFd) {
    if let Some((rows, columns)) = own_size() {
        let _ = crate::sys::socket::window_size(terminal.as_raw_fd(), rows, columns);
    }
}

/// hull's own terminal in raw mode; dropping this restores its settings.
struct Raw {
    former: Termios,
}

impl Raw {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let former = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = former.clone();
        cfmakeraw(&mut raw);
        // The container's terminal sends plain line ends ([`plain_line_ends`]), as with runc.
        raw.output_flags |= OutputFlags::OPOST & former.output_flags;
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { former })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.former);
    }
}

/// A socket pair over which the child sends the terminal's master: hull's end and the child's.
///
/// # Errors
/// socketpair(2) fails.
pub fn console_pair() -> Result<(OwnedFd, Fd)> {
    let (ours, theirs) = crate::sys::fd::socket_pair()?;
    Ok((crate::sys::socket::owned(ours.keep()), theirs))
}

/// The console socket of a program: what the child sends its terminal's master over.
pub struct Console {
    /// hull's end of a socket pair; `None` where the caller gave a socket, or there is no terminal.
    receiver: Option<OwnedFd>,
    /// The child's end of the pair, or the socket that the caller gave.
    pub sender: Option<Fd>,
}

impl Console {
    /// Makes a socket pair if the program has a terminal and the caller has given no socket for it.
    ///
    /// # Errors
    /// As of [`console_pair`].
    pub fn new(terminal: bool, given: Option<Fd>) -> Result<Self> {
        if !terminal || given.is_some() {
            return Ok(Self {
                receiver: None,
                sender: given,
            });
        }
        let (receiver, sender) = console_pair()?;
        Ok(Self {
            receiver: Some(receiver),
            sender: Some(sender),
        })
    }

    /// Receives the terminal's master where hull itself relays it, and gives it the size of hull's
    /// own before the program begins.
    ///
    /// # Errors
    /// As of [`receive_terminal`].
    pub fn receive(&self) -> Result<Option<OwnedFd>> {
        let terminal = self.receiver.as_ref().map(receive_terminal).transpose()?;
        if let Some(terminal) = &terminal {
            plain_line_ends(terminal);
            take_own_size(terminal);
        }
        Ok(terminal)
    }
}

/// Receives the terminal's master from the child.
///
/// # Errors
/// recvmsg(2) fails; the child sent no descriptor.
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

/// What hull relays while it stays with a child.
#[derive(Default)]
pub struct Relays {
    /// The master of the container's terminal.
    pub terminal: Option<OwnedFd>,
    /// The pipes that replace non-blocking stdio.
    pub pipes: Vec<Stream>,
    /// The container's notification socket, until it has said that it is ready.
    pub notify: Option<Notify>,
}

/// Stays with a child until it ends: forwards signals, and relays its terminal and pipes.
///
/// # Errors
/// poll(2) or waitid(2) fails; a descriptor of stdio cannot be copied.
pub fn attend(pidfd: &Fd, signals: &Signals, relays: Relays) -> Result<Ended> {
    stay(pidfd, None, signals, relays)
}

/// The same for the first process of a pid namespace. The kernel does not execute the default
/// action of a signal on it (pid_namespaces(7)), so that ^C would not end a `sleep`; hull kills it
/// instead. `has_default_action` tells whether the process has installed no handler for a signal.
///
/// # Errors
/// As of [`attend`].
pub fn attend_init(
    pidfd: &Fd,
    has_default_action: &dyn Fn(i32) -> bool,
    signals: &Signals,
    relays: Relays,
) -> Result<Ended> {
    stay(pidfd, Some(has_default_action), signals, relays)
}

fn stay(
    pidfd: &Fd,
    has_default_action: Option<&dyn Fn(i32) -> bool>,
    signals: &Signals,
    relays: Relays,
) -> Result<Ended> {
    let mut relay = Relay::new(relays)?;
    let mut ended_by = None;
    let _raw = if relay.terminal.is_some() && std::io::stdin().is_terminal() {
        Raw::enter()
    } else {
        None
    };
    relay.resize();
    loop {
        let woken = relay.wait(pidfd, signals)?;
        if woken.signalled {
            while let Ok(Some(info)) = signals.descriptor.read_signal() {
                let signal = info.ssi_signo as i32;
                forward(signal, pidfd, &relay);
                if ENDING.contains(&signal) && has_default_action.is_some_and(|has| has(signal)) {
                    let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
                    ended_by = Some(signal);
                }
            }
        }
        if woken.ended {
            let ended = process::wait(pidfd.0, false).on("wait for", "the container's process")?;
            relay.output.iter_mut().for_each(Stream::drain);
            let ended = match (ended, ended_by) {
                (Some(Ended::Killed(libc::SIGKILL)), Some(signal)) => Some(Ended::Killed(signal)),
                (ended, _) => ended,
            };
            return ended
                .ok_or_else(|| Error::new("wait for the container's process: it has not ended"));
        }
    }
}

/// Signals that users and service managers send to end a program.
const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

fn forward(signal: i32, pidfd: &Fd, relay: &Relay) {
    match signal {
        libc::SIGCHLD | libc::SIGURG | libc::SIGPIPE => {}
        libc::SIGWINCH if relay.terminal.is_some() => relay.resize(),
        libc::SIGTSTP => {
            // The program has a session of its own, which the terminal's ^Z does not reach. hull
            // stops too, so that its shell goes on.
            let _ = process::pidfd_send_signal(pidfd.0, signal);
            let _ = nix::sys::signal::raise(Signal::SIGSTOP);
        }
        other => drop(process::pidfd_send_signal(pidfd.0, other)),
    }
}

struct Relay {
    terminal: Option<OwnedFd>,
    /// From the container; hull relays what is left in them after its end.
    output: Vec<Stream>,
    /// To the container.
    input: Option<Stream>,
    /// The input has ended, and the terminal passes that on.
    end_of_input: Option<EndOfInput>,
    notify: Option<Notify>,
}

/// Passes the end of an input that is no terminal on to the container's terminal: as a user's ^D,
/// for each read that waits for input.
struct EndOfInput {
    /// The input ended within a line, which the first ^D completes.
    within_a_line: bool,
    /// When a program that reads in raw mode, such as a shell's line editor, has had its ^D last.
    raw_had_it: Option<Instant>,
}

impl EndOfInput {
    const AGAIN: Duration = Duration::from_millis(500);

    /// Writes the terminal's end-of-file character unless something is waiting to be read. In raw
    /// mode it is a character like others, which the program may have discarded when it changed the
    /// mode, and comes again after a while.
    fn pass_on(&mut self, terminal: &OwnedFd) {
        let Ok(settings) = tcgetattr(terminal) else {
            return;
        };
        let Ok(program_end) = crate::sys::socket::pty_peer(terminal.as_raw_fd()).map(Fd) else {
            return;
        };
        let waiting = process::poll2(program_end.0, -1, Some(0)).is_ok_and(|(ready, _)| ready);
        let raw = !settings.local_flags.contains(LocalFlags::ICANON);
        let lately = |then: Instant| then.elapsed() < Self::AGAIN;
        if waiting || raw && self.raw_had_it.is_some_and(lately) {
            return;
        }
        self.raw_had_it = raw.then(Instant::now);
        let character = settings.control_chars[SpecialCharacterIndices::VEOF as usize];
        let count = 1 + usize::from(std::mem::take(&mut self.within_a_line));
        let _ = nix::unistd::write(terminal, &[character; 2][..count]);
    }
}

/// Why [`Relay::wait`] returned.
struct Woken {
    /// The child has ended.
    ended: bool,
    /// A signal has arrived.
    signalled: bool,
}

impl Relay {
    fn new(relays: Relays) -> Result<Self> {
        let Relays {
            terminal,
            pipes,
            notify,
        } = relays;
        let (mut output, mut input) = (Vec::new(), None);
        for stream in pipes {
            if stream.is_input() {
                input = Some(stream)
            } else {
                output.push(stream)
            }
        }
        if let Some(terminal) = &terminal {
            output.push(Stream::new(terminal.as_fd(), std::io::stdout().as_fd())?);
            input = Stream::new(std::io::stdin().as_fd(), terminal.as_fd()).ok();
        }
        Ok(Self {
            terminal,
            output,
            input,
            end_of_input: None,
            notify,
        })
    }

    /// How long to wait for something to happen: a terminal that nobody has open, and one whose
    /// input has ended, are looked at again.
    fn patience(&self) -> PollTimeout {
        const LOOK_MS: u16 = 50;
        if self.end_of_input.is_some() || self.output.iter().any(Stream::is_hung) {
            PollTimeout::from(LOOK_MS)
        } else {
            PollTimeout::NONE
        }
    }

    /// Waits until a descriptor is ready, and relays what can be read or written then.
    fn wait(&mut self, pidfd: &Fd, signals: &Signals) -> Result<Woken> {
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
        let patience = self.patience();
        let streams = self.input.iter().chain(&self.output);
        fds.extend(
            streams
                .filter(|stream| !stream.is_hung())
                .map(Stream::poll_fd),
        );
        match poll(&mut fds, patience) {
            Err(Errno::EINTR) => {
                return Ok(Woken {
                    ended: false,
                    signalled: true,
                });
            }
            other => other.on("wait for", "the container")?,
        };
        let mut ready = fds
            .iter()
            .map(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
            .collect::<Vec<bool>>()
            .into_iter();
        drop(fds);
        let woken = Woken {
            ended: ready.next() == Some(true),
            signalled: ready.next() == Some(true),
        };
        if self.notify.is_some() && ready.next() == Some(true) {
            self.notify.take_if(|notify| {
                notify
                    .forward_ready()
                    .inspect_err(|error| crate::log::warn(&error.to_string()))
                    .map_or(true, |forwarded| forwarded.is_some())
            });
        }
        for stream in self.input.iter_mut().chain(&mut self.output) {
            if stream.is_hung() {
                stream.retry();
            } else if ready.next() == Some(true) {
                stream.relay();
            }
        }
        // Dropping the stream closes the container's stdin.
        if let Some(ended) = self.input.take_if(|stream| !stream.is_open())
            && self.terminal.is_some()
            && !std::io::stdin().is_terminal()
        {
            self.end_of_input = Some(EndOfInput {
                within_a_line: ended.ends_within_a_line(),
                raw_had_it: None,
            });
        }
        if let (Some(end), Some(terminal)) = (&mut self.end_of_input, &self.terminal) {
            end.pass_on(terminal);
        }
        self.output.retain(Stream::is_open);
        if self.terminal.is_some() && self.output.is_empty() {
            // The reader of hull's stdout has closed it: closing the master sends SIGHUP to the
            // container's session.
            (self.terminal, self.input, self.end_of_input) = (None, None, None);
        }
        Ok(woken)
    }

    /// Gives the container's terminal the size of hull's own.
    fn resize(&self) {
        if let Some(terminal) = &self.terminal {
            take_own_size(terminal);
        }
    }
}
