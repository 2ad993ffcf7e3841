//! Opens mount sources before the clone, so that a path of the host is resolved only once.

use crate::namespaces::idmap;
use crate::step::host::IdMap;
use crate::sys::fd::{Fd, c_path};
use crate::sys::file;
use crate::sys::mount::{self, AT_RECURSIVE, ATTR_IDMAP, MountAttr, OPEN_TREE_CLONE};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::path::Path;

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Makes a detached copy of the mount at a path, with its propagation set (`MS_*`; 0 leaves it) and
/// with an id map. With `link`, a symbolic link itself is copied and not followed.
///
/// # Errors
/// open_tree(2) fails: the path is missing, for example. mount_setattr(2) fails: the file system
/// does not support id maps, for example. The user namespace of the id map cannot be made.
pub fn tree(
    path: &Path,
    recursive: bool,
    propagation: u64,
    id_map: Option<&IdMap>,
    link: bool,
) -> Result<Fd> {
    let name = c_path(path)?;
    let flags = OPEN_TREE_CLONE
        | if recursive { AT_RECURSIVE } else { 0 }
        | if link {
            libc::AT_SYMLINK_NOFOLLOW as u32
        } else {
            0
        };
    let tree = match mount::open_tree(libc::AT_FDCWD, &name, flags) {
        // If mounts below are locked, only the whole tree can be copied (mount_namespaces(7)).
        Err(Errno::EINVAL) if !recursive => {
            mount::open_tree(libc::AT_FDCWD, &name, flags | AT_RECURSIVE)
        }
        other => other,
    };
    let tree = tree.map(Fd).on("open mount source", path.display())?;
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

/// Opens the host's `/proc` and checks that it is a procfs: another file system would receive the
/// writes that are meant for the kernel (CVE-2019-16884).
///
/// # Errors
/// open(2) or fstatfs(2) fails; `/proc` is not a procfs.
pub fn procfs() -> Result<Fd> {
    let held = file::openat(
        libc::AT_FDCWD,
        c"/proc",
        libc::O_PATH | libc::O_DIRECTORY,
        0,
    )
    .map(Fd)
    .on("open", "/proc")?;
    if file::filesystem(held.0).on("stat", "/proc")? != PROC_SUPER_MAGIC {
        return Err(Error::new("/proc is not procfs"));
    }
    Ok(held)
}
