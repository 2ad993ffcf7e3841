//! The child's state while it executes container steps. Its buffers are allocated before the clone;
//! from there to execve(2) nothing allocates, locks or logs.

use super::container::{Attribute, Barrier, StepRef, slot};
use super::report::{Detail, FAULT_SIZE, Fault};
use super::wire::{Malformed, Reader};
use crate::sys::fd::Fd;
use crate::sys::file::{self, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS};
use crate::sys::page::{Report, SAID};
use crate::sys::{self, Sys, process};
use nix::errno::Errno;
use std::ffi::CStr;
use std::sync::atomic::Ordering;

/// The result of a container step.
pub type StepResult = Result<(), Fault>;

/// The child's buffers, allocated before the clone.
pub struct Buffers {
    /// The pointers of argv and envp.
    pub arrays: process::Arrays,
    /// The program's path, and HOME.
    pub text: Vec<u8>,
    /// The state document of a hook.
    pub state: Vec<u8>,
    /// Detached copies of mount trees: the slots from [`slot::FIRST_COPY`] on.
    pub copies: Vec<i32>,
    /// The first descriptor that the program does not inherit.
    pub inherited_end: i32,
}

impl Buffers {
    const TEXT: usize = 3 * libc::PATH_MAX as usize;

    /// Allocates buffers that are large enough for these encoded steps.
    ///
    /// # Errors
    /// [`Malformed`]: the bytes are not container steps.
    pub fn for_steps(steps: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(steps);
        let (mut strings, mut state, mut copies, mut inherited_end) = (0, 0, 0, i32::MAX);
        while !reader.is_empty() {
            match StepRef::get(&mut reader)? {
                StepRef::Exec { args, env, .. } => {
                    strings = strings.max(args.len() + env.len() + 1)
                }
                StepRef::Hook {
                    args,
                    env,
                    state: template,
                    ..
                } => {
                    strings = strings.max(args.len() + env.len());
                    state = state.max(template.len());
                }
                StepRef::Copy { .. } => copies += 1,
                StepRef::Set {
                    what: Attribute::Descriptors,
                    number,
                    ..
                } => inherited_end = i32::try_from(number).unwrap_or(i32::MAX),
                _ => {}
            }
        }
        Ok(Self {
            copies: vec![-1; copies],
            inherited_end,
            arrays: process::Arrays::with_room(strings),
            text: vec![0; Self::TEXT],
            state: vec![0; state],
        })
    }
}

/// What the child keeps from one container step to the next.
pub struct ChildState<'a> {
    pub(crate) slots: &'a [i32],
    pub(crate) report: &'a Report,
    pub(crate) buffers: &'a mut Buffers,
    pub(crate) step: u32,
    /// The index of the step that waited for `start`, after `start` has come.
    pub started: Option<u32>,
    /// A descriptor of the container's root: of the mount before the pivot, of `/` after it.
    pub root: i32,
    /// A descriptor of the empty read-only tmpfs that masks directories; -1 before it is mounted.
    pub empty: i32,
    /// A descriptor of the container's null device; -1 before it is opened and checked.
    pub null: i32,
    /// The directory in which the last path was resolved.
    pub parent: crate::sys::resolve::Parent,
    /// The last empty tmpfs that was mounted.
    pub fresh: crate::sys::resolve::Fresh,
    /// The mount namespace is new, so no other process is in it.
    pub own_mounts: bool,
    /// The working directory has been entered ([`Cwd::Try`]).
    ///
    /// [`Cwd::Try`]: super::container::Cwd::Try
    pub entered: bool,
    /// The length of the program's path in [`Buffers::text`] with its NUL; 0 before it is found.
    pub program: usize,
}

impl ChildState<'_> {
    /// Closes the descriptors of finished mounts when `newest` shows that there are many: they stay
    /// open otherwise, because closing each would cost a system call, and all are closed at once
    /// before execve(2). A limit of 1024 descriptors holds any number of mounts this way.
    pub(crate) fn sweep(&mut self, newest: i32) {
        const MOST: i32 = 64;
        if newest < MOST {
            return;
        }
        let slots = self.slots.iter().chain(&self.buffers.copies);
        let first = slots.fold(self.buffers.inherited_end, |first, slot| {
            first.max(*slot + 1)
        });
        if newest.saturating_sub(first) < MOST {
            return;
        }
        self.parent = crate::sys::resolve::Parent::NONE;
        sys::file::close_all_but(first, &mut [self.root, self.empty, self.null]);
    }

    pub(crate) fn slot(&self, index: u32) -> Sys<i32> {
        let held = match index.checked_sub(slot::FIRST_COPY) {
            Some(copy) => self.buffers.copies.get(copy as usize),
            None => self.slots.get(index as usize),
        };
        match held {
            Some(&descriptor) if descriptor >= 0 => Ok(descriptor),
            _ => Err(Errno::EBADF),
        }
    }

    pub(crate) fn enroll(&self, first: u32, count: u32) -> StepResult {
        for slot in first..first.saturating_add(count) {
            sys::file::write(self.slot(slot)?, b"0")?;
        }
        Ok(())
    }

    /// Synchronises with hull. If hull exits, its end of the socket closes.
    pub fn barrier(&mut self, kind: Barrier) -> StepResult {
        let socket = self.slot(slot::SYNC)?;
        if matches!(kind, Barrier::Hooks | Barrier::Ready) {
            sys::socket::send(socket, &[kind as u8])?;
        }
        if kind != Barrier::Ready {
            let mut answer = [0_u8; 1];
            let count = sys::socket::recv(socket, &mut answer)?;
            if count == 0 || answer[0] != kind as u8 {
                return Err(Fault::with(Errno::ECONNRESET, Detail::Parent));
            }
        }
        Ok(())
    }

    /// Closes every descriptor from `first` on, except the two that are needed until execve(2) and
    /// are close-on-exec.
    pub fn close_others(&self, first: i32) {
        let needed = |which| self.slot(which).unwrap_or(-1);
        sys::file::close_all_but(first, &mut [needed(slot::SYNC), needed(slot::START)]);
    }

    /// Loads the seccomp filter. With a listener, the child polls a word of the report page until
    /// hull has taken it: that needs no system call, which the filter might refuse.
    pub fn filter(&mut self, program: &[u8], flags: u32, notify: bool) -> StepResult {
        const NEW_LISTENER: u32 = 8;
        let flags = flags | if notify { NEW_LISTENER } else { 0 };
        let listener = sys::seccomp::set_filter(program, flags)?;
        if notify {
            self.report.listener.store(listener + 1, Ordering::Release);
            while self.report.taken.load(Ordering::Acquire) == 0 {
                std::hint::spin_loop();
            }
        }
        Ok(())
    }

    /// Waits for `start`. From here on a failure is written to the fifo, from which `start` reads
    /// it.
    pub fn wait_start(&mut self) -> StepResult {
        self.report.filtered.store(1, Ordering::Release);
        let mut byte = [0_u8; 1];
        sys::file::read(self.slot(slot::START)?, &mut byte)?;
        self.started = Some(self.step);
        Ok(())
    }

    pub(crate) fn fail(&self, fault: Fault) -> ! {
        if let (Some(wait), Ok(fifo)) = (self.started, self.slot(slot::START)) {
            let mut message = [0_u8; FAULT_SIZE + SAID];
            message[..FAULT_SIZE].copy_from_slice(&fault.to_bytes(self.step - wait));
            let said = self
                .report
                .said
                .iter()
                .map(|byte| byte.load(Ordering::Relaxed));
            let places = message[FAULT_SIZE..].iter_mut();
            places.zip(said).for_each(|(place, byte)| *place = byte);
            let length = self.report.said_length.load(Ordering::Relaxed) as usize;
            let whole = FAULT_SIZE + length.min(SAID);
            let _ = sys::file::write(fifo, &message[..whole]);
        }
        self.report.detail.store(fault.detail, Ordering::Relaxed);
        self.report
            .errno
            .store(fault.errno as i32, Ordering::Release);
        process::exit(1)
    }
}

impl ChildState<'_> {
    /// Writes to a file of the host's procfs by its descriptor, so that no mount of the container
    /// can redirect the write (CVE-2025-52881).
    pub(crate) fn write_proc(&self, path: &CStr, value: &CStr, resolve: u64) -> StepResult {
        let proc = self
            .slot(slot::PROC)
            .map_err(|errno| Fault::with(errno, Detail::NotProc))?;
        let file = Fd(file::openat2(
            proc,
            path,
            libc::O_WRONLY,
            0,
            RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | resolve,
        )?);
        let bytes = value.to_bytes();
        match file::write(file.0, bytes)? {
            count if count == bytes.len() => Ok(()),
            _ => Err(Errno::EIO.into()),
        }
    }
}
