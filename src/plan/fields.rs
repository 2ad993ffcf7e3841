//! The config's large structs, taken apart once without `..`: a field that a newer spec brings does
//! not compile until somebody says here where it is executed, or that it is not. Those that are
//! used in one place only are taken apart there.

use crate::spec::config::{
    Config, Hypervisor, Linux, Process, Vm, VmHardware, VmImage, VmIomem, VmKernel,
};
use crate::step::draft::Draft;

/// Warns of what is asked for and not executed with this backend; docs/limitations.md has each.
pub fn warn(draft: &mut Draft) {
    let Config {
        oci_version: _, // spec::validate
        root: _,        // mounts::root, mounts::leave
        mounts: _,      // mounts::mounts
        process,
        hostname: _,    // namespaces::enter
        domainname: _,  // namespaces::enter
        hooks: _,       // hooks
        annotations: _, // cgroups::plan for systemd's, process::identity, hooks::state_document
        linux,
        vm,
    } = draft.spec.config();
    if let Some(linux) = linux {
        places_of_linux(linux);
    }
    let windows = process.as_ref().is_some_and(is_for_windows);
    if windows {
        draft.warn("process.commandLine is for Windows: left out");
    }
    if vm.as_ref().is_some_and(asks_for_a_machine) {
        draft.warn("vm: this container shares the host's kernel: the section is left out");
    }
}

/// Whether a field that only Windows knows is set.
fn is_for_windows(process: &Process) -> bool {
    let Process {
        terminal: _,     // process::console
        console_size: _, // process::console_step
        user: _,         // process::ids_step, process::console
        args: _,         // process::identity_steps, process::exec_step
        command_line,
        env: _,               // process::exec_step
        cwd: _,               // mounts::leave, process::identity_steps
        capabilities: _,      // process::identity_steps
        rlimits: _,           // process::limits, process::outside_limits
        no_new_privileges: _, // process::identity_steps
        apparmor_profile: _,  // process::labels
        oom_score_adj: _,     // namespaces::make
        selinux_label: _,     // process::labels
        io_priority: _,       // process::scheduling
        scheduler: _,         // process::scheduling
        exec_cpu_affinity: _, // exec, which alone it is for
    } = process;
    command_line.as_deref().is_some_and(|line| !line.is_empty())
}

/// Names every field, and where it is executed; each is.
fn places_of_linux(linux: &Linux) {
    let Linux {
        namespaces: _,         // namespaces::world
        uid_mappings: _,       // namespaces::id_maps
        gid_mappings: _,       // namespaces::id_maps
        time_offsets: _,       // namespaces::make
        devices: _,            // devices
        net_devices: _,        // namespaces::make
        cgroups_path: _,       // cgroups::plan
        resources: _,          // cgroups::plan
        intel_rdt: _,          // process::attributes, which refuses it
        memory_policy: _,      // process::attributes
        sysctl: _,             // process::attributes
        seccomp: _,            // security::seccomp; process::identity_steps, process::program
        rootfs_propagation: _, // mounts::root, mounts::leave
        masked_paths: _,       // process::attributes
        readonly_paths: _,     // process::attributes
        mount_label: _,        // mounts::file_system
        personality: _,        // process::attributes
    } = linux;
}

/// Whether the section says anything. It belongs to the other backend: engines write it for every
/// runtime of a class.
fn asks_for_a_machine(vm: &Vm) -> bool {
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
