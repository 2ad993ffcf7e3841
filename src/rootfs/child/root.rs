//! The container's root: attaching it, leaving the old one, and what is written through procfs.

use crate::step::container::{Leave, slot};
use crate::step::report::{Detail, Fault};
use crate::step::world::{Done, World};
use crate::sys::fd::Fd;
use crate::sys::file::{
    self, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS,
};
use crate::sys::ids;
use crate::sys::mount::{self, AT_RECURSIVE, MountAttr, OPEN_TREE_CLONE};
use crate::sys::resolve::{Parent, make_directory};
use nix::errno::Errno;
use std::ffi::CStr;

impl World<'_> {
    /// In the host's own mount namespace nothing may be attached to `/`.
    pub fn open_root(&mut self, path: &CStr) -> Done {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        self.own_mounts = false;
        self.root = file::openat(libc::AT_FDCWD, path, flags, 0)
            .map_err(|errno| Fault::with(errno, Detail::Source))?;
        Ok(())
    }

    /// Attaches the root on its own directory, where createContainer hooks look for it. A child in a
    /// user namespace may lack the right to reach that directory: then on top of `/`, from where
    /// pivot_root can take it as well.
    pub fn attach_root(&mut self, path: &CStr, recursive: bool, propagation: u64) -> Done {
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

    pub(crate) fn leave(&mut self, how: Leave) -> Done {
        file::fchdir(self.root)?;
        match how {
            Leave::Pivot => {
                mount::pivot_root(c".", c".")?;
                // The old root now lies on top of the new one at `.`, and is what this unmounts
                // (pivot_root(2), NOTES).
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

    /// Writes below the host's procfs, whose descriptor no mount of the container can shadow
    /// (CVE-2025-52881).
    pub fn write_proc(&self, path: &CStr, value: &CStr, resolve: u64) -> Done {
        let proc = self
            .slot(slot::PROC)
            .map_err(|errno| Fault::with(errno, Detail::NotProc))?;
        let file = Fd(file::openat2(
            proc,
            path,
            libc::O_WRONLY,
            0,
            RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | resolve,
        )?);
        let bytes = value.to_bytes();
        match file::write(file.0, bytes)? {
            count if count == bytes.len() => Ok(()),
            _ => Err(Errno::EIO.into()),
        }
    }

    /// Registers an interpreter with the container's own binfmt_misc.
    pub fn register(&self, target: &CStr, line: &CStr) -> Done {
        let file = Fd(file::openat2(
            self.root,
            target,
            libc::O_WRONLY,
            0,
            RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
        )?);
        match file::write(file.0, line.to_bytes()) {
            Ok(_) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A task's own attributes belong to the host's root while it is not dumpable, so an init in a
    /// user namespace is dumpable for the time of this open; nobody else is in the container yet.
    pub fn label(&self, file: &CStr, value: &CStr) -> Done {
        match self.write_proc(file, value, 0) {
            Err(fault) if fault.errno == Errno::EACCES => {
                ids::prctl(libc::PR_SET_DUMPABLE, 1, 0)?;
                let done = self.write_proc(file, value, 0);
                ids::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
                done
            }
            done => done,
        }
    }

    /// Makes the working directory, or enters it and checks that it lies below the root: a leaked
    /// descriptor's directory does not (CVE-2024-21626), and the kernel says so by a name without a
    /// leading slash.
    pub fn working_directory(&self, path: &CStr, create: bool) -> Done {
        if create && path != c"/" {
            make_directory(self.root, path, true)?;
            return Ok(());
        }
        if create {
            return Ok(());
        }
        file::chdir(path)?;
        if path == c"/" {
            // Nothing is outside of that.
            return Ok(());
        }
        let mut buffer = [0_u8; libc::PATH_MAX as usize];
        match file::getcwd(&mut buffer) {
            Ok(_) if buffer[0] == b'/' => Ok(()),
            Err(Errno::ERANGE) => Ok(()),
            Ok(_) | Err(Errno::ENOENT) => Err(Fault::with(Errno::ENOENT, Detail::CwdOutside)),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Puts the container's own null device in the place of the host's, for the stdin, stdout and
/// stderr of the mask: a file of a mount that is not the container's cannot be saved by a
/// checkpoint (as runc has it).
pub fn own_null_device(stdio: u64) -> Result<(), Errno> {
    let Ok(null) = file::openat(
        libc::AT_FDCWD,
        c"/dev/null",
        libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NONBLOCK,
        0,
    )
    .map(Fd) else {
        // A root without one: the host's stays.
        return Ok(());
    };
    let stat = file::fstat(null.0)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
        return Ok(());
    }
    for descriptor in (0..3).filter(|descriptor| stdio & (1 << descriptor) != 0) {
        file::dup_to(null.0, descriptor)?;
    }
    // execve closes it, and before that the step that closes all others.
    null.keep();
    Ok(())
}
