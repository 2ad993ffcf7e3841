//! Mount sources, opened by hull before the child is made: a name of the host is resolved once,
//! here.

#![forbid(unsafe_code)]

use crate::init::Held;
use crate::namespaces::idmap;
use crate::plan::outside::IdMap;
use crate::sys::mount::{self, AT_RECURSIVE, ATTR_IDMAP, MountAttr, OPEN_TREE_CLONE};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path for the kernel.
pub fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(format!("path {} contains a NUL byte", path.display())))
}

/// A detached copy of what is mounted at a path, with its propagation set and its ids mapped.
///
/// # Errors
/// The kernel's: the path is missing; the file system does not support id maps.
pub fn tree(
    path: &Path,
    recursive: bool,
    propagation: u64,
    id_map: Option<&IdMap>,
    link: bool,
) -> Result<Held> {
    let name = c_path(path)?;
    let flags = OPEN_TREE_CLONE
        | if recursive { AT_RECURSIVE } else { 0 }
        | if link {
            libc::AT_SYMLINK_NOFOLLOW as u32
        } else {
            0
        };
    let tree = match mount::open_tree(libc::AT_FDCWD, &name, flags) {
        // Where mounts below are locked, only the whole tree can be copied (mount_namespaces(7)).
        Err(Errno::EINVAL) if !recursive => {
            mount::open_tree(libc::AT_FDCWD, &name, flags | AT_RECURSIVE)
        }
        other => other,
    };
    let tree = tree.map(Held).on("open mount source", path.display())?;
    if let Some(map) = id_map {
        let namespace = idmap::user_namespace(map)?;
        let attr = MountAttr {
            set: ATTR_IDMAP,
            userns_fd: namespace.0 as u64,
            ..MountAttr::default()
        };
        let deep = if map.recursive { AT_RECURSIVE } else { 0 };
        mount::mount_setattr(tree.0, deep, &attr).on("map the ids of", path.display())?;
    }
    if propagation != 0 {
        let attr = MountAttr {
            propagation,
            ..MountAttr::default()
        };
        mount::mount_setattr(tree.0, AT_RECURSIVE, &attr)
            .on("set the propagation of", path.display())?;
    }
    Ok(tree)
}

/// Removes the work folder of an overlay. What overlayfs leaves in it has no mode bits at all,
/// which stops an ordinary user. The folder above goes too when it is empty: it is made for work
/// folders alone.
///
/// # Errors
/// The kernel's; a folder that is not there is none.
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
    let table =
        std::fs::read_to_string("/proc/self/mountinfo").on("read", "/proc/self/mountinfo")?;
    let root = root.to_string_lossy();
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| point.replace("\\040", " "));
    let below: Vec<String> = points
        .filter(|point| {
            point
                .strip_prefix(&*root)
                .is_some_and(|rest| rest.starts_with('/'))
        })
        .collect();
    let mut failed = Vec::new();
    for point in below.iter().rev() {
        if let Err(error) = c_path(Path::new(point))
            .and_then(|name| mount::umount(&name, libc::MNT_DETACH).on("unmount", point))
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
