//! Namespaces as nsfs files: opening one, and what the kernel says of it (ioctl_ns(2)).

use super::fd::{Fd, c_path};
use super::{Sys, call, file, raw_fd};
use crate::{Context, Result};
use std::path::Path;

const NS_GET_USERNS: u64 = 0xb701;
const NS_GET_NSTYPE: u64 = 0xb703;

/// Opens a namespace's file, such as `/proc/1/ns/net`, close-on-exec. Whether it is one, setns(2)
/// says, or [`kind`].
///
/// # Errors
/// open(2) fails: the path is missing, or may not be followed (ptrace(2), "Ptrace access mode
/// checking"); the path contains a NUL byte.
pub fn open(path: impl AsRef<Path>) -> Result<Fd> {
    let path = path.as_ref();
    // A fifo or a device at the path shall not make hull wait.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    file::openat(libc::AT_FDCWD, &c_path(path)?, flags, 0)
        .map(Fd)
        .on("open namespace", path.display())
}

/// `NS_GET_USERNS`: a new descriptor of the user namespace that owns a namespace.
///
/// # Errors
/// EPERM: the owner lies outside the caller's own user namespace.
pub fn owner(namespace: i32) -> Sys<i32> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_ioctl, namespace, NS_GET_USERNS) }.map(raw_fd)
}

/// `NS_GET_NSTYPE`: the kind of a namespace, as its `CLONE_NEW*`.
///
/// # Errors
/// ENOTTY: the descriptor is not a namespace's.
pub fn kind(namespace: i32) -> Sys<u32> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_ioctl, namespace, NS_GET_NSTYPE) }.map(|kind| kind as u32)
}
