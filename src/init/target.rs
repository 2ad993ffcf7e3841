//! Names inside the container's root: every path is resolved by openat2 from the root's descriptor, and what is missing is made by
//! descriptor, so that a name swapped between check and use leads nowhere else (CVE-2021-30465, CVE-2024-45310).

use super::World;
use super::report::{Detail, Fault};
use crate::plan::step::Create;
use crate::sys::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use nix::errno::Errno;
use std::ffi::CStr;

/// A descriptor that is closed when its owner is done.
pub struct Held(pub i32);

impl Held {
    /// Gives the descriptor up to the caller.
    pub fn keep(self) -> i32 {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0 >= 0 {
            file::close(self.0);
        }
    }
}

/// Room for a path on the stack.
pub struct PathBuffer {
    bytes: [u8; libc::PATH_MAX as usize],
}

impl PathBuffer {
    /// Empty.
    pub fn new() -> Self {
        Self { bytes: [0; libc::PATH_MAX as usize] }
    }

    /// The first `length` bytes of a path, closed by a NUL.
    ///
    /// # Errors
    /// ENAMETOOLONG.
    pub fn head(&mut self, path: &[u8], length: usize) -> Result<&CStr, Errno> {
        if length >= self.bytes.len() {
            return Err(Errno::ENAMETOOLONG);
        }
        self.bytes[..length].copy_from_slice(&path[..length]);
        self.bytes[length] = 0;
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::EINVAL)
    }
}

/// Opens a path inside a root with `O_PATH`, symbolic links resolved within it or refused.
///
/// # Errors
/// The kernel's.
pub fn lookup(root: i32, path: &CStr, flags: i32, follow: bool) -> Result<Held, Errno> {
    let resolve = RESOLVE_IN_ROOT | if follow { 0 } else { RESOLVE_NO_SYMLINKS };
    file::openat2(root, path, libc::O_PATH | flags, 0, resolve).map(Held)
}

/// Opens a path inside a root; missing folders on the way are made 0755. `last` is what the last component becomes.
///
/// # Errors
/// The kernel's.
pub fn make(root: i32, path: &CStr, last_is_folder: bool, follow: bool) -> Result<Held, Errno> {
    match lookup(root, path, 0, follow) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    let bytes = path.to_bytes();
    let mut buffer = PathBuffer::new();
    let mut parent = lookup(root, c"/", 0, true)?;
    let mut start = 0;
    while start < bytes.len() {
        if bytes[start] == b'/' {
            start += 1;
            continue;
        }
        let end = bytes[start..].iter().position(|&b| b == b'/').map_or(bytes.len(), |n| start + n);
        let is_last = bytes[end..].iter().all(|&b| b == b'/');
        parent = match lookup(root, buffer.head(bytes, end)?, 0, follow) {
            Err(Errno::ENOENT) => {
                create(parent.0, buffer.head(&bytes[start..], end - start)?, !is_last || last_is_folder)?;
                lookup(root, buffer.head(bytes, end)?, 0, follow)?
            }
            other => other?,
        };
        start = end;
    }
    Ok(parent)
}

fn create(parent: i32, name: &CStr, folder: bool) -> Result<(), Errno> {
    let made = if folder { file::mkdirat(parent, name, 0o755) } else { file::mknodat(parent, name, libc::S_IFREG | 0o644, 0) };
    match made {
        Err(Errno::EEXIST) | Ok(()) => Ok(()),
        other => other,
    }
}

impl World<'_> {
    /// The place where a mount goes.
    pub(super) fn target(&self, path: &CStr, create: Create, source_is_folder: bool, follow: bool) -> Result<Held, Fault> {
        let found = match create {
            Create::No => lookup(self.root, path, 0, follow),
            Create::Folder => make(self.root, path, true, follow),
            Create::LikeSource => make(self.root, path, source_is_folder, follow),
        };
        found.map_err(|errno| match errno {
            Errno::ELOOP if !follow => Fault::with(errno, Detail::SymlinkedTarget),
            _ => Fault::with(errno, Detail::Target),
        })
    }

    /// The folder that holds a path's last component, made if missing, and where the component begins.
    pub(super) fn parent_of(&self, path: &CStr) -> Result<(Held, usize), Fault> {
        let bytes = path.to_bytes();
        let cut = bytes.iter().rposition(|&b| b == b'/').unwrap_or(0);
        let mut buffer = PathBuffer::new();
        let folder = if cut == 0 { c"/" } else { buffer.head(bytes, cut)? };
        let held = make(self.root, folder, true, true).map_err(|errno| Fault::with(errno, Detail::Target))?;
        Ok((held, if bytes.first() == Some(&b'/') || cut > 0 { cut + 1 } else { 0 }))
    }
}
