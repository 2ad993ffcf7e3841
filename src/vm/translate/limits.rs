//! `linux.resources` of a container in a VM, divided in two: the limits that the guest's kernel
//! applies to the container's cgroup in the guest, and those that the host's kernel applies to the
//! cgroup of the monitor, the share server and QEMU.

use crate::spec::config::Resources;

/// Memory that QEMU, the monitor and the share server need in addition to the guest's memory, in
/// bytes: 150 MB were measured under emulation, the buffer of translated code included.
const VMM_MEMORY: u64 = 320 << 20;

/// The least limit of tasks on the host, for the threads of the monitor, the share server and
/// QEMU. The guest's kernel applies the container's own limit.
const LEAST_TASKS: i64 = 512;

/// Whether a file of `linux.resources.unified` has values that only the host's kernel understands:
/// numbers of its disks and CPUs, and names of its RDMA devices. The host applies them, as it does
/// `blockIO`, `cpu.cpus` and `rdma`.
fn is_hosts(file: &str) -> bool {
    file.split_once('.')
        .is_some_and(|(controller, _)| ["io", "cpuset", "rdma"].contains(&controller))
}

/// The limits that the guest's kernel applies. A limit that no cgroup v2 controller has is refused
/// in the guest, which has no v1 controllers.
pub(crate) fn guest_limits(resources: &Resources) -> Resources {
    let mut resources = resources.clone();
    resources.block_io = None;
    resources.network = None;
    resources.rdma.clear();
    resources.unified.retain(|file, _| !is_hosts(file));
    if let Some(cpu) = &mut resources.cpu {
        (cpu.cpus, cpu.mems) = (None, None);
        (cpu.realtime_period, cpu.realtime_runtime) = (None, None);
    }
    if let Some(memory) = &mut resources.memory {
        // The host's kernel decides how readily the guest's memory is swapped.
        memory.swappiness = None;
    }
    resources
}

/// One warning for each limit that is set in the host's cgroup and has no effect on a container in
/// a VM.
///
/// The net_cls and net_prio controllers mark a packet by the socket that it was sent from
/// (`sk_alloc`, net/core/sock.c). A packet from a tap device has no socket on the host.
pub(crate) fn without_effect(resources: &Resources) -> Vec<String> {
    let network = resources.network.as_ref().is_some_and(|network| {
        network.class_id.is_some_and(|class| class != 0) || !network.priorities.is_empty()
    });
    let real_time = resources
        .cpu
        .as_ref()
        .is_some_and(|cpu| cpu.realtime_runtime.is_some() || cpu.realtime_period.is_some());
    [
        (
            network,
            "linux.resources.network: what a virtual machine sends comes from its own kernel: the \
                host's classes and priorities do not reach it",
        ),
        (
            real_time,
            "linux.resources.cpu: the guest's kernel schedules real-time processes of a virtual \
                machine: realtimeRuntime and realtimePeriod of the host do not reach them",
        ),
    ]
    .into_iter()
    .filter(|(is_set, _)| *is_set)
    .map(|(_, words)| words.to_owned())
    .collect()
}

/// The limits that the host's kernel applies: the guest's memory plus [`VMM_MEMORY`], at least
/// [`LEAST_TASKS`] tasks, and all limits that only the host can apply. `guest_memory` is in bytes.
pub(crate) fn host_limits(resources: Option<&Resources>, guest_memory: u64) -> Resources {
    let mut resources = resources.cloned().unwrap_or_default();
    resources.devices.clear();
    resources.unified.retain(|file, _| is_hosts(file));
    // The guest's huge pages are not allocated from the host's pools.
    resources.hugepage_limits.clear();
    if let Some(memory) = &mut resources.memory {
        if memory.limit.is_some_and(|limit| limit > 0) {
            memory.limit = Some(host_memory(guest_memory));
        }
        (
            memory.swap,
            memory.reservation,
            memory.kernel,
            memory.kernel_tcp,
            memory.disable_oom_killer,
        ) = (None, None, None, None, None);
        memory.check_before_update = None;
    }
    if let Some(pids) = &mut resources.pids {
        pids.limit = pids.limit.map(|limit| {
            if limit > 0 {
                limit.max(LEAST_TASKS)
            } else {
                limit
            }
        });
    }
    resources
}

/// The memory limit on the host for a guest with `guest_memory` bytes, in bytes.
pub(crate) fn host_memory(guest_memory: u64) -> i64 {
    i64::try_from(guest_memory.saturating_add(VMM_MEMORY)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unified_files_go_to_the_kernel_that_understands_their_values() {
        let resources = r#"{"unified":{"io.max":"8:0 rbps=1","cpuset.cpus":"1",
            "rdma.max":"mlx5_0 hca_handle=2","memory.high":"5","cpu.idle":"1","pids.max":"9"}}"#;
        let resources: Resources = serde_json::from_str(resources).unwrap();
        let files = |resources: Resources| resources.unified.into_keys().collect::<Vec<_>>();
        assert_eq!(
            files(host_limits(Some(&resources), 1 << 30)),
            ["cpuset.cpus", "io.max", "rdma.max"]
        );
        assert_eq!(
            files(guest_limits(&resources)),
            ["cpu.idle", "memory.high", "pids.max"]
        );
    }
}
