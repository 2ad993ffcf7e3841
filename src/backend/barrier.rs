//! hull's side of the barriers with a child that reports by its page ([`crate::sys::page`]).

use crate::namespaces::spawn::Child;
use crate::step::container::Barrier;
use crate::sys::fd::Fd;
use crate::sys::{process, socket};
use crate::{Context, Error, Result};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Why a barrier was not met.
pub enum BarrierError {
    /// hull itself failed.
    Error(Error),
    /// The child failed or ended: its page says where.
    Child,
}

impl From<Error> for BarrierError {
    fn from(error: Error) -> Self {
        BarrierError::Error(error)
    }
}

/// A barrier's result.
pub type BarrierResult<T = ()> = std::result::Result<T, BarrierError>;

/// Waits until the child has come to a barrier. Its death is an error and not a hang: its pidfd is
/// watched beside the socket.
///
/// # Errors
/// [`BarrierError`].
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

/// Lets the child go on from a barrier.
///
/// # Errors
/// [`BarrierError::Child`].
pub fn release(child: &Child, kind: Barrier) -> BarrierResult {
    socket::send(child.sync.0, &[kind as u8]).map_err(|_| BarrierError::Child)
}

/// Takes the seccomp listener, while the child waits on its page, and hands it to `send`.
///
/// # Errors
/// The filter was refused; pidfd_getfd(2) fails; that of `send`.
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

/// Waits until the child is past its filter, which it tells by its page alone: no system call of
/// its could be relied on.
///
/// # Errors
/// [`BarrierError::Child`].
pub fn filtered(child: &Child) -> BarrierResult {
    let report = child.page.report();
    while report.filtered.load(Ordering::Acquire) == 0 {
        if let Err(unmet) = pause_while_alive(child) {
            // A short program may have come to its end between the two looks.
            return if report.filtered.load(Ordering::Acquire) == 0 {
                Err(unmet)
            } else {
                Ok(())
            };
        }
    }
    Ok(())
}

/// Waits until the child's end of the socket is closed: by execve, or its death.
pub fn closed(child: &Child) {
    let mut byte = [0_u8; 1];
    while matches!(socket::recv(child.sync.0, &mut byte), Ok(1)) {}
}

/// Waits until the child has become its program: its end of the socket closes at execve.
///
/// # Errors
/// [`BarrierError::Child`]: execve was refused.
pub fn executed(child: &Child) -> BarrierResult {
    closed(child);
    if has_failed(child) {
        Err(BarrierError::Child)
    } else {
        Ok(())
    }
}

/// Whether the child's page names a failure.
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
