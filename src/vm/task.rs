//! From a plan to what crosses: the steps of `outside` that are the guest's, and `inside` as bytes.

use crate::security::rlimits::Limit;
use crate::step::container::{Barrier, slot};
use crate::step::draft::Plan;
use crate::step::host::Open;
use crate::step::host::{HostStep, Stage};
use crate::vm::channel::message::{Interface, Outer, Task};
use crate::{Error, Result};

/// The guest's part of a container's making, with the interfaces that it gets where it has a
/// network namespace of its own. The host's hooks have run when the machine starts: where they
/// belong, nobody waits.
///
/// # Errors
/// A step that only the host could do and that has no place with this backend.
pub fn create(plan: &Plan, interfaces: &[Interface]) -> Result<Task> {
    let mut outer = Vec::new();
    let mut terminal = false;
    let mut own_network = has_network(plan);
    for placed in &plan.host {
        let step = match &placed.step {
            HostStep::Open { slot, what } => {
                terminal |= matches!(what, Open::ConsoleSocket);
                Outer::Open(*slot, what.clone())
            }
            HostStep::Cgroup { plan, first } => Outer::Cgroup(plan.clone(), *first),
            HostStep::Clone {
                flags,
                stage,
                into_cgroup,
            } => Outer::Clone {
                flags: *flags,
                stage: stage.clone(),
                into_cgroup: *into_cgroup,
            },
            HostStep::OomScore { value, .. } => Outer::OomScore(*value),
            HostStep::IdMap { uid, mappings, .. } => Outer::IdMap(*uid, mappings.clone()),
            HostStep::JoinCgroup => Outer::JoinCgroup,
            HostStep::Barrier(Barrier::Hooks) => {
                outer.push(Outer::Barrier(Barrier::Hooks));
                Outer::Hooks
            }
            HostStep::Barrier(kind) => {
                if std::mem::take(&mut own_network) {
                    outer.push(Outer::Interfaces(interfaces.to_vec()));
                }
                Outer::Barrier(*kind)
            }
            HostStep::Rlimit(limit) => Outer::Rlimit(*limit),
            HostStep::Hook { .. } | HostStep::Record => continue,
            HostStep::Unit { .. }
            | HostStep::NetDevice { .. }
            | HostStep::Network(_)
            | HostStep::Listener { .. } => {
                return Err(Error::new(format!(
                    "{}: {} has no place in a virtual machine",
                    placed.from,
                    placed.step.name()
                )));
            }
        };
        outer.push(step);
    }
    Ok(Task {
        slots: plan.slots,
        outer,
        waits: true,
        terminal,
    })
}

/// Whether the container has a network namespace of its own in the guest.
pub fn has_network(plan: &Plan) -> bool {
    plan.host.iter().any(|placed| matches!(placed.step, HostStep::Clone { flags, .. } if flags & libc::CLONE_NEWNET as u64 != 0))
}

/// The guest's part of an exec: the namespaces are joined by the pidfd of the container's first
/// process.
pub fn exec(
    plan: &Plan,
    kinds: u32,
    user: bool,
    oom_score: Option<i32>,
    limits: Vec<Limit>,
    terminal: bool,
) -> Task {
    let pidfd = plan.slots;
    let list = |mask: u32| {
        if mask == 0 {
            Vec::new()
        } else {
            vec![(pidfd, mask)]
        }
    };
    // What the guest's first user namespace owns is joined before the container's, and all of a
    // container's is owned by its own.
    let stage = if user {
        Stage {
            before: Vec::new(),
            user: Some(pidfd),
            after: list(kinds),
            time: None,
        }
    } else {
        Stage {
            before: list(kinds),
            user: None,
            after: Vec::new(),
            time: None,
        }
    };
    let mut outer = vec![Outer::Open(slot::PROC, Open::Procfs), Outer::Program(pidfd)];
    if terminal {
        outer.push(Outer::Open(slot::CONSOLE, Open::ConsoleSocket));
    }
    outer.push(Outer::Clone {
        flags: 0,
        stage: Some(stage),
        into_cgroup: false,
    });
    outer.push(Outer::JoinCgroup);
    outer.extend(oom_score.map(Outer::OomScore));
    outer.extend([
        Outer::Barrier(Barrier::Placed),
        Outer::Barrier(Barrier::Ready),
    ]);
    outer.extend(limits.into_iter().map(Outer::Rlimit));
    outer.push(Outer::Barrier(Barrier::Recorded));
    Task {
        slots: plan.slots + 1,
        outer,
        waits: false,
        terminal,
    }
}
