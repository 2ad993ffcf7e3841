//! What a VM boots from: the kernel, the initramfs, the image of the root filesystem, and disks.

pub(crate) mod disk;
pub(crate) mod image;
pub(crate) mod initramfs;
pub(crate) mod kernel;
pub(crate) mod vmlinux;
