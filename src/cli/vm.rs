//! VmOptions of the VM backend.

use crate::settings::values::{Engine, RootFrom};
use crate::settings::vm::VmOptions;
use clap::ValueEnum;
use std::path::PathBuf;

/// VmOptions of the VM backend, that `create` and `run` share.
#[derive(clap::Args, Clone)]
pub struct Machine {
    /// Run in a virtual machine of its own
    #[arg(long, help_heading = "Virtual machine")]
    vm: bool,
    /// The guest's kernel, with its modules beside it [default: the host's]
    #[arg(long, value_name = "FILE", help_heading = "Virtual machine")]
    vm_kernel: Option<PathBuf>,
    /// Who runs the guest [default: auto]
    #[arg(long, value_name = "ENGINE", help_heading = "Virtual machine")]
    vm_engine: Option<WhichEngine>,
    /// The guest's memory, such as 512m [default: the memory limit and 128 MiB, or 512 MiB]
    #[arg(long, value_name = "SIZE", value_parser = crate::settings::values::memory_size, help_heading = "Virtual machine")]
    vm_memory: Option<u64>,
    /// The memory that `update --memory` can let the guest grow to [default: what it boots with]
    #[arg(long, value_name = "SIZE", value_parser = crate::settings::values::memory_size, help_heading = "Virtual machine")]
    vm_memory_max: Option<u64>,
    /// The guest's processors [default: what the CPU quota can use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255), help_heading = "Virtual machine")]
    vm_cpus: Option<u32>,
    /// Where the guest has its root file system from [default: share]
    #[arg(long, value_name = "FROM", help_heading = "Virtual machine")]
    vm_rootfs: Option<WhichRoot>,
}

#[derive(Clone, Copy, ValueEnum)]
enum WhichRoot {
    /// The bundle's directory, shared: changes reach it
    Share,
    /// A read-only image of it, made once: changes are in the guest's memory and thrown away
    Image,
}

#[derive(Clone, Copy, ValueEnum)]
enum WhichEngine {
    /// QEMU with KVM
    Kvm,
    /// QEMU without KVM
    Qemu,
    /// KVM where it can run a kernel
    Auto,
}

impl Machine {
    /// What was asked.
    pub fn asked(&self) -> VmOptions {
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
            on: self.vm,
            named: crate::settings::vm::is_named(),
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
