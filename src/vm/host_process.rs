//! What the monitor and an exec's proxy have in common: each is a process on the host that
//! represents a program in the guest. It passes the signals that it gets on to the program, and
//! ends with the program's exit status or signal.

use crate::sys::event;
use crate::sys::process::{Ended, exit};
use crate::vm::stdio::Stdio;
use crate::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};

/// Blocks all signals of this process and returns a signalfd that reads them.
///
/// # Errors
/// sigprocmask(2) or signalfd(2) fails.
pub(super) fn block_signals() -> Result<SignalFd> {
    let set = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None).on("block", "signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .on("create", "a signalfd")
}

/// What a signal to this process means for the program in the guest.
pub(super) enum Forwarded {
    /// The program gets the signal.
    Signal(i32),
    /// The size of the terminal has changed: rows, columns.
    Resize(u16, u16),
}

/// What to do with a signal, or `None` if it is for this process only.
pub(super) fn forwarded(info: &siginfo, stdio: &Stdio) -> Option<Forwarded> {
    let signal = info.ssi_signo as i32;
    match signal {
        // A child of this process has ended. A SIGCHLD that a process sent has no such code.
        libc::SIGCHLD if info.ssi_code > 0 => None,
        libc::SIGPIPE | libc::SIGURG => None,
        libc::SIGWINCH => Some(match stdio.size() {
            Some((rows, columns)) => Forwarded::Resize(rows, columns),
            None => Forwarded::Signal(signal),
        }),
        _ => Some(Forwarded::Signal(signal)),
    }
}

/// Ends this process with the exit status or the signal of the program.
pub(super) fn exit_as(ended: Ended) -> ! {
    if let Ended::Killed(signal) = ended {
        event::end_by(signal);
    }
    exit(ended.status())
}

/// Decodes how a child ended from a message of the guest: an exit status, or a signal as a negative
/// number.
pub(super) fn decode_ended(code: i32) -> Ended {
    if code < 0 {
        Ended::Killed(-code)
    } else {
        Ended::Exited(code)
    }
}
