//! Owned descriptors, and strings for the kernel.

use super::file;
use crate::{Context, Error, Result};
use std::ffi::CString;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A descriptor that is closed when it is dropped; -1 is none, which nothing closes.
///
/// It is a number and not std's `OwnedFd`, because most of hull's descriptors are numbers for the
/// greater part of their life: in a plan's slots, in messages to a fresh init, across clone3(2),
/// where the child goes by the number and must not close what its parent owns. `OwnedFd` has no
/// value for "none", and every call of this module would need an `unsafe` conversion at its end.
/// Where std or nix want or return an `OwnedFd`, [`From`] converts.
pub struct Fd(pub i32);

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into_raw_fd())
    }
}

impl Fd {
    /// Another descriptor of the same open file, close-on-exec (`F_DUPFD_CLOEXEC`).
    ///
    /// # Errors
    /// fcntl(2) fails: EMFILE, hull has as many open files as it may.
    pub fn try_clone(&self) -> Result<Self> {
        use nix::fcntl::{FcntlArg, fcntl};
        fcntl(super::socket::borrow(self.0), FcntlArg::F_DUPFD_CLOEXEC(3))
            .map(Self)
            .on("copy", "a descriptor")
    }

    /// Gives the descriptor to the caller, who closes it.
    pub fn keep(self) -> i32 {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }

    /// Closes many descriptors, consecutive numbers by one close_range(2).
    pub fn close_all(mut many: Vec<Self>) {
        many.sort_by_key(|fd| fd.0);
        let numbers: Vec<i32> = many
            .into_iter()
            .map(Self::keep)
            .filter(|raw| *raw >= 0)
            .collect();
        for run in numbers.chunk_by(|one, next| one + 1 == *next) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                let _ = file::close_range(*first, *last);
            }
        }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        if self.0 >= 0 {
            file::close(self.0);
        }
    }
}

/// A string for the kernel.
///
/// # Errors
/// The text contains a NUL byte, at which it would end for the kernel.
pub fn c_string(text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).map_err(|error| {
        let text = error.into_vec();
        Error::new(format!(
            "{:?} contains a NUL byte",
            String::from_utf8_lossy(&text)
        ))
    })
}

/// A path for the kernel.
///
/// # Errors
/// The path contains a NUL byte.
pub fn c_path(path: impl AsRef<Path>) -> Result<CString> {
    c_string(path.as_ref().as_os_str().as_bytes())
}

/// A pair of connected sockets that keep messages apart (`SOCK_SEQPACKET`), close-on-exec.
///
/// # Errors
/// socketpair(2) fails: EMFILE, hull has as many open files as it may.
pub fn socket_pair() -> Result<(Fd, Fd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let (a, b) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .on("make", "a socket pair")?;
    Ok((a.into(), b.into()))
}
