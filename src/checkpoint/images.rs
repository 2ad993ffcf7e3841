//! The folder of images: made for root alone, its `descriptors.json`, and when it counts as saved.

use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What the container's stdin, stdout and stderr were, as runc has it: a JSON array of three names of `/proc/PID/fd`.
pub const DESCRIPTORS: &str = "descriptors.json";

/// criu's list of everything in a folder of images: without it nothing was saved.
pub const INVENTORY: &str = "inventory.img";

/// Makes a folder that only its owner enters, unless it is there.
///
/// # Errors
/// It cannot be made, or something else has its name.
pub fn make_folder(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.on("make", path.display()),
    }
}

/// Writes a file for its owner alone.
///
/// # Errors
/// A full disk, and the like.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).on("make", path.display())?;
    file.write_all(bytes).on("write", path.display())
}

/// Brings every image, and the folder's own list of them, to the disk. What memory holds says is nobody else's business: 0600.
///
/// # Errors
/// The disk is full or broken: the checkpoint must not count.
pub fn settle(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).on("read", folder.display())? {
        let entry = entry.on("read", folder.display())?;
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let file = File::open(entry.path()).on("open", entry.path().display())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).on("chmod", entry.path().display())?;
        file.sync_all().on("save", entry.path().display())?;
    }
    File::open(folder).and_then(|folder| folder.sync_all()).on("save", folder.display())
}

/// The names of the former stdin, stdout and stderr.
///
/// # Errors
/// There is no such file: the folder holds no container's images.
pub fn descriptors(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join(DESCRIPTORS);
    let text = std::fs::read(&path).on("read", path.display())?;
    serde_json::from_slice(&text).map_err(|error| Error::new(format!("read {}: {error}", path.display())))
}

/// What hull keeps beside criu's images, in a file of its own that runc passes over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Beside {
    /// criu's key of a file of the host, and which of stdin, stdout and stderr it was.
    #[serde(default)]
    pub files: Vec<(String, i32)>,
}

/// Its name.
const BESIDE: &str = "hull.json";

impl Beside {
    /// Writes it among the images.
    ///
    /// # Errors
    /// A full disk, and the like.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|error| Error::new(format!("write {BESIDE}: {error}")))?;
        write_private(&folder.join(BESIDE), &text)
    }

    /// Reads it; images of another runtime have none.
    ///
    /// # Errors
    /// It is damaged.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(BESIDE);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io("read", path.display(), &error)),
            Ok(text) => serde_json::from_slice(&text).map_err(|error| Error::new(format!("read {}: {error}", path.display()))),
        }
    }
}
