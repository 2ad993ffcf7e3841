//! Mounts a root file system of layers (drawn in `rootfs/layers.rs`).

use crate::step::child::{ChildState, StepResult};
use crate::step::container::StepRef;
use crate::step::report::{Detail, Fault, Outcome};
use crate::sys::fd::Fd;
use crate::sys::file;
use crate::sys::mount::{self, AT_RECURSIVE, ATTR_RDONLY, MountAttr, OPEN_TREE_CLONE};
use crate::sys::resolve::make_directory;
use nix::errno::Errno;
use std::ffi::CStr;

impl ChildState<'_> {
    /// Mounts the scratch file system, a tmpfs for changes that are not kept. It exists only in the
    /// container's mount namespace, so the kernel removes it however the container ends.
    pub fn make_scratch(&mut self) -> StepResult {
        let context = Fd(mount::fsopen(c"tmpfs")?);
        mount::fsconfig_string(context.0, c"mode", c"755")?;
        mount::fsconfig_create(context.0)?;
        let tree = mount::fsmount(context.0, 0)?;
        mount::move_mount_on_root(tree)?;
        self.root = tree;
        file::mkdirat(tree, c"root", 0o755)?;
        file::mkdirat(tree, c"layers", 0o700)?;
        // overlayfs takes its layers by path, and these paths are relative to the scratch file
        // system.
        Ok(file::fchdir(tree)?)
    }

    /// Attaches the directory `root` of the scratch file system as the root. The scratch file
    /// system, which is the working directory, is detached before: if it stayed mounted on `/`
    /// below the root, umount(2) after pivot_root(2) would detach only the topmost mount, and the
    /// old root would stay.
    pub fn gather(&mut self) -> StepResult {
        let tree = mount::open_tree(libc::AT_FDCWD, c"root", OPEN_TREE_CLONE | AT_RECURSIVE)?;
        mount::umount(c".", libc::MNT_DETACH)?;
        mount::move_mount_on_root(tree)?;
        self.root = tree;
        Ok(())
    }

    pub(crate) fn layer(&mut self, step: StepRef) -> StepResult {
        let StepRef::Layer {
            target,
            source,
            lower,
            upper,
            work,
            own,
            marks,
            else_bind,
        } = step
        else {
            return Err(Errno::EINVAL.into());
        };
        let below = Fd(
            file::openat(libc::AT_FDCWD, source, libc::O_PATH | libc::O_DIRECTORY, 0)
                .map_err(|errno| Fault::with(errno, Detail::Source))?,
        );
        if !own.is_empty() {
            for directory in [upper, work] {
                drop(Fd(make_directory(self.root, directory, false)?));
            }
            like(&below, upper)?;
        }
        let place = Fd(make_directory(self.root, target, false)
            .map_err(|errno| Fault::with(errno, Detail::Target))?);
        match overlay(lower, upper, work, marks) {
            Ok(tree) => Ok(mount::move_mount(tree.0, place.0)?),
            Err(_) if else_bind => {
                self.report.note(self.step, Outcome::BoundHost as u8);
                read_only(&below, &place)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Gives the upper directory the owner and mode of the lower one, because the merged directory has
/// those of its upper directory. If the user namespace has no id for the owner, its root owns it.
fn like(below: &Fd, upper: &CStr) -> Result<(), Errno> {
    let stat = file::fstat(below.0)?;
    match file::fchownat(libc::AT_FDCWD, upper, stat.st_uid, stat.st_gid) {
        Ok(()) | Err(Errno::EINVAL | Errno::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    file::fchmodat(libc::AT_FDCWD, upper, stat.st_mode & 0o7777)
}

fn overlay(lower: &CStr, upper: &CStr, work: &CStr, marks: &CStr) -> Result<Fd, Errno> {
    let context = Fd(mount::fsopen(c"overlay")?);
    for (key, value) in [
        (c"lowerdir", lower),
        (c"upperdir", upper),
        (c"workdir", work),
        // Inode numbers stay one space, so that hard links to files of the lower layer are seen as
        // such (tar, rsync -H, du). The others are off whatever the kernel's defaults are: hull
        // reads the changes of a directory that may have moved.
        (c"xino", c"on"),
        (c"redirect_dir", c"nofollow"),
        (c"index", c"off"),
        (c"metacopy", c"off"),
    ] {
        mount::fsconfig_string(context.0, key, value)?;
    }
    if !marks.is_empty() {
        mount::fsconfig_flag(context.0, marks)?;
    }
    mount::fsconfig_create(context.0)?;
    mount::fsmount(context.0, 0).map(Fd)
}

fn read_only(below: &Fd, place: &Fd) -> StepResult {
    let tree = Fd(mount::open_tree(
        below.0,
        c"",
        OPEN_TREE_CLONE | AT_RECURSIVE,
    )?);
    mount::mount_setattr(
        tree.0,
        AT_RECURSIVE,
        &MountAttr {
            set: ATTR_RDONLY,
            ..MountAttr::default()
        },
    )?;
    Ok(mount::move_mount(tree.0, place.0)?)
}
