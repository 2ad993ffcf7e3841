//! The container can never get a writable handle on the host's `hull` (CVE-2019-5736): before hull makes or joins anything, it runs from
//! a sealed copy of itself in memory. `/proc/self/exe`, a shebang or an `exec` of it in the container then lead to that copy.

use crate::init::Held;
use crate::sys::{file, process};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;

const SEALS: i32 = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
/// memfd_create(2): the file may be executed, also where `vm.memfd_noexec` says otherwise by default (Linux 6.3).
const MFD_EXEC: u32 = 0x10;

/// Goes on in a sealed copy; returns at once when this is one.
///
/// # Errors
/// The copy cannot be made or run.
pub fn protect() -> Result<()> {
    let own = Held(file::openat(libc::AT_FDCWD, c"/proc/self/exe", libc::O_RDONLY, 0).on("open", "/proc/self/exe")?);
    if file::seals(own.0).is_ok_and(|seals| seals & SEALS == SEALS) {
        return Ok(());
    }
    let copy = match file::memfd(c"hull", libc::MFD_ALLOW_SEALING | MFD_EXEC) {
        Err(Errno::EINVAL) => file::memfd(c"hull", libc::MFD_ALLOW_SEALING),
        other => other,
    };
    let copy = Held(copy.on("make", "a memory file for hull's own binary")?);
    while file::sendfile(copy.0, own.0, 1 << 30).on("copy", "hull's own binary")? > 0 {}
    file::seal(copy.0, SEALS).on("seal", "the copy of hull's own binary")?;
    let args: Vec<CString> = c_strings(std::env::args_os().map(OsStringExt::into_vec))?;
    let env: Vec<CString> = c_strings(std::env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'=')))?;
    let mut arrays = process::Arrays::with_room(args.len() + env.len());
    let (args, env) = (args.iter().map(CString::as_c_str), env.iter().map(CString::as_c_str));
    let errno = arrays.execveat(copy.0, c"", args, env, libc::AT_EMPTY_PATH);
    Err(Error::sys("run", "the sealed copy of hull's own binary", errno))
}

fn c_strings(list: impl Iterator<Item = Vec<u8>>) -> Result<Vec<CString>> {
    list.map(|bytes| CString::new(bytes).map_err(|_| Error::new("an argument contains a NUL byte"))).collect()
}
