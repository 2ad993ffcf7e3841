//! Every raw system call, a file a family. The only place (with the lowest files of `vm`) where
//! `unsafe` stands.
//!
//! The functions here that the cloned child uses do nothing but the call: no allocation, no lock,
//! no logging. They take C strings and raw descriptors, and answer with the kernel's error number.

pub mod bpf;
pub mod clock;
pub mod entry;
pub mod event;
pub mod fd;
pub mod file;
pub mod ids;
pub mod kvm;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod netns;
pub mod page;
pub mod process;
pub mod procfs;
pub mod replace;
pub mod resolve;
pub mod search;
pub mod seccomp;
pub mod socket;

use nix::errno::Errno;

/// What a raw call answers.
pub type Sys<T> = std::result::Result<T, Errno>;

/// Calls `libc::syscall` and turns -1 into the error number.
macro_rules! call {
    ($nr:expr $(, $arg:expr)* $(,)?) => {
        // SAFETY: the caller of this macro states why the arguments are valid for this call; the
        // kernel checks all else.
        match unsafe { libc::syscall($nr $(, $arg)*) } {
            -1 => Err(nix::errno::Errno::last()),
            value => Ok(value),
        }
    };
}
pub(crate) use call;

/// The descriptor, or the process id, that a call answers.
pub(crate) fn raw_fd(value: libc::c_long) -> i32 {
    i32::try_from(value).unwrap_or(-1)
}

/// Does the call again while a signal interrupts it.
pub fn retry<T>(mut call: impl FnMut() -> Sys<T>) -> Sys<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
