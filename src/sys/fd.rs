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

/// Text for the kernel.
///
/// # Errors
/// It contains a NUL byte.
pub fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(format!("{text:?} contains a NUL byte")))
}

/// A path for the kernel.
pub fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(format!("path {} contains a NUL byte", path.display())))
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
