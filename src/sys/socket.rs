//! Messages over sockets, also with descriptors, and the ioctls of terminals; without allocation,
//! [`connect`] apart, which only hull itself calls.

use super::{Sys, call};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Connects to a listening socket in the file system. A path longer than `sun_path` (unix(7), 108
/// bytes) is opened first, and named by its descriptor.
///
/// # Errors
/// There is no such socket, or nobody listens.
pub fn connect(path: &Path) -> std::io::Result<UnixStream> {
    const SUN_PATH: usize = 108;
    if path.as_os_str().len() < SUN_PATH {
        return UnixStream::connect(path);
    }
    let opened = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)?;
    UnixStream::connect(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

/// Sends bytes with one descriptor attached (`SCM_RIGHTS`), without SIGPIPE.
///
/// # Errors
/// sendmsg(2) fails: EPIPE or ECONNRESET, the other side has closed its end; EBADF.
pub fn send_fd(socket: i32, bytes: &[u8], descriptor: i32) -> Sys<()> {
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    #[repr(C, align(8))]
    struct Control {
        header: libc::cmsghdr,
        descriptor: i32,
        pad: i32,
    }
    let mut control = Control {
        header: libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<i32>(),
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        },
        descriptor,
        pad: 0,
    };
    // SAFETY: all-zero is a valid message header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    super::retry(|| {
        // SAFETY: the message and what it points to live across the call.
        unsafe {
            call!(
                libc::SYS_sendmsg,
                socket,
                &raw const message,
                libc::MSG_NOSIGNAL
            )
        }
    })
    .map(drop)
}

/// Sends bytes, without SIGPIPE.
///
/// # Errors
/// send(2) fails: EPIPE or ECONNRESET, the other side has closed its end.
pub fn send(socket: i32, bytes: &[u8]) -> Sys<()> {
    let none = std::ptr::null::<u8>();
    super::retry(|| {
        // SAFETY: the buffer lives across the call and its length is given.
        unsafe {
            call!(
                libc::SYS_sendto,
                socket,
                bytes.as_ptr(),
                bytes.len(),
                libc::MSG_NOSIGNAL,
                none,
                0
            )
        }
    })
    .map(drop)
}

/// Receives one message and returns its length, which is 0 where the other side has closed its end.
///
/// # Errors
/// recv(2) fails: ECONNRESET; EAGAIN on a non-blocking socket without a message.
pub fn recv(socket: i32, buffer: &mut [u8]) -> Sys<usize> {
    let none = std::ptr::null::<u8>();
    super::retry(|| {
        // SAFETY: the buffer lives across the call and its length is given.
        unsafe {
            call!(
                libc::SYS_recvfrom,
                socket,
                buffer.as_mut_ptr(),
                buffer.len(),
                0,
                none,
                none
            )
        }
    })
    .map(|n| n as usize)
}

/// socketpair(2): two connected sockets that keep messages apart (`SOCK_SEQPACKET`), close-on-exec.
///
/// # Errors
/// socketpair(2) fails: EMFILE.
pub fn message_pair() -> Sys<(i32, i32)> {
    let mut pair = [-1_i32; 2];
    // SAFETY: room for two descriptors.
    unsafe {
        call!(
            libc::SYS_socketpair,
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            pair.as_mut_ptr()
        )
    }?;
    Ok((pair[0], pair[1]))
}

/// Sets the loopback interface of the caller's network namespace up (`SIOCSIFFLAGS`).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the namespace.
pub fn loopback_up() -> Sys<()> {
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        flags: i16,
        pad: [u8; 22],
    }
    // SAFETY: numbers alone are passed.
    let socket = super::raw_fd(unsafe {
        call!(
            libc::SYS_socket,
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0
        )
    }?);
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: (libc::IFF_UP | libc::IFF_RUNNING) as i16,
        pad: [0; 22],
    };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: the structure has the size of `struct ifreq`.
    let result = unsafe {
        call!(
            libc::SYS_ioctl,
            socket,
            libc::SIOCSIFFLAGS,
            &raw const request
        )
    };
    super::file::close(socket);
    result.map(drop)
}

/// ioctl(2) `TIOCGPTPEER`: the other end of a pseudo-terminal, by its descriptor and not by a path
/// (CVE-2025-52565).
///
/// # Errors
/// The ioctl fails: EIO, the other end is locked; ENOTTY, not a pseudo-terminal's master.
pub fn pty_peer(master: i32) -> Sys<i32> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_ioctl, master, libc::TIOCGPTPEER, flags) }.map(super::raw_fd)
}

/// Unlocks the other end of a pseudo-terminal (`TIOCSPTLCK`), so that it can be opened.
///
/// # Errors
/// ENOTTY: not a pseudo-terminal's master.
pub fn pty_unlock(master: i32) -> Sys<()> {
    let locked = 0_i32;
    // SAFETY: a pointer to an int.
    unsafe { call!(libc::SYS_ioctl, master, libc::TIOCSPTLCK, &raw const locked) }.map(drop)
}

/// Makes a terminal the controlling terminal of the caller's session (`TIOCSCTTY`).
///
/// # Errors
/// EPERM: the caller leads no session, or has or shares a controlling terminal.
pub fn controlling_terminal(terminal: i32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_ioctl, terminal, libc::TIOCSCTTY, 0) }.map(drop)
}

/// Sets a terminal's size in characters (`TIOCSWINSZ`).
///
/// # Errors
/// ENOTTY: not a terminal.
pub fn window_size(terminal: i32, rows: u16, columns: u16) -> Sys<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: a pointer to the structure.
    unsafe { call!(libc::SYS_ioctl, terminal, libc::TIOCSWINSZ, &raw const size) }.map(drop)
}

/// Makes an owned descriptor of a number, of which nobody else may know.
pub fn owned(raw: i32) -> std::os::fd::OwnedFd {
    // SAFETY: the callers give the only handle on an open descriptor away (`Fd::keep`, or a call or
    // message that has just returned it).
    unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) }
}

/// Borrows a descriptor by its number; its owner must outlive the result.
pub fn borrow<'a>(raw: i32) -> std::os::fd::BorrowedFd<'a> {
    // SAFETY: the callers keep the descriptor open for as long as they use the result.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(raw) }
}

/// A terminal's size in characters (`TIOCGWINSZ`): rows and columns; none where the descriptor is
/// not a terminal's, or the terminal has no size.
pub fn terminal_size(raw: i32) -> Option<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: a pointer to the structure.
    unsafe { call!(libc::SYS_ioctl, raw, libc::TIOCGWINSZ, &raw mut size) }.ok()?;
    (size.ws_row != 0 || size.ws_col != 0).then_some((size.ws_row, size.ws_col))
}

/// Whether a descriptor is a terminal's.
pub fn is_terminal(raw: i32) -> bool {
    // SAFETY: isatty(3) takes any number.
    unsafe { libc::isatty(raw) == 1 }
}
