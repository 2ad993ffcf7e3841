//! hull's side of the barriers, with a child that reports in a shared page ([`crate::sys::page`]).

use crate::namespaces::spawn::Child;
use crate::step::container::Barrier;
use crate::sys::fd::Fd;
use crate::sys::{process, socket};
use crate::{Context, Error, Result};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Why a barrier was not reached.
pub enum BarrierError {
    /// hull itself failed.
    Error(Error),
    /// The child failed or exited: its report page has the step.
    Child,
}

impl From<Error> for BarrierError {
    fn from(error: Error) -> Self {
        BarrierError::Error(error)
    }
}

/// The result of a barrier.
pub type BarrierResult<T = ()> = std::result::Result<T, BarrierError>;

/// Waits until the child has reached a barrier. The child's pidfd is polled together with the
/// socket, so that hull does not hang if the child dies.
///
/// # Errors
/// poll(2) fails; the child failed or exited.
pub fn wait(child: &Child, kind: Barrier) -> BarrierResult {
    let (readable, _) = process::poll2(child.sync.0, child.pidfd.0, None)
        .on("wait for", "the container's process")?;
    let mut byte = [0_u8; 1];
    if readable && matches!(socket::recv(child.sync.0, &mut byte), Ok(1)) && byte[0] == kind as u8 {
        Ok(())
    } else {
        Err(BarrierError::Child)
    }
}

/// Releases the child from a barrier.
///
/// # Errors
/// [`BarrierError::Child`]: the child exited.
pub fn release(child: &Child, kind: Barrier) -> BarrierResult {
    socket::send(child.sync.0, &[kind as u8]).map_err(|_| BarrierError::Child)
}

/// Takes the seccomp listener by pidfd_getfd(2), while the child polls its page, and passes it to
/// `send`.
///
/// # Errors
/// The kernel refused the filter; pidfd_getfd(2) fails; `send` fails.
pub fn listener(child: &Child, send: impl FnOnce(&Fd) -> Result<()>) -> BarrierResult {
    let report = child.page.report();
    let remote = loop {
        match report.listener.load(Ordering::Acquire) {
            0 => pause_while_alive(child)?,
            number => break number - 1,
        }
    };
    let listener = process::pidfd_getfd(child.pidfd.0, remote)
        .map(Fd)
        .on("take", "the seccomp listener")?;
    send(&listener)?;
    report.taken.store(1, Ordering::Release);
    Ok(())
}

/// Waits until the child has loaded its seccomp filter. The child reports that in its page alone,
/// since its filter may refuse any system call.
///
/// # Errors
/// [`BarrierError::Child`]: the child failed or exited before.
pub fn filtered(child: &Child) -> BarrierResult {
    let report = child.page.report();
    while report.filtered.load(Ordering::Acquire) == 0 {
        if let Err(unmet) = pause_while_alive(child) {
            // A short program may have ended between the check of the page and that of the pidfd.
            return if report.filtered.load(Ordering::Acquire) == 0 {
                Err(unmet)
            } else {
                Ok(())
            };
        }
    }
    Ok(())
}

/// Waits until the child's end of the socket is closed: by execve(2) or because the child exited.
pub fn closed(child: &Child) {
    let mut byte = [0_u8; 1];
    while matches!(socket::recv(child.sync.0, &mut byte), Ok(1)) {}
}

/// Waits until the child has executed execve(2), which closes its end of the socket.
///
/// # Errors
/// [`BarrierError::Child`]: execve(2) failed.
pub fn executed(child: &Child) -> BarrierResult {
    closed(child);
    if has_failed(child) {
        Err(BarrierError::Child)
    } else {
        Ok(())
    }
}

/// Whether the child's report page has a failure.
pub fn has_failed(child: &Child) -> bool {
    child.page.report().errno.load(Ordering::Acquire) != 0
}

fn pause_while_alive(child: &Child) -> BarrierResult {
    match process::poll2(child.pidfd.0, -1, Some(0)) {
        Ok((false, _)) => {
            std::thread::sleep(Duration::from_micros(20));
            Ok(())
        }
        _ => Err(BarrierError::Child),
    }
}
