//! Socket messages with descriptors, without allocation.

use super::{Sys, call};
use nix::errno::Errno;

/// Sends bytes with one descriptor attached (`SCM_RIGHTS`), no SIGPIPE.
///
/// # Errors
/// The kernel's.
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
    // Valid: every pointer of the header refers to a local that outlives the call.
    super::retry(|| {
        call!(
            libc::SYS_sendmsg,
            socket,
            &raw const message,
            libc::MSG_NOSIGNAL
        )
    })
    .map(drop)
}

/// Sends bytes, no SIGPIPE.
///
/// # Errors
/// The kernel's.
pub fn send(socket: i32, bytes: &[u8]) -> Sys<()> {
    let none = std::ptr::null::<u8>();
    // Valid: pointer and length belong together; no address.
    super::retry(|| {
        call!(
            libc::SYS_sendto,
            socket,
            bytes.as_ptr(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
            none,
            0
        )
    })
    .map(drop)
}

/// Receives one message; 0 bytes means that the other side is gone.
///
/// # Errors
/// The kernel's.
pub fn recv(socket: i32, buffer: &mut [u8]) -> Sys<usize> {
    let none = std::ptr::null::<u8>();
    // Valid: pointer and length belong together; no address wanted.
    super::retry(|| {
        call!(
            libc::SYS_recvfrom,
            socket,
            buffer.as_mut_ptr(),
            buffer.len(),
            0,
            none,
            none
        )
    })
    .map(|n| n as usize)
}

/// socketpair(2): two connected message sockets, close-on-exec.
///
/// # Errors
/// The kernel's.
pub fn message_pair() -> Sys<(i32, i32)> {
    let mut pair = [-1_i32; 2];
    // Valid: room for two descriptors.
    call!(
        libc::SYS_socketpair,
        libc::AF_UNIX,
        libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
        0,
        pair.as_mut_ptr()
    )?;
    Ok((pair[0], pair[1]))
}

/// Brings the loopback interface of this network namespace up (`SIOCSIFFLAGS`).
///
/// # Errors
/// EPERM.
pub fn loopback_up() -> Sys<()> {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        pad: [u8; 22],
    }
    let socket = super::raw_fd(call!(
        libc::SYS_socket,
        libc::AF_INET,
        libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
        0
    )?);
    let mut request = Request {
        name: [0; 16],
        flags: (libc::IFF_UP | libc::IFF_RUNNING) as i16,
        pad: [0; 22],
    };
    request.name[..2].copy_from_slice(b"lo");
    // Valid: the structure has the size of `struct ifreq`.
    let result = call!(
        libc::SYS_ioctl,
        socket,
        libc::SIOCSIFFLAGS,
        &raw const request
    );
    super::file::close(socket);
    result.map(drop)
}

/// ioctl(2) `TIOCGPTPEER`: the other end of a pseudo-terminal, by its descriptor and not by a path
/// (CVE-2025-52565).
///
/// # Errors
/// The kernel's.
pub fn pty_peer(master: i32) -> Sys<i32> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    call!(libc::SYS_ioctl, master, libc::TIOCGPTPEER, flags).map(super::raw_fd)
}

/// Unlocks a pseudo-terminal's peer (`TIOCSPTLCK`).
///
/// # Errors
/// The kernel's.
pub fn pty_unlock(master: i32) -> Sys<()> {
    let locked = 0_i32;
    // Valid: a pointer to an int.
    call!(libc::SYS_ioctl, master, libc::TIOCSPTLCK, &raw const locked).map(drop)
}

/// Makes a terminal the controlling one of this session (`TIOCSCTTY`).
///
/// # Errors
/// EPERM.
pub fn controlling_terminal(terminal: i32) -> Sys<()> {
    call!(libc::SYS_ioctl, terminal, libc::TIOCSCTTY, 0).map(drop)
}

/// Sets a terminal's size in characters (`TIOCSWINSZ`).
///
/// # Errors
/// The kernel's.
pub fn window_size(terminal: i32, rows: u16, columns: u16) -> Sys<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // Valid: a pointer to the structure.
    call!(libc::SYS_ioctl, terminal, libc::TIOCSWINSZ, &raw const size).map(drop)
}

/// Whether the other side of a socket is gone, as an error number that says so.
pub fn gone() -> Errno {
    Errno::ECONNRESET
}

/// Takes a descriptor over as an owned one.
pub fn owned(raw: i32) -> std::os::fd::OwnedFd {
    // SAFETY: the callers give up the only handle on an open descriptor (`Fd::keep`, or a message
    // just received).
    unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) }
}

/// A view of a descriptor whose owner outlives it.
pub fn borrow<'a>(raw: i32) -> std::os::fd::BorrowedFd<'a> {
    // SAFETY: the callers hold the descriptor's owner for as long as they use the view.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(raw) }
}

/// A terminal's size (`TIOCGWINSZ`): rows and columns; none where it is no terminal or has none.
pub fn terminal_size(raw: i32) -> Option<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // Valid: a pointer to the structure.
    call!(libc::SYS_ioctl, raw, libc::TIOCGWINSZ, &raw mut size).ok()?;
    (size.ws_row != 0 || size.ws_col != 0).then_some((size.ws_row, size.ws_col))
}

/// Whether a descriptor is a terminal.
pub fn is_terminal(raw: i32) -> bool {
    // SAFETY: isatty(3) takes any number.
    unsafe { libc::isatty(raw) == 1 }
}
