//! The plan of an exec. It has fewer host steps and container steps than that of a container, of
//! the same kinds. A stage joins the container's namespaces by init's pidfd and then clones the
//! child.

use super::plan::{
    IdentityContext, IdentitySteps, console_step, exec_step, identity_steps, last_of_each,
    mask_bytes, sets_itself,
};
use crate::Result;
use crate::facts::{Facts, Owner};
use crate::security::process as tables;
use crate::security::rlimits;
use crate::security::seccomp::Filter;
use crate::spec::Spec;
use crate::spec::config::{MemoryPolicy, Personality, Process};
use crate::step::container::{Attribute, Barrier, Step, slot};
use crate::step::draft::become_root;
use crate::step::draft::{Placed, Plan, set};
use crate::step::host::{HostStep, Open, Stage};
use oci_spec::runtime::LinuxNamespaceType;
use std::borrow::Cow;

/// What an exec is compiled from besides the process and the Facts.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// The container's namespaces, which the process joins.
    pub joins: Joins,
    /// setgroups(2) is permitted in the container's user namespace.
    pub may_set_groups: bool,
    /// The annotation `run.oci.keep_original_groups` is 1.
    pub keep_groups: bool,
    /// The container's seccomp filter.
    pub filter: Option<Filter>,
    /// The agent that receives the filter's listener.
    pub listener: Option<ListenerAgent>,
    /// The number of descriptors from 3 on that the program inherits.
    pub preserve_fds: u32,
    /// How the process joins the container's cgroups.
    pub cgroups: CgroupEntry,
    /// The container's execution domain (personality(2)).
    pub personality: Option<Personality>,
    /// The container's memory policy (set_mempolicy(2)).
    pub memory_policy: Option<MemoryPolicy>,
    /// The session keyring's name, if the container has one.
    pub keyring: Option<String>,
}

/// The namespaces that an exec joins, as masks of `CLONE_NEW*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joins {
    /// Those that hull's user namespace owns; they are joined first.
    pub outer: u32,
    /// The container's user namespace is joined.
    pub user: bool,
    /// Those that the container's user namespace owns; they are joined after it.
    pub inner: u32,
}

/// How an exec joins the container's cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupEntry {
    /// The number of v1 cgroups that the child joins by itself.
    pub v1: u32,
    /// hull moves the child into the v2 cgroup.
    pub v2: bool,
}

/// `linux.seccomp.listenerPath` and `linux.seccomp.listenerMetadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerAgent {
    /// The path of the agent's socket.
    pub path: String,
    /// The text that is sent with the listener.
    pub metadata: String,
}

impl ExecRequest {
    /// The fields that the container's config determines; the others depend on its state.
    pub fn of(spec: &Spec) -> Self {
        let config = spec.config();
        let linux = config.linux.as_ref();
        let seccomp = linux.and_then(|linux| linux.seccomp.as_ref());
        Self {
            keep_groups: config
                .annotations
                .get("run.oci.keep_original_groups")
                .is_some_and(|value| value == "1"),
            listener: seccomp.map(|seccomp| ListenerAgent {
                path: seccomp.listener_path.clone().unwrap_or_default(),
                metadata: seccomp.listener_metadata.clone().unwrap_or_default(),
            }),
            personality: linux.and_then(|linux| linux.personality.clone()),
            memory_policy: linux.and_then(|linux| linux.memory_policy.clone()),
            ..Self::default()
        }
    }
}

/// Completes a process file with the capabilities and limits of the container's own process, if it
/// has none, as in runc.
pub fn completed(process: &Process, spec: &Spec) -> Process {
    let own = spec.config().process.clone().unwrap_or_default();
    let mut process = process.clone();
    process.capabilities = process.capabilities.or(own.capabilities);
    if process.rlimits.is_empty() {
        process.rlimits = own.rlimits;
    }
    process
}

/// The namespaces of a container that are not hull's own, from its config and the Facts of its
/// creation.
pub fn joins(spec: &Spec, facts: &Facts) -> Joins {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
    let joined_as = |kind: LinuxNamespaceType, owner: Owner| {
        let mut joined = facts.joined.iter();
        joined.any(|joined| joined.kind == kind as u32 && joined.owner == owner)
    };
    let has = |kind| spec.namespace(kind).is_some() && !joined_as(kind, Owner::Own);
    let user = has(User);
    let mut joins = Joins {
        user,
        ..Joins::default()
    };
    for kind in [Cgroup, Ipc, Mount, Network, Pid, Time, Uts] {
        if has(kind) {
            let mask = if !user || joined_as(kind, Owner::Outer) {
                &mut joins.outer
            } else {
                &mut joins.inner
            };
            *mask |= kind as u32;
        }
    }
    joins
}

/// The slot of the first v1 cgroup's `tasks` file.
pub const FIRST_CGROUP: u32 = slot::FIRST_FREE;

/// The plan of an exec while it is compiled.
struct Exec<'a> {
    process: &'a Process,
    facts: &'a Facts,
    request: &'a ExecRequest,
    plan: Plan,
}

/// Compiles the plan of an exec.
///
/// # Errors
/// The process asks for something that this host cannot do.
pub fn exec(process: &Process, facts: &Facts, request: &ExecRequest) -> Result<Plan> {
    let mut exec = Exec {
        process,
        facts,
        request,
        plan: Plan {
            slots: FIRST_CGROUP + request.cgroups.v1,
            ..Plan::default()
        },
    };
    exec.open();
    exec.before_clone()?;
    exec.enter();
    exec.attributes()?;
    exec.stdio();
    exec.identity()?;
    exec.settle()?;
    exec.plan.check()?;
    Ok(exec.plan)
}

impl Exec<'_> {
    fn host(&mut self, step: HostStep, from: &'static str) {
        self.plan.host.push(Placed {
            step,
            from: Cow::Borrowed(from),
        });
    }

    fn container(&mut self, step: Step, from: &'static str) {
        self.plan.container.push(Placed {
            step,
            from: Cow::Borrowed(from),
        });
    }

    fn barrier(&mut self, kind: Barrier) {
        self.host(HostStep::Barrier(kind), "[barrier]");
        self.container(Step::Barrier { kind }, "[barrier]");
    }

    /// Adds the host steps that open the descriptors of the slots.
    fn open(&mut self) {
        let open = |slot, what| HostStep::Open { slot, what };
        self.host(open(slot::PROC, Open::Procfs), "[procfs]");
        if self.process.terminal {
            self.host(open(slot::CONSOLE, Open::ConsoleSocket), "process.terminal");
        }
        for index in 0..self.request.cgroups.v1 {
            let what = Open::CgroupTasks {
                index: index as usize,
            };
            self.host(open(FIRST_CGROUP + index, what), "[cgroup]");
        }
        let init = self.plan.slots;
        self.plan.slots += 1;
        self.host(open(init, Open::Init), "[namespaces]");
    }

    /// Adds the clone through a stage, which joins several namespaces with one setns(2), and what
    /// hull does before and right after it.
    fn before_clone(&mut self) -> Result<()> {
        self.host(HostStep::Undumpable, "[CVE-2016-9962]");
        if let Some(affinity) = &self.process.exec_cpu_affinity {
            // The initial affinity applies before the child joins the container's cgroup
            // (config.md).
            let (initial, _) = tables::exec_cpu_affinity(affinity)?;
            if initial.is_some() {
                let mask = mask_bytes(initial);
                self.host(
                    HostStep::Affinity { mask },
                    "process.execCPUAffinity.initial",
                );
            }
        }
        let init = self.plan.slots - 1;
        let Joins { outer, user, inner } = self.request.joins;
        let list = |mask: u32| {
            if mask == 0 {
                Vec::new()
            } else {
                vec![(init, mask)]
            }
        };
        let stage = Stage {
            before: list(outer),
            user: user.then_some(init),
            after: list(inner),
            time: None,
        };
        let clone = HostStep::Clone {
            flags: 0,
            stage: Some(stage),
            into_cgroup: false,
        };
        self.host(clone, "[namespaces]");
        if self.request.cgroups.v2 {
            self.host(HostStep::JoinCgroup, "[cgroup]");
        }
        if let Some(value) = self.process.oom_score_adj {
            let score = HostStep::OomScore {
                value,
                lenient: false,
            };
            self.host(score, "process.oomScoreAdj");
        }
        Ok(())
    }

    /// Adds the child's steps until it is in the container's cgroups.
    fn enter(&mut self) {
        self.container(set(Attribute::Session, 0), "[session]");
        if self.request.joins.user {
            self.container(become_root(), "linux.namespaces[user]");
            self.container(set(Attribute::Dumpable, 0), "[CVE-2016-9962]");
        }
        self.barrier(Barrier::Placed);
        let count = self.request.cgroups.v1;
        if count > 0 {
            let first = FIRST_CGROUP;
            self.container(Step::Enroll { first, count }, "[cgroup]");
        }
        if let Some(name) = self.request.keyring.clone() {
            self.container(Step::Keyring { name }, "[session keyring]");
        }
    }

    fn attributes(&mut self) -> Result<()> {
        if let Some(personality) = &self.request.personality {
            let number = u64::from(tables::personality(personality)?);
            self.container(set(Attribute::Personality, number), "linux.personality");
        }
        if let Some(policy) = &self.request.memory_policy {
            let (mode, mask) = tables::memory_policy(policy)?;
            let step = Step::Set {
                what: Attribute::MemoryPolicy,
                number: u64::from(mode),
                bytes: mask_bytes(mask),
            };
            self.container(step, "linux.memoryPolicy");
        }
        if let Some(affinity) = &self.process.exec_cpu_affinity {
            let (_, last) = tables::exec_cpu_affinity(affinity)?;
            if last.is_some() {
                let step = Step::Set {
                    what: Attribute::Affinity,
                    number: 0,
                    bytes: mask_bytes(last),
                };
                self.container(step, "process.execCPUAffinity.final");
            }
        } else {
            self.container(set(Attribute::Affinity, 0), "[affinity of the cgroup]");
        }
        if let Some(scheduler) = &self.process.scheduler {
            let step = Step::Set {
                what: Attribute::Scheduler,
                number: 0,
                bytes: tables::scheduler(scheduler)?.bytes().to_vec(),
            };
            self.container(step, "process.scheduler");
        }
        if let Some(priority) = &self.process.io_priority {
            let number = tables::io_priority(priority)? as u64;
            self.container(set(Attribute::IoPriority, number), "process.ioPriority");
        }
        Ok(())
    }

    fn stdio(&mut self) {
        let process = self.process;
        if process.terminal {
            self.container(console_step(process, false), "process.terminal");
        } else if process.user.uid != 0 {
            let uid = u64::from(process.user.uid);
            self.container(set(Attribute::Stdio, uid), "process.user.uid");
        }
    }

    fn identity(&mut self) -> Result<()> {
        let ExecRequest {
            joins,
            may_set_groups,
            keep_groups,
            filter,
            preserve_fds,
            ..
        } = self.request;
        let all_or = |own: u64| if joins.user { u64::MAX } else { own };
        let context = IdentityContext {
            in_user_namespace: joins.user,
            held: all_or(self.facts.permitted),
            bounding: all_or(self.facts.bounding),
            may_set_groups: *may_set_groups,
            keep_groups: *keep_groups,
            filter: filter.clone(),
            preserve_fds: *preserve_fds,
            dies_with_parent: false,
        };
        let IdentitySteps { steps, left_out } = identity_steps(self.process, self.facts, &context)?;
        for (step, from) in steps {
            self.container(step, from);
        }
        let env = last_of_each(self.process.env.iter());
        self.container(exec_step(self.process, env), "process.args, process.env");
        (self.plan.warnings, self.plan.remarks) = (left_out.warnings, left_out.remarks);
        Ok(())
    }

    /// Adds the host steps from [`Barrier::Ready`] to execve(2). (The child's side of these
    /// barriers is among the steps of [`identity_steps`].)
    fn settle(&mut self) -> Result<()> {
        self.host(HostStep::Barrier(Barrier::Ready), "[barrier]");
        for limit in rlimits::parse(&self.process.rlimits)? {
            if !sets_itself(&limit, self.facts, self.request.joins.user) {
                self.host(HostStep::Rlimit(limit), "process.rlimits");
            }
        }
        self.host(HostStep::Barrier(Barrier::Recorded), "[barrier]");
        let notifies = |filter: &Filter| filter.notify;
        if self.request.filter.as_ref().is_some_and(notifies) {
            let ListenerAgent { path, metadata } =
                self.request.listener.clone().unwrap_or_default();
            let listener = HostStep::Listener { path, metadata };
            self.host(listener, "linux.seccomp.listenerPath");
        }
        self.host(HostStep::Filtered, "[seccomp]");
        self.host(HostStep::Executed, "[start]");
        Ok(())
    }
}
