//! What is taken down of a root filesystem: mounts below it, and overlayfs's work directories.

use crate::sys::fd::c_path;
use crate::sys::{mount, mountinfo};
use crate::{Context, Error, Result};
use std::path::Path;

/// Removes the work directory of an overlay. What overlayfs leaves in it has no mode bits at all,
/// which stops an ordinary user. The directory above goes too when it is empty: it is made for work
/// directories alone.
///
/// # Errors
/// The kernel's; a directory that is not there is none.
pub fn remove_work(work: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let inner = work.join("work");
    if inner.is_dir() {
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o700))
            .on("change the mode of", inner.display())?;
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

/// Takes down what a container without a mount namespace of its own mounted below its root, the
/// last first.
///
/// # Errors
/// All that could not be unmounted.
pub fn unmount_below(root: &Path) -> Result<()> {
    // Below `/` lies all of the host, and nothing there is known to be the container's.
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
