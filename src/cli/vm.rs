//! Flags of the VM backend.

use crate::settings::values::{Engine, RootFrom, memory_size};
use crate::settings::vm::VmOptions;
use clap::ValueEnum;
use std::path::PathBuf;

/// Flags of the VM backend, for `create`, `run` and `plan`.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "VM options")]
pub struct VmArgs {
    /// Run the container in a virtual machine
    #[arg(long)]
    vm: bool,
    /// Kernel of the guest, with its modules beside it [default: the host's]
    #[arg(long, value_name = "FILE")]
    vm_kernel: Option<PathBuf>,
    /// The hypervisor [default: auto]
    #[arg(long, value_name = "ENGINE")]
    vm_engine: Option<WhichEngine>,
    /// Memory of the guest, such as 512m [default: the memory limit plus 128 MiB, or 512 MiB]
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    vm_memory: Option<u64>,
    /// Memory that update --memory can give to the guest at most [default: --vm-memory]
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    vm_memory_max: Option<u64>,
    /// CPUs of the guest [default: as many as the CPU quota can use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    vm_cpus: Option<u32>,
    /// Where the root filesystem of the guest comes from [default: share]
    #[arg(long, value_name = "FROM")]
    vm_rootfs: Option<WhichRoot>,
}

#[derive(Clone, Copy, ValueEnum)]
enum WhichRoot {
    /// The bundle's directory, by virtio-fs; the container's changes are made in it
    Share,
    /// A read-only image of that directory; changes stay in the guest's memory and are lost
    Image,
}

#[derive(Clone, Copy, ValueEnum)]
enum WhichEngine {
    /// QEMU with KVM
    Kvm,
    /// QEMU without KVM
    Qemu,
    /// QEMU with KVM where that can run a kernel, and otherwise without
    Auto,
}

impl VmArgs {
    /// The options as the library takes them.
    pub fn options(&self) -> VmOptions {
        let engine = self.vm_engine.map(|engine| match engine {
            WhichEngine::Kvm => Engine::Kvm,
            WhichEngine::Qemu => Engine::Qemu,
            WhichEngine::Auto => Engine::Auto,
        });
        let rootfs = self.vm_rootfs.map(|from| match from {
            WhichRoot::Share => RootFrom::Share,
            WhichRoot::Image => RootFrom::Image,
        });
        let (memory, memory_max, cpus) = (self.vm_memory, self.vm_memory_max, self.vm_cpus);
        VmOptions {
            enabled: self.vm,
            by_program_name: crate::settings::vm::started_by_name(),
            kernel: self.vm_kernel.clone(),
            engine,
            memory,
            memory_max,
            cpus,
            rootfs,
            ..VmOptions::default()
        }
    }
}
