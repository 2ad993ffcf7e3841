//! The plan of a restore: the host steps of create, in which CRIU takes the place of clone and of
//! the container steps.

use super::namespaces::joined;
use crate::facts::Facts;
use crate::net::setup::Setup;
use crate::step::container::{Barrier, slot};
use crate::step::draft::{Placed, Plan};
use crate::step::host::{HostStep, Open};
use std::borrow::Cow;

/// The input of [`restore`].
pub struct RestoreRequest<'a> {
    /// The plan of create for the same config.
    pub plan: &'a Plan,
    /// The facts of the host for which that plan was made.
    pub facts: &'a Facts,
    /// hull's own networks that the container is attached to; none means no network of hull's.
    pub network: Option<&'a Setup>,
    /// The host name to set, where the images have another one: a copy's.
    pub hostname: Option<&'a str>,
}

/// The host steps of a restore, and the number of slots that they use.
///
/// The step Clone starts CRIU in the container's cgroup. Notifications of CRIU are the barriers:
/// [`Barrier::Hooks`] when it has created the container's namespaces, [`Barrier::Ready`] when it
/// has restored the processes, before they run.
pub fn restore(request: &RestoreRequest) -> (Vec<Placed<HostStep>>, u32) {
    let RestoreRequest {
        plan,
        facts,
        network,
        hostname,
    } = *request;
    let mut steps = Vec::new();
    let mut add = |step: HostStep, from: Cow<'static, str>| steps.push(Placed { step, from });
    let mut slots = slot::FIRST_FREE;
    for joined in joined(facts) {
        let what = Open::Namespace { path: joined.path };
        let from = format!("linux.namespaces[{}]", joined.kind);
        add(HostStep::Open { slot: slots, what }, from.into());
        slots += 1;
    }
    if let Some(setup) = network {
        let step = HostStep::Network(Box::new(setup.clone()));
        add(step, "[network of the images]".into());
    }
    for placed in &plan.host {
        let step = match &placed.step {
            HostStep::Cgroup { plan, .. } => {
                let first = slots;
                slots += plan.v1_count();
                HostStep::Cgroup {
                    plan: plan.clone(),
                    first,
                }
            }
            HostStep::Clone { into_cgroup, .. } => HostStep::Clone {
                flags: 0,
                stage: None,
                into_cgroup: *into_cgroup,
            },
            HostStep::Unit { .. }
            | HostStep::Hook { .. }
            | HostStep::HooksDone
            | HostStep::Barrier(Barrier::Hooks | Barrier::Ready | Barrier::Recorded)
            | HostStep::Record => placed.step.clone(),
            // CRIU does these by its images, or a restore has no use for them.
            HostStep::Open { .. }
            | HostStep::Undumpable
            | HostStep::Affinity { .. }
            | HostStep::OomScore { .. }
            | HostStep::IdMap { .. }
            | HostStep::JoinCgroup
            | HostStep::NetDevice { .. }
            | HostStep::Network(_)
            | HostStep::Interfaces(_)
            | HostStep::AdoptNetwork
            | HostStep::Hostname(_)
            | HostStep::Barrier(Barrier::Placed)
            | HostStep::Listener { .. }
            | HostStep::Rlimit(_)
            | HostStep::Filtered
            | HostStep::Executed => continue,
        };
        let from = match step {
            HostStep::Clone { .. } => "[criu]".into(),
            _ => placed.from.clone(),
        };
        add(step, from);
    }
    if network.is_some() {
        add(HostStep::AdoptNetwork, "[network of the images]".into());
    }
    if let Some(name) = hostname {
        add(HostStep::Hostname(name.to_owned()), "hostname".into());
    }
    (steps, slots)
}
