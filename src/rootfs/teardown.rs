//! The part of `delete` that concerns the root file system: it unmounts mounts below the root and
//! removes the work directories of overlayfs.

use crate::sys::fd::{Fd, c_path};
use crate::sys::{file, mount, mountinfo};
use crate::{Context, Error, Result};
use std::path::Path;

/// Removes the work directory of an overlay. overlayfs leaves a directory without any mode bits in
/// it, which an unprivileged user can remove only after chmod(2). The parent directory, which was
/// made for work directories alone, is removed too if it is empty.
///
/// # Errors
/// chmod(2), rmdir(2) or unlink(2) fails. A missing directory is no error.
pub fn remove_work(work: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // By descriptor, and through no symbolic link that somebody else may have put there.
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let open = |parent: i32, name: &std::ffi::CStr| file::openat(parent, name, flags, 0).map(Fd);
    let inner = open(libc::AT_FDCWD, &c_path(work)?).and_then(|held| open(held.0, c"work"));
    if let Ok(inner) = inner {
        let path = format!("/proc/self/fd/{}", inner.0);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .on("change the mode of the work directory in", work.display())?;
    }
    match std::fs::remove_dir_all(work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", work.display(), &error));
        }
        _ => {}
    }
    if let Some(above) = work.parent() {
        let _ = std::fs::remove_dir(above);
    }
    Ok(())
}

/// Unmounts what a container without a mount namespace of its own has mounted below its root, in
/// reverse order.
///
/// # Errors
/// `/proc/self/mountinfo` cannot be read; umount(2) fails, with all mounts that it failed for.
pub fn unmount_below(root: &Path) -> Result<()> {
    // If the root is `/`, hull cannot tell the container's mounts from those of the host.
    if root.parent().is_none() {
        return Ok(());
    }
    let mounts = mountinfo::of("self")?;
    let below = mounts
        .iter()
        .map(|mount| &mount.mount_point)
        .filter(|point| point.starts_with(root) && *point != root);
    let mut failed = Vec::new();
    for point in below.rev() {
        if let Err(error) = c_path(point)
            .and_then(|name| mount::umount(&name, libc::MNT_DETACH).on("unmount", point.display()))
        {
            failed.push(error.to_string());
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Error::new(failed.join("; ")))
    }
}
