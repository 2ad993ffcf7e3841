//! Destructures the config's large structs without `..`: when a newer spec adds a field, this file
//! does not compile until the field is listed here with the place that plans it and the place that
//! executes it. docs/design.md has the same as a table, which `cargo test --test house` compares
//! with this file: a comment is `FILE FUNCTION | FILE FUNCTION`, below `src/`. Structs that only
//! one place uses are destructured there.

use crate::spec::config::{
    Config, Hooks, Hypervisor, Linux, Process, Vm, VmHardware, VmImage, VmIomem, VmKernel,
};
use crate::step::draft::Draft;

/// Warns of fields that are set and not applicable to the namespace backend. docs/limitations.md
/// lists them.
pub fn warn(draft: &mut Draft) {
    let Config {
        oci_version: _, // spec/validate.rs config | -
        root: _,        // rootfs/plan.rs root | rootfs/child/root.rs attach_root
        mounts: _,      // rootfs/plan.rs mounts | rootfs/child/mount.rs mount
        process,
        hostname: _,   // namespaces/plan.rs enter | init/executor.rs set
        domainname: _, // namespaces/plan.rs enter | init/executor.rs set
        hooks,
        annotations: _, // process/plan.rs identity | -
        linux,
        vm,
    } = draft.spec.config();
    if let Some(linux) = linux {
        places_of_linux(linux);
    }
    if let Some(hooks) = hooks {
        places_of_hooks(hooks);
    }
    let windows = process.as_ref().is_some_and(is_for_windows);
    if windows {
        draft.warn("process.commandLine is for Windows: left out");
    }
    if vm.as_ref().is_some_and(asks_for_a_vm) {
        draft.warn("vm: this container shares the host's kernel: the section is left out");
    }
}

/// Whether a field that applies to Windows alone is set.
fn is_for_windows(process: &Process) -> bool {
    let Process {
        terminal: _,     // process/plan.rs console | process/child/console.rs console
        console_size: _, // process/plan.rs console_step | process/child/console.rs console
        user: _,         // process/plan.rs ids_step | process/child/identity.rs ids
        args: _,         // process/plan.rs exec_step | process/child/program.rs exec
        command_line,
        env: _,               // process/plan.rs exec_step | process/child/program.rs exec
        cwd: _, // process/plan.rs identity_steps | process/child/program.rs working_directory
        capabilities: _, // process/plan.rs identity_steps | process/child/identity.rs capabilities
        rlimits: _, // process/plan.rs identity_steps | init/executor.rs set
        no_new_privileges: _, // process/plan.rs identity_steps | init/executor.rs set
        apparmor_profile: _, // process/plan.rs labels | process/child/identity.rs label
        oom_score_adj: _, // namespaces/plan.rs make | backend/run.rs oom_score
        selinux_label: _, // process/plan.rs labels | process/child/identity.rs label
        io_priority: _, // process/plan.rs scheduling | init/executor.rs set
        scheduler: _, // process/plan.rs scheduling | init/executor.rs set
        exec_cpu_affinity: _, // process/exec.rs attributes | init/executor.rs set
    } = process;
    command_line.as_deref().is_some_and(|line| !line.is_empty())
}

/// Lists every field of `linux`, with the places that plan and execute it.
fn places_of_linux(linux: &Linux) {
    let Linux {
        namespaces: _,         // namespaces/plan.rs make | namespaces/spawn.rs spawn
        uid_mappings: _,       // namespaces/plan.rs id_maps | namespaces/idmap.rs write
        gid_mappings: _,       // namespaces/plan.rs id_maps | namespaces/idmap.rs write
        time_offsets: _,       // namespaces/plan.rs make | namespaces/spawn.rs time_namespace
        devices: _,            // rootfs/devices.rs devices | rootfs/child/mount.rs node
        net_devices: _,        // namespaces/plan.rs networks | net/device.rs move_device
        cgroups_path: _,       // namespaces/plan.rs cgroup | backend/run.rs cgroup
        resources: _,          // cgroups/plan.rs plan | backend/run.rs cgroup
        intel_rdt: _,          // process/plan.rs attributes | -
        memory_policy: _,      // process/plan.rs attributes | init/executor.rs set
        sysctl: _,             // namespaces/sysctl.rs sysctl | step/child.rs write_proc
        seccomp: _,            // process/plan.rs identity_steps | step/child.rs filter
        rootfs_propagation: _, // rootfs/plan.rs propagation | rootfs/child/mount.rs attributes
        masked_paths: _,       // rootfs/protect.rs protect | rootfs/child/mount.rs protect
        readonly_paths: _,     // rootfs/protect.rs protect | rootfs/child/mount.rs protect
        mount_label: _,        // rootfs/plan.rs take_label | rootfs/child/mount.rs mount
        personality: _,        // process/plan.rs attributes | init/executor.rs set
    } = linux;
}

/// The same for `hooks`.
fn places_of_hooks(hooks: &Hooks) {
    let Hooks {
        prestart: _,         // hooks/plan.rs create | hooks/host.rs run
        create_runtime: _,   // hooks/plan.rs create | hooks/host.rs run
        create_container: _, // hooks/plan.rs create | hooks/child.rs hook
        start_container: _,  // hooks/plan.rs start | hooks/child.rs hook
        poststart: _,        // container/start.rs poststart | hooks/host.rs run
        poststop: _,         // hooks/host.rs poststop | hooks/host.rs run
    } = hooks;
}

/// Whether the section `vm` sets anything. Only the VM backend uses it, but an engine may write it
/// for every container of a runtime class.
fn asks_for_a_vm(vm: &Vm) -> bool {
    let Vm {
        hypervisor,
        kernel,
        image,
        hw_config,
    } = vm;
    let VmKernel {
        path,
        parameters,
        initrd,
    } = kernel;
    let monitor = hypervisor
        .as_ref()
        .is_some_and(|Hypervisor { path, parameters }| path.is_some() || !parameters.is_empty());
    let image = image
        .as_ref()
        .is_some_and(|VmImage { path, format }| !path.is_empty() || !format.is_empty());
    let hardware = hw_config.as_ref().is_some_and(
        |VmHardware {
             device_tree,
             vcpus,
             memory,
             dtdevs,
             iomems,
             irqs,
         }| {
            let ranges = iomems.iter().any(
                |VmIomem {
                     first_gfn,
                     first_mfn,
                     nr_mfns,
                 }| first_gfn | first_mfn | nr_mfns != 0,
            );
            device_tree.is_some()
                || vcpus.is_some()
                || memory.is_some()
                || !dtdevs.is_empty()
                || ranges
                || !irqs.is_empty()
        },
    );
    monitor || image || hardware || !path.is_empty() || !parameters.is_empty() || initrd.is_some()
}
