//! The plan of a restore: create's host steps around criu, which takes the place of clone and of the
//! container steps.

use super::joined;
use crate::facts::Facts;
use crate::net::setup::Setup;
use crate::step::container::{Barrier, slot};
use crate::step::draft::{Placed, Plan};
use crate::step::host::{HostStep, Open};
use std::borrow::Cow;

/// What a restore's steps are made from.
pub struct Request<'a> {
    /// Create's plan of the same config.
    pub plan: &'a Plan,
    /// What the host can do.
    pub facts: &'a Facts,
    /// The networks of hull's that the container is put on.
    pub network: Option<&'a Setup>,
    /// A copy's host name, where the images have another.
    pub hostname: Option<&'a str>,
}

/// The host steps of a restore, and how many slots they use. criu is started by the step Clone, in
/// the container's cgroup; its events are the barriers: it comes to [`Barrier::Hooks`] when the
/// container's namespaces are there, and to [`Barrier::Ready`] when its processes stand, before
/// they run.
pub fn restore(request: &Request) -> (Vec<Placed<HostStep>>, u32) {
    let Request {
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
            // criu's own, from the images.
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
