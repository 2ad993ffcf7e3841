//! The plan of a container in a VM: host steps for the host, around the VM's monitor, and host
//! steps for the guest, around the container's process. The container steps are those of the
//! guest's plan.

use super::channel::message::Task;
use super::rootless::{self, IdMaps};
use crate::cgroups;
use crate::spec::Spec;
use crate::spec::config::Hook;
use crate::step::container::{Barrier, slot};
use crate::step::draft::{Placed, Plan};
use crate::step::host::{HookList, HostStep, Interface, Open};
use crate::{Error, Result};
use std::borrow::Cow;

/// The slot of the first v1 cgroup's `tasks` file.
pub const FIRST_CGROUP: u32 = slot::FIRST_FREE;

/// What the host's steps are made from.
pub struct HostRequest<'a> {
    /// The container's config.
    pub spec: &'a Spec,
    /// The cgroup of all the VM's processes.
    pub cgroup: cgroups::plan::Plan,
    /// An ordinary user's ids: the monitor is root of a user namespace of its own.
    pub own: Option<&'a IdMaps>,
    /// The networks of hull's that the container is put on.
    pub network: Option<&'a crate::net::setup::Setup>,
}

/// The host's part of creating a container in a VM, and how many slots it uses.
///
/// The monitor comes to [`Barrier::Hooks`] in its network namespace, before there is a guest: a
/// hook may be what brings the network (Docker's is), which the guest then finds. It comes to
/// [`Barrier::Ready`] when the container in the guest stands before its program.
pub fn host(request: HostRequest) -> (Vec<Placed<HostStep>>, u32) {
    let HostRequest {
        spec,
        cgroup,
        own,
        network,
    } = request;
    let mut steps = Vec::new();
    let mut add = |step: HostStep, from: &str| {
        steps.push(Placed {
            step,
            from: Cow::Owned(from.to_owned()),
        });
    };
    let open = |slot, what| HostStep::Open { slot, what };
    add(open(slot::START, Open::StartFifo), "[start]");
    let config = spec.config();
    if config
        .process
        .as_ref()
        .is_some_and(|process| process.terminal)
    {
        add(open(slot::CONSOLE, Open::ConsoleSocket), "process.terminal");
    }
    let by_systemd = matches!(cgroup.driver, cgroups::request::Driver::Systemd { .. });
    let tasks = if by_systemd { 0 } else { cgroup.v1_count() };
    let clone = HostStep::Clone {
        flags: own.map_or(0, |_| rootless::CLONE_FLAGS),
        stage: None,
        into_cgroup: !by_systemd,
    };
    let plan = Box::new(cgroup);
    let from = "linux.cgroupsPath, linux.resources";
    let unit = if by_systemd {
        Some(HostStep::Unit { plan })
    } else {
        let first = FIRST_CGROUP;
        add(HostStep::Cgroup { plan, first }, from);
        None
    };
    add(clone, "[monitor]");
    if let Some(own) = own {
        for step in own.steps() {
            add(step, "[user namespace of the VM]");
        }
        add(HostStep::Barrier(Barrier::Placed), "[barrier]");
    }
    if let Some(unit) = unit {
        add(unit, from);
    }
    add(HostStep::Barrier(Barrier::Hooks), "[barrier]");
    if let Some(setup) = network {
        add(HostStep::Network(Box::new(setup.clone())), "[--network]");
    }
    let none = Vec::new();
    let hooks = config.hooks.as_ref();
    let lists: [(HookList, &Vec<Hook>); 2] = [
        (HookList::Prestart, hooks.map_or(&none, |all| &all.prestart)),
        (
            HookList::CreateRuntime,
            hooks.map_or(&none, |all| &all.create_runtime),
        ),
    ];
    for (list, members) in lists {
        for (index, hook) in members.iter().enumerate() {
            let hook = hook.clone();
            add(
                HostStep::Hook { list, index, hook },
                &format!("hooks.{}[{index}]", list.name()),
            );
        }
    }
    add(HostStep::HooksDone, "[barrier]");
    add(HostStep::Barrier(Barrier::Ready), "[barrier]");
    add(HostStep::Record, "[record]");
    add(HostStep::Barrier(Barrier::Recorded), "[barrier]");
    (steps, FIRST_CGROUP + tasks)
}

/// The host's part of an exec in a VM: a process of hull's stands for the program.
pub fn host_exec(terminal: bool) -> Vec<Placed<HostStep>> {
    let placed = |step, from: &'static str| Placed {
        step,
        from: Cow::Borrowed(from),
    };
    let console = HostStep::Open {
        slot: slot::CONSOLE,
        what: Open::ConsoleSocket,
    };
    let clone = HostStep::Clone {
        flags: 0,
        stage: None,
        into_cgroup: false,
    };
    let console = terminal.then(|| placed(console, "process.terminal"));
    console
        .into_iter()
        .chain([
            placed(clone, "[proxy]"),
            placed(HostStep::Barrier(Barrier::Ready), "[barrier]"),
        ])
        .collect()
}

/// The guest's part of creating a container, with the interfaces that it gets where it has a
/// network namespace of its own. The host's hooks have run when the guest boots: the child is let
/// go on from their barrier at once.
///
/// # Errors
/// A step that only the host could do and that is not applicable in VM mode.
pub fn guest(plan: &Plan, interfaces: &[Interface]) -> Result<Task> {
    let mut steps = Vec::new();
    let mut own_network = has_network(plan);
    let mut terminal = false;
    for placed in &plan.host {
        match &placed.step {
            HostStep::Hook { .. } | HostStep::Record | HostStep::Filtered => continue,
            HostStep::Unit { .. }
            | HostStep::NetDevice { .. }
            | HostStep::Network(_)
            | HostStep::Interfaces(_)
            | HostStep::AdoptNetwork
            | HostStep::Hostname(_)
            | HostStep::Listener { .. } => {
                return Err(Error::new(format!(
                    "{}: {} is not applicable in VM mode",
                    placed.from,
                    placed.step.name()
                )));
            }
            HostStep::Barrier(kind) if *kind != Barrier::Hooks => {
                if std::mem::take(&mut own_network) {
                    steps.push(Placed {
                        step: HostStep::Interfaces(interfaces.to_vec()),
                        from: "linux.namespaces[network]".into(),
                    });
                }
            }
            HostStep::Open { what, .. } => terminal |= matches!(what, Open::ConsoleSocket),
            HostStep::Cgroup { .. }
            | HostStep::Undumpable
            | HostStep::Affinity { .. }
            | HostStep::Clone { .. }
            | HostStep::OomScore { .. }
            | HostStep::IdMap { .. }
            | HostStep::JoinCgroup
            | HostStep::Barrier(_)
            | HostStep::HooksDone
            | HostStep::Rlimit(_)
            | HostStep::Executed => {}
        }
        steps.push(placed.clone());
    }
    // The answer to the host says that the child stands before its program, past its filter.
    for (step, from) in [
        (HostStep::Filtered, "[seccomp]"),
        (HostStep::Record, "[answer]"),
    ] {
        steps.push(Placed {
            step,
            from: from.into(),
        });
    }
    Ok(Task {
        slots: plan.slots,
        steps,
        waits: true,
        terminal,
    })
}

/// The guest's part of an exec.
pub fn guest_exec(plan: &Plan, terminal: bool) -> Task {
    let mut steps = plan.host.clone();
    steps.push(Placed {
        step: HostStep::Record,
        from: "[answer]".into(),
    });
    Task {
        slots: plan.slots,
        steps,
        waits: false,
        terminal,
    }
}

/// Whether the container has a network namespace of its own in the guest.
pub fn has_network(plan: &Plan) -> bool {
    let network = libc::CLONE_NEWNET as u64;
    plan.host
        .iter()
        .any(|placed| matches!(placed.step, HostStep::Clone { flags, .. } if flags & network != 0))
}
