//! The disks of a VM: block devices of the host, and the image of a root filesystem. hull opens
//! them and passes QEMU the descriptors, so that QEMU has no files of the host in its root. The
//! guest identifies each disk by its serial number.

use crate::sys::fd::Fd;
use crate::sys::file;
use crate::vm::channel::message::Disk as Purpose;
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// The path on the host, of a block device or an image.
    pub path: PathBuf,
    /// The device number (`st_rdev`), or 0 for an image.
    pub device: u64,
    /// The VM cannot write to the disk.
    pub read_only: bool,
    /// QEMU's name of the format, such as `raw`.
    pub format: String,
    /// What the guest uses the disk for.
    pub purpose: Purpose,
}

/// A disk whose file hull has opened.
pub(crate) struct OpenDisk {
    /// The open file.
    pub fd: Fd,
    /// The disk.
    pub disk: Disk,
}

impl Disk {
    /// Opens the disk's file, read-only if the disk is.
    ///
    /// # Errors
    /// open(2) fails; the path is no longer the block device or image that it was when the config
    /// was translated.
    pub(crate) fn open(&self) -> Result<OpenDisk> {
        let flags = if self.read_only {
            libc::O_RDONLY
        } else {
            libc::O_RDWR
        };
        let name = crate::sys::fd::c_path(&self.path)?;
        let fd = file::openat(libc::AT_FDCWD, &name, flags, 0)
            .map(Fd)
            .on("open disk", self.path.display())?;
        let stat = file::fstat(fd.0).on("stat disk", self.path.display())?;
        let device = if stat.st_mode & libc::S_IFMT == libc::S_IFBLK {
            stat.st_rdev
        } else {
            0
        };
        if device != self.device {
            return Err(Error::new(format!(
                "disk {}: another file has taken its place",
                self.path.display()
            )));
        }
        Ok(OpenDisk {
            fd,
            disk: self.clone(),
        })
    }
}

/// The serial number of the disk with this index, by which the guest finds it
/// (`/sys/block/*/serial`).
pub(crate) fn serial(index: usize) -> String {
    format!("hull{index}")
}
