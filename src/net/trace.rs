//! What was made of the network for one container, in its directory, written before it is made.

use super::address::Prefix;
use super::attach;
use super::device;
use super::netlink::Namespace;
use super::network::Networks;
use super::rootless::{self, Carrier};
use super::setup::Setup;
use crate::sys::fd::c_path;
use crate::sys::mount;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A device of the host that was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Its name on the host.
    pub host: String,
    /// Its name in the container.
    pub name: String,
    /// What it is made of, such as `veth`; empty for a card.
    pub kind: String,
    /// It was up.
    pub up: bool,
    /// The addresses it had.
    pub addresses: Vec<Prefix>,
}

/// All that must be taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trace {
    /// Devices of the host in the container.
    pub devices: Vec<Moved>,
    /// The directory of the networks that it is on.
    pub networks: Option<Networks>,
    /// Carries an ordinary user's packets.
    pub carrier: Option<Carrier>,
    /// Their names.
    pub attached: Vec<String>,
    /// All that it was given, for whoever saves it.
    pub setup: Option<Setup>,
}

const FILE: &str = "network.json";
const PIN: &str = "netns";

/// Reads a container's trace; an empty one where there is none.
///
/// # Errors
/// It cannot be read.
pub fn read(directory: &Path) -> Result<Trace> {
    let path = directory.join(FILE);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Trace::default()),
        Err(error) => Err(Error::io("read", path.display(), &error)),
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| Error::new(format!("read {}: {error}", path.display()))),
    }
}

/// Changes a container's trace; replaced by rename.
///
/// # Errors
/// A full disk, and the like.
pub fn change(directory: &Path, edit: impl FnOnce(&mut Trace)) -> Result<()> {
    let mut trace = read(directory)?;
    edit(&mut trace);
    let (path, temporary) = (directory.join(FILE), directory.join("network.json.new"));
    let text = serde_json::to_vec(&trace)
        .map_err(|error| Error::new(format!("write {}: {error}", path.display())))?;
    std::fs::write(&temporary, text).on("write", temporary.display())?;
    std::fs::rename(&temporary, &path).on("replace", path.display())
}

/// Keeps a network namespace alive beyond its processes: bound on a file of the container's directory.
///
/// # Errors
/// The kernel's.
pub fn pin(directory: &Path, namespace: &Namespace) -> Result<()> {
    let path = directory.join(PIN);
    if is_pinned(&path) {
        return Ok(());
    }
    std::fs::write(&path, b"").on("make", path.display())?;
    let source = c_path(Path::new(&format!("/proc/self/fd/{}", namespace.0.0)))?;
    mount::mount(&source, &c_path(&path)?, c"", libc::MS_BIND, c"")
        .on("pin the network namespace on", path.display())
}

/// An nsfs file has a link count of one and a device of its own: another than its directory's.
fn is_pinned(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|data| data.dev()).ok();
    device(path).is_some() && device(path) != path.parent().and_then(device)
}

/// Removes the links of a container whose processes are gone, while its network namespace is held
/// open.
///
/// # Errors
/// The kernel's.
pub fn unplug(directory: &Path) -> Result<()> {
    let trace = read(directory)?;
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
    let trace = read(directory)?;
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
