//! Paths within the container's root. Every path is resolved by openat2(2) from the root's
//! descriptor, and missing directories are made by descriptor, so that a path component that is
//! swapped between check and use cannot lead out of the root (CVE-2021-30465, CVE-2024-45310).

use crate::step::child::ChildState;
use crate::step::container::Create;
use crate::step::report::{Detail, Fault};
use crate::sys::file::{self};
use crate::sys::resolve::Fresh;
use crate::sys::resolve::Parent;
use crate::sys::resolve::PathBuffer;
use crate::sys::resolve::create;
use crate::sys::resolve::lookup;
use crate::sys::resolve::make_directory;
use crate::sys::resolve::make_target;
use crate::sys::resolve::split;
use nix::errno::Errno;
use std::ffi::CStr;

impl ChildState<'_> {
    /// Opens the target of a mount, and makes it first if `create` permits.
    pub fn target(
        &mut self,
        path: &CStr,
        create: Create,
        source_is_directory: bool,
        follow: bool,
    ) -> Result<i32, Fault> {
        let directory = match create {
            Create::No => None,
            Create::Directory => Some(true),
            Create::LikeSource => Some(source_is_directory),
        };
        self.find_or_make(path, directory, follow)
            .map_err(|errno| match errno {
                Errno::ELOOP if !follow => Fault::with(errno, Detail::SymlinkedTarget),
                _ => Fault::with(errno, Detail::Target),
            })
    }

    fn find_or_make(
        &mut self,
        path: &CStr,
        directory: Option<bool>,
        follow: bool,
    ) -> Result<i32, Errno> {
        let (parent_path, name) = split(path)?;
        let cached = if name.is_empty() {
            None
        } else {
            self.parent.get(parent_path)
        };
        let found = match (cached, directory) {
            // hull has just made the cached directory, so the name is most likely missing in it.
            (Some(parent), Some(directory)) => {
                create(parent, name, directory)?;
                self.look_in(parent, name, path, follow)
            }
            (Some(parent), None) => self.look_in(parent, name, path, follow),
            (None, directory) => match (lookup(self.root, path, 0, follow), directory) {
                (Err(Errno::ENOENT), Some(directory)) => {
                    let parent = self.directory(parent_path)?;
                    create(parent, name, directory)?;
                    self.look_in(parent, name, path, follow)
                }
                (found, _) => found,
            },
        };
        match (found, directory) {
            // A symbolic link has the name, and its target is missing.
            (Err(Errno::ENOENT), Some(directory)) if follow => {
                make_target(self.root, path, directory, follow)
            }
            (found, _) => found,
        }
    }

    /// Opens a name in a cached directory; a symbolic link is resolved from the root.
    fn look_in(&self, parent: i32, name: &CStr, path: &CStr, follow: bool) -> Result<i32, Errno> {
        match lookup(parent, name, 0, false) {
            Err(Errno::ELOOP) => lookup(self.root, path, 0, follow),
            other => other,
        }
    }

    /// Makes a directory in a tmpfs that the child itself has just mounted, and returns its name in
    /// the working directory. No other process can reach that tmpfs before execve(2) (its mount
    /// namespace is new, and the child is not dumpable), so the name leads to the new directory.
    /// Everywhere else a target is opened first, and mounted on by its descriptor.
    pub fn new_name<'p>(&mut self, path: &'p CStr) -> Result<Option<&'p CStr>, Errno> {
        let (directory, name) = split(path)?;
        if !self.fresh.is(directory) {
            return Ok(None);
        }
        let parent = self.directory(directory)?;
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

    /// Changes to a mount's target, so that mount(2) on `.` resolves no path.
    pub fn enter(&mut self, place: i32) -> Result<(), Errno> {
        self.parent.entered = false;
        file::fchdir(place)
    }

    /// Opens a directory of the container, makes it if it is missing, and caches it for the next
    /// path.
    fn directory(&mut self, path: &[u8]) -> Result<i32, Errno> {
        if let Some(descriptor) = self.parent.get(path) {
            return Ok(descriptor);
        }
        let mut buffer = PathBuffer::new();
        let name = if path.is_empty() {
            c"/"
        } else {
            buffer.head(path, path.len())?
        };
        let descriptor = make_directory(self.root, name, true)?;
        self.parent.set(path, descriptor);
        Ok(descriptor)
    }

    /// The parent directory of a path, which is made if it is missing, and the last component.
    pub fn parent_of<'p>(&mut self, path: &'p CStr) -> Result<(i32, &'p CStr), Fault> {
        let (directory, name) = split(path)?;
        let held = self
            .directory(directory)
            .map_err(|errno| Fault::with(errno, Detail::Target))?;
        Ok((held, name))
    }

    /// Drops cached directories that a new mount on `target` may cover.
    pub fn mounted(&mut self, target: &CStr) {
        let path = target.to_bytes();
        let covers = |held: &[u8]| held.starts_with(path) || path == b"/";
        if covers(&self.parent.path[..self.parent.length]) {
            self.parent = Parent::NONE;
        }
        if covers(&self.fresh.path[..self.fresh.length]) {
            self.fresh = Fresh::NONE;
        }
    }

    /// The same for a new empty tmpfs, which is also cached if the mount namespace is new.
    pub fn mounted_empty(&mut self, target: &CStr) {
        self.mounted(target);
        if self.own_mounts {
            self.fresh.set(target.to_bytes());
        }
    }
}
