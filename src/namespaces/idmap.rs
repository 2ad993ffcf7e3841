//! Writes id maps, by hull or by newuidmap(1) and newgidmap(1), and makes the user namespaces of
//! id-mapped mounts.

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

/// Writes a file with one write(2), which the kernel requires for id maps (user_namespaces(7)).
pub(crate) fn write_file(path: &str, text: &str) -> Result<()> {
    let held = file::openat(libc::AT_FDCWD, &c_string(path)?, libc::O_WRONLY, 0)
        .map(Fd)
        .on("open", path)?;
    file::write(held.0, text.as_bytes())
        .on("write", path)
        .map(drop)
}

/// Writes one id map of a process's user namespace (user_namespaces(7)): `uid_map` if `uid`,
/// `gid_map` otherwise.
///
/// # Errors
/// Opening or writing the map fails (EPERM: the user may not map these ids); the helper cannot be
/// run or fails, with the text that it printed.
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
            let message = String::from_utf8_lossy(&output.stderr);
            Err(Error::new(format!(
                "{} for {name}: {}",
                program.display(),
                message.trim()
            )))
        }
    }
}

/// Makes a user namespace with the id map of an id-mapped mount, and returns its descriptor. The
/// process that it was made with has exited by then.
///
/// # Errors
/// clone3(2) fails; a map cannot be written ([`write`]); opening `/proc/PID/ns/user` fails.
pub fn user_namespace(map: &IdMap) -> Result<Fd> {
    let (parent_end, child_end) = socket_pair()?;
    match process::clone(libc::CLONE_NEWUSER as u64, None)
        .on("make", "a user namespace for an id-mapped mount")?
    {
        Cloned::Child => {
            file::close(parent_end.0);
            let mut byte = [0_u8; 1];
            let _ = socket::recv(child_end.0, &mut byte);
            process::exit(0)
        }
        Cloned::Parent { pid, pidfd } => {
            let pidfd = Fd(pidfd);
            drop(child_end);
            let made = write(pid, true, &map.uid, &MapWriter::Direct, false)
                .and_then(|()| write(pid, false, &map.gid, &MapWriter::Direct, false))
                .and_then(|()| namespace::open(format!("/proc/{pid}/ns/user")));
            drop(parent_end);
            process::wait(pidfd.0, false).on("wait for", "the id map's process")?;
            made
        }
    }
}
