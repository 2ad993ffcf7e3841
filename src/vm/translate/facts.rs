//! What a guest's kernel can do.

use crate::cgroups::tree::{Hierarchy, Tree, Version};
use crate::facts::Facts;
use crate::spec::Spec;
use crate::vm::channel::message::Guest;

/// The highest capability of the kernels that hull boots, CAP_CHECKPOINT_RESTORE (Linux 5.9).
const LAST_CAPABILITY: u8 = 40;

/// The facts of a guest for planning: as the guest described itself, or before it has booted, what
/// any kernel can do that hull boots.
pub fn guest_facts(spec: &Spec, guest: Option<&Guest>) -> Facts {
    let (last_capability, cgroups) = match guest {
        Some(guest) => (guest.last_capability, guest.cgroups.clone()),
        None => (LAST_CAPABILITY, assumed_cgroups()),
    };
    let all = crate::security::caps::all(last_capability);
    let limits =
        spec.config().process.iter().flat_map(|process| {
            crate::security::rlimits::parse(&process.rlimits).unwrap_or_default()
        });
    Facts {
        euid: 0,
        egid: 0,
        privileged: true,
        in_user_namespace: false,
        permitted: all,
        bounding: all,
        last_capability,
        // hull ignores SIGPIPE as PID 1 of the guest; the container's program must not inherit it.
        ignored_signals: 1 << (libc::SIGPIPE - 1),
        cgroups,
        joined: Vec::new(),
        id_helpers: None,
        // With hard limits of 0 the plan has a host step for each limit, so that hull's session
        // process in the guest, which has CAP_SYS_RESOURCE, sets them.
        hard_limits: limits.map(|limit| (limit.resource, 0)).collect(),
        lsm: None,
        kcore: true,
        // The guest's binfmt_misc runs programs of another architecture without a wrapper.
        foreign: None,
    }
}

fn assumed_cgroups() -> Tree {
    let controllers = [
        "cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc",
    ]
    .map(str::to_owned)
    .to_vec();
    Tree {
        hierarchies: vec![Hierarchy {
            version: Version::V2,
            mount_point: "/sys/fs/cgroup".into(),
            root: "/".into(),
            controllers: controllers.clone(),
            near_controllers: controllers,
            own: "/".into(),
            writable: true,
        }],
        uid: 0,
    }
}
