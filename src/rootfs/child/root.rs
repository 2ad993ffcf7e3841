//! Attaches the container's root, and changes to it.

use crate::step::child::{ChildState, StepResult};
use crate::step::container::{Leave, slot};
use crate::step::report::{Detail, Fault};
use crate::sys::file::{self};
use crate::sys::mount::{self, AT_RECURSIVE, MountAttr, OPEN_TREE_CLONE};
use crate::sys::resolve::Parent;
use std::ffi::CStr;

impl ChildState<'_> {
    /// Opens the root without attaching it, for a container in the host's mount namespace.
    pub fn open_root(&mut self, path: &CStr) -> StepResult {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        self.own_mounts = false;
        self.root = file::openat(libc::AT_FDCWD, path, flags, 0)
            .map_err(|errno| Fault::with(errno, Detail::Source))?;
        Ok(())
    }

    /// Attaches the root on its own directory, where createContainer hooks expect it. If a child in
    /// a user namespace has no permission to reach that directory, the root is attached on `/`,
    /// which pivot_root(2) accepts as well.
    pub fn attach_root(&mut self, path: &CStr, recursive: bool, propagation: u64) -> StepResult {
        let tree = match self.slots.get(slot::ROOT as usize) {
            Some(&tree) if tree >= 0 => tree,
            _ => {
                let flags = OPEN_TREE_CLONE | if recursive { AT_RECURSIVE } else { 0 };
                mount::open_tree(libc::AT_FDCWD, path, flags)
                    .map_err(|errno| Fault::with(errno, Detail::Source))?
            }
        };
        if propagation != 0 {
            mount::mount_setattr(
                tree,
                AT_RECURSIVE,
                &MountAttr {
                    propagation,
                    ..MountAttr::default()
                },
            )?;
        }
        match file::openat(libc::AT_FDCWD, path, libc::O_PATH | libc::O_DIRECTORY, 0) {
            Ok(place) => mount::move_mount(tree, place)?,
            Err(_) => mount::move_mount_on_root(tree)?,
        }
        self.root = tree;
        Ok(())
    }

    pub(crate) fn leave(&mut self, how: Leave) -> StepResult {
        file::fchdir(self.root)?;
        match how {
            Leave::Pivot => {
                mount::pivot_root(c".", c".")?;
                // The old root is now mounted on top of the new one at `.`, so this unmounts the
                // old one (pivot_root(2), NOTES).
                mount::umount(c".", libc::MNT_DETACH)?;
            }
            Leave::Move => {
                mount::mount(c".", c"/", c"", libc::MS_MOVE, c"")?;
                file::chroot(c".")?;
            }
            Leave::Chroot => file::chroot(c".")?,
        }
        file::chdir(c"/")?;
        self.root = file::openat(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        self.parent = Parent::NONE;
        Ok(())
    }
}
