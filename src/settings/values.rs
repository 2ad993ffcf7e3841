//! Values that both the settings file and the command line give: the VM engine, the source of the
//! guest's root filesystem, and memory sizes.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the guest's instructions are executed (`--vm-engine`, `engine` in the settings file).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// QEMU with KVM if `/dev/kvm` can run an unmodified kernel, otherwise QEMU's emulation (TCG).
    #[default]
    Auto,
    /// QEMU with KVM; an error if `/dev/kvm` cannot run an unmodified kernel.
    Kvm,
    /// QEMU's emulation (TCG).
    Qemu,
}

/// Where a guest's root filesystem comes from (`--vm-rootfs`, `rootfs` in the settings file, or
/// the config's `vm.image`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootFrom {
    /// The bundle's root directory, shared by virtio-fs: changes reach the bundle.
    #[default]
    Share,
    /// A read-only EROFS image that hull makes from the bundle's root directory.
    Image,
    /// An image file that the config names (`vm.image`).
    File {
        /// Path of the image on the host.
        path: PathBuf,
        /// QEMU's name of the image's format, such as `raw` or `vpc`.
        format: String,
    },
}

/// Parses the size of a guest's memory, such as `512m` ([`crate::spec::size::parse`]). The result
/// is in bytes.
///
/// # Errors
/// The text is not a size, or the size is below 64 MiB, which a guest's kernel needs.
pub fn memory_size(text: &str) -> Result<u64> {
    let bytes = crate::spec::size::parse(text)?;
    if bytes < 64 << 20 {
        Err(Error::new("a guest needs 64m at least"))
    } else {
        Ok(bytes)
    }
}
