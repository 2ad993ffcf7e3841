//! Raw system calls, one file for each family of calls, and small pieces made of them that know
//! nothing of containers (`mountinfo`, `replace`, `search`). No other module may hold `unsafe`.
//!
//! The functions that the cloned child uses do nothing but the call: no allocation, no lock, no
//! logging. They take C strings and raw descriptors, and return the kernel's error number
//! ([`Sys`]). Where a function's errors say no more than the name of the call, the call's own page
//! of the manual lists them.

pub(crate) mod bpf;
pub(crate) mod clock;
pub(crate) mod entry;
pub(crate) mod event;
pub mod fd;
pub mod file;
pub(crate) mod ids;
pub(crate) mod kvm;
pub(crate) mod mount;
pub(crate) mod mountinfo;
pub(crate) mod namespace;
pub mod netns;
pub(crate) mod page;
pub mod process;
pub(crate) mod procfs;
pub(crate) mod replace;
pub(crate) mod resolve;
pub(crate) mod search;
pub(crate) mod seccomp;
pub mod socket;
pub mod untrusted;

use nix::errno::Errno;

/// What a raw system call returns.
pub type Sys<T> = std::result::Result<T, Errno>;

/// Calls `libc::syscall` and turns -1 into the error number. It stands in an `unsafe` block, whose
/// comment says why the arguments are valid for this call; the kernel checks all else.
macro_rules! call {
    ($nr:expr $(, $arg:expr)* $(,)?) => {
        match libc::syscall($nr $(, $arg)*) {
            -1 => Err(nix::errno::Errno::last()),
            value => Ok(value),
        }
    };
}
pub(crate) use call;

/// The descriptor or process id that a call returned.
pub(crate) fn raw_fd(value: libc::c_long) -> i32 {
    i32::try_from(value).unwrap_or(-1)
}

/// Repeats a call as long as a signal interrupts it (EINTR).
pub fn retry<T>(mut call: impl FnMut() -> Sys<T>) -> Sys<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
