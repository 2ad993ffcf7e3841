//! Owned descriptors and paths for the kernel.

use super::file;
use crate::{Context, Error, Result};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A descriptor that is closed when its owner is done.
pub struct Fd(pub i32);

impl Fd {
    /// Another descriptor of the same open file, close-on-exec.
    ///
    /// # Errors
    /// EMFILE.
    pub fn try_clone(&self) -> Result<Self> {
        use nix::fcntl::{FcntlArg, fcntl};
        fcntl(super::socket::borrow(self.0), FcntlArg::F_DUPFD_CLOEXEC(3))
            .map(Self)
            .on("copy", "a descriptor")
    }

    /// Gives the descriptor up to the caller.
    pub fn keep(self) -> i32 {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }
}

impl Fd {
    /// Closes many, neighbours by one call.
    pub fn close_all(mut many: Vec<Self>) {
        many.sort_by_key(|held| held.0);
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

/// A text for the kernel.
///
/// # Errors
/// The text contains a NUL byte, with which it would end for the kernel.
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

/// A pair of connected message sockets, close-on-exec.
pub fn socket_pair() -> Result<(Fd, Fd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::IntoRawFd;
    let (a, b) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .on("make", "a socket pair")?;
    Ok((Fd(a.into_raw_fd()), Fd(b.into_raw_fd())))
}
