//! Files: openat2 and its resolve flags, nodes, directories, the memory file, descriptors.

use super::{Sys, call, raw_fd};
use nix::errno::Errno;
use std::ffi::CStr;

/// `openat2` resolve flag: `/` and `..` stop at the directory given (openat2(2)).
pub const RESOLVE_IN_ROOT: u64 = 0x10;
/// `openat2` resolve flag: no escape from the directory given.
pub const RESOLVE_BENEATH: u64 = 0x08;
/// `openat2` resolve flag: no symbolic links at all.
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
/// `openat2` resolve flag: no magic links of procfs.
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
/// `openat2` resolve flag: no crossing of mounts.
pub const RESOLVE_NO_XDEV: u64 = 0x01;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// openat2(2). `O_CLOEXEC` is always added. Retries the transient EAGAIN of a racing rename a
/// bounded number of times.
///
/// # Errors
/// The kernel's.
pub fn openat2(dir: i32, path: &CStr, flags: i32, mode: u32, resolve: u64) -> Sys<i32> {
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: u64::from(mode),
        resolve,
    };
    let mut left = 128;
    loop {
        // Valid: `path` is NUL-terminated, `how` lives across the call and its size is given.
        match call!(
            libc::SYS_openat2,
            dir,
            path.as_ptr(),
            &raw const how,
            size_of::<OpenHow>()
        ) {
            Err(Errno::EAGAIN | Errno::EINTR) if left > 0 => left -= 1,
            other => return other.map(raw_fd),
        }
    }
}

/// openat(2), close-on-exec.
///
/// # Errors
/// The kernel's.
pub fn openat(dir: i32, path: &CStr, flags: i32, mode: u32) -> Sys<i32> {
    // Valid: `path` is NUL-terminated.
    super::retry(|| {
        call!(
            libc::SYS_openat,
            dir,
            path.as_ptr(),
            flags | libc::O_CLOEXEC,
            mode
        )
    })
    .map(raw_fd)
}

/// close(2); errors have no use.
pub fn close(raw: i32) {
    let _ = call!(libc::SYS_close, raw);
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC`: every descriptor from `first` on ends at execve.
/// Falls back to nothing: ENOSYS is the caller's.
///
/// # Errors
/// ENOSYS before kernel 5.11.
pub fn cloexec_from(first: i32) -> Sys<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    call!(
        libc::SYS_close_range,
        first as u32,
        u32::MAX,
        CLOSE_RANGE_CLOEXEC
    )
    .map(drop)
}

/// close_range(2): closes the descriptors from `first` to `last`, both included. Before kernel 5.9
/// one by one, up to 4096.
///
/// # Errors
/// EINVAL.
pub fn close_range(first: i32, last: i32) -> Sys<()> {
    if last < first {
        return Ok(());
    }
    match call!(libc::SYS_close_range, first as u32, last as u32, 0) {
        Err(Errno::ENOSYS) => {
            (first..=last.min(4096)).for_each(close);
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Closes every descriptor from `first` on but those of `kept`, which it sorts; -1 stands for none.
/// What a process that lives on without execve(2) has inherited of its maker's: a lock held, or a
/// pipe's end open, in a process that knows nothing of it lasts as long as that process. Allocates
/// nothing.
pub fn close_all_but(first: i32, kept: &mut [i32]) {
    kept.sort_unstable();
    let mut from = first;
    for &raw in kept.iter().filter(|raw| **raw >= first) {
        // Fails for an empty range only, and that is none to close.
        let _ = close_range(from, raw - 1);
        from = from.max(raw + 1);
    }
    let _ = close_range(from, i32::MAX);
}

/// sync_file_range(2) of the whole file with `SYNC_FILE_RANGE_WRITE`: what is dirty of it goes on
/// its way to the disk, and nobody waits.
///
/// # Errors
/// The kernel's: ESPIPE for what is no file, EIO.
pub fn start_writeback(raw: i32) -> Sys<()> {
    call!(
        libc::SYS_sync_file_range,
        raw,
        0_i64,
        0_i64,
        libc::SYNC_FILE_RANGE_WRITE
    )
    .map(drop)
}

/// A file of some kilobytes, whole, without asking for its size before.
///
/// # Errors
/// The kernel's.
pub fn read_whole(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1 << 16);
    // A reader of limited length is what the standard library takes no size hint of.
    std::io::Read::read_to_end(
        &mut std::io::Read::take(std::fs::File::open(path)?, u64::MAX),
        &mut bytes,
    )?;
    Ok(bytes)
}

/// flock(2), exclusive; it ends with the last copy of the descriptor.
///
/// # Errors
/// The kernel's.
pub fn lock(raw: i32) -> Sys<()> {
    super::retry(|| call!(libc::SYS_flock, raw, libc::LOCK_EX)).map(drop)
}

/// mkdirat(2).
///
/// # Errors
/// The kernel's.
pub fn mkdirat(dir: i32, path: &CStr, mode: u32) -> Sys<()> {
    // Valid: NUL-terminated.
    call!(libc::SYS_mkdirat, dir, path.as_ptr(), mode).map(drop)
}

/// mknodat(2).
///
/// # Errors
/// The kernel's.
pub fn mknodat(dir: i32, path: &CStr, mode: u32, dev: u64) -> Sys<()> {
    // Valid: NUL-terminated.
    call!(libc::SYS_mknodat, dir, path.as_ptr(), mode, dev).map(drop)
}

/// symlinkat(2).
///
/// # Errors
/// The kernel's.
pub fn symlinkat(target: &CStr, dir: i32, path: &CStr) -> Sys<()> {
    // Valid: both NUL-terminated.
    call!(libc::SYS_symlinkat, target.as_ptr(), dir, path.as_ptr()).map(drop)
}

/// readlinkat(2): the length of what was written to `buffer`.
///
/// # Errors
/// The kernel's.
pub fn readlinkat(dir: i32, path: &CStr, buffer: &mut [u8]) -> Sys<usize> {
    // Valid: the buffer and its length belong together.
    call!(
        libc::SYS_readlinkat,
        dir,
        path.as_ptr(),
        buffer.as_mut_ptr(),
        buffer.len()
    )
    .map(|n| n as usize)
}

/// unlinkat(2).
///
/// # Errors
/// The kernel's.
pub fn unlinkat(dir: i32, path: &CStr, flags: i32) -> Sys<()> {
    // Valid: NUL-terminated.
    call!(libc::SYS_unlinkat, dir, path.as_ptr(), flags).map(drop)
}

/// fchmodat(2) without following nothing: the path is one component of a directory that hull holds.
///
/// # Errors
/// The kernel's.
pub fn fchmodat(dir: i32, path: &CStr, mode: u32) -> Sys<()> {
    // Valid: NUL-terminated.
    call!(libc::SYS_fchmodat, dir, path.as_ptr(), mode).map(drop)
}

/// fchmod(2).
///
/// # Errors
/// The kernel's.
pub fn fchmod(raw: i32, mode: u32) -> Sys<()> {
    call!(libc::SYS_fchmod, raw, mode).map(drop)
}

/// fchownat(2), not following a symbolic link; an empty path means `dir` itself.
///
/// # Errors
/// The kernel's.
pub fn fchownat(dir: i32, path: &CStr, uid: u32, gid: u32) -> Sys<()> {
    // Valid: NUL-terminated.
    call!(
        libc::SYS_fchownat,
        dir,
        path.as_ptr(),
        uid,
        gid,
        libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW
    )
    .map(drop)
}

/// fstat(2), by fstatat with an empty path, so that `O_PATH` descriptors serve.
///
/// # Errors
/// The kernel's.
pub fn fstat(raw: i32) -> Sys<libc::stat> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // Valid: the buffer has the size of the structure.
    call!(
        libc::SYS_newfstatat,
        raw,
        c"".as_ptr(),
        stat.as_mut_ptr(),
        libc::AT_EMPTY_PATH
    )?;
    // SAFETY: the call succeeded, so the kernel filled the structure.
    Ok(unsafe { stat.assume_init() })
}

/// newfstatat(2) on a path, links followed.
///
/// # Errors
/// The kernel's.
pub fn stat(path: &CStr) -> Sys<libc::stat> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // Valid: NUL-terminated; the buffer has the size of the structure.
    call!(
        libc::SYS_newfstatat,
        libc::AT_FDCWD,
        path.as_ptr(),
        stat.as_mut_ptr(),
        0
    )?;
    // SAFETY: the call succeeded, so the kernel filled the structure.
    Ok(unsafe { stat.assume_init() })
}

/// The magic number of the file system that a path is on (statfs(2), `f_type`).
///
/// # Errors
/// The kernel's.
pub fn filesystem_of(path: &CStr) -> Sys<i64> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // Valid: NUL-terminated; the buffer has the size of the structure.
    call!(libc::SYS_statfs, path.as_ptr(), stat.as_mut_ptr())?;
    // SAFETY: the call succeeded, so the kernel filled the structure.
    Ok(unsafe { stat.assume_init() }.f_type)
}

/// The magic number of the file system that a descriptor is on (statfs(2), `f_type`).
///
/// # Errors
/// The kernel's.
pub fn filesystem(raw: i32) -> Sys<i64> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // Valid: the buffer has the size of the structure.
    call!(libc::SYS_fstatfs, raw, stat.as_mut_ptr())?;
    // SAFETY: the call succeeded, so the kernel filled the structure.
    Ok(unsafe { stat.assume_init() }.f_type)
}

/// faccessat2(2) by effective ids; an empty path means the descriptor itself.
///
/// # Errors
/// EACCES, or the kernel's.
pub fn executable(raw: i32) -> Sys<()> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    call!(libc::SYS_faccessat2, raw, c"".as_ptr(), libc::X_OK, flags).map(drop)
}

/// chdir(2).
///
/// # Errors
/// The kernel's.
pub fn chdir(path: &CStr) -> Sys<()> {
    // Valid: NUL-terminated.
    call!(libc::SYS_chdir, path.as_ptr()).map(drop)
}

/// fchdir(2).
///
/// # Errors
/// The kernel's.
pub fn fchdir(raw: i32) -> Sys<()> {
    call!(libc::SYS_fchdir, raw).map(drop)
}

/// chroot(2).
///
/// # Errors
/// The kernel's.
pub fn chroot(path: &CStr) -> Sys<()> {
    // Valid: NUL-terminated.
    call!(libc::SYS_chroot, path.as_ptr()).map(drop)
}

/// getcwd(2): the length with the closing NUL. A directory outside the root is reported as
/// `(unreachable)`.
///
/// # Errors
/// ENOENT when the directory is gone.
pub fn getcwd(buffer: &mut [u8]) -> Sys<usize> {
    // Valid: the buffer and its length belong together.
    call!(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()).map(|n| n as usize)
}

/// umask(2): the former mask.
pub fn umask(mask: u32) -> u32 {
    call!(libc::SYS_umask, mask)
        .map(|old| old as u32)
        .unwrap_or(0)
}

/// read(2).
///
/// # Errors
/// The kernel's.
pub fn read(raw: i32, buffer: &mut [u8]) -> Sys<usize> {
    // Valid: the buffer and its length belong together.
    super::retry(|| call!(libc::SYS_read, raw, buffer.as_mut_ptr(), buffer.len()))
        .map(|n| n as usize)
}

/// write(2), one call.
///
/// # Errors
/// The kernel's.
pub fn write(raw: i32, bytes: &[u8]) -> Sys<usize> {
    // Valid: the buffer and its length belong together.
    super::retry(|| call!(libc::SYS_write, raw, bytes.as_ptr(), bytes.len())).map(|n| n as usize)
}

/// fcntl(2) `F_GETFL`.
///
/// # Errors
/// EBADF.
pub fn status_flags(raw: i32) -> Sys<i32> {
    call!(libc::SYS_fcntl, raw, libc::F_GETFL).map(raw_fd)
}

/// dup3(2) without flags: the copy survives execve.
///
/// # Errors
/// The kernel's.
pub fn dup_to(old: i32, new: i32) -> Sys<()> {
    if old == new {
        return clear_cloexec(old);
    }
    call!(libc::SYS_dup3, old, new, 0).map(drop)
}

/// Ends a descriptor at execve.
///
/// # Errors
/// EBADF.
pub fn set_cloexec(raw: i32) -> Sys<()> {
    call!(libc::SYS_fcntl, raw, libc::F_SETFD, libc::FD_CLOEXEC).map(drop)
}

/// Lets a descriptor survive execve.
///
/// # Errors
/// EBADF.
pub fn clear_cloexec(raw: i32) -> Sys<()> {
    call!(libc::SYS_fcntl, raw, libc::F_SETFD, 0).map(drop)
}

/// memfd_create(2): close-on-exec, seals allowed.
///
/// # Errors
/// The kernel's.
pub fn memfd(name: &CStr, flags: u32) -> Sys<i32> {
    // Valid: NUL-terminated.
    call!(
        libc::SYS_memfd_create,
        name.as_ptr(),
        flags | libc::MFD_CLOEXEC
    )
    .map(raw_fd)
}

/// fcntl(2) `F_ADD_SEALS`.
///
/// # Errors
/// The kernel's.
pub fn seal(raw: i32, seals: i32) -> Sys<()> {
    call!(libc::SYS_fcntl, raw, libc::F_ADD_SEALS, seals).map(drop)
}

/// fcntl(2) `F_GET_SEALS`; EINVAL on what is no memory file.
///
/// # Errors
/// EINVAL.
pub fn seals(raw: i32) -> Sys<i32> {
    call!(libc::SYS_fcntl, raw, libc::F_GET_SEALS).map(|value| value as i32)
}

/// sendfile(2): how many bytes went from `from` to `to`.
///
/// # Errors
/// The kernel's.
pub fn sendfile(to: i32, from: i32, count: usize) -> Sys<usize> {
    // Valid: a null offset means the file's own position.
    call!(libc::SYS_sendfile, to, from, std::ptr::null::<i64>(), count).map(|n| n as usize)
}

/// pipe2(2), close-on-exec: (read end, write end).
///
/// # Errors
/// The kernel's.
pub fn pipe() -> Sys<(i32, i32)> {
    let mut ends = [-1_i32; 2];
    // Valid: room for two descriptors.
    call!(libc::SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC)?;
    Ok((ends[0], ends[1]))
}

/// How much a pipe holds, in bytes (fcntl(2), `F_GETPIPE_SZ`).
///
/// # Errors
/// EBADF for what is no pipe.
pub fn pipe_size(raw: i32) -> Sys<usize> {
    call!(libc::SYS_fcntl, raw, libc::F_GETPIPE_SZ).map(|size| size as usize)
}

/// Lets a pipe hold so many bytes (fcntl(2), `F_SETPIPE_SZ`). Who waits to write goes on (since
/// Linux 5.5).
///
/// # Errors
/// EPERM beyond `fs.pipe-max-size` or the user's share; EBADF for what is no pipe; EBUSY.
pub fn set_pipe_size(raw: i32, size: usize) -> Sys<()> {
    call!(libc::SYS_fcntl, raw, libc::F_SETPIPE_SZ, size).map(drop)
}

/// What was written to a terminal or a socket and its reader has not taken (`TIOCOUTQ`, the same
/// number as `SIOCOUTQ`), or to a pipe (`FIONREAD`), as a number that falls as it takes; 0 for
/// everything else.
pub fn untaken(raw: i32) -> i32 {
    let mut count = 0_i32;
    // Valid: a pointer to an int.
    let asked = |request: libc::Ioctl, count: *mut i32| call!(libc::SYS_ioctl, raw, request, count);
    if asked(libc::TIOCOUTQ, &raw mut count).is_err()
        && asked(libc::FIONREAD, &raw mut count).is_err()
    {
        return 0;
    }
    count
}

/// lseek(2) to the beginning.
///
/// # Errors
/// The kernel's.
pub fn rewind(raw: i32) -> Sys<()> {
    seek_to(raw, 0)
}

/// lseek(2) to a place, in bytes from the beginning.
///
/// # Errors
/// ESPIPE for what is no file; EINVAL.
pub fn seek_to(raw: i32, position: u64) -> Sys<()> {
    call!(libc::SYS_lseek, raw, position, libc::SEEK_SET).map(drop)
}

/// getdents64(2): how many bytes of directory entries were written to `buffer`; 0 at the end.
///
/// # Errors
/// The kernel's.
pub fn getdents(raw: i32, buffer: &mut [u8]) -> Sys<usize> {
    // Valid: the buffer and its length belong together.
    call!(libc::SYS_getdents64, raw, buffer.as_mut_ptr(), buffer.len()).map(|n| n as usize)
}
