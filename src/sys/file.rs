//! Files, directories, nodes, pipes and memory files, by descriptor and name.

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

/// openat2(2), close-on-exec. The kernel answers EAGAIN where a rename raced with the resolution of
/// `..` (openat2(2), `RESOLVE_IN_ROOT`): the call is repeated, at most 128 times.
///
/// # Errors
/// openat2(2) fails: EXDEV or ELOOP, the path leaves `dir` or follows a link against `resolve`;
/// EAGAIN, renames kept racing; ENOSYS before Linux 5.6; and as open(2).
pub fn openat2(dir: i32, path: &CStr, flags: i32, mode: u32, resolve: u64) -> Sys<i32> {
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: u64::from(mode),
        resolve,
    };
    let mut left = 128;
    loop {
        // SAFETY: `path` is NUL-terminated, `how` lives across the call and its size is given.
        match unsafe {
            call!(
                libc::SYS_openat2,
                dir,
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>()
            )
        } {
            Err(Errno::EAGAIN | Errno::EINTR) if left > 0 => left -= 1,
            other => return other.map(raw_fd),
        }
    }
}

/// openat(2), close-on-exec.
///
/// # Errors
/// open(2) fails: the path is missing, hull may not open it, or EMFILE.
pub fn openat(dir: i32, path: &CStr, flags: i32, mode: u32) -> Sys<i32> {
    super::retry(|| {
        // SAFETY: the path is NUL-terminated.
        unsafe {
            call!(
                libc::SYS_openat,
                dir,
                path.as_ptr(),
                flags | libc::O_CLOEXEC,
                mode
            )
        }
    })
    .map(raw_fd)
}

/// close(2). Its errors are not reported: nothing can be done about them, and the descriptor is
/// gone in every case.
pub fn close(raw: i32) {
    // SAFETY: numbers alone are passed.
    let _ = unsafe { call!(libc::SYS_close, raw) };
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC`: execve closes every descriptor from `first` on.
///
/// # Errors
/// ENOSYS before Linux 5.9, EINVAL before 5.11.
pub fn cloexec_from(first: i32) -> Sys<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: numbers alone are passed.
    unsafe {
        call!(
            libc::SYS_close_range,
            first as u32,
            u32::MAX,
            CLOSE_RANGE_CLOEXEC
        )
    }
    .map(drop)
}

/// close_range(2): closes the descriptors from `first` to `last`, both included. Before kernel 5.9
/// one by one, up to 4096.
///
/// # Errors
/// None that the kernel documents: an empty range is not passed on.
pub fn close_range(first: i32, last: i32) -> Sys<()> {
    if last < first {
        return Ok(());
    }
    // SAFETY: numbers alone are passed.
    match unsafe { call!(libc::SYS_close_range, first as u32, last as u32, 0) } {
        Err(Errno::ENOSYS) => {
            (first..=last.min(4096)).for_each(close);
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Closes every descriptor from `first` on except those of `kept`, which it sorts; -1 in it is
/// none. It is for a process that runs on without execve(2): a lock or a pipe's end that it
/// inherited without knowing would last as long as the process. Allocates nothing.
pub fn close_all_but(first: i32, kept: &mut [i32]) {
    kept.sort_unstable();
    let mut from = first;
    for &raw in kept.iter().filter(|raw| **raw >= first) {
        // It cannot fail: the range is valid or empty.
        let _ = close_range(from, raw - 1);
        from = from.max(raw + 1);
    }
    let _ = close_range(from, i32::MAX);
}

/// sync_file_range(2) of the whole file with `SYNC_FILE_RANGE_WRITE`: the kernel starts to write
/// the file's dirty pages to the disk, and the call does not wait for it.
///
/// # Errors
/// sync_file_range(2) fails: ESPIPE, the descriptor is not a file's; EIO.
pub fn start_writeback(raw: i32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe {
        call!(
            libc::SYS_sync_file_range,
            raw,
            0_i64,
            0_i64,
            libc::SYNC_FILE_RANGE_WRITE
        )
    }
    .map(drop)
}

/// Reads a file of some kilobytes whole, without asking for its size before.
///
/// # Errors
/// open(2) or read(2) fails: the file is missing, or hull may not read it.
pub fn read_whole(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1 << 16);
    // A reader of limited length is what the standard library takes no size hint of.
    std::io::Read::read_to_end(
        &mut std::io::Read::take(std::fs::File::open(path)?, u64::MAX),
        &mut bytes,
    )?;
    Ok(bytes)
}

/// Reads a regular file whole. A read that fills less than its room is at the end of such a file
/// (read(2)), so that no further call is needed to see it.
pub fn read_regular(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let mut bytes = vec![0_u8; 1 << 14];
    let mut filled = 0;
    loop {
        match std::io::Read::read(&mut file, &mut bytes[filled..]) {
            Ok(count) => {
                filled += count;
                if filled < bytes.len() {
                    bytes.truncate(filled);
                    return Ok(bytes);
                }
                bytes.resize(bytes.len() * 4, 0);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// flock(2), exclusive; waits for it. The kernel releases the lock with the last copy of the
/// descriptor.
///
/// # Errors
/// flock(2) fails: EBADF; ENOLCK, the kernel is out of memory for locks.
pub fn lock(raw: i32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    super::retry(|| unsafe { call!(libc::SYS_flock, raw, libc::LOCK_EX) }).map(drop)
}

/// flock(2), exclusive, without waiting.
///
/// # Errors
/// EWOULDBLOCK: another process has the lock; EBADF; ENOLCK.
pub fn try_lock(raw: i32) -> Sys<()> {
    let operation = libc::LOCK_EX | libc::LOCK_NB;
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_flock, raw, operation) }.map(drop)
}

/// mkdirat(2).
///
/// # Errors
/// mkdir(2) fails: EEXIST, ENOENT, EACCES, EROFS, ENOSPC.
pub fn mkdirat(dir: i32, path: &CStr, mode: u32) -> Sys<()> {
    // SAFETY: NUL-terminated.
    unsafe { call!(libc::SYS_mkdirat, dir, path.as_ptr(), mode) }.map(drop)
}

/// mknodat(2).
///
/// # Errors
/// mknod(2) fails: EEXIST; EPERM, a device without CAP_MKNOD in the first user namespace.
pub fn mknodat(dir: i32, path: &CStr, mode: u32, dev: u64) -> Sys<()> {
    // SAFETY: NUL-terminated.
    unsafe { call!(libc::SYS_mknodat, dir, path.as_ptr(), mode, dev) }.map(drop)
}

/// symlinkat(2).
///
/// # Errors
/// symlink(2) fails: EEXIST, EACCES, EROFS.
pub fn symlinkat(target: &CStr, dir: i32, path: &CStr) -> Sys<()> {
    // SAFETY: both NUL-terminated.
    unsafe { call!(libc::SYS_symlinkat, target.as_ptr(), dir, path.as_ptr()) }.map(drop)
}

/// readlinkat(2): writes the link's target to `buffer`, without a NUL, and returns its length; a
/// longer target is cut.
///
/// # Errors
/// readlink(2) fails: EINVAL, the name is not a symbolic link; ENOENT.
pub fn readlinkat(dir: i32, path: &CStr, buffer: &mut [u8]) -> Sys<usize> {
    // SAFETY: the buffer and its length belong together.
    unsafe {
        call!(
            libc::SYS_readlinkat,
            dir,
            path.as_ptr(),
            buffer.as_mut_ptr(),
            buffer.len()
        )
    }
    .map(|n| n as usize)
}

/// unlinkat(2).
///
/// # Errors
/// unlink(2) or rmdir(2) fails: ENOENT, ENOTEMPTY, EBUSY (a mount point).
pub fn unlinkat(dir: i32, path: &CStr, flags: i32) -> Sys<()> {
    // SAFETY: NUL-terminated.
    unsafe { call!(libc::SYS_unlinkat, dir, path.as_ptr(), flags) }.map(drop)
}

/// fchmodat(2). It follows a symbolic link, so `path` must be a name that hull itself has just made
/// in `dir`.
///
/// # Errors
/// chmod(2) fails: EPERM, the file is another user's; EROFS.
pub fn fchmodat(dir: i32, path: &CStr, mode: u32) -> Sys<()> {
    // SAFETY: NUL-terminated.
    unsafe { call!(libc::SYS_fchmodat, dir, path.as_ptr(), mode) }.map(drop)
}

/// fchmod(2).
///
/// # Errors
/// chmod(2) fails: EPERM, the file is another user's; EROFS.
pub fn fchmod(raw: i32, mode: u32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_fchmod, raw, mode) }.map(drop)
}

/// fchownat(2), not following a symbolic link; an empty path means `dir` itself.
///
/// # Errors
/// chown(2) fails: EPERM without CAP_CHOWN; EINVAL, the user namespace does not map the id.
pub fn fchownat(dir: i32, path: &CStr, uid: u32, gid: u32) -> Sys<()> {
    // SAFETY: NUL-terminated.
    unsafe {
        call!(
            libc::SYS_fchownat,
            dir,
            path.as_ptr(),
            uid,
            gid,
            libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW
        )
    }
    .map(drop)
}

/// fstat(2), by fstatat with an empty path, so that `O_PATH` descriptors serve.
///
/// # Errors
/// stat(2) fails: EBADF.
pub fn fstat(raw: i32) -> Sys<libc::stat> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the buffer has the size of the structure.
    unsafe {
        call!(
            libc::SYS_newfstatat,
            raw,
            c"".as_ptr(),
            stat.as_mut_ptr(),
            libc::AT_EMPTY_PATH
        )
    }?;
    // SAFETY: the call succeeded, so the kernel filled the structure.
    Ok(unsafe { stat.assume_init() })
}

/// newfstatat(2) on a path, links followed.
///
/// # Errors
/// stat(2) fails: the path is missing or may not be searched.
pub fn stat(path: &CStr) -> Sys<libc::stat> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: NUL-terminated; the buffer has the size of the structure.
    unsafe {
        call!(
            libc::SYS_newfstatat,
            libc::AT_FDCWD,
            path.as_ptr(),
            stat.as_mut_ptr(),
            0
        )
    }?;
    // SAFETY: the call succeeded, so the kernel filled the structure.
    Ok(unsafe { stat.assume_init() })
}

/// The magic number of the file system that a path is on (statfs(2), `f_type`).
///
/// # Errors
/// statfs(2) fails: the path is missing or may not be searched.
pub fn filesystem_of(path: &CStr) -> Sys<i64> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: NUL-terminated; the buffer has the size of the structure.
    unsafe { call!(libc::SYS_statfs, path.as_ptr(), stat.as_mut_ptr()) }?;
    // SAFETY: the call succeeded, so the kernel filled the structure.
    Ok(unsafe { stat.assume_init() }.f_type)
}

/// The magic number of the file system that a descriptor is on (statfs(2), `f_type`).
///
/// # Errors
/// statfs(2) fails: EBADF.
pub fn filesystem(raw: i32) -> Sys<i64> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the buffer has the size of the structure.
    unsafe { call!(libc::SYS_fstatfs, raw, stat.as_mut_ptr()) }?;
    // SAFETY: the call succeeded, so the kernel filled the structure.
    Ok(unsafe { stat.assume_init() }.f_type)
}

/// The flags of the mount that a descriptor is on (statfs(2), `f_flags`): `ST_RDONLY`, `ST_NOSUID`,
/// `ST_NODEV`, `ST_NOEXEC`, …
///
/// # Errors
/// fstatfs(2) fails: EBADF.
pub fn mount_flags(raw: i32) -> Sys<u64> {
    // `struct statfs` of the 64-bit architectures; libc has no name for this member.
    const FLAGS: usize = 10;
    let mut words = [0_u64; 15];
    // SAFETY: the buffer has the size of the structure, 120 bytes.
    unsafe { call!(libc::SYS_fstatfs, raw, words.as_mut_ptr()) }?;
    Ok(words[FLAGS])
}

/// faccessat2(2) by effective ids; an empty path means the descriptor itself.
///
/// # Errors
/// EACCES: the effective ids may not execute the file, or its mount is `noexec`.
pub fn executable(raw: i32) -> Sys<()> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: the path is NUL-terminated.
    unsafe { call!(libc::SYS_faccessat2, raw, c"".as_ptr(), libc::X_OK, flags) }.map(drop)
}

/// chdir(2).
///
/// # Errors
/// chdir(2) fails: the path is missing, is not a directory, or may not be searched.
pub fn chdir(path: &CStr) -> Sys<()> {
    // SAFETY: NUL-terminated.
    unsafe { call!(libc::SYS_chdir, path.as_ptr()) }.map(drop)
}

/// fchdir(2).
///
/// # Errors
/// chdir(2) fails: ENOTDIR, EACCES, EBADF.
pub fn fchdir(raw: i32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_fchdir, raw) }.map(drop)
}

/// chroot(2).
///
/// # Errors
/// chroot(2) fails: EPERM without CAP_SYS_CHROOT; the path is missing.
pub fn chroot(path: &CStr) -> Sys<()> {
    // SAFETY: NUL-terminated.
    unsafe { call!(libc::SYS_chroot, path.as_ptr()) }.map(drop)
}

/// getcwd(2): the length with the closing NUL. A directory outside the root is reported as
/// `(unreachable)`.
///
/// # Errors
/// ENOENT: the directory has been removed. ERANGE: the buffer is too small.
pub fn getcwd(buffer: &mut [u8]) -> Sys<usize> {
    // SAFETY: the buffer and its length belong together.
    unsafe { call!(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) }.map(|n| n as usize)
}

/// umask(2); returns the former mask.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_umask, mask) }
        .map(|old| old as u32)
        .unwrap_or(0)
}

/// read(2). Returns 0 at the end of the file, or where the other end is closed.
///
/// # Errors
/// read(2) fails; EAGAIN on a non-blocking descriptor without data.
pub fn read(raw: i32, buffer: &mut [u8]) -> Sys<usize> {
    // SAFETY: the buffer and its length belong together.
    super::retry(|| unsafe { call!(libc::SYS_read, raw, buffer.as_mut_ptr(), buffer.len()) })
        .map(|n| n as usize)
}

/// write(2), one call. Returns how many bytes were written.
///
/// # Errors
/// write(2) fails: EPIPE, the reader has closed its end; ENOSPC; EAGAIN on a non-blocking
/// descriptor without space.
pub fn write(raw: i32, bytes: &[u8]) -> Sys<usize> {
    // SAFETY: the buffer and its length belong together.
    super::retry(|| unsafe { call!(libc::SYS_write, raw, bytes.as_ptr(), bytes.len()) })
        .map(|n| n as usize)
}

/// fcntl(2) `F_GETFL`.
///
/// # Errors
/// EBADF.
pub fn status_flags(raw: i32) -> Sys<i32> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_fcntl, raw, libc::F_GETFL) }.map(raw_fd)
}

/// dup3(2) without flags: `new` becomes a copy of `old` that survives execve.
///
/// # Errors
/// dup(2) fails: EBADF, one of the numbers is not open or not possible.
pub fn dup_to(old: i32, new: i32) -> Sys<()> {
    if old == new {
        return clear_cloexec(old);
    }
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_dup3, old, new, 0) }.map(drop)
}

/// Sets FD_CLOEXEC: execve closes the descriptor.
///
/// # Errors
/// EBADF.
pub fn set_cloexec(raw: i32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_fcntl, raw, libc::F_SETFD, libc::FD_CLOEXEC) }.map(drop)
}

/// Clears FD_CLOEXEC: the descriptor survives execve.
///
/// # Errors
/// EBADF.
pub fn clear_cloexec(raw: i32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_fcntl, raw, libc::F_SETFD, 0) }.map(drop)
}

/// memfd_create(2), close-on-exec; `flags` are `MFD_*`.
///
/// # Errors
/// memfd_create(2) fails: EINVAL, the kernel does not know a flag; EMFILE.
pub fn memfd(name: &CStr, flags: u32) -> Sys<i32> {
    // SAFETY: NUL-terminated.
    unsafe {
        call!(
            libc::SYS_memfd_create,
            name.as_ptr(),
            flags | libc::MFD_CLOEXEC
        )
    }
    .map(raw_fd)
}

/// fcntl(2) `F_ADD_SEALS`.
///
/// # Errors
/// EPERM: the file is sealed against seals. EBUSY: it is mapped writable.
pub fn seal(raw: i32, seals: i32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_fcntl, raw, libc::F_ADD_SEALS, seals) }.map(drop)
}

/// fcntl(2) `F_GET_SEALS`: the seals as a mask.
///
/// # Errors
/// EINVAL: the descriptor is not a memory file's.
pub fn seals(raw: i32) -> Sys<i32> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_fcntl, raw, libc::F_GET_SEALS) }.map(|value| value as i32)
}

/// sendfile(2) from the present position of `from`; returns how many bytes were copied.
///
/// # Errors
/// sendfile(2) fails: EINVAL, `from` cannot be mapped; ENOSPC.
pub fn sendfile(to: i32, from: i32, count: usize) -> Sys<usize> {
    // SAFETY: a null offset means the file's own position.
    unsafe { call!(libc::SYS_sendfile, to, from, std::ptr::null::<i64>(), count) }
        .map(|n| n as usize)
}

/// pipe2(2), close-on-exec: (read end, write end).
///
/// # Errors
/// pipe(2) fails: EMFILE; ENFILE, the system has as many open files as it may.
pub fn pipe() -> Sys<(i32, i32)> {
    let mut ends = [-1_i32; 2];
    // SAFETY: room for two descriptors.
    unsafe { call!(libc::SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC) }?;
    Ok((ends[0], ends[1]))
}

/// The capacity of a pipe in bytes (fcntl(2), `F_GETPIPE_SZ`).
///
/// # Errors
/// EBADF: the descriptor is not a pipe's.
pub fn pipe_size(raw: i32) -> Sys<usize> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_fcntl, raw, libc::F_GETPIPE_SZ) }.map(|size| size as usize)
}

/// Sets the capacity of a pipe in bytes (fcntl(2), `F_SETPIPE_SZ`). A writer that waits for space
/// goes on (since Linux 5.5).
///
/// # Errors
/// EPERM: more than `fs.pipe-max-size`, or than the user's share of all pipes; EBADF: not a pipe;
/// EBUSY: less than the pipe holds now.
pub fn set_pipe_size(raw: i32, size: usize) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_fcntl, raw, libc::F_SETPIPE_SZ, size) }.map(drop)
}

/// How much was written and not yet read by the other side: the bytes in a terminal (`TIOCOUTQ`) or
/// in a pipe (`FIONREAD`), the memory of a socket's queue (`SIOCOUTQ`, the same number as
/// `TIOCOUTQ`); 0 for everything else.
pub fn untaken(raw: i32) -> i32 {
    let mut count = 0_i32;
    // SAFETY: a pointer to an int.
    let query = |request: libc::Ioctl, count: *mut i32| unsafe {
        call!(libc::SYS_ioctl, raw, request, count)
    };
    if query(libc::TIOCOUTQ, &raw mut count).is_err()
        && query(libc::FIONREAD, &raw mut count).is_err()
    {
        return 0;
    }
    count
}

/// lseek(2) to the beginning.
///
/// # Errors
/// ESPIPE: the descriptor is a pipe's, a socket's or a terminal's.
pub fn rewind(raw: i32) -> Sys<()> {
    seek_to(raw, 0)
}

/// lseek(2) to a position, in bytes from the beginning.
///
/// # Errors
/// ESPIPE: the descriptor is a pipe's, a socket's or a terminal's; EINVAL.
pub fn seek_to(raw: i32, position: u64) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_lseek, raw, position, libc::SEEK_SET) }.map(drop)
}

/// getdents64(2): writes `struct linux_dirent64` entries to `buffer` and returns their length in
/// bytes; 0 at the end of the directory.
///
/// # Errors
/// getdents64(2) fails: ENOTDIR; ENOENT, the directory has been removed; EINVAL, the buffer is
/// too small for the next entry.
pub fn getdents(raw: i32, buffer: &mut [u8]) -> Sys<usize> {
    // SAFETY: the buffer and its length belong together.
    unsafe { call!(libc::SYS_getdents64, raw, buffer.as_mut_ptr(), buffer.len()) }
        .map(|n| n as usize)
}
