//! The VMM (virtual machine monitor), which runs the guest: QEMU, with KVM or with its own
//! emulation (TCG).

pub(crate) mod command_line;
pub(crate) mod probe;
pub(crate) mod qemu;
pub(crate) mod qmp;

use crate::sys::fd::Fd;
use crate::vm::boot::disk::OpenDisk;
use crate::vm::boot::kernel::Kernel;
use crate::vm::rootless::IdMaps;
use std::path::Path;

/// How the guest's instructions are executed (QEMU's `-accel`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// By the host's CPU, in hardware virtualization.
    Kvm,
    /// By translation in QEMU (Tiny Code Generator).
    Tcg,
}

impl Accelerator {
    /// The name in the container's record, which is QEMU's.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// The tap device behind a network interface of the VM.
pub(crate) struct Tap {
    /// The open tap device.
    pub fd: Fd,
    /// The MAC address of the guest's interface, as text.
    pub mac: String,
}

/// Memory that can be plugged in while the VM runs (virtio-mem), in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Hotplug {
    /// The most that can be plugged in.
    pub size: u64,
    /// How much is plugged in from the beginning.
    pub plugged: u64,
}

/// The VM that a VMM is to run.
pub(crate) struct VmConfig<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The container's directory, below which the VMM's root filesystem is made.
    pub directory: &'a Path,
    /// The VMM's program, if the settings or the config name one.
    pub program: Option<&'a Path>,
    /// How the guest's instructions are executed.
    pub accelerator: Accelerator,
    /// The guest's kernel.
    pub kernel: &'a Kernel,
    /// Path of the initramfs on the host.
    pub initramfs: &'a Path,
    /// Parameters appended to the kernel's command line.
    pub kernel_parameters: &'a [String],
    /// Memory at boot, in bytes.
    pub memory: u64,
    /// Hot-pluggable memory.
    pub hotplug: Option<Hotplug>,
    /// Number of virtual CPUs.
    pub cpus: u32,
    /// The vhost-user socket of the share server.
    pub share: Option<Fd>,
    /// The network interfaces.
    pub taps: Vec<Tap>,
    /// The id maps of the user namespace that the VMM runs in, if hull's user is not root.
    pub id_maps: Option<&'a IdMaps>,
    /// The disks.
    pub disks: Vec<OpenDisk>,
}
