//! Values that the command line and the defaults' file may both give for a VM.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who runs the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// KVM where it can run a kernel, else emulation.
    #[default]
    Auto,
    /// QEMU with KVM.
    Kvm,
    /// QEMU without.
    Qemu,
}

/// A size of a guest's memory in bytes, such as `512m` ([`crate::spec::size::parse`]).
///
/// # Errors
/// It is not a size, or is less than a guest can run with (64 MiB).
pub fn memory_size(text: &str) -> Result<u64> {
    let bytes = crate::spec::size::parse(text)?;
    if bytes < 64 << 20 {
        Err(Error::new("a guest needs 64m at least"))
    } else {
        Ok(bytes)
    }
}

/// Where a guest's root file system comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootFrom {
    /// The bundle's directory, by virtio-fs.
    #[default]
    Share,
    /// A read-only image that is made of the bundle's directory.
    Image,
    /// An image that the config names.
    File {
        /// The file.
        path: PathBuf,
        /// QEMU's name of its format.
        format: String,
    },
}
