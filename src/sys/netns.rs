//! Sockets in other network namespaces.

use super::page::Page;
use super::process::{self, Cloned};
use super::{Sys, call, raw_fd};
use nix::errno::Errno;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;

/// Opens a socket in a network namespace, given by its nsfs descriptor or by a pidfd,
/// close-on-exec.
///
/// A process that shares the table of descriptors (`CLONE_FILES`) joins the namespace, opens the
/// socket and is gone: the socket stays in the table, and the caller itself has joined nothing.
///
/// # Errors
/// The kernel's, of the clone, the join or the socket.
pub fn socket_in(namespace: i32, domain: i32, kind: i32, protocol: i32) -> Sys<OwnedFd> {
    in_shared_table(|| {
        process::setns(namespace, libc::CLONE_NEWNET as u64)?;
        call!(
            libc::SYS_socket,
            domain,
            kind | libc::SOCK_CLOEXEC,
            protocol
        )
        .map(raw_fd)
    })
}

/// Opens a descriptor in a process that shares the table of descriptors and is gone afterwards.
/// `open` allocates nothing.
fn in_shared_table(open: impl FnOnce() -> Sys<i32>) -> Sys<OwnedFd> {
    let page = Page::new()?;
    match process::clone(libc::CLONE_FILES as u64, None)? {
        Cloned::Child => {
            let report = page.report();
            match open() {
                // One more, so that descriptor 0 is told from none.
                Ok(descriptor) => report.pid.store(descriptor + 1, Ordering::Release),
                Err(errno) => report.errno.store(errno as i32, Ordering::Release),
            }
            process::exit(0)
        }
        Cloned::Parent { pidfd, .. } => {
            let ended = process::wait(pidfd, false);
            super::file::close(pidfd);
            // Where hull inherited an ignored SIGCHLD, the kernel reaps by itself, and says so when
            // the process is gone.
            match ended {
                Ok(_) | Err(Errno::ECHILD) => {}
                Err(errno) => return Err(errno),
            }
            match page.report().pid.load(Ordering::Acquire) {
                0 => Err(match page.report().errno.load(Ordering::Acquire) {
                    0 => Errno::ECHILD,
                    errno => Errno::from_raw(errno),
                }),
                // SAFETY: the child opened this descriptor in the shared table and is gone; nobody
                // else knows it.
                descriptor => Ok(unsafe { OwnedFd::from_raw_fd(descriptor - 1) }),
            }
        }
    }
}

/// Makes a network namespace and answers its open file, close-on-exec; the caller stays where it
/// is. It lives as long as the file does, or a process in it.
///
/// # Errors
/// The kernel's, of the clone, the namespace or its file.
pub fn new_namespace() -> Sys<OwnedFd> {
    in_shared_table(|| {
        process::unshare(libc::CLONE_NEWNET as u64)?;
        // thread-self: the process has no other thread, and its id need not be known.
        super::file::openat(
            libc::AT_FDCWD,
            c"/proc/thread-self/ns/net",
            libc::O_RDONLY | libc::O_CLOEXEC,
            0,
        )
    })
}

/// Makes a netlink socket of a descriptor that is one.
pub fn netlink_socket(descriptor: OwnedFd) -> netlink_sys::Socket {
    // SAFETY: the descriptor is given up by its owner and becomes the socket's.
    unsafe { netlink_sys::Socket::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(descriptor)) }
}

/// Binds a packet socket to a device, for every protocol (packet(7)): from now on it takes packets.
///
/// # Errors
/// The kernel's.
pub fn bind_packet(socket: i32, index: u32) -> Sys<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // Valid: the structure and its size.
    call!(
        libc::SYS_bind,
        socket,
        &raw const address,
        size_of::<libc::sockaddr_ll>()
    )
    .map(drop)
}

/// Makes a tap of a name in the caller's network namespace (Documentation/networking/tuntap.rst):
/// frames with the header of virtio-net, gone with its last descriptor.
///
/// # Errors
/// The kernel's: it may lack tun; EPERM without CAP_NET_ADMIN.
pub fn open_tap(name: &str) -> Sys<i32> {
    const TUNSETIFF: u64 = 0x4004_54ca;
    const TAP_NO_PI_VNET_HDR: u16 = 0x0002 | 0x1000 | 0x4000;
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        pad: [u8; 22],
    }
    let mut request = Request {
        name: [0; 16],
        flags: TAP_NO_PI_VNET_HDR,
        pad: [0; 22],
    };
    let length = name.len().min(15);
    request.name[..length].copy_from_slice(&name.as_bytes()[..length]);
    let tun = crate::sys::fd::Fd(super::file::openat(
        libc::AT_FDCWD,
        c"/dev/net/tun",
        libc::O_RDWR,
        0,
    )?);
    // Valid: the structure has the size of `struct ifreq`.
    super::call!(libc::SYS_ioctl, tun.0, TUNSETIFF, &raw mut request)?;
    Ok(tun.keep())
}
