//! No packet reaches a container that is being brought back: for one of an open connection the kernel, which does not know it yet, would
//! answer with a reset. criu holds packets back only in namespaces that it makes itself.

use super::criu::in_path;
use crate::init::Held;
use crate::net::Namespace;
use crate::sys::process::{self, Arrays, Cloned};
use crate::sys::file;
use crate::{Context, Error, Result};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const HOLD: &str = "table inet hull-restore {\n chain input {\n  type filter hook input priority -400; policy drop;\n }\n}\n";
const RELEASE: &str = "delete table inet hull-restore\n";

/// Holds back all that comes into a namespace.
///
/// # Errors
/// nft is not there, or refuses.
pub fn packets(namespace: &Namespace) -> Result<()> {
    nft(namespace, HOLD)
}

/// Lets packets in again.
///
/// # Errors
/// nft refuses.
pub fn release(namespace: &Namespace) -> Result<()> {
    nft(namespace, RELEASE)
}

/// nft in the namespace, which hull itself does not join.
fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    let program = in_path(Path::new("nft")).ok_or_else(|| Error::new("nft is not installed: hull's networks need it"))?;
    let path = CString::new(program.as_os_str().as_bytes()).map_err(|_| Error::new("a path contains a NUL byte"))?;
    let memory = |name| file::memfd(name, 0).map(Held).on("make", "a memory file for nft");
    let (input, said) = (memory(c"nft:rules")?, memory(c"nft:said")?);
    file::write(input.0, rules.as_bytes()).and_then(|_| file::rewind(input.0)).on("write", "rules for nft")?;
    let args = [c"nft", c"-f", c"-"];
    let mut arrays = Arrays::with_room(args.len());
    match process::clone(0, None).on("start", program.display())? {
        Cloned::Child => {
            let entered = process::setns(namespace.0.0, libc::CLONE_NEWNET as u64).and_then(|()| file::dup_to(input.0, 0));
            let errno = match entered.and_then(|()| file::dup_to(said.0, 1)).and_then(|()| file::dup_to(said.0, 2)) {
                Ok(()) => {
                    process::unblock_signals();
                    arrays.execveat(libc::AT_FDCWD, &path, args, [], 0)
                }
                Err(errno) => errno,
            };
            process::exit(errno as i32)
        }
        Cloned::Parent { pidfd, .. } => match process::wait(Held(pidfd).0, false).on("wait for", "nft")? {
            Some(process::Ended::Exited(0)) => Ok(()),
            _ => Err(Error::new(format!("nft in the container's network namespace: {}", super::criu::said(said.0).trim()))),
        },
    }
}
