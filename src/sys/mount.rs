//! Mounts: mount(2), and the calls by descriptor (open_tree, move_mount, mount_setattr, fsopen).

use super::{Sys, call, raw_fd};
use std::ffi::CStr;

/// `OPEN_TREE_CLONE` of open_tree(2): the descriptor is of a detached copy of the mount.
pub const OPEN_TREE_CLONE: u32 = 1;
/// `AT_RECURSIVE`: the mounts below too.
pub const AT_RECURSIVE: u32 = 0x8000;
/// `MOUNT_ATTR_RDONLY` of mount_setattr(2), as all `ATTR_*` here: read-only.
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
/// Ids are mapped by a user namespace (id-mapped mounts).
pub const ATTR_IDMAP: u64 = 0x0010_0000;
/// Symbolic links are not followed.
pub const ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

/// The argument of mount_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MountAttr {
    /// `ATTR_*` to set.
    pub set: u64,
    /// `ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0.
    pub propagation: u64,
    /// The descriptor of a user namespace, for [`ATTR_IDMAP`].
    pub userns_fd: u64,
}

/// mount(2); `flags` are `MS_*`, `data` is the file system's own options.
///
/// # Errors
/// mount(2) fails: EPERM without CAP_SYS_ADMIN, or in a user namespace that may not mount this;
/// ENODEV, the kernel does not have the file system; EINVAL, an option is not valid.
pub fn mount(source: &CStr, target: &CStr, fstype: &CStr, flags: u64, data: &CStr) -> Sys<()> {
    let data = if data.is_empty() {
        std::ptr::null()
    } else {
        data.as_ptr()
    };
    // SAFETY: all strings are NUL-terminated; a null data means none.
    unsafe {
        call!(
            libc::SYS_mount,
            source.as_ptr(),
            target.as_ptr(),
            fstype.as_ptr(),
            flags,
            data
        )
    }
    .map(drop)
}

/// umount2(2); `flags` are `MNT_*`.
///
/// # Errors
/// umount(2) fails: EINVAL, the path is not a mount point, or the mount is locked; EBUSY.
pub fn umount(target: &CStr, flags: i32) -> Sys<()> {
    // SAFETY: NUL-terminated.
    unsafe { call!(libc::SYS_umount2, target.as_ptr(), flags) }.map(drop)
}

/// pivot_root(2).
///
/// # Errors
/// pivot_root(2) fails: EINVAL, `new` is not a mount point, or its mount or the parent's is shared;
/// EPERM.
pub fn pivot_root(new: &CStr, old: &CStr) -> Sys<()> {
    // SAFETY: both NUL-terminated.
    unsafe { call!(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) }.map(drop)
}

/// open_tree(2), close-on-exec; an empty path means `dir` itself. `flags` are `OPEN_TREE_*` and
/// `AT_*`.
///
/// # Errors
/// open_tree(2) fails: EPERM, a clone without CAP_SYS_ADMIN; EINVAL, the mount is of another mount
/// namespace; ENOENT.
pub fn open_tree(dir: i32, path: &CStr, flags: u32) -> Sys<i32> {
    let flags = flags | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32;
    // SAFETY: NUL-terminated.
    unsafe { call!(libc::SYS_open_tree, dir, path.as_ptr(), flags) }.map(raw_fd)
}

/// move_mount(2): attaches the mount that `from` is open at on the directory or file that `to` is
/// open at.
///
/// # Errors
/// move_mount(2) fails: EINVAL, one is a directory and the other is not, or the parent mount is
/// shared; ELOOP; EPERM.
pub fn move_mount(from: i32, to: i32) -> Sys<()> {
    const F_EMPTY_PATH: u32 = 0x4;
    const T_EMPTY_PATH: u32 = 0x40;
    // SAFETY: empty paths with descriptors.
    unsafe {
        call!(
            libc::SYS_move_mount,
            from,
            c"".as_ptr(),
            to,
            c"".as_ptr(),
            F_EMPTY_PATH | T_EMPTY_PATH
        )
    }
    .map(drop)
}

/// move_mount(2): attaches the mount that `from` is open at on the caller's own root directory.
///
/// # Errors
/// As [`move_mount`].
pub fn move_mount_on_root(from: i32) -> Sys<()> {
    const F_EMPTY_PATH: u32 = 0x4;
    // SAFETY: NUL-terminated paths.
    unsafe {
        call!(
            libc::SYS_move_mount,
            from,
            c"".as_ptr(),
            libc::AT_FDCWD,
            c"/".as_ptr(),
            F_EMPTY_PATH
        )
    }
    .map(drop)
}

/// mount_setattr(2) of the mount that `raw` is open at; with [`AT_RECURSIVE`] in `flags` of the
/// mounts below too.
///
/// # Errors
/// mount_setattr(2) fails: EPERM, the attribute is locked or an id mapping is not permitted;
/// EINVAL, the file system cannot be id-mapped; ENOSYS before Linux 5.12.
pub fn mount_setattr(raw: i32, flags: u32, attr: &MountAttr) -> Sys<()> {
    let flags = flags | libc::AT_EMPTY_PATH as u32;
    // SAFETY: the structure lives across the call and its size is given.
    unsafe {
        call!(
            libc::SYS_mount_setattr,
            raw,
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>()
        )
    }
    .map(drop)
}

/// fsopen(2), close-on-exec: a context in which a file system is configured.
///
/// # Errors
/// fsopen(2) fails: ENODEV, the kernel does not have the file system; EPERM without CAP_SYS_ADMIN.
pub fn fsopen(fstype: &CStr) -> Sys<i32> {
    // SAFETY: NUL-terminated; 1 is FSOPEN_CLOEXEC.
    unsafe { call!(libc::SYS_fsopen, fstype.as_ptr(), 1) }.map(raw_fd)
}

/// fsconfig(2) `FSCONFIG_SET_STRING`: an option with a value.
///
/// # Errors
/// fsconfig(2) fails: EINVAL, the file system does not know the option or its value.
pub fn fsconfig_string(raw: i32, key: &CStr, value: &CStr) -> Sys<()> {
    // SAFETY: both NUL-terminated.
    unsafe { call!(libc::SYS_fsconfig, raw, 1, key.as_ptr(), value.as_ptr(), 0) }.map(drop)
}

/// fsconfig(2) `FSCONFIG_SET_FLAG`: an option without a value.
///
/// # Errors
/// fsconfig(2) fails: EINVAL, the file system does not know the option.
pub fn fsconfig_flag(raw: i32, key: &CStr) -> Sys<()> {
    // SAFETY: NUL-terminated; a flag has no value.
    unsafe {
        call!(
            libc::SYS_fsconfig,
            raw,
            0,
            key.as_ptr(),
            std::ptr::null::<u8>(),
            0
        )
    }
    .map(drop)
}

/// fsconfig(2) `FSCONFIG_CMD_CREATE`: makes the file system.
///
/// # Errors
/// fsconfig(2) fails: EINVAL, the options do not fit each other; EPERM; and what the file system
/// says.
pub fn fsconfig_create(raw: i32) -> Sys<()> {
    // SAFETY: null key and value for this command.
    unsafe {
        call!(
            libc::SYS_fsconfig,
            raw,
            6,
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
            0
        )
    }
    .map(drop)
}

/// fsmount(2), close-on-exec: a detached mount of the file system of a context; `attributes` are
/// `ATTR_*`.
///
/// # Errors
/// fsmount(2) fails: EBUSY or EINVAL, the file system has not been made; EPERM.
pub fn fsmount(raw: i32, attributes: u64) -> Sys<i32> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_fsmount, raw, 1, attributes) }.map(raw_fd)
}
