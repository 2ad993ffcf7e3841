//! What the monitor needs to boot the VM and to create the container in it.

use crate::compile::CreateOptions;
use crate::settings::vm::VmOptions;
use crate::spec::Spec;
use crate::step::container::slot;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::vm::boot::disk::{Disk, OpenDisk};
use crate::vm::boot::kernel::Kernel;
use crate::vm::channel::message::{DISKS, Node};
use crate::vm::plan::FIRST_CGROUP;
use crate::vm::rootless::IdMaps;
use crate::vm::translate::{Network, Share};
use crate::vm::vmm::Accelerator;
use std::path::PathBuf;
use std::time::Duration;

/// Filesystems whose module the guest loads if a mount of a disk names them.
const DISK_FILESYSTEMS: [&str; 4] = ["ext4", "erofs", "squashfs", "xfs"];

/// The configuration of a monitor.
pub(crate) struct MonitorConfig {
    /// The container's id.
    pub id: String,
    /// The container's directory.
    pub directory: PathBuf,
    /// The store, which caches compiled seccomp filters.
    pub store: Store,
    /// The guest's config.
    pub spec: Spec,
    /// The options of `create` that apply in the guest.
    pub create: CreateOptions,
    /// The options of the VM.
    pub options: VmOptions,
    /// How the guest's instructions are executed.
    pub accelerator: Accelerator,
    /// The guest's kernel.
    pub kernel: Kernel,
    /// Path of the initramfs.
    pub initramfs: PathBuf,
    /// Memory at boot, in bytes.
    pub memory: u64,
    /// The size up to which the memory may grow, in bytes, if that is more.
    pub memory_max: Option<u64>,
    /// How much of the hot-pluggable memory is plugged in from the beginning, in bytes.
    pub plugged: u64,
    /// Number of virtual CPUs.
    pub cpus: u32,
    /// The files and directories of the host that the guest has.
    pub shares: Vec<Share>,
    /// The disks.
    pub disks: Vec<Disk>,
    /// The disks' open files; taken when QEMU starts.
    pub open_disks: Vec<OpenDisk>,
    /// Device nodes in the guest's initial root, from which the container's are bound.
    pub nodes: Vec<Node>,
    /// A line for the guest's `binfmt_misc/register`.
    pub interpreter: Option<String>,
    /// The network namespace that the monitor enters or makes.
    pub network: Network,
    /// The start fifo: `hull start` writes one byte. From [`MonitorConfig::with_slots`].
    pub start: Fd,
    /// The id maps of the monitor's user namespace, if hull's user is not root.
    pub id_maps: Option<IdMaps>,
    /// The `tasks` files of the cgroup v1 directories that the monitor joins. From
    /// [`MonitorConfig::with_slots`].
    pub tasks: Vec<Fd>,
    /// The console socket, which gets the terminal's master. From [`MonitorConfig::with_slots`].
    pub console: Option<Fd>,
    /// How long the guest may take until the container is created.
    pub timeout: Duration,
}

impl MonitorConfig {
    /// The descriptors that the monitor keeps of those of the process that clones it; `parent` is
    /// its socket to that process.
    pub fn descriptors(&self, parent: i32) -> Vec<i32> {
        let disks = self.open_disks.iter().map(|disk| &disk.fd);
        [parent, self.start.0]
            .into_iter()
            .chain(
                self.tasks
                    .iter()
                    .chain(&self.console)
                    .chain(disks)
                    .map(|fd| fd.0),
            )
            .collect()
    }

    /// Takes the descriptors of the slots that the host steps have filled, in the monitor's
    /// process.
    pub fn with_slots(mut self, slots: &[i32]) -> Self {
        let at = |number: u32| slots.get(number as usize).copied().unwrap_or(-1);
        self.start = Fd(at(slot::START));
        self.console = Some(at(slot::CONSOLE)).filter(|fd| *fd >= 0).map(Fd);
        self.tasks = (FIRST_CGROUP..slots.len() as u32)
            .map(|slot| Fd(at(slot)))
            .collect();
        self
    }

    /// The modules that the guest's kernel needs in addition to those of the channel and the
    /// share; `interfaces` says whether it has network interfaces.
    pub fn modules(&self, interfaces: bool) -> Vec<String> {
        let mut modules = Vec::new();
        if interfaces {
            modules.push("virtio_net");
        }
        if self.memory_max.is_some() {
            modules.push("virtio_mem");
        }
        if !self.disks.is_empty() {
            modules.push("virtio_blk");
        }
        if self.interpreter.is_some() {
            modules.push("binfmt_misc");
        }
        let on_disks = self.spec.config().mounts.iter().filter(|mount| {
            mount
                .source
                .as_deref()
                .is_some_and(|source| source.starts_with(DISKS))
        });
        modules.extend(DISK_FILESYSTEMS.iter().filter(|filesystem| {
            on_disks
                .clone()
                .any(|mount| mount.typ.as_deref() == Some(**filesystem))
        }));
        if self.create.layers.is_some() {
            modules.push("overlay");
        }
        modules.into_iter().map(str::to_owned).collect()
    }
}
