//! Names inside a container's root, for the child: every path is resolved by openat2 from the root's
//! descriptor, and what is missing is made by descriptor, so that a name swapped between check and
//! use leads nowhere else (CVE-2021-30465, CVE-2024-45310). Nothing here allocates.

use super::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use nix::errno::Errno;
use std::ffi::CStr;

/// Room for a path on the stack.
pub struct PathBuffer {
    bytes: [u8; libc::PATH_MAX as usize],
}

impl Default for PathBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl PathBuffer {
    /// Empty.
    pub fn new() -> Self {
        Self {
            bytes: [0; libc::PATH_MAX as usize],
        }
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

impl PathBuffer {
    /// The parts one after the other, closed by a NUL.
    ///
    /// # Errors
    /// ENAMETOOLONG.
    pub fn join(&mut self, parts: &[&[u8]]) -> Result<&CStr, Errno> {
        let mut end = 0;
        for part in parts {
            self.bytes
                .get_mut(end..end + part.len())
                .ok_or(Errno::ENAMETOOLONG)?
                .copy_from_slice(part);
            end += part.len();
        }
        *self.bytes.get_mut(end).ok_or(Errno::ENAMETOOLONG)? = 0;
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::EINVAL)
    }
}

/// Opens a path inside a root with `O_PATH`, symbolic links resolved within it or refused.
///
/// The descriptors of this room stay open until the step that closes all at once: a call for each
/// would double the number of calls.
///
/// # Errors
/// The kernel's.
pub fn lookup(root: i32, path: &CStr, flags: i32, follow: bool) -> Result<i32, Errno> {
    let resolve = RESOLVE_IN_ROOT | if follow { 0 } else { RESOLVE_NO_SYMLINKS };
    file::openat2(root, path, libc::O_PATH | flags, 0, resolve)
}

/// Opens a directory inside a root; missing directories on the way are made 0755.
///
/// # Errors
/// The kernel's.
pub fn make_directory(root: i32, path: &CStr, follow: bool) -> Result<i32, Errno> {
    make_below(root, path, follow, 8)
}

fn make_below(root: i32, path: &CStr, follow: bool, links: usize) -> Result<i32, Errno> {
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
        let end = bytes[start..]
            .iter()
            .position(|&b| b == b'/')
            .map_or(bytes.len(), |n| start + n);
        parent = match lookup(root, buffer.head(bytes, end)?, 0, follow) {
            Err(Errno::ENOENT) => {
                let name = buffer.head(&bytes[start..], end - start)?;
                match file::mkdirat(parent, name, 0o755) {
                    // A link that leads nowhere yet: what it names is made, inside the root.
                    Err(Errno::EEXIST) if follow && links > 0 => {
                        return make_through(root, parent, bytes, (start, end), links - 1);
                    }
                    other => other?,
                }
                lookup(root, buffer.head(bytes, end)?, 0, follow)?
            }
            other => other?,
        };
        start = end;
    }
    Ok(parent)
}

/// Goes on by a link's text in place of its name: `bytes[start..end]` is the link, what stands
/// after it is appended.
fn make_through(
    root: i32,
    parent: i32,
    bytes: &[u8],
    (start, end): (usize, usize),
    links: usize,
) -> Result<i32, Errno> {
    let mut buffer = PathBuffer::new();
    let mut text = [0_u8; libc::PATH_MAX as usize];
    let length = file::readlinkat(
        parent,
        buffer.head(&bytes[start..], end - start)?,
        &mut text,
    )?;
    let before = if text.first() == Some(&b'/') {
        &bytes[..0]
    } else {
        &bytes[..start]
    };
    let whole = buffer.join(&[before, &text[..length], &bytes[end..]])?;
    make_below(root, whole, true, links)
}

pub(crate) fn create(parent: i32, name: &CStr, directory: bool) -> Result<(), Errno> {
    let made = if directory {
        file::mkdirat(parent, name, 0o755)
    } else {
        file::mknodat(parent, name, libc::S_IFREG | 0o644, 0)
    };
    match made {
        Err(Errno::EEXIST) | Ok(()) => Ok(()),
        other => other,
    }
}

/// The directory that the last name was looked up in: most names of a set-up share `/dev` or
/// `/sys/fs/cgroup`.
pub struct Parent {
    pub(crate) path: [u8; 64],
    pub(crate) length: usize,
    pub(crate) descriptor: i32,
    /// It is the working directory.
    pub entered: bool,
}

impl Parent {
    pub(crate) const NONE: Self = Self {
        path: [0; 64],
        length: 0,
        descriptor: -1,
        entered: false,
    };

    pub(crate) fn get(&self, directory: &[u8]) -> Option<i32> {
        (self.descriptor >= 0 && &self.path[..self.length] == directory).then_some(self.descriptor)
    }

    pub(crate) fn set(&mut self, directory: &[u8], descriptor: i32) {
        (self.descriptor, self.entered) = (-1, false);
        if let Some(place) = self.path.get_mut(..directory.len()) {
            place.copy_from_slice(directory);
            self.length = directory.len();
            self.descriptor = descriptor;
        }
    }
}

/// Where the last empty tmpfs was mounted.
pub struct Fresh {
    pub(crate) path: [u8; 64],
    pub(crate) length: usize,
}

impl Fresh {
    pub(crate) const NONE: Self = Self {
        path: [0; 64],
        length: 0,
    };

    pub(crate) fn is(&self, directory: &[u8]) -> bool {
        self.length > 0 && &self.path[..self.length] == directory
    }

    pub(crate) fn set(&mut self, directory: &[u8]) {
        self.length = 0;
        if let Some(place) = self.path.get_mut(..directory.len()) {
            place.copy_from_slice(directory);
            self.length = directory.len();
        }
    }
}

/// A path's directory and last name; the directory of `/name` is empty.
pub fn split(path: &CStr) -> Result<(&[u8], &CStr), Errno> {
    let bytes = path.to_bytes_with_nul();
    let cut = bytes
        .iter()
        .rposition(|&b| b == b'/')
        .map_or(0, |at| at + 1);
    let name = CStr::from_bytes_with_nul(&bytes[cut..]).map_err(|_| Errno::EINVAL)?;
    Ok((&bytes[..cut.saturating_sub(1)], name))
}
