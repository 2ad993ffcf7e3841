//! `exec` is another, shorter `inside`, made of the same steps.

use crate::Result;
use crate::facts::Facts;
use crate::process::plan::{
    Place, console_step, exec_step, identity_steps, last_of_each, mask_bytes,
};
use crate::security::process as tables;
use crate::security::seccomp::Filter;
use crate::spec::config::{Personality, Process};
use crate::step::container::{Attribute, Barrier, Step};
use crate::step::draft::set;
use crate::step::draft::{Placed, Plan};
use std::borrow::Cow;

/// What an exec is made from besides the process and the Facts.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// The container has a user namespace of its own.
    pub user_namespace: bool,
    /// setgroups(2) may be called there.
    pub may_set_groups: bool,
    /// The annotation `run.oci.keep_original_groups` is 1.
    pub keep_groups: bool,
    /// The container's filter.
    pub filter: Option<Filter>,
    /// How many descriptors from 3 on the program gets.
    pub preserve_fds: u32,
    /// How many v1 cgroups the child joins by itself.
    pub cgroups: u32,
    /// The container's execution domain.
    pub personality: Option<Personality>,
    /// The session keyring's name, if the container has one.
    pub keyring: Option<String>,
}

/// The slot of the first v1 cgroup's `tasks` file.
pub const FIRST_CGROUP: u32 = crate::step::container::slot::FIRST_FREE;

/// Compiles an exec. The namespaces are joined by a stage before the first step.
///
/// # Errors
/// What the process asks and this host cannot do.
pub fn exec(process: &Process, facts: &Facts, request: &ExecRequest) -> Result<Plan> {
    let mut plan = Plan {
        slots: FIRST_CGROUP + request.cgroups,
        ..Plan::default()
    };
    let mut add = |step: Step, from: &'static str| {
        plan.container.push(Placed {
            step,
            from: Cow::Borrowed(from),
        })
    };
    add(set(Attribute::Session, 0), "[session]");
    if request.user_namespace {
        add(
            Step::Ids {
                uid: 0,
                gid: 0,
                groups: Vec::new(),
                set_groups: false,
                keep: false,
            },
            "linux.namespaces[user]",
        );
        add(set(Attribute::Dumpable, 0), "[CVE-2016-9962]");
    }
    add(
        Step::Barrier {
            kind: Barrier::Placed,
        },
        "[barrier]",
    );
    if request.cgroups > 0 {
        add(
            Step::Enroll {
                first: FIRST_CGROUP,
                count: request.cgroups,
            },
            "[cgroup]",
        );
    }
    if let Some(name) = &request.keyring {
        add(Step::Keyring { name: name.clone() }, "[session keyring]");
    }
    if let Some(personality) = &request.personality {
        add(
            set(
                Attribute::Personality,
                u64::from(tables::personality(personality)?),
            ),
            "linux.personality",
        );
    }
    if let Some(affinity) = &process.exec_cpu_affinity {
        // The initial mask is hull's own to take, before it makes the child.
        let (_, last) = tables::exec_cpu_affinity(affinity)?;
        if last.is_some() {
            let bytes = mask_bytes(last);
            add(
                Step::Set {
                    what: Attribute::Affinity,
                    number: 0,
                    bytes,
                },
                "process.execCPUAffinity.final",
            );
        }
    }
    if let Some(scheduler) = &process.scheduler {
        let bytes = tables::scheduler(scheduler)?.bytes().to_vec();
        add(
            Step::Set {
                what: Attribute::Scheduler,
                number: 0,
                bytes,
            },
            "process.scheduler",
        );
    }
    if let Some(priority) = &process.io_priority {
        add(
            set(Attribute::IoPriority, tables::io_priority(priority)? as u64),
            "process.ioPriority",
        );
    }
    if process.terminal {
        add(console_step(process, false), "process.terminal");
    } else if process.user.uid != 0 {
        add(
            set(Attribute::Stdio, u64::from(process.user.uid)),
            "process.user.uid",
        );
    }
    let place = Place {
        in_user_namespace: request.user_namespace,
        held: if request.user_namespace {
            u64::MAX
        } else {
            facts.permitted
        },
        bounding: if request.user_namespace {
            u64::MAX
        } else {
            facts.bounding
        },
        may_set_groups: request.may_set_groups,
        keep_groups: request.keep_groups,
        filter: request.filter.clone(),
        preserve_fds: request.preserve_fds,
        dies_with_parent: false,
    };
    let (steps, left_out) = identity_steps(process, facts, &place)?;
    for (step, from) in steps {
        add(step, from);
    }
    add(
        exec_step(process, last_of_each(process.env.iter())),
        "process.args, process.env",
    );
    (plan.warnings, plan.remarks) = (left_out.warnings, left_out.remarks);
    plan.check()?;
    Ok(plan)
}
