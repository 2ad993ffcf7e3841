//! Questions to the kernel about namespaces.

use super::{Sys, call, fd};

const NS_GET_USERNS: u64 = 0xb701;

/// The user namespace that owns a namespace (ioctl_ns(2)).
///
/// # Errors
/// EPERM when it lies outside the caller's.
pub fn owner_of_namespace(namespace: i32) -> Sys<i32> {
    call!(libc::SYS_ioctl, namespace, NS_GET_USERNS).map(fd)
}
