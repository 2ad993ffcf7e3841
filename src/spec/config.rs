//! `config.json` as it is written: every field of the runtime spec 1.3 for Linux and VMs.
//!
//! The fields are public so that the code that uses a struct can destructure it without `..`: a
//! field that no code handles does not compile. (The types of the crate `oci-spec` have private
//! fields and do not know all of 1.3; its enums are used here, and a test compares its serialised
//! types with these.)

use oci_spec::runtime::{
    Arch, IOPriorityClass, LinuxNamespaceType, LinuxPersonalityDomain, LinuxSchedulerPolicy,
    LinuxSeccompAction, LinuxSeccompOperator, MemoryPolicyFlagType, MemoryPolicyModeType,
};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Go writes an empty list as `null` as often as `[]`.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Declares structs with public fields: the JSON names are camelCase, and an absent or null field
/// is its type's default.
macro_rules! config {
    ($(
        $(#[$meta:meta])*
        $name:ident { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? }
    )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[allow(missing_docs)] // each field is the clause of the same name in the runtime spec
        pub struct $name {
            $( $(#[$fmeta])* #[serde(deserialize_with = "nullable")] pub $field: $ty ),*
        }
    )* };
}

config! {
    /// The whole document (config.md).
    Config {
        oci_version: String,
        root: Option<Root>,
        mounts: Vec<Mount>,
        process: Option<Process>,
        hostname: Option<String>,
        domainname: Option<String>,
        hooks: Option<Hooks>,
        annotations: BTreeMap<String, String>,
        linux: Option<Linux>,
        vm: Option<Vm>,
    }
    /// config.md, Root.
    Root { path: String, readonly: bool }
    /// config.md, Mounts.
    Mount {
        destination: String,
        #[serde(rename = "type")] typ: Option<String>,
        source: Option<String>,
        options: Vec<String>,
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
    }
    /// config.md, Process.
    Process {
        terminal: bool,
        console_size: Option<ConsoleSize>,
        user: User,
        args: Vec<String>,
        command_line: Option<String>,
        env: Vec<String>,
        cwd: String,
        capabilities: Option<Capabilities>,
        rlimits: Vec<Rlimit>,
        no_new_privileges: bool,
        apparmor_profile: Option<String>,
        oom_score_adj: Option<i32>,
        selinux_label: Option<String>,
        io_priority: Option<IoPriority>,
        scheduler: Option<Scheduler>,
        #[serde(rename = "execCPUAffinity")] exec_cpu_affinity: Option<CpuAffinity>,
    }
    /// config.md, `consoleSize`: in characters.
    ConsoleSize { height: u64, width: u64 }
    /// config.md, POSIX-platform User.
    User {
        uid: u32,
        gid: u32,
        umask: Option<u32>,
        additional_gids: Vec<u32>,
        username: Option<String>,
    }
    /// config.md, `capabilities`: the five sets by name. hull warns of unknown names and skips
    /// them.
    Capabilities {
        bounding: Vec<String>,
        effective: Vec<String>,
        inheritable: Vec<String>,
        permitted: Vec<String>,
        ambient: Vec<String>,
    }
    /// config.md, `rlimits`: one limit of setrlimit(2), in its own unit.
    Rlimit { #[serde(rename = "type")] typ: String, soft: u64, hard: u64 }
    /// config.md, `ioPriority`: the class, and the level from 0 (highest) to 7.
    IoPriority { class: Option<IOPriorityClass>, priority: i64 }
    /// config.md, `scheduler` (sched_setattr(2)); the times are in nanoseconds. The flags are text,
    /// because `oci-spec`'s enum spells two of them otherwise than the spec.
    Scheduler {
        policy: Option<LinuxSchedulerPolicy>,
        nice: Option<i32>,
        priority: Option<i32>,
        flags: Vec<String>,
        runtime: Option<u64>,
        deadline: Option<u64>,
        period: Option<u64>,
    }
    /// config.md, `execCPUAffinity`: CPU lists such as `0-3,7`, for before and after the process
    /// joins the container's cgroup.
    CpuAffinity { initial: Option<String>, #[serde(rename = "final")] last: Option<String> }
    /// config.md, POSIX-platform Hooks.
    Hooks {
        prestart: Vec<Hook>,
        create_runtime: Vec<Hook>,
        create_container: Vec<Hook>,
        start_container: Vec<Hook>,
        poststart: Vec<Hook>,
        poststop: Vec<Hook>,
    }
    /// One hook; `timeout` is in seconds.
    Hook { path: String, args: Vec<String>, env: Vec<String>, timeout: Option<i64> }
    /// config-linux.md.
    Linux {
        namespaces: Vec<Namespace>,
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
        time_offsets: BTreeMap<String, TimeOffset>,
        devices: Vec<Device>,
        net_devices: BTreeMap<String, NetDevice>,
        cgroups_path: Option<String>,
        resources: Option<Resources>,
        intel_rdt: Option<IntelRdt>,
        memory_policy: Option<MemoryPolicy>,
        sysctl: BTreeMap<String, String>,
        seccomp: Option<Seccomp>,
        rootfs_propagation: Option<String>,
        masked_paths: Vec<String>,
        readonly_paths: Vec<String>,
        mount_label: Option<String>,
        personality: Option<Personality>,
    }
    /// config-linux.md, Namespaces: one to make, or to join by `path`.
    Namespace { #[serde(rename = "type")] typ: Option<LinuxNamespaceType>, path: Option<String> }
    /// config-linux.md, User namespace mappings: a range of ids.
    IdMapping {
        #[serde(rename = "containerID")] container_id: u32,
        #[serde(rename = "hostID")] host_id: u32,
        size: u32,
    }
    /// config-linux.md, Offset for Time Namespace: of one clock.
    TimeOffset { secs: i64, nanosecs: u32 }
    /// config-linux.md, Devices: a device node to make.
    Device {
        path: String,
        #[serde(rename = "type")] typ: String,
        major: Option<i64>,
        minor: Option<i64>,
        file_mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
    }
    /// config-linux.md, Network Devices: the name that a host's interface gets in the container.
    NetDevice { name: Option<String> }
    /// config-linux.md, Control groups.
    Resources {
        devices: Vec<DeviceRule>,
        memory: Option<Memory>,
        cpu: Option<Cpu>,
        pids: Option<Pids>,
        #[serde(rename = "blockIO")] block_io: Option<BlockIo>,
        hugepage_limits: Vec<HugepageLimit>,
        network: Option<Network>,
        rdma: BTreeMap<String, Rdma>,
        unified: BTreeMap<String, String>,
    }
    /// config-linux.md, Allowed Device list: one rule.
    DeviceRule {
        allow: bool,
        #[serde(rename = "type")] typ: Option<String>,
        major: Option<i64>,
        minor: Option<i64>,
        access: Option<String>,
    }
    /// config-linux.md, Memory: in bytes; -1 is unlimited.
    Memory {
        limit: Option<i64>,
        reservation: Option<i64>,
        swap: Option<i64>,
        kernel: Option<i64>,
        #[serde(rename = "kernelTCP")] kernel_tcp: Option<i64>,
        swappiness: Option<u64>,
        #[serde(rename = "disableOOMKiller")] disable_oom_killer: Option<bool>,
        use_hierarchy: Option<bool>,
        check_before_update: Option<bool>,
    }
    /// config-linux.md, CPU: times in microseconds.
    Cpu {
        shares: Option<u64>,
        quota: Option<i64>,
        burst: Option<u64>,
        period: Option<u64>,
        realtime_runtime: Option<i64>,
        realtime_period: Option<u64>,
        cpus: Option<String>,
        mems: Option<String>,
        idle: Option<i64>,
    }
    /// config-linux.md, PIDs: a number of tasks. 0 or less is unlimited, an absent limit sets
    /// nothing.
    Pids { limit: Option<i64> }
    /// config-linux.md, Block IO.
    BlockIo {
        weight: Option<u16>,
        leaf_weight: Option<u16>,
        weight_device: Vec<WeightDevice>,
        throttle_read_bps_device: Vec<ThrottleDevice>,
        throttle_write_bps_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleReadIOPSDevice")]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleWriteIOPSDevice")]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }
    /// One device's weight, 10 to 1000.
    WeightDevice {
        major: i64,
        minor: i64,
        weight: Option<u16>,
        leaf_weight: Option<u16>,
    }
    /// One device's rate, in bytes or operations per second.
    ThrottleDevice { major: i64, minor: i64, rate: u64 }
    /// config-linux.md, Huge page limits: `pageSize` such as `2MB`; the limit is in bytes.
    HugepageLimit { page_size: String, limit: u64 }
    /// config-linux.md, Network: the class and the priorities of packets (net_cls, net_prio).
    Network {
        #[serde(rename = "classID")] class_id: Option<u32>,
        priorities: Vec<InterfacePriority>,
    }
    /// The priority of packets that leave by one interface.
    InterfacePriority { name: String, priority: u32 }
    /// config-linux.md, RDMA: the limits for one device.
    Rdma { hca_handles: Option<u32>, hca_objects: Option<u32> }
    /// config-linux.md, IntelRdt.
    IntelRdt {
        #[serde(rename = "closID")] clos_id: Option<String>,
        schemata: Vec<String>,
        l3_cache_schema: Option<String>,
        mem_bw_schema: Option<String>,
        #[serde(rename = "enableCMT")] enable_cmt: Option<bool>,
        #[serde(rename = "enableMBM")] enable_mbm: Option<bool>,
        enable_monitoring: Option<bool>,
    }
    /// config-linux.md, memory policy (set_mempolicy(2)).
    MemoryPolicy {
        mode: Option<MemoryPolicyModeType>,
        nodes: Option<String>,
        flags: Vec<MemoryPolicyFlagType>,
    }
    /// config-linux.md, Seccomp. Absent `flags` and an empty list differ: see `security::seccomp`.
    Seccomp {
        default_action: Option<LinuxSeccompAction>,
        default_errno_ret: Option<u32>,
        architectures: Vec<Arch>,
        flags: Option<Vec<String>>,
        listener_path: Option<String>,
        listener_metadata: Option<String>,
        syscalls: Vec<Syscall>,
    }
    /// One rule of the filter.
    Syscall {
        names: Vec<String>,
        action: Option<LinuxSeccompAction>,
        errno_ret: Option<u32>,
        args: Vec<SyscallArg>,
    }
    /// One comparison of a rule.
    SyscallArg { index: u32, value: u64, value_two: u64, op: Option<LinuxSeccompOperator> }
    /// config-linux.md, personality(2).
    Personality { domain: Option<LinuxPersonalityDomain>, flags: Vec<String> }
    /// config-vm.md.
    Vm {
        hypervisor: Option<Hypervisor>,
        kernel: VmKernel,
        image: Option<VmImage>,
        hw_config: Option<VmHardware>,
    }
    /// config-vm.md, hypervisor: the program that runs the VM.
    Hypervisor { path: Option<String>, parameters: Vec<String> }
    /// config-vm.md, kernel: the guest's.
    VmKernel { path: String, parameters: Vec<String>, initrd: Option<String> }
    /// config-vm.md, image: the guest's root file system.
    VmImage { path: String, format: String }
    /// config-vm.md, hwConfig; hull takes `memory` as bytes.
    VmHardware {
        device_tree: Option<String>,
        vcpus: Option<u32>,
        memory: Option<u64>,
        dtdevs: Vec<String>,
        iomems: Vec<VmIomem>,
        irqs: Vec<u32>,
    }
    /// One range of the host's memory handed to the guest, in frames.
    VmIomem {
        #[serde(rename = "firstGFN")] first_gfn: u64,
        #[serde(rename = "firstMFN")] first_mfn: u64,
        #[serde(rename = "nrMFNs")] nr_mfns: u64,
    }
}

impl Process {
    /// The value of an environment variable; where `env` has it twice, the last one counts.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let mut last_first = self.env.iter().rev();
        last_first.find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
    }
}
