//! Questions to the kernel about namespaces.

use super::{Sys, call, fd};

const NS_GET_USERNS: u64 = 0xb701;
const NS_GET_NSTYPE: u64 = 0xb703;

/// The user namespace that owns a namespace (ioctl_ns(2)).
///
/// # Errors
/// EPERM when it lies outside the caller's.
pub fn owner_of_namespace(namespace: i32) -> Sys<i32> {
    call!(libc::SYS_ioctl, namespace, NS_GET_USERNS).map(fd)
}

/// The kind of a namespace, as its `CLONE_NEW*` (ioctl_ns(2)).
///
/// # Errors
/// ENOTTY where the descriptor is none of a namespace's.
pub fn kind_of_namespace(namespace: i32) -> Sys<u32> {
    call!(libc::SYS_ioctl, namespace, NS_GET_NSTYPE).map(|kind| kind as u32)
}
