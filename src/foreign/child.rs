//! The container step that registers an interpreter with binfmt_misc.

use crate::step::child::{ChildState, StepResult};
use crate::sys::fd::Fd;
use crate::sys::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use nix::errno::Errno;
use std::ffi::CStr;

impl ChildState<'_> {
    /// Registers an interpreter with the container's own binfmt_misc.
    pub fn register(&self, target: &CStr, line: &CStr) -> StepResult {
        let file = Fd(file::openat2(
            self.root,
            target,
            libc::O_WRONLY,
            0,
            RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
        )?);
        match file::write(file.0, line.to_bytes()) {
            Ok(_) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
