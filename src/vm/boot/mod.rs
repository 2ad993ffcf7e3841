//! What a VM boots from: kernel, initramfs, root image, disks.

pub mod disk;
pub mod image;
pub mod initramfs;
pub mod kernel;
pub mod vmlinux;
