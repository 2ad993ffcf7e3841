//! Hooks that run in the container's namespaces: a plain clone, the state on stdin, and a bounded
//! wait by pidfd.

use crate::step::child::{ChildState, StepResult};
use crate::step::container::StepRef;
use crate::step::report::{Detail, Fault};
use crate::sys::fd::Fd;
use crate::sys::process::{self, Cloned, Ended};
use crate::sys::{self, file};
use nix::errno::Errno;

/// What the hook's process exits with when its program cannot be run; the error number follows by
/// the exit status of the stage.
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
        // A memory file cannot fill up as a pipe would when the hook does not read.
        let stdin = Fd(file::memfd(c"hull:state", 0)?);
        file::write(stdin.0, filled)?;
        // Valid offsets: the file was just written.
        sys::file::rewind(stdin.0)?;
        match process::clone(0, None)? {
            Cloned::Child => {
                let _ = file::dup_to(stdin.0, 0);
                // Neither what the program will get by --preserve-fds, nor what hull's caller left
                // open.
                file::close_all_but(3, &mut []);
                self.buffers
                    .arrays
                    .execveat(libc::AT_FDCWD, path, args, env, 0);
                process::exit(CANNOT_RUN)
            }
            Cloned::Parent { pidfd, .. } => wait_hook(Fd(pidfd), timeout),
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

fn wait_hook(pidfd: Fd, timeout: u32) -> StepResult {
    let limit = (timeout != 0).then_some(u64::from(timeout) * 1000);
    let (ended, _) = process::poll2(pidfd.0, -1, limit)?;
    if !ended {
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
