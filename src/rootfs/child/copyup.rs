//! `tmpcopyup`: copies the contents of the directory that a tmpfs covers into the tmpfs, by
//! descriptor and without allocation.

use crate::sys::fd::Fd;
use crate::sys::file;
use nix::errno::Errno;
use std::ffi::CStr;

/// The limit of nested directories, which keeps the recursion from overflowing the stack.
const DEPTH: usize = 48;

/// Copies the contents of the directory `from` (which may be an `O_PATH` descriptor) into the
/// directory `to`, with owners and modes.
///
/// # Errors
/// A system call fails: ENOSPC if the tmpfs is full, for example. ELOOP: directories are nested
/// deeper than 48.
pub fn copy_tree(from: i32, to: i32) -> Result<(), Errno> {
    let from = Fd(file::openat(
        from,
        c".",
        libc::O_RDONLY | libc::O_DIRECTORY,
        0,
    )?);
    let to = Fd(file::openat(
        to,
        c".",
        libc::O_RDONLY | libc::O_DIRECTORY,
        0,
    )?);
    let stat = file::fstat(from.0)?;
    file::fchownat(to.0, c"", stat.st_uid, stat.st_gid)?;
    file::fchmod(to.0, stat.st_mode & 0o7777)?;
    copy_directory(from.0, to.0, 0)
}

fn copy_directory(from: i32, to: i32, depth: usize) -> Result<(), Errno> {
    if depth > DEPTH {
        return Err(Errno::ELOOP);
    }
    let mut entries = [0_u8; 4096];
    loop {
        let count = file::getdents(from, &mut entries)?;
        if count == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < count {
            // struct linux_dirent64: inode, offset (8 bytes each), record length (2), type (1),
            // name.
            let length = usize::from(u16::from_ne_bytes([entries[at + 16], entries[at + 17]]));
            let name = CStr::from_bytes_until_nul(&entries[at + 19..at + length])
                .map_err(|_| Errno::EINVAL)?;
            if name != c"." && name != c".." {
                copy_entry(from, to, name, depth)?;
            }
            at += length;
        }
    }
}

fn copy_entry(from: i32, to: i32, name: &CStr, depth: usize) -> Result<(), Errno> {
    let entry = Fd(file::openat(
        from,
        name,
        libc::O_PATH | libc::O_NOFOLLOW,
        0,
    )?);
    let stat = file::fstat(entry.0)?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            file::mkdirat(to, name, 0o700)?;
            let below = Fd(file::openat(
                from,
                name,
                libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW,
                0,
            )?);
            let made = Fd(file::openat(
                to,
                name,
                libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW,
                0,
            )?);
            copy_directory(below.0, made.0, depth + 1)?;
        }
        libc::S_IFLNK => {
            let mut text = [0_u8; libc::PATH_MAX as usize];
            let length = file::readlinkat(from, name, &mut text[..libc::PATH_MAX as usize - 1])?;
            text[length] = 0;
            file::symlinkat(
                CStr::from_bytes_until_nul(&text).map_err(|_| Errno::EINVAL)?,
                to,
                name,
            )?;
        }
        libc::S_IFREG => {
            let source = Fd(file::openat(
                from,
                name,
                libc::O_RDONLY | libc::O_NOFOLLOW,
                0,
            )?);
            let copy = Fd(file::openat(
                to,
                name,
                libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW,
                0o600,
            )?);
            while file::sendfile(copy.0, source.0, 1 << 30)? > 0 {}
        }
        kind => file::mknodat(to, name, kind | 0o600, stat.st_rdev)?,
    }
    file::fchownat(to, name, stat.st_uid, stat.st_gid)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFLNK {
        file::fchmodat(to, name, stat.st_mode & 0o7777)?;
    }
    Ok(())
}
