//! What was made of the network for one container, in its directory, written before it is made.

use super::netlink::Namespace;
use super::rootless::Carrier;
use super::setup::Setup;
use super::store::NetworkStore;
use crate::sys::fd::c_path;
use crate::sys::mount;
use crate::sys::replace::{Lasting, replace};
use crate::{Context, Error, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A device of the host that was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedDevice {
    /// Its name on the host.
    pub host: String,
    /// Its name in the container.
    pub name: String,
    /// What it is made of, such as `veth`; empty for a card.
    pub kind: String,
    /// It was up.
    pub up: bool,
    /// The addresses it had.
    pub addresses: Vec<IpNet>,
}

/// All that must be taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRecord {
    /// Devices of the host in the container.
    pub devices: Vec<MovedDevice>,
    /// The directory of the networks that it is on.
    pub networks: Option<NetworkStore>,
    /// Carries an ordinary user's packets.
    pub carrier: Option<Carrier>,
    /// Their names.
    pub attached: Vec<String>,
    /// All that it was given, for whoever saves it.
    pub setup: Option<Setup>,
}

const FILE: &str = "network.json";
/// The file on which a network namespace is pinned.
pub const PIN: &str = "netns";

/// Reads a container's trace; an empty one where there is none.
///
/// # Errors
/// It cannot be read.
pub fn read(directory: &Path) -> Result<NetworkRecord> {
    let path = directory.join(FILE);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(NetworkRecord::default()),
        Err(error) => Err(Error::io("read", path.display(), &error)),
        Ok(text) => serde_json::from_slice(&text).on("read", path.display()),
    }
}

/// Changes a container's trace; replaced by rename.
///
/// # Errors
/// A full disk, and the like.
pub fn change(directory: &Path, edit: impl FnOnce(&mut NetworkRecord)) -> Result<()> {
    let mut trace = read(directory)?;
    edit(&mut trace);
    let path = directory.join(FILE);
    let text = serde_json::to_vec(&trace).on("write", path.display())?;
    replace(&path, &text, 0o666, Lasting::Process)
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
pub fn is_pinned(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|data| data.dev()).ok();
    device(path).is_some() && device(path) != path.parent().and_then(device)
}
