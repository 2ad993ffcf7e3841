//! Protects hull's own binary, so that a container never gets a writable handle on it
//! (CVE-2019-5736): before hull creates or joins anything, it executes itself again from a
//! read-only place. `/proc/self/exe` in the container, a shebang or an exec of it then lead to that
//! place.
//!
//! There are two such places; hull uses the first one that it can make:
//! - An overlay of hull's directory without an upper layer, mounted nowhere: it takes a fraction of
//!   a millisecond. The kernel makes such a filesystem read-only as a whole, which no mount option
//!   changes. A read-only bind mount would take as long and protect less: its attribute belongs to
//!   the mount, and the root of any user namespace may clear it on a detached mount that it has a
//!   descriptor of, such as the one in `/proc/PID/exe`.
//! - A sealed copy in memory: it takes milliseconds, but needs no privilege and no overlayfs.

use crate::sys::fd::{Fd, c_string};
use crate::sys::{file, mount, process};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStringExt;

const SEALS: i32 = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
/// memfd_create(2): makes the file executable even where the sysctl `vm.memfd_noexec` has another
/// default (Linux 6.3).
const MFD_EXEC: u32 = 0x10;
const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
const EXE: &CStr = c"/proc/self/exe";

/// Executes hull again from a read-only place; returns if it already runs from one.
///
/// # Errors
/// Neither place can be made; execveat(2) fails.
pub fn protect() -> Result<()> {
    let mut link = [0_u8; libc::PATH_MAX as usize];
    let length = file::readlinkat(libc::AT_FDCWD, EXE, &mut link).on("read", "/proc/self/exe")?;
    let link = &link[..length];
    if is_protected(link)? {
        return Ok(());
    }
    let program = match read_only_view(link) {
        Some(program) => program,
        None => sealed_copy()?,
    };
    let args: Vec<CString> = c_strings(std::env::args_os().map(OsStringExt::into_vec))?;
    let env: Vec<CString> = c_strings(
        std::env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'=')),
    )?;
    let mut arrays = process::Arrays::with_room(args.len() + env.len());
    let (args, env) = (
        args.iter().map(CString::as_c_str),
        env.iter().map(CString::as_c_str),
    );
    let errno = arrays.execveat(program.0, c"", args, env, libc::AT_EMPTY_PATH);
    Err(Error::sys(
        "run",
        "the protected copy of hull's binary",
        errno,
    ))
}

/// Whether hull runs from such a place. A memory file has the seals. A filesystem that is read-only
/// as a whole refuses to open the file for writing with EROFS, before the check for a running
/// program (ETXTBSY), which comes first where only the mount is read-only.
fn is_protected(link: &[u8]) -> Result<bool> {
    if link.starts_with(b"/memfd:") {
        let own =
            Fd(file::openat(libc::AT_FDCWD, EXE, libc::O_RDONLY, 0)
                .on("open", "/proc/self/exe")?);
        return Ok(file::seals(own.0).is_ok_and(|seals| seals & SEALS == SEALS));
    }
    // In an overlay that hull made, the file is in the root of a detached mount.
    if link.iter().filter(|&&byte| byte == b'/').count() > 1 {
        return Ok(false);
    }
    match file::openat(libc::AT_FDCWD, EXE, libc::O_WRONLY, 0).map(Fd) {
        Err(Errno::EROFS) => {
            Ok(file::filesystem_of(EXE).on("stat", "/proc/self/exe")? == OVERLAYFS_SUPER_MAGIC)
        }
        _ => Ok(false),
    }
}

/// Opens hull's file through an overlay of its directory and `/dev`: an overlay needs two lower
/// layers, and `/dev` always exists. `None` where the kernel has no overlayfs, hull may not mount,
/// or the path of the directory contains a character that overlayfs parses.
fn read_only_view(link: &[u8]) -> Option<Fd> {
    let cut = link.iter().rposition(|&byte| byte == b'/')?;
    let directory = if cut == 0 { &b"/"[..] } else { &link[..cut] };
    if directory.iter().any(|byte| b":\\,".contains(byte)) {
        return None;
    }
    let layers = c_string([directory, b":/dev"].concat()).ok()?;
    let name = c_string(&link[cut + 1..]).ok()?;
    let context = Fd(mount::fsopen(c"overlay").ok()?);
    mount::fsconfig_string(context.0, c"lowerdir", &layers).ok()?;
    mount::fsconfig_create(context.0).ok()?;
    // execve closes these descriptors.
    let view = mount::fsmount(context.keep(), mount::ATTR_RDONLY | mount::ATTR_NODEV).ok()?;
    let program = Fd(file::openat(view, &name, libc::O_PATH | libc::O_NOFOLLOW, 0).ok()?);
    // If the path leads to another file by now, hull copies the file that it runs from.
    let (own, seen) = (file::stat(EXE).ok()?, file::fstat(program.0).ok()?);
    let key = |stat: &libc::stat| (stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    (key(&own) == key(&seen)).then_some(program)
}

/// Copies hull's file to a sealed memory file.
fn sealed_copy() -> Result<Fd> {
    let own =
        Fd(file::openat(libc::AT_FDCWD, EXE, libc::O_RDONLY, 0).on("open", "/proc/self/exe")?);
    let copy = match file::memfd(c"hull", libc::MFD_ALLOW_SEALING | MFD_EXEC) {
        Err(Errno::EINVAL) => file::memfd(c"hull", libc::MFD_ALLOW_SEALING),
        other => other,
    };
    let copy = Fd(copy.on("make", "a memory file for hull's binary")?);
    while file::sendfile(copy.0, own.0, 1 << 30).on("copy", "hull's binary")? > 0 {}
    file::seal(copy.0, SEALS).on("seal", "the copy of hull's binary")?;
    Ok(copy)
}

fn c_strings(list: impl Iterator<Item = Vec<u8>>) -> Result<Vec<CString>> {
    list.map(c_string).collect()
}
