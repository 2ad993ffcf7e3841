//! What the child keeps while it runs container steps. It is made before the clone; from there to
//! execve nothing allocates, locks or logs.

use super::container::{Barrier, StepRef, slot};
use super::report::{Detail, Fault};
use super::wire::{Malformed, Reader};
use crate::sys::fd::Fd;
use crate::sys::file::{self, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS};
use crate::sys::page::Report;
use crate::sys::{self, Sys, process};
use nix::errno::Errno;
use std::ffi::CStr;
use std::sync::atomic::Ordering;

/// A step's result.
pub type Done = Result<(), Fault>;

/// Room that the walker uses, sized before the clone.
pub struct Scratch {
    /// For argv and envp.
    pub arrays: process::Arrays,
    /// For the program's path and HOME.
    pub text: Vec<u8>,
    /// For a hook's state.
    pub state: Vec<u8>,
}

impl Scratch {
    const TEXT: usize = 3 * libc::PATH_MAX as usize;

    /// Measures a script and makes the room it needs.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no script.
    pub fn for_script(inside: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(inside);
        let (mut strings, mut state) = (0, 0);
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
                _ => {}
            }
        }
        Ok(Self {
            arrays: process::Arrays::with_room(strings),
            text: vec![0; Self::TEXT],
            state: vec![0; state],
        })
    }
}

/// What the walker holds between steps.
pub struct World<'a> {
    pub(crate) slots: &'a [i32],
    pub(crate) report: &'a Report,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) step: u32,
    /// The step that waited for `start`, once it has come.
    pub started: Option<u32>,
    /// The container's root: the detached mount before the pivot, the process's own root after.
    pub root: i32,
    /// A detached empty read-only tmpfs that masks directories, once made.
    pub empty: i32,
    /// The container's null device, once it is checked.
    pub null: i32,
    /// The directory of the last name.
    pub parent: crate::sys::resolve::Parent,
    /// The last empty file system that was mounted.
    pub fresh: crate::sys::resolve::Fresh,
    /// The mount namespace is new: nobody else is in it.
    pub own_mounts: bool,
    /// How long the program's path in the scratch text is, with its NUL; 0 before it is looked up.
    pub program: usize,
}

impl World<'_> {
    pub(crate) fn slot(&self, index: u32) -> Sys<i32> {
        match self.slots.get(index as usize) {
            Some(&descriptor) if descriptor >= 0 => Ok(descriptor),
            _ => Err(Errno::EBADF),
        }
    }

    pub(crate) fn enroll(&self, first: u32, count: u32) -> Done {
        for slot in first..first.saturating_add(count) {
            sys::file::write(self.slot(slot)?, b"0")?;
        }
        Ok(())
    }

    /// Meets the parent; its end of the socket closing is its death.
    pub fn barrier(&mut self, kind: Barrier) -> Done {
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

    /// Closes every descriptor from `first` on but the two that are needed until execve, which
    /// close there.
    pub fn close_others(&self, first: i32) {
        let needed = |which| self.slot(which).unwrap_or(-1);
        sys::file::close_all_but(first, &mut [needed(slot::SYNC), needed(slot::START)]);
    }

    /// Loads the filter. With a listener, the child waits for its parent by looking at memory: no
    /// filter can catch that.
    pub fn filter(&mut self, program: &[u8], flags: u32, notify: bool) -> Done {
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

    /// Whoever called `start` learns of what fails from here on by the fifo.
    pub fn wait_start(&mut self) -> Done {
        self.report.filtered.store(1, Ordering::Release);
        let mut byte = [0_u8; 1];
        sys::file::read(self.slot(slot::START)?, &mut byte)?;
        self.started = Some(self.step);
        Ok(())
    }

    pub(crate) fn fail(&self, fault: Fault) -> ! {
        if let (Some(wait), Ok(fifo)) = (self.started, self.slot(slot::START)) {
            let _ = sys::file::write(fifo, &fault.to_bytes(self.step - wait));
        }
        self.report.detail.store(fault.detail, Ordering::Relaxed);
        self.report
            .errno
            .store(fault.errno as i32, Ordering::Release);
        process::exit(1)
    }
}

impl World<'_> {
    /// Writes below the host's procfs, whose descriptor no mount of the container can shadow
    /// (CVE-2025-52881).
    pub(crate) fn write_proc(&self, path: &CStr, value: &CStr, resolve: u64) -> Done {
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
