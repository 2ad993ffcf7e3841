//! Names inside the container's root: every path is resolved by openat2 from the root's descriptor,
//! and what is missing is made by descriptor, so that a name swapped between check and use leads
//! nowhere else (CVE-2021-30465, CVE-2024-45310).

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

impl Held {
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
    pub(super) fn join(&mut self, parts: &[&[u8]]) -> Result<&CStr, Errno> {
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

/// Opens a folder inside a root; missing folders on the way are made 0755.
///
/// # Errors
/// The kernel's.
pub fn make_folder(root: i32, path: &CStr, follow: bool) -> Result<i32, Errno> {
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

fn create(parent: i32, name: &CStr, folder: bool) -> Result<(), Errno> {
    let made = if folder {
        file::mkdirat(parent, name, 0o755)
    } else {
        file::mknodat(parent, name, libc::S_IFREG | 0o644, 0)
    };
    match made {
        Err(Errno::EEXIST) | Ok(()) => Ok(()),
        other => other,
    }
}

/// The folder that the last name was looked up in: most names of a set-up share `/dev` or
/// `/sys/fs/cgroup`.
pub(super) struct Parent {
    path: [u8; 64],
    length: usize,
    descriptor: i32,
    /// It is the working directory.
    entered: bool,
}

impl Parent {
    pub(super) const NONE: Self = Self {
        path: [0; 64],
        length: 0,
        descriptor: -1,
        entered: false,
    };

    pub(super) fn get(&self, folder: &[u8]) -> Option<i32> {
        (self.descriptor >= 0 && &self.path[..self.length] == folder).then_some(self.descriptor)
    }

    fn set(&mut self, folder: &[u8], descriptor: i32) {
        (self.descriptor, self.entered) = (-1, false);
        if let Some(place) = self.path.get_mut(..folder.len()) {
            place.copy_from_slice(folder);
            self.length = folder.len();
            self.descriptor = descriptor;
        }
    }
}

/// Where the last empty tmpfs was mounted.
pub(super) struct Fresh {
    path: [u8; 64],
    length: usize,
}

impl Fresh {
    pub(super) const NONE: Self = Self {
        path: [0; 64],
        length: 0,
    };

    fn is(&self, folder: &[u8]) -> bool {
        self.length > 0 && &self.path[..self.length] == folder
    }

    fn set(&mut self, folder: &[u8]) {
        self.length = 0;
        if let Some(place) = self.path.get_mut(..folder.len()) {
            place.copy_from_slice(folder);
            self.length = folder.len();
        }
    }
}

/// A path's folder and last name; the folder of `/name` is empty.
fn split(path: &CStr) -> Result<(&[u8], &CStr), Errno> {
    let bytes = path.to_bytes_with_nul();
    let cut = bytes
        .iter()
        .rposition(|&b| b == b'/')
        .map_or(0, |at| at + 1);
    let name = CStr::from_bytes_with_nul(&bytes[cut..]).map_err(|_| Errno::EINVAL)?;
    Ok((&bytes[..cut.saturating_sub(1)], name))
}

impl World<'_> {
    /// The place where a mount goes.
    pub(super) fn target(
        &mut self,
        path: &CStr,
        create: Create,
        source_is_folder: bool,
        follow: bool,
    ) -> Result<i32, Fault> {
        let folder = match create {
            Create::No => None,
            Create::Folder => Some(true),
            Create::LikeSource => Some(source_is_folder),
        };
        self.find_or_make(path, folder, follow)
            .map_err(|errno| match errno {
                Errno::ELOOP if !follow => Fault::with(errno, Detail::SymlinkedTarget),
                _ => Fault::with(errno, Detail::Target),
            })
    }

    fn find_or_make(
        &mut self,
        path: &CStr,
        folder: Option<bool>,
        follow: bool,
    ) -> Result<i32, Errno> {
        let (parent_path, name) = split(path)?;
        let cached = if name.is_empty() {
            None
        } else {
            self.parent.get(parent_path)
        };
        match (cached, folder) {
            // The folder that is held was filled by hull just now: the name is most likely missing.
            (Some(parent), Some(folder)) => {
                create(parent, name, folder)?;
                self.look_in(parent, name, path, follow)
            }
            (Some(parent), None) => self.look_in(parent, name, path, follow),
            (None, folder) => match (lookup(self.root, path, 0, follow), folder) {
                (Err(Errno::ENOENT), Some(folder)) => {
                    let parent = self.folder(parent_path)?;
                    create(parent, name, folder)?;
                    self.look_in(parent, name, path, follow)
                }
                (found, _) => found,
            },
        }
    }

    /// A name in a folder that is held; a symbolic link must be resolved from the root.
    fn look_in(&self, parent: i32, name: &CStr, path: &CStr, follow: bool) -> Result<i32, Errno> {
        match lookup(parent, name, 0, false) {
            Err(Errno::ELOOP) => lookup(self.root, path, 0, follow),
            other => other,
        }
    }

    /// A new folder in a file system that init itself has just mounted, as a name in the working
    /// directory. Nobody else can reach that file system before the program runs (its mount
    /// namespace is new, and init is not dumpable), so the name leads to what was made. Everywhere
    /// else names are opened first, and mounted on by descriptor.
    pub(super) fn new_name<'p>(&mut self, path: &'p CStr) -> Result<Option<&'p CStr>, Errno> {
        let (folder, name) = split(path)?;
        if !self.fresh.is(folder) {
            return Ok(None);
        }
        let parent = self.folder(folder)?;
        if name.is_empty()
            || name == c".."
            || name == c"."
            || file::mkdirat(parent, name, 0o755).is_err()
        {
            return Ok(None);
        }
        if !self.parent.entered {
            file::fchdir(parent)?;
            self.parent.entered = true;
        }
        Ok(Some(name))
    }

    /// Makes a mount's target the working directory, where a mount on `.` lands without a path.
    pub(super) fn enter(&mut self, place: i32) -> Result<(), Errno> {
        self.parent.entered = false;
        file::fchdir(place)
    }

    /// A folder of the container, made if missing, and kept for the next name.
    fn folder(&mut self, path: &[u8]) -> Result<i32, Errno> {
        if let Some(descriptor) = self.parent.get(path) {
            return Ok(descriptor);
        }
        let mut buffer = PathBuffer::new();
        let name = if path.is_empty() {
            c"/"
        } else {
            buffer.head(path, path.len())?
        };
        let descriptor = make_folder(self.root, name, true)?;
        self.parent.set(path, descriptor);
        Ok(descriptor)
    }

    /// The folder that holds a path's last component, made if missing, and that component.
    pub(super) fn parent_of<'p>(&mut self, path: &'p CStr) -> Result<(i32, &'p CStr), Fault> {
        let (folder, name) = split(path)?;
        let held = self
            .folder(folder)
            .map_err(|errno| Fault::with(errno, Detail::Target))?;
        Ok((held, name))
    }

    /// After a mount: what was held below or at it may lie under it now.
    pub(super) fn mounted(&mut self, target: &CStr) {
        let path = target.to_bytes();
        let covers = |held: &[u8]| held.starts_with(path) || path == b"/";
        if covers(&self.parent.path[..self.parent.length]) {
            self.parent = Parent::NONE;
        }
        if covers(&self.fresh.path[..self.fresh.length]) {
            self.fresh = Fresh::NONE;
        }
    }

    /// After the mount of an empty tmpfs, in a mount namespace of init's own.
    pub(super) fn mounted_empty(&mut self, target: &CStr) {
        self.mounted(target);
        if self.own_mounts {
            self.fresh.set(target.to_bytes());
        }
    }
}
