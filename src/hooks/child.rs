//! Runs hooks in the container's namespaces: clone(2), the state document on stdin, and a wait with
//! a timeout on the pidfd.

use crate::step::child::{ChildState, StepResult};
use crate::step::container::StepRef;
use crate::step::report::{Detail, Fault};
use crate::sys::fd::Fd;
use crate::sys::page::SAID;
use crate::sys::process::{self, Cloned, Ended};
use crate::sys::{self, file};
use nix::errno::Errno;

/// The exit status of the hook's process if its program cannot be executed.
const CANNOT_RUN: i32 = 255;

impl ChildState<'_> {
    pub(crate) fn hook(&mut self, step: StepRef) -> StepResult {
        let StepRef::Hook {
            path,
            args,
            env,
            timeout,
            state,
            pid_at,
        } = step
        else {
            return Err(Errno::EINVAL.into());
        };
        let filled = self
            .buffers
            .state
            .get_mut(..state.len())
            .ok_or(Errno::ENOMEM)?;
        filled.copy_from_slice(state);
        write_pid(filled, pid_at as usize, process::getpid());
        // A memfd, unlike a pipe, never blocks the writer if the hook does not read.
        let stdin = Fd(file::memfd(c"hull:state", 0)?);
        file::write(stdin.0, filled)?;
        // The hook reads from the beginning.
        sys::file::rewind(stdin.0)?;
        // What it says is shown if it fails.
        let said = Fd(file::memfd(c"hull:said", 0)?);
        match process::clone(0, None)? {
            Cloned::Child => {
                let _ = file::dup_to(stdin.0, 0);
                let _ = file::dup_to(said.0, 1);
                let _ = file::dup_to(said.0, 2);
                // Before the change of the root, hooks begin in the container's root (runc).
                if self.started.is_none() {
                    let _ = file::fchdir(self.root);
                }
                // Its children go with it if it is killed.
                let _ = process::setpgid();
                // The hook inherits neither the descriptors of --preserve-fds nor those that hull's
                // caller left open.
                file::close_all_but(3, &mut []);
                self.buffers
                    .arrays
                    .execveat(libc::AT_FDCWD, path, args, env, 0);
                process::exit(CANNOT_RUN)
            }
            Cloned::Parent { pidfd, pid } => {
                let done = wait_hook(&Fd(pidfd), pid, timeout);
                if done.is_err() {
                    let mut text = [0_u8; SAID];
                    sys::file::rewind(said.0)?;
                    let count = file::read(said.0, &mut text)?;
                    self.report.say(&text[..count]);
                }
                done
            }
        }
    }
}

fn write_pid(state: &mut [u8], at: usize, pid: i32) {
    let mut left = pid;
    for place in (at..at + 10).rev() {
        let Some(byte) = state.get_mut(place) else {
            return;
        };
        if left == 0 && place != at + 9 {
            *byte = b' ';
        } else {
            *byte = b'0' + (left % 10) as u8;
            left /= 10;
        }
    }
}

fn wait_hook(pidfd: &Fd, pid: i32, timeout: u32) -> StepResult {
    let limit = (timeout != 0).then_some(u64::from(timeout) * 1000);
    let (ended, _) = process::poll2(pidfd.0, -1, limit)?;
    if !ended {
        let _ = process::kill_group(pid);
        let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
        process::wait(pidfd.0, false)?;
        return Err(Fault::with_value(
            Errno::ETIMEDOUT,
            Detail::HookTimeout,
            timeout,
        ));
    }
    match process::wait(pidfd.0, false)? {
        Some(Ended::Exited(0)) => Ok(()),
        Some(Ended::Exited(CANNOT_RUN)) => Err(Fault::with(Errno::ENOENT, Detail::HookExec)),
        Some(Ended::Exited(status)) => Err(Fault::with_value(
            Errno::ECANCELED,
            Detail::HookStatus,
            status as u32,
        )),
        Some(Ended::Killed(signal)) => Err(Fault::with_value(
            Errno::ECANCELED,
            Detail::HookSignal,
            signal as u32,
        )),
        None => Err(Errno::ECHILD.into()),
    }
}
