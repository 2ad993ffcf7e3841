//! Paths inside a container's root, for the child: openat2(2) resolves every path from the root's
//! descriptor, and hull makes what is missing by descriptor, so that a name that is exchanged
//! between check and use leads nowhere else (CVE-2021-30465, CVE-2024-45310). Nothing here
//! allocates.

use super::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use nix::errno::Errno;
use std::ffi::CStr;
use std::ops::Range;

/// A buffer for one path, on the stack.
pub struct PathBuffer {
    bytes: [u8; libc::PATH_MAX as usize],
}

impl Default for PathBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl PathBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self {
            bytes: [0; libc::PATH_MAX as usize],
        }
    }

    /// The first `length` bytes of a path as a C string.
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

    /// The parts one after the other as a C string.
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

/// Opens a path inside a root with `O_PATH`. Symbolic links are resolved within the root, or
/// refused (ELOOP) without `follow`.
///
/// The child's descriptors of this module stay open until the step that closes all others at once:
/// closing each would double the number of system calls.
///
/// # Errors
/// openat2(2) fails: ENOENT, the path is missing; ELOOP, a link without `follow`; EXDEV.
pub fn lookup(root: i32, path: &CStr, flags: i32, follow: bool) -> Result<i32, Errno> {
    let resolve = RESOLVE_IN_ROOT | if follow { 0 } else { RESOLVE_NO_SYMLINKS };
    file::openat2(root, path, libc::O_PATH | flags, 0, resolve)
}

/// Opens a directory inside a root with `O_PATH`; missing directories of its path are made with
/// mode 0755.
///
/// # Errors
/// As [`lookup`] and mkdir(2): EACCES, EROFS, ENOSPC. ENAMETOOLONG, a path of more than PATH_MAX
/// bytes.
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
                    // A symbolic link whose target is missing: the target is made, inside the root.
                    Err(Errno::EEXIST) if follow && links > 0 => {
                        return make_through(root, parent, bytes, start..end, links - 1);
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

/// Opens a mount's target inside a root with `O_PATH`, and makes it if it is missing: a directory,
/// or an empty file. Missing directories of its path are made, and so is what a symbolic link
/// names whose target is missing, as images have for `/etc/resolv.conf` (runc issue 4991).
///
/// # Errors
/// As [`make_directory`].
pub fn make_target(root: i32, path: &CStr, directory: bool, follow: bool) -> Result<i32, Errno> {
    if directory {
        make_directory(root, path, follow)
    } else {
        make_file(root, path, follow, 8)
    }
}

fn make_file(root: i32, path: &CStr, follow: bool, links: usize) -> Result<i32, Errno> {
    match lookup(root, path, 0, follow) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    let (directory, name) = split(path)?;
    let mut buffer = PathBuffer::new();
    let parent = make_directory(root, buffer.join(&[b"/", directory])?, follow)?;
    create(parent, name, false)?;
    match lookup(root, path, 0, follow) {
        // A symbolic link has the name, and its target is missing.
        Err(Errno::ENOENT) if follow && links > 0 => {
            let mut text = [0_u8; libc::PATH_MAX as usize];
            let length = file::readlinkat(parent, name, &mut text)?;
            let before = if text.first() == Some(&b'/') {
                &b""[..]
            } else {
                directory
            };
            let target = buffer.join(&[before, b"/", &text[..length]])?;
            make_file(root, target, follow, links - 1)
        }
        other => other,
    }
}

/// Makes the directory that a path names when a symbolic link in it is replaced by its target: the
/// link's name is `link` in `bytes`.
fn make_through(
    root: i32,
    parent: i32,
    bytes: &[u8],
    link: Range<usize>,
    links: usize,
) -> Result<i32, Errno> {
    let mut buffer = PathBuffer::new();
    let mut text = [0_u8; libc::PATH_MAX as usize];
    let length = file::readlinkat(
        parent,
        buffer.head(&bytes[link.clone()], link.len())?,
        &mut text,
    )?;
    let before = if text.first() == Some(&b'/') {
        &bytes[..0]
    } else {
        &bytes[..link.start]
    };
    let whole = buffer.join(&[before, &text[..length], &bytes[link.end..]])?;
    make_below(root, whole, true, links)
}

/// Makes an empty directory or file, unless the name exists.
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

/// The directory in which the last name was looked up, so that it is not opened again for the next
/// one: most targets of a container's set-up are in `/dev` or `/sys/fs/cgroup`.
pub struct Parent {
    /// The first `length` bytes are its path in the container.
    pub(crate) path: [u8; 64],
    /// 0 where none is remembered.
    pub(crate) length: usize,
    descriptor: i32,
    /// The child has made it its working directory.
    pub entered: bool,
}

impl Parent {
    pub(crate) const NONE: Self = Self {
        path: [0; 64],
        length: 0,
        descriptor: -1,
        entered: false,
    };

    /// Its descriptor, if it is this directory.
    pub(crate) fn get(&self, directory: &[u8]) -> Option<i32> {
        (self.descriptor >= 0 && &self.path[..self.length] == directory).then_some(self.descriptor)
    }

    /// Remembers a directory; one with a longer path than 64 bytes is not remembered.
    pub(crate) fn set(&mut self, directory: &[u8], descriptor: i32) {
        (self.descriptor, self.entered) = (-1, false);
        if let Some(place) = self.path.get_mut(..directory.len()) {
            place.copy_from_slice(directory);
            self.length = directory.len();
            self.descriptor = descriptor;
        }
    }
}

/// The target of the last tmpfs that was mounted empty: names in it cannot exist yet, nor be links.
pub struct Fresh {
    /// The first `length` bytes are its path in the container.
    pub(crate) path: [u8; 64],
    /// 0 where none is remembered.
    pub(crate) length: usize,
}

impl Fresh {
    pub(crate) const NONE: Self = Self {
        path: [0; 64],
        length: 0,
    };

    /// Whether it is this directory.
    pub(crate) fn is(&self, directory: &[u8]) -> bool {
        self.length > 0 && &self.path[..self.length] == directory
    }

    /// Remembers a directory; one with a longer path than 64 bytes is not remembered.
    pub(crate) fn set(&mut self, directory: &[u8]) {
        self.length = 0;
        if let Some(place) = self.path.get_mut(..directory.len()) {
            place.copy_from_slice(directory);
            self.length = directory.len();
        }
    }
}

/// Splits a path into its directory and its last name; the directory of `/name` is empty.
///
/// # Errors
/// Never: the last name of a C string is a C string.
pub fn split(path: &CStr) -> Result<(&[u8], &CStr), Errno> {
    let bytes = path.to_bytes_with_nul();
    let cut = bytes
        .iter()
        .rposition(|&b| b == b'/')
        .map_or(0, |at| at + 1);
    let name = CStr::from_bytes_with_nul(&bytes[cut..]).map_err(|_| Errno::EINVAL)?;
    Ok((&bytes[..cut.saturating_sub(1)], name))
}
