//! A plan, and its draft, to which the `plan.rs` of every subject adds steps and warnings.

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
    /// The host step or container step.
    pub step: S,
    /// The path of a field in `config.json`, or hull's own reason in brackets.
    pub from: Cow<'static, str>,
}

/// Everything that creating a container (or an exec) does, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// The steps that the backend executes, in order.
    pub host: Vec<Placed<HostStep>>,
    /// The steps that the child executes in its namespaces, in order.
    pub container: Vec<Placed<Step>>,
    /// Warnings: one sentence for each thing that the config asks for and hull does not do.
    pub warnings: Vec<String>,
    /// One sentence for each thing that the config asks for and that has no effect. They go to the
    /// log only, because everyday configs ask for such things.
    pub remarks: Vec<String>,
    /// The number of slots in the table of descriptors that the backend fills.
    pub slots: u32,
}

impl Plan {
    /// Checks every string of the container steps: the kernel would read one with a NUL byte
    /// shorter than hull validated it.
    ///
    /// # Errors
    /// A string contains a NUL byte; the error names its field.
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

    /// Prints the plan's warnings, and logs its remarks.
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

/// What a plan is compiled from besides the Spec and the Facts: the command's options.
#[derive(Clone, Debug, Default)]
pub struct PlanRequest {
    /// The container's id.
    pub id: String,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// With `--no-pivot`: where the host has a whole procfs or sysfs. As long as one is visible in
    /// the mount namespace, the kernel lets a nested user namespace mount a fresh one without
    /// masks.
    pub revealing: Vec<String>,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--preserve-fds` and socket activation: the number of descriptors from 3 on that the program
    /// inherits.
    pub preserve_fds: u32,
    /// Variables that hull adds to the program's environment.
    pub extra_env: Vec<String>,
    /// A mask of stdin, stdout and stderr (bits 0 to 2): those that are the host's null device. The
    /// program inherits them.
    pub null_stdio: u64,
    /// The networks that `--network` asks for.
    pub network: Option<crate::net::setup::Setup>,
    /// The plan of the container's cgroup.
    pub cgroup: Option<cgroups::plan::Plan>,
    /// The compiled filter of `linux.seccomp`.
    pub filter: Option<Filter>,
    /// The layers of the root file system; the config's root alone if nothing is given.
    pub layers: Option<Layers>,
    /// The kernel kills the program when its parent exits (`PR_SET_PDEATHSIG`). It is set for QEMU,
    /// which is confined like a container but is none.
    pub dies_with_parent: bool,
}

/// A plan while it is compiled.
pub struct Draft<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) facts: &'a Facts,
    pub(crate) request: &'a PlanRequest,
    pub(crate) plan: Plan,
    /// For each mount of the config, the slot of its source, or [`super::container::slot::NONE`].
    pub sources: Vec<u32>,
    /// The mount option of `linux.mountLabel`, if SELinux is enabled.
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

    /// Adds a host step that opens `what`, and returns the slot that it fills.
    pub fn open(&mut self, what: Open, from: impl Into<Cow<'static, str>>) -> u32 {
        let slot = self.plan.slots;
        self.plan.slots += 1;
        self.host(HostStep::Open { slot, what }, from);
        slot
    }

    /// Adds a barrier to both the host steps and the container steps.
    pub fn barrier(&mut self, kind: Barrier) {
        self.host(HostStep::Barrier(kind), "[barrier]");
        self.container(Step::Barrier { kind }, "[barrier]");
    }
}

/// The container's namespaces, as far as later parts of the plan depend on them.
pub struct Namespaces {
    /// A mask of the new namespaces (`CLONE_NEW*`).
    pub made: u64,
    /// The container has a mount namespace of its own, new or joined.
    pub mount: bool,
    /// It has a user namespace of its own, new or joined.
    pub user: bool,
    /// It has a new network namespace; false for a joined one.
    pub network: bool,
    /// It has a cgroup namespace of its own, new or joined.
    pub cgroup: bool,
    /// Both id maps map the container's id 0.
    pub has_root: bool,
    /// setgroups(2) is permitted in the user namespace.
    pub may_set_groups: bool,
    /// The child unshares its cgroup namespace itself, after it has joined its cgroup.
    pub unshare_cgroup: bool,
    /// The child unshares its IPC namespace itself, after it has become root of its new user
    /// namespace: the kernel gives the message queues to the user who makes the namespace.
    pub late_ipc: bool,
    /// systemd makes the cgroup, after hull has cloned the child.
    pub by_systemd: bool,
    /// The number of v1 cgroups that the child joins by itself.
    pub v1_cgroups: u32,
    /// The namespaces that are joined by path.
    pub joined: Vec<JoinedNamespace>,
}

/// A namespace of `linux.namespaces` that is joined by its path.
pub struct JoinedNamespace {
    /// Its kind (`CLONE_NEW*`).
    pub kind: u32,
    /// The path of its file on the host.
    pub path: String,
    /// The user namespace that owns it.
    pub owner: Owner,
}

/// A [`Step::Set`] of an attribute that is a number.
pub fn set(what: Attribute, number: u64) -> Step {
    Step::Set {
        what,
        number,
        bytes: Vec::new(),
    }
}

/// The step by which the child becomes root of its user namespace.
pub fn become_root() -> Step {
    Step::Ids {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        set_groups: false,
        keep: false,
    }
}
