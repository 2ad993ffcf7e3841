//! Takes back what hull made of the network for a container.

use super::netlink::Namespace;
use super::record::{self, PIN, is_pinned};
use super::{attach, device, rootless};
use crate::sys::fd::c_path;
use crate::sys::mount;
use crate::{Error, Result};
use nix::errno::Errno;
use std::path::Path;

/// Removes the links of a container whose processes are gone, while its network namespace is held
/// open.
///
/// # Errors
/// The kernel's.
pub fn unplug(directory: &Path) -> Result<()> {
    let trace = record::read(directory)?;
    match (&trace.networks, directory.file_name()) {
        (Some(networks), Some(id)) if trace.carrier.is_none() => {
            attach::unplug(networks, &trace.attached, &id.to_string_lossy())
        }
        _ => Ok(()),
    }
}

/// Takes back everything that was made of the network for a container whose processes are gone.
/// What fails is collected, and it goes on.
///
/// # Errors
/// All that failed, in one sentence.
pub fn release(directory: &Path) -> Result<()> {
    let trace = record::read(directory)?;
    let path = directory.join(PIN);
    let mut failed = Vec::new();
    if is_pinned(&path) {
        match Namespace::at(&path.to_string_lossy()) {
            Ok(pinned) => failed.extend(
                trace
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
    if let Some(carrier) = &trace.carrier {
        failed.extend(rootless::end(carrier, directory).err());
    }
    if let (Some(networks), Some(id)) = (&trace.networks, directory.file_name()) {
        failed.extend(attach::detach(networks, &trace.attached, &id.to_string_lossy()).err());
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
