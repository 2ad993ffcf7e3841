//! Id maps: written by hull, or by newuidmap and newgidmap; and user namespaces made only to map a
//! mount.

use crate::spec::config::IdMapping;
use crate::step::host::{IdMap, MapWriter};
use crate::sys::fd::{Fd, c_string, socket_pair};
use crate::sys::process::{self, Cloned};
use crate::sys::{file, namespace, socket};
use crate::{Context, Error, Result};
use std::fmt::Write as _;
use std::process::Command;

fn lines(mappings: &[IdMapping]) -> String {
    mappings.iter().fold(
        String::new(),
        |mut text,
         IdMapping {
             container_id,
             host_id,
             size,
         }| {
            let _ = writeln!(text, "{container_id} {host_id} {size}");
            text
        },
    )
}

/// Writes a file in one write(2), as the kernel asks of its maps.
pub(crate) fn write_file(path: &str, text: &str) -> Result<()> {
    let held = file::openat(libc::AT_FDCWD, &c_string(path)?, libc::O_WRONLY, 0)
        .map(Fd)
        .on("open", path)?;
    file::write(held.0, text.as_bytes())
        .on("write", path)
        .map(drop)
}

/// Writes one map of a process's user namespace (user_namespaces(7)).
///
/// # Errors
/// The kernel's, or what the helper printed.
pub fn write(
    pid: i32,
    uid: bool,
    mappings: &[IdMapping],
    writer: &MapWriter,
    deny_setgroups: bool,
) -> Result<()> {
    let name = if uid { "uid_map" } else { "gid_map" };
    match writer {
        MapWriter::Direct => {
            if deny_setgroups {
                write_file(&format!("/proc/{pid}/setgroups"), "deny")?;
            }
            write_file(&format!("/proc/{pid}/{name}"), &lines(mappings))
        }
        MapWriter::Helper(program) => {
            let numbers = mappings
                .iter()
                .flat_map(|m| [m.container_id, m.host_id, m.size])
                .map(|n| n.to_string());
            let output = Command::new(program)
                .arg(pid.to_string())
                .args(numbers)
                .output()
                .on("run", program.display())?;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Error::new(format!(
                "{} for {name}: {}",
                program.display(),
                said.trim()
            )))
        }
    }
}

/// Makes a user namespace with the ids of a mapped mount and answers its descriptor; the process
/// that held it is gone afterwards.
///
/// # Errors
/// The kernel's.
pub fn user_namespace(map: &IdMap) -> Result<Fd> {
    let (ours, theirs) = socket_pair()?;
    match process::clone(libc::CLONE_NEWUSER as u64, None)
        .on("make", "a user namespace for an id-mapped mount")?
    {
        Cloned::Child => {
            file::close(ours.0);
            let mut byte = [0_u8; 1];
            let _ = socket::recv(theirs.0, &mut byte);
            process::exit(0)
        }
        Cloned::Parent { pid, pidfd } => {
            let pidfd = Fd(pidfd);
            drop(theirs);
            let made = write(pid, true, &map.uid, &MapWriter::Direct, false)
                .and_then(|()| write(pid, false, &map.gid, &MapWriter::Direct, false))
                .and_then(|()| namespace::open(format!("/proc/{pid}/ns/user")));
            drop(ours);
            process::wait(pidfd.0, false).on("wait for", "the id map's process")?;
            made
        }
    }
}
