//! hull drops incoming packets during restore, so that the kernel sends no RST: it does not know
//! the open connections before CRIU has restored them. CRIU drops packets only in network
//! namespaces that it creates itself.

use crate::net::netlink::Namespace;
use crate::sys::fd::{Fd, c_path, c_string};
use crate::sys::file;
use crate::sys::process::{self, Arrays, Cloned};
use crate::sys::search::in_path_or_sbin;
use crate::{Context, Error, Result};
use std::ffi::CStr;
use std::io::Read;

const DROP_RULES: &str = "\
table inet hull-restore {
 chain input {
  type filter hook input priority -400; policy drop;
 }
}
";
const REMOVE_RULES: &str = "delete table inet hull-restore\n";

/// Drops all packets that come into a network namespace.
///
/// # Errors
/// nft is not installed, or fails.
pub fn drop_incoming(namespace: &Namespace) -> Result<()> {
    nft(namespace, DROP_RULES)
}

/// Accepts packets again.
///
/// # Errors
/// nft fails.
pub fn accept_incoming(namespace: &Namespace) -> Result<()> {
    nft(namespace, REMOVE_RULES)
}

fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    run_in_namespace(namespace, "nft", &[c"-f", c"-"], rules).map(drop)
}

/// Runs a program of the host in a network namespace, which hull itself does not join, with `input`
/// as its stdin. Returns its output.
///
/// # Errors
/// The program is not installed, or its exit status is not 0.
pub fn run_in_namespace(
    namespace: &Namespace,
    name: &str,
    args: &[&CStr],
    input: &str,
) -> Result<String> {
    let program = in_path_or_sbin(name)
        .ok_or_else(|| Error::new(format!("{name} is not installed: networks need it")))?;
    let (path, arg0) = (c_path(&program)?, c_string(name)?);
    let memory = |what| {
        file::memfd(what, 0)
            .map(Fd)
            .on("make", format!("a memory file for {name}"))
    };
    let (stdin, output) = (memory(c"hull:rules")?, memory(c"hull:output")?);
    file::write(stdin.0, input.as_bytes())
        .and_then(|_| file::rewind(stdin.0))
        .on("write", format!("rules for {name}"))?;
    let mut arrays = Arrays::with_room(args.len() + 1);
    match process::clone(0, None).on("start", program.display())? {
        Cloned::Child => {
            let entered = process::setns(namespace.0.0, libc::CLONE_NEWNET as u64)
                .and_then(|()| file::dup_to(stdin.0, 0));
            let errno = match entered
                .and_then(|()| file::dup_to(output.0, 1))
                .and_then(|()| file::dup_to(output.0, 2))
            {
                Ok(()) => {
                    process::unblock_signals();
                    arrays.execveat(
                        libc::AT_FDCWD,
                        &path,
                        std::iter::once(arg0.as_c_str()).chain(args.iter().copied()),
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
            file::rewind(output.0).on("read from", name)?;
            let _ = std::fs::File::from(crate::sys::socket::owned(output.keep()))
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
