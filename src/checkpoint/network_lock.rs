//! No packet reaches a container that is being brought back: for one of an open connection the
//! kernel, which does not know it yet, would answer with a reset. criu holds packets back only in
//! namespaces that it makes itself.

use crate::net::netlink::Namespace;
use crate::sys::fd::{Fd, c_path, c_string};
use crate::sys::file;
use crate::sys::process::{self, Arrays, Cloned};
use crate::sys::search::in_path_or_sbin;
use crate::{Context, Error, Result};
use std::ffi::CStr;
use std::io::Read;

const HOLD: &str = "table inet hull-restore {\n chain input {\n  type filter hook input priority \
    -400; policy drop;\n }\n}\n";
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

fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    run(namespace, "nft", &[c"-f", c"-"], rules).map(drop)
}

/// Runs a program of the machine's in a network namespace, which hull itself does not join; gives
/// what it said.
///
/// # Errors
/// It is not there, or refuses.
pub fn run(namespace: &Namespace, name: &str, args: &[&CStr], input: &str) -> Result<String> {
    let program = in_path_or_sbin(name)
        .ok_or_else(|| Error::new(format!("{name} is not installed: networks need it")))?;
    let (path, own) = (c_path(&program)?, c_string(name)?);
    let memory = |what| {
        file::memfd(what, 0)
            .map(Fd)
            .on("make", format!("a memory file for {name}"))
    };
    let (given, said) = (memory(c"hull:rules")?, memory(c"hull:said")?);
    file::write(given.0, input.as_bytes())
        .and_then(|_| file::rewind(given.0))
        .on("write", format!("rules for {name}"))?;
    let mut arrays = Arrays::with_room(args.len() + 1);
    match process::clone(0, None).on("start", program.display())? {
        Cloned::Child => {
            let entered = process::setns(namespace.0.0, libc::CLONE_NEWNET as u64)
                .and_then(|()| file::dup_to(given.0, 0));
            let errno = match entered
                .and_then(|()| file::dup_to(said.0, 1))
                .and_then(|()| file::dup_to(said.0, 2))
            {
                Ok(()) => {
                    process::unblock_signals();
                    arrays.execveat(
                        libc::AT_FDCWD,
                        &path,
                        std::iter::once(own.as_c_str()).chain(args.iter().copied()),
                        [],
                        0,
                    )
                }
                Err(errno) => errno,
            };
            process::exit(errno as i32)
        }
        Cloned::Parent { pidfd, .. } => {
            let ended = process::wait(Fd(pidfd).0, false).on("wait for", name)?;
            let mut text = String::new();
            file::rewind(said.0).on("read from", name)?;
            let _ = std::fs::File::from(crate::sys::socket::owned(said.keep()))
                .read_to_string(&mut text);
            match ended {
                Some(process::Ended::Exited(0)) => Ok(text),
                _ => Err(Error::new(format!(
                    "{name} in the container's network namespace: {}",
                    text.trim()
                ))),
            }
        }
    }
}
