//! Names inside the container's root: every path is resolved by openat2 from the root's descriptor,
//! and what is missing is made by descriptor, so that a name swapped between check and use leads
//! nowhere else (CVE-2021-30465, CVE-2024-45310).

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
use crate::sys::resolve::split;
use nix::errno::Errno;
use std::ffi::CStr;

impl ChildState<'_> {
    /// The place where a mount goes.
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
        match (cached, directory) {
            // The directory that is held was filled by hull just now: the name is most likely missing.
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
        }
    }

    /// A name in a directory that is held; a symbolic link must be resolved from the root.
    fn look_in(&self, parent: i32, name: &CStr, path: &CStr, follow: bool) -> Result<i32, Errno> {
        match lookup(parent, name, 0, false) {
            Err(Errno::ELOOP) => lookup(self.root, path, 0, follow),
            other => other,
        }
    }

    /// A new directory in a file system that init itself has just mounted, as a name in the working
    /// directory. Nobody else can reach that file system before the program runs (its mount
    /// namespace is new, and init is not dumpable), so the name leads to what was made. Everywhere
    /// else names are opened first, and mounted on by descriptor.
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

    /// Makes a mount's target the working directory, where a mount on `.` lands without a path.
    pub fn enter(&mut self, place: i32) -> Result<(), Errno> {
        self.parent.entered = false;
        file::fchdir(place)
    }

    /// A directory of the container, made if missing, and kept for the next name.
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

    /// The directory that holds a path's last component, made if missing, and that component.
    pub fn parent_of<'p>(&mut self, path: &'p CStr) -> Result<(i32, &'p CStr), Fault> {
        let (directory, name) = split(path)?;
        let held = self
            .directory(directory)
            .map_err(|errno| Fault::with(errno, Detail::Target))?;
        Ok((held, name))
    }

    /// After a mount: what was held below or at it may lie under it now.
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

    /// After the mount of an empty tmpfs, in a mount namespace of init's own.
    pub fn mounted_empty(&mut self, target: &CStr) {
        self.mounted(target);
        if self.own_mounts {
            self.fresh.set(target.to_bytes());
        }
    }
}
