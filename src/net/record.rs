//! What hull makes of the network for one container: a file in the container's directory, written
//! before hull makes anything, so that `delete` can remove what a killed hull left.

use super::netlink::Namespace;
use super::rootless;
use super::setup::Setup;
use super::store::NetworkStore;
use crate::sys::fd::c_path;
use crate::sys::mount;
use crate::sys::replace::{Lasting, replace};
use crate::{Context, Error, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A network device of the host that was moved into the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedDevice {
    /// The name on the host.
    pub host: String,
    /// The name in the container.
    pub name: String,
    /// The kind (IFLA_INFO_KIND), such as `veth`; empty for a physical device.
    pub kind: String,
    /// Whether the device was up.
    pub up: bool,
    /// The permanent global addresses that the device had.
    pub addresses: Vec<IpNet>,
}

/// What [`super::release::release`] must remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRecord {
    /// Devices of the host that were moved into the container.
    pub devices: Vec<MovedDevice>,
    /// The store of the networks that the container is attached to.
    pub networks: Option<NetworkStore>,
    /// The program that forwards the packets of an unprivileged user's container.
    #[serde(rename = "carrier")]
    pub rootless: Option<rootless::Program>,
    /// The names of the networks that the container is attached to.
    pub attached: Vec<String>,
    /// The whole network setup, for a checkpoint.
    pub setup: Option<Setup>,
}

const FILE: &str = "network.json";
/// The name of the file that the network namespace is bound on.
pub const PIN: &str = "netns";

/// Reads a container's network record; an empty one where there is none.
///
/// # Errors
/// The file cannot be read or parsed.
pub fn read(directory: &Path) -> Result<NetworkRecord> {
    let path = directory.join(FILE);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(NetworkRecord::default()),
        Err(error) => Err(Error::io("read", path.display(), &error)),
        Ok(text) => serde_json::from_slice(&text).on("read", path.display()),
    }
}

/// Changes a container's network record: reads it, edits it and replaces the file by rename.
///
/// # Errors
/// As of [`read`]; the file cannot be written or renamed.
pub fn change(directory: &Path, edit: impl FnOnce(&mut NetworkRecord)) -> Result<()> {
    let mut record = read(directory)?;
    edit(&mut record);
    let path = directory.join(FILE);
    let text = serde_json::to_vec(&record).on("write", path.display())?;
    replace(&path, &text, 0o666, Lasting::Process)
}

/// Keeps a network namespace alive after its last process, by a bind mount on a file of the
/// container's directory.
///
/// # Errors
/// The file cannot be made; mount(2) with MS_BIND fails.
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

/// Whether a namespace is bound on the file: it then has the device number of nsfs, which differs
/// from that of its directory.
pub fn is_pinned(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|data| data.dev()).ok();
    device(path).is_some() && device(path) != path.parent().and_then(device)
}
