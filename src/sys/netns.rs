//! Network namespaces: sockets in other ones, new ones, and tap devices.

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
/// socket and exits: the socket stays in the table, and the caller itself has joined nothing.
///
/// # Errors
/// clone3(2) fails: EAGAIN, too many processes; setns(2) fails: EPERM without CAP_SYS_ADMIN over
/// the namespace; socket(2) fails.
pub fn socket_in(namespace: i32, domain: i32, kind: i32, protocol: i32) -> Sys<OwnedFd> {
    in_shared_table(|| {
        process::setns(namespace, libc::CLONE_NEWNET as u64)?;
        // SAFETY: numbers alone are passed.
        unsafe {
            call!(
                libc::SYS_socket,
                domain,
                kind | libc::SOCK_CLOEXEC,
                protocol
            )
        }
        .map(raw_fd)
    })
}

/// Opens a descriptor in a process that shares the table of descriptors and exits afterwards.
/// `open` must not allocate.
fn in_shared_table(open: impl FnOnce() -> Sys<i32>) -> Sys<OwnedFd> {
    let page = Page::new()?;
    match process::clone(libc::CLONE_FILES as u64, None)? {
        Cloned::Child => {
            let report = page.report();
            match open() {
                // Plus one, because 0 in the page means that there is none.
                Ok(descriptor) => report.pid.store(descriptor + 1, Ordering::Release),
                Err(errno) => report.errno.store(errno as i32, Ordering::Release),
            }
            process::exit(0)
        }
        Cloned::Parent { pidfd, .. } => {
            let ended = process::wait(pidfd, false);
            super::file::close(pidfd);
            // Where hull inherited an ignored SIGCHLD, the kernel reaps the process itself, and
            // waitid(2) answers ECHILD once it has exited.
            match ended {
                Ok(_) | Err(Errno::ECHILD) => {}
                Err(errno) => return Err(errno),
            }
            match page.report().pid.load(Ordering::Acquire) {
                0 => Err(match page.report().errno.load(Ordering::Acquire) {
                    0 => Errno::ECHILD,
                    errno => Errno::from_raw(errno),
                }),
                // SAFETY: the child opened this descriptor in the shared table and has exited;
                // nobody else knows it.
                descriptor => Ok(unsafe { OwnedFd::from_raw_fd(descriptor - 1) }),
            }
        }
    }
}

/// Makes a network namespace and returns its open file, close-on-exec; the caller stays in its own.
/// The namespace exists as long as the file is open, or a process is in it.
///
/// # Errors
/// clone3(2) fails: EAGAIN, too many processes; unshare(2) fails: EPERM without CAP_SYS_ADMIN;
/// procfs is not mounted.
pub fn new_namespace() -> Sys<OwnedFd> {
    in_shared_table(|| {
        process::unshare(libc::CLONE_NEWNET as u64)?;
        // thread-self names the process itself without its id.
        super::file::openat(
            libc::AT_FDCWD,
            c"/proc/thread-self/ns/net",
            libc::O_RDONLY | libc::O_CLOEXEC,
            0,
        )
    })
}

/// Wraps the descriptor of a netlink socket.
pub fn netlink_socket(descriptor: OwnedFd) -> netlink_sys::Socket {
    // SAFETY: the descriptor is given up by its owner and becomes the socket's.
    unsafe { netlink_sys::Socket::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(descriptor)) }
}

/// Binds a packet socket to a network device for every protocol (packet(7)); from then on the
/// socket receives packets.
///
/// # Errors
/// bind(2) fails: ENODEV, there is no such device; ENETDOWN.
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
    // SAFETY: the structure and its size.
    unsafe {
        call!(
            libc::SYS_bind,
            socket,
            &raw const address,
            size_of::<libc::sockaddr_ll>()
        )
    }
    .map(drop)
}

/// Makes a tap device in the caller's network namespace (Documentation/networking/tuntap.rst) and
/// returns its descriptor, close-on-exec. Its frames have virtio-net's header (`IFF_VNET_HDR`); the
/// kernel removes the device with the last descriptor. Of the name the first 15 bytes count.
///
/// # Errors
/// open(2) fails: ENOENT, the kernel has no tun driver; the ioctl TUNSETIFF fails: EPERM without
/// CAP_NET_ADMIN, EBUSY, the name is in use.
pub fn open_tap(name: &str) -> Sys<i32> {
    const TUNSETIFF: u64 = 0x4004_54ca;
    const TAP_NO_PI_VNET_HDR: u16 = 0x0002 | 0x1000 | 0x4000;
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        flags: u16,
        pad: [u8; 22],
    }
    let mut request = InterfaceRequest {
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
    // SAFETY: the structure has the size of `struct ifreq`.
    unsafe { super::call!(libc::SYS_ioctl, tun.0, TUNSETIFF, &raw mut request) }?;
    Ok(tun.keep())
}
