//! hull's side of the barriers with a child.

use crate::backend::errors;
use crate::hooks::listener;
use crate::namespaces::spawn::Child;
use crate::spec::Spec;
use crate::step::container::Barrier;
use crate::step::draft::Plan;
use crate::sys::fd::Fd;
use crate::sys::{process, socket};
use crate::{Context, Result};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A child and the plan it executes.
pub struct Barriers<'a> {
    /// For the words of its errors.
    pub plan: &'a Plan,
    /// Who is met.
    pub child: &'a Child,
}

impl Barriers<'_> {
    /// Meets the child. Its death is an error and not a hang: its pidfd is watched beside the
    /// socket.
    ///
    /// # Errors
    /// Of the step that the child failed at.
    pub fn barrier(&self, kind: Barrier) -> Result<()> {
        if matches!(kind, Barrier::Placed | Barrier::Recorded) {
            return self.send(kind);
        }
        let (readable, _) = process::poll2(self.child.sync.0, self.child.pidfd.0, None)
            .on("wait for", "the container's process")?;
        let mut byte = [0_u8; 1];
        if readable
            && matches!(socket::recv(self.child.sync.0, &mut byte), Ok(1))
            && byte[0] == kind as u8
        {
            return Ok(());
        }
        Err(errors::child_error(self.plan, self.child))
    }

    /// Lets the child go on.
    ///
    /// # Errors
    /// Of the step that the child failed at.
    pub fn send(&self, kind: Barrier) -> Result<()> {
        socket::send(self.child.sync.0, &[kind as u8])
            .map_err(|_| errors::child_error(self.plan, self.child))
    }

    /// Takes the seccomp listener, while the child waits on memory, and sends it to its agent.
    ///
    /// # Errors
    /// The filter was refused; the agent is not there.
    pub fn listener(
        &self,
        spec: &Spec,
        id: &str,
        init: i32,
        path: &str,
        metadata: &str,
    ) -> Result<()> {
        let report = self.child.page.report();
        let remote = loop {
            match report.listener.load(Ordering::Acquire) {
                0 => self.pause_while_alive()?,
                number => break number - 1,
            }
        };
        let fd = process::pidfd_getfd(self.child.pidfd.0, remote)
            .map(Fd)
            .on("take", "the seccomp listener")?;
        listener::send(spec, id, (init, self.child.pid), fd.0, path, metadata)?;
        report.taken.store(1, Ordering::Release);
        Ok(())
    }

    /// The child tells by memory alone that it is past its filter: seen here by looking, since no
    /// call of its could be relied on.
    ///
    /// # Errors
    /// Of the step that the child failed at.
    pub fn filtered(&self) -> Result<()> {
        let report = self.child.page.report();
        while report.filtered.load(Ordering::Acquire) == 0 {
            if let Err(error) = self.pause_while_alive() {
                // A short program may have come to its end between the two looks.
                return if report.filtered.load(Ordering::Acquire) == 0 {
                    Err(error)
                } else {
                    Ok(())
                };
            }
        }
        Ok(())
    }

    /// Waits until the child's end of the socket is closed: by execve, or its death.
    pub fn closed(&self) {
        let mut byte = [0_u8; 1];
        while matches!(socket::recv(self.child.sync.0, &mut byte), Ok(1)) {}
    }

    /// Waits until the child has become its program: its end of the socket closes at execve.
    ///
    /// # Errors
    /// execve was refused.
    pub fn executed(&self) -> Result<()> {
        self.closed();
        self.told()
    }

    /// What a child whose socket is closed left in its page.
    ///
    /// # Errors
    /// Of the step that the child failed at.
    pub fn told(&self) -> Result<()> {
        match self.child.page.report().errno.load(Ordering::Acquire) {
            0 => Ok(()),
            _ => Err(errors::child_error(self.plan, self.child)),
        }
    }

    fn pause_while_alive(&self) -> Result<()> {
        match process::poll2(self.child.pidfd.0, -1, Some(0)) {
            Ok((false, _)) => {
                std::thread::sleep(Duration::from_micros(20));
                Ok(())
            }
            _ => Err(errors::child_error(self.plan, self.child)),
        }
    }
}
