//! Mounts: the old call and the new family (open_tree, move_mount, mount_setattr, fsopen).

use super::{Sys, call, raw_fd};
use std::ffi::CStr;

/// open_tree(2): a detached copy and not a plain open.
pub const OPEN_TREE_CLONE: u32 = 1;
/// The whole tree below.
pub const AT_RECURSIVE: u32 = 0x8000;
/// mount_setattr(2) attributes.
pub const ATTR_RDONLY: u64 = 0x1;
/// No set-user-ID programs.
pub const ATTR_NOSUID: u64 = 0x2;
/// No devices.
pub const ATTR_NODEV: u64 = 0x4;
/// No programs.
pub const ATTR_NOEXEC: u64 = 0x8;
/// Mask of the access time settings (`relatime` is zero).
pub const ATTR_ATIME: u64 = 0x70;
/// `noatime`.
pub const ATTR_NOATIME: u64 = 0x10;
/// `strictatime`.
pub const ATTR_STRICTATIME: u64 = 0x20;
/// `nodiratime`.
pub const ATTR_NODIRATIME: u64 = 0x80;
/// Ids translated by a user namespace.
pub const ATTR_IDMAP: u64 = 0x0010_0000;
/// Symbolic links are not followed.
pub const ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

/// The argument of mount_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MountAttr {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0.
    pub propagation: u64,
    /// For [`ATTR_IDMAP`]: a user namespace.
    pub userns_fd: u64,
}

/// mount(2).
///
/// # Errors
/// The kernel's.
pub fn mount(source: &CStr, target: &CStr, fstype: &CStr, flags: u64, data: &CStr) -> Sys<()> {
    let data = if data.is_empty() {
        std::ptr::null()
    } else {
        data.as_ptr()
    };
    // Valid: all strings are NUL-terminated; a null data means none.
    call!(
        libc::SYS_mount,
        source.as_ptr(),
        target.as_ptr(),
        fstype.as_ptr(),
        flags,
        data
    )
    .map(drop)
}

/// umount2(2).
///
/// # Errors
/// The kernel's.
pub fn umount(target: &CStr, flags: i32) -> Sys<()> {
    // Valid: NUL-terminated.
    call!(libc::SYS_umount2, target.as_ptr(), flags).map(drop)
}

/// pivot_root(2).
///
/// # Errors
/// The kernel's.
pub fn pivot_root(new: &CStr, old: &CStr) -> Sys<()> {
    // Valid: both NUL-terminated.
    call!(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()).map(drop)
}

/// open_tree(2), close-on-exec; an empty path means `dir` itself.
///
/// # Errors
/// The kernel's.
pub fn open_tree(dir: i32, path: &CStr, flags: u32) -> Sys<i32> {
    let flags = flags | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32;
    // Valid: NUL-terminated.
    call!(libc::SYS_open_tree, dir, path.as_ptr(), flags).map(raw_fd)
}

/// move_mount(2): the mount `from` is attached on the place `to` is open at.
///
/// # Errors
/// The kernel's.
pub fn move_mount(from: i32, to: i32) -> Sys<()> {
    const F_EMPTY_PATH: u32 = 0x4;
    const T_EMPTY_PATH: u32 = 0x40;
    // Valid: empty paths with descriptors.
    call!(
        libc::SYS_move_mount,
        from,
        c"".as_ptr(),
        to,
        c"".as_ptr(),
        F_EMPTY_PATH | T_EMPTY_PATH
    )
    .map(drop)
}

/// move_mount(2) onto the caller's own root directory.
///
/// # Errors
/// The kernel's.
pub fn move_mount_on_root(from: i32) -> Sys<()> {
    const F_EMPTY_PATH: u32 = 0x4;
    // Valid: NUL-terminated paths.
    call!(
        libc::SYS_move_mount,
        from,
        c"".as_ptr(),
        libc::AT_FDCWD,
        c"/".as_ptr(),
        F_EMPTY_PATH
    )
    .map(drop)
}

/// mount_setattr(2) on the mount that `raw` is open at.
///
/// # Errors
/// The kernel's.
pub fn mount_setattr(raw: i32, flags: u32, attr: &MountAttr) -> Sys<()> {
    let flags = flags | libc::AT_EMPTY_PATH as u32;
    // Valid: the structure lives across the call and its size is given.
    call!(
        libc::SYS_mount_setattr,
        raw,
        c"".as_ptr(),
        flags,
        std::ptr::from_ref(attr),
        size_of::<MountAttr>()
    )
    .map(drop)
}

/// fsopen(2), close-on-exec.
///
/// # Errors
/// The kernel's.
pub fn fsopen(fstype: &CStr) -> Sys<i32> {
    // Valid: NUL-terminated; 1 is FSOPEN_CLOEXEC.
    call!(libc::SYS_fsopen, fstype.as_ptr(), 1).map(raw_fd)
}

/// fsconfig(2) `FSCONFIG_SET_STRING`.
///
/// # Errors
/// The kernel's.
pub fn fsconfig_string(raw: i32, key: &CStr, value: &CStr) -> Sys<()> {
    // Valid: both NUL-terminated.
    call!(libc::SYS_fsconfig, raw, 1, key.as_ptr(), value.as_ptr(), 0).map(drop)
}

/// fsconfig(2) `FSCONFIG_SET_FLAG`.
///
/// # Errors
/// The kernel's.
pub fn fsconfig_flag(raw: i32, key: &CStr) -> Sys<()> {
    // Valid: NUL-terminated; a flag has no value.
    call!(
        libc::SYS_fsconfig,
        raw,
        0,
        key.as_ptr(),
        std::ptr::null::<u8>(),
        0
    )
    .map(drop)
}

/// fsconfig(2) `FSCONFIG_CMD_CREATE`.
///
/// # Errors
/// The kernel's.
pub fn fsconfig_create(raw: i32) -> Sys<()> {
    // Valid: null key and value for this command.
    call!(
        libc::SYS_fsconfig,
        raw,
        6,
        std::ptr::null::<u8>(),
        std::ptr::null::<u8>(),
        0
    )
    .map(drop)
}

/// fsmount(2), close-on-exec, with mount attributes.
///
/// # Errors
/// The kernel's.
pub fn fsmount(raw: i32, attributes: u64) -> Sys<i32> {
    call!(libc::SYS_fsmount, raw, 1, attributes).map(raw_fd)
}

/// The `ST_*` flags of the mount that a descriptor is on (statfs(2), `f_flags`).
///
/// # Errors
/// The kernel's.
pub fn mount_flags(raw: i32) -> Sys<u64> {
    // The kernel's structure on 64-bit machines is fifteen words, of which the eleventh is
    // `f_flags`; libc hides that field.
    let mut words = [0_u64; 15];
    // Valid: the buffer has the size of the structure.
    call!(libc::SYS_fstatfs, raw, words.as_mut_ptr())?;
    Ok(words[10])
}
