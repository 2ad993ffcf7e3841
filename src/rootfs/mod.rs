//! Mount sources, opened by hull before the child is made: a name of the host is resolved once, here.

#![forbid(unsafe_code)]

use crate::init::Held;
use crate::namespaces::idmap;
use crate::plan::outside::IdMap;
use crate::sys::mount::{self, ATTR_IDMAP, AT_RECURSIVE, MountAttr, OPEN_TREE_CLONE};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path for the kernel.
pub fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::new(format!("path {} contains a NUL byte", path.display())))
}

/// A detached copy of what is mounted at a path, with its propagation set and its ids mapped.
///
/// # Errors
/// The kernel's: the path is missing; the file system does not support id maps.
pub fn tree(path: &Path, recursive: bool, propagation: u64, id_map: Option<&IdMap>, link: bool) -> Result<Held> {
    let name = c_path(path)?;
    let flags = OPEN_TREE_CLONE | if recursive { AT_RECURSIVE } else { 0 } | if link { libc::AT_SYMLINK_NOFOLLOW as u32 } else { 0 };
    let tree = match mount::open_tree(libc::AT_FDCWD, &name, flags) {
        // Where mounts below are locked, only the whole tree can be copied (mount_namespaces(7)).
        Err(Errno::EINVAL) if !recursive => mount::open_tree(libc::AT_FDCWD, &name, flags | AT_RECURSIVE),
        other => other,
    };
    let tree = tree.map(Held).on("open mount source", path.display())?;
    if let Some(map) = id_map {
        let namespace = idmap::user_namespace(map)?;
        let attr = MountAttr { set: ATTR_IDMAP, userns_fd: namespace.0 as u64, ..MountAttr::default() };
        let deep = if map.recursive { AT_RECURSIVE } else { 0 };
        mount::mount_setattr(tree.0, deep, &attr).on("map the ids of", path.display())?;
    }
    if propagation != 0 {
        let attr = MountAttr { propagation, ..MountAttr::default() };
        mount::mount_setattr(tree.0, AT_RECURSIVE, &attr).on("set the propagation of", path.display())?;
    }
    Ok(tree)
}

/// A detached overlay: `lower` below, changes in `upper`.
///
/// # Errors
/// The kernel's.
pub fn overlay(lower: &Path, upper: &Path, work: &Path) -> Result<Held> {
    let context = mount::fsopen(c"overlay").map(Held).on("open", "the overlay file system")?;
    for (key, path) in [(c"lowerdir", lower), (c"upperdir", upper), (c"workdir", work)] {
        // Colons separate layers, and a backslash escapes (overlayfs of the kernel's documentation).
        let text = path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
        let value = CString::new(text).map_err(|_| Error::new("a layer's path contains a NUL byte"))?;
        mount::fsconfig_string(context.0, key, &value).on("set overlay layer", path.display())?;
    }
    let object = format!("an overlay of {} and {}", lower.display(), upper.display());
    mount::fsconfig_create(context.0).on("make", &object)?;
    mount::fsmount(context.0, 0).map(Held).on("mount", &object)
}
