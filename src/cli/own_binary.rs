//! The container can never get a writable handle on the host's `hull` (CVE-2019-5736): before hull
//! makes or joins anything, it runs from where nobody can write. `/proc/self/exe`, a shebang or an
//! `exec` of it in the container then lead there.
//!
//! Two such places, the first that can be had:
//! - an overlay of hull's own directory without a writable layer, mounted nowhere: a fraction of a
//!   millisecond. The kernel makes such a file system read-only as a whole, and no mount option
//!   lifts that. (A read-only bind mount would cost as much and hold less: it is read-only by an
//!   attribute of the mount, and the root of any user namespace may take that back from a mount
//!   that is attached nowhere and that it has a descriptor of, such as the one in `/proc/PID/exe`.)
//! - a sealed copy in memory: milliseconds, but it needs no privilege and no particular file
//!   system.

use crate::sys::fd::{Fd, c_string};
use crate::sys::{file, mount, process};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStringExt;

const SEALS: i32 = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
/// memfd_create(2): the file may be executed, also where `vm.memfd_noexec` says otherwise by
/// default (Linux 6.3).
const MFD_EXEC: u32 = 0x10;
const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
const EXE: &CStr = c"/proc/self/exe";

/// Goes on from a place where nobody can write; returns at once when it is there.
///
/// # Errors
/// There is no such place.
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
        "the protected copy of hull's own binary",
        errno,
    ))
}

/// Asks the kernel: a memory file has its seals, and a file system that is read-only as a whole
/// says so even before it says that a running program is busy, which is what one answers whose
/// mount alone is read-only.
fn is_protected(link: &[u8]) -> Result<bool> {
    if link.starts_with(b"/memfd:") {
        let own =
            Fd(file::openat(libc::AT_FDCWD, EXE, libc::O_RDONLY, 0)
                .on("open", "/proc/self/exe")?);
        return Ok(file::seals(own.0).is_ok_and(|seals| seals & SEALS == SEALS));
    }
    // A view made by hull is a mount of its own, whose root the file lies in.
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

/// hull's own file through an overlay of its directory and `/dev`: two lower layers are the least, and
/// that directory is always there. None where the kernel has no overlay, hull may not mount, or the
/// directory's name cannot be an option's value.
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
    // The last descriptors of this process before it begins anew: execve closes them.
    let view = mount::fsmount(context.keep(), mount::ATTR_RDONLY | mount::ATTR_NODEV).ok()?;
    let program = Fd(file::openat(view, &name, libc::O_PATH | libc::O_NOFOLLOW, 0).ok()?);
    // Where the path leads to another file by now, a copy is made of the one that runs.
    let (own, seen) = (file::stat(EXE).ok()?, file::fstat(program.0).ok()?);
    let key = |stat: &libc::stat| (stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    (key(&own) == key(&seen)).then_some(program)
}

fn sealed_copy() -> Result<Fd> {
    let own =
        Fd(file::openat(libc::AT_FDCWD, EXE, libc::O_RDONLY, 0).on("open", "/proc/self/exe")?);
    let copy = match file::memfd(c"hull", libc::MFD_ALLOW_SEALING | MFD_EXEC) {
        Err(Errno::EINVAL) => file::memfd(c"hull", libc::MFD_ALLOW_SEALING),
        other => other,
    };
    let copy = Fd(copy.on("make", "a memory file for hull's own binary")?);
    while file::sendfile(copy.0, own.0, 1 << 30).on("copy", "hull's own binary")? > 0 {}
    file::seal(copy.0, SEALS).on("seal", "the copy of hull's own binary")?;
    Ok(copy)
}

fn c_strings(list: impl Iterator<Item = Vec<u8>>) -> Result<Vec<CString>> {
    list.map(c_string).collect()
}
