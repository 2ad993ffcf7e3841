//! Removes what hull made of the network for a container.

use super::netlink::Namespace;
use super::record::{self, PIN, is_pinned};
use super::{attach, device, rootless};
use crate::sys::fd::c_path;
use crate::sys::mount;
use crate::{Error, Result};
use nix::errno::Errno;
use std::path::Path;

/// Removes the links of a container whose processes have ended, while something keeps its network
/// namespace alive.
///
/// # Errors
/// As of [`record::read`] and [`attach::unplug`].
pub fn unplug(directory: &Path) -> Result<()> {
    let record = record::read(directory)?;
    match (&record.networks, directory.file_name()) {
        (Some(networks), Some(id)) if record.rootless.is_none() => {
            attach::unplug(networks, &record.attached, &id.to_string_lossy())
        }
        _ => Ok(()),
    }
}

/// Removes everything that hull made of the network for a container whose processes have ended, and
/// gives moved devices back to the host. It goes on after an error.
///
/// # Errors
/// All errors, in one message.
pub fn release(directory: &Path) -> Result<()> {
    let record = record::read(directory)?;
    let path = directory.join(PIN);
    let mut failed = Vec::new();
    if is_pinned(&path) {
        match Namespace::at(&path.to_string_lossy()) {
            Ok(pinned) => failed.extend(
                record
                    .devices
                    .iter()
                    .filter_map(|moved| device::give_back(moved, &pinned).err()),
            ),
            Err(error) => failed.push(error),
        }
        match mount::umount(&c_path(&path)?, libc::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => failed.push(Error::sys(
                "release the network namespace on",
                path.display(),
                errno,
            )),
        }
    }
    if let Some(program) = &record.rootless {
        failed.extend(rootless::stop(program, directory).err());
    }
    if let (Some(networks), Some(id)) = (&record.networks, directory.file_name()) {
        failed.extend(attach::detach(networks, &record.attached, &id.to_string_lossy()).err());
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::new(
            failed
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; "),
        )),
    }
}
