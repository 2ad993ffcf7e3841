//! A plan, and the plan in the making: what every subject's `plan.rs` writes into.

use super::container::{Attribute, Barrier, Step, StepRef};
use super::host::{HostStep, Open};
use super::layers::Layers;
use super::wire::Reader;
use crate::cgroups;
use crate::facts::{Facts, Owner};
use crate::security::seccomp::Filter;
use crate::spec::Spec;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A step with the part of the config that it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placed<S> {
    /// What is done.
    pub step: S,
    /// A path in `config.json`, or hull's own reason in brackets.
    pub from: Cow<'static, str>,
}

/// What a container's making consists of.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Executed by the backend on the host.
    pub host: Vec<Placed<HostStep>>,
    /// Executed by init in the new state.
    pub container: Vec<Placed<Step>>,
    /// What was asked and is not done, a sentence each.
    pub warnings: Vec<String>,
    /// What was asked and has no effect, a sentence each: for the log, as everyday configs ask for
    /// it.
    pub remarks: Vec<String>,
    /// How many slots the backend fills.
    pub slots: u32,
}

impl Plan {
    /// Refuses a string that the kernel would see shorter than it was checked, wherever in the
    /// config it came from.
    pub fn check(&self) -> Result<()> {
        let mut bytes = Vec::new();
        for placed in &self.container {
            bytes.clear();
            placed.step.put(&mut bytes);
            if StepRef::get(&mut Reader::new(&bytes)).is_err() {
                return Err(Error::new(format!(
                    "{}: a string contains a NUL byte",
                    placed.from
                )));
            }
        }
        Ok(())
    }

    /// Warns of what is asked and not done, and logs what has no effect.
    pub fn log_warnings(&self) {
        self.warnings
            .iter()
            .for_each(|warning| crate::log::warn(warning));
        self.remarks
            .iter()
            .for_each(|remark| crate::log::remark(remark));
    }

    /// The container steps as bytes, for the child.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4096);
        self.container
            .iter()
            .for_each(|placed| placed.step.put(&mut bytes));
        bytes
    }
}

/// What a plan is made from besides the Spec and the Facts: the command's own options.
#[derive(Clone, Debug, Default)]
pub struct PlanRequest {
    /// The container's id.
    pub id: String,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--preserve-fds` and socket activation: how many descriptors from 3 on the program gets.
    pub preserve_fds: u32,
    /// Variables that hull adds to the program's environment.
    pub extra_env: Vec<String>,
    /// Which of hull's stdin, stdout and stderr (bits 0 to 2), the program's too, are the null
    /// device.
    pub null_stdio: u64,
    /// The networks it is put on.
    pub network: Option<crate::net::setup::Setup>,
    /// The cgroup's plan.
    pub cgroup: Option<cgroups::plan::Plan>,
    /// The compiled filter of `linux.seccomp`.
    pub filter: Option<Filter>,
    /// What the root file system is put together of; the config's root alone if nothing is given.
    pub layers: Option<Layers>,
    /// The program ends with the process that makes it: a machine monitor, which is nobody's
    /// container.
    pub dies_with_parent: bool,
}

/// A plan in the making.
pub struct Draft<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) facts: &'a Facts,
    pub(crate) request: &'a PlanRequest,
    pub(crate) plan: Plan,
    /// For each mount of the config, the slot of its opened source.
    pub sources: Vec<u32>,
    /// The mount option of `linux.mountLabel`, where SELinux is on.
    pub label: Option<String>,
}

impl Draft<'_> {
    pub(crate) fn host(&mut self, step: HostStep, from: impl Into<Cow<'static, str>>) {
        self.plan.host.push(Placed {
            step,
            from: from.into(),
        });
    }

    pub(crate) fn container(&mut self, step: Step, from: impl Into<Cow<'static, str>>) {
        self.plan.container.push(Placed {
            step,
            from: from.into(),
        });
    }

    pub(crate) fn warn(&mut self, warning: impl Into<String>) {
        self.plan.warnings.push(warning.into());
    }

    /// Gives a slot to what the backend opens.
    pub fn open(&mut self, what: Open, from: impl Into<Cow<'static, str>>) -> u32 {
        let slot = self.plan.slots;
        self.plan.slots += 1;
        self.host(HostStep::Open { slot, what }, from);
        slot
    }

    /// Both sides meet.
    pub fn barrier(&mut self, kind: Barrier) {
        self.host(HostStep::Barrier(kind), "[barrier]");
        self.container(Step::Barrier { kind }, "[barrier]");
    }
}

/// What the new world is like, as far as later parts of the plan must know.
pub struct Namespaces {
    /// `CLONE_NEW*` of what is made.
    pub made: u64,
    /// A mount namespace of its own, made or joined.
    pub mount: bool,
    /// A user namespace, made or joined.
    pub user: bool,
    /// A network namespace that is made.
    pub network: bool,
    /// A cgroup namespace, made or joined.
    pub cgroup: bool,
    /// The container's id 0 exists.
    pub has_root: bool,
    /// setgroups(2) may be called.
    pub may_set_groups: bool,
    /// The child unshares its cgroup namespace itself, once it is in its cgroup.
    pub unshare_cgroup: bool,
    /// The message queues belong to whoever makes the IPC namespace: the child, once it is root of
    /// its new user namespace.
    pub late_ipc: bool,
    /// systemd makes the cgroup, after the child.
    pub by_systemd: bool,
    /// How many v1 cgroups the child joins.
    pub v1_cgroups: u32,
    /// What is joined: kind, path, owner.
    pub joined: Vec<(u32, String, Owner)>,
}

/// A step that sets a number.
pub fn set(what: Attribute, number: u64) -> Step {
    Step::Set {
        what,
        number,
        bytes: Vec::new(),
    }
}
