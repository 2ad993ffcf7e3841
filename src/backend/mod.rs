//! the namespace backend: `outside` executed on this kernel, with the child on the other side.

#![forbid(unsafe_code)]

pub mod barrier;
pub mod errors;
pub mod open;
pub mod undo;

use crate::backend::barrier::Barriers;
use crate::backend::errors::refused_program;
use crate::backend::undo::Unfinished;
use crate::cgroups;
use crate::cgroups::group::Group;
use crate::namespaces::idmap;
use crate::namespaces::spawn::{self, Birth, Child};
use crate::spec::Spec;
use crate::spec::state::state_document;
use crate::state::Decided;
use crate::step::container::{Barrier, Step, slot};
use crate::step::draft::Plan;
use crate::step::host::HostStep;
use crate::step::report::Outcome;
use crate::sys::fd::Fd;
use crate::sys::ids;
use crate::{Context, Error, Result};
use std::path::Path;
use std::sync::atomic::Ordering;

/// What a plan needs besides itself to be executed.
pub struct Job<'a> {
    /// The config, for hooks' state.
    pub spec: &'a Spec,
    /// The container's id.
    pub id: &'a str,
    /// The container's directory.
    pub directory: &'a Path,
    /// The socket that takes the terminal.
    pub console: Option<Fd>,
    /// A fresh process executes `inside`.
    pub fresh_init: bool,
    /// Writes the record: (pid, cgroup, outcomes). Called with pid 0 before anything is made, so
    /// that whatever a killed hull leaves can be found.
    pub record: &'a mut dyn FnMut(i32, Option<cgroups::group::Record>, Vec<Decided>) -> Result<()>,
}

/// A container that was made and waits for `start`.
pub struct Made {
    /// Its init.
    pub child: Child,
    /// The fifo on which it waits.
    pub start: Fd,
    /// What it executes, for the words of a failure.
    pub plan: Plan,
}

impl Made {
    /// Waits until the started child has become its program, which may refuse to: that is said on
    /// the container's stderr.
    ///
    /// # Errors
    /// A startContainer hook failed.
    pub fn executed(&self) -> Result<()> {
        let meeting = Barriers {
            plan: &self.plan,
            child: &self.child,
        };
        meeting.closed();
        if refused_program(&self.child).is_some() {
            Ok(())
        } else {
            meeting.told()
        }
    }
}

/// Work in progress; what it made is undone when it is dropped before it is done.
struct Work<'a, 'b> {
    plan: &'a Plan,
    job: &'a mut Job<'b>,
    made: Unfinished,
    slots: Vec<i32>,
    held: Vec<Fd>,
}

/// Executes `outside`; the child executes `inside` beside it.
///
/// # Errors
/// Of the step that failed, on either side; everything made is undone.
pub fn execute(plan: Plan, job: &mut Job) -> Result<Made> {
    let (child, start) = make(&plan, job)?;
    Ok(Made { child, start, plan })
}

fn make(plan: &Plan, job: &mut Job) -> Result<(Child, Fd)> {
    let made = Unfinished::new(job.directory.to_owned());
    let mut work = Work {
        plan,
        job,
        slots: vec![-1; plan.slots as usize],
        held: Vec::new(),
        made,
    };
    for placed in &plan.host {
        work.step(&placed.step).map_err(|error| {
            if error.errno().is_some() {
                error.within(&placed.from)
            } else {
                error
            }
        })?;
        crate::log::debug(|| format!("outside: {} done, from {}", placed.step.name(), placed.from));
    }
    if plan
        .container
        .iter()
        .any(|placed| matches!(placed.step, Step::Filter { .. }))
    {
        work.meeting()?.filtered()?;
    }
    log_inside(plan, work.child()?);
    let Work {
        slots,
        mut held,
        made,
        ..
    } = work;
    let start = slots[slot::START as usize];
    let place = held.iter().position(|held| held.0 == start);
    let start = place
        .map(|at| held.swap_remove(at))
        .ok_or_else(|| Error::new("the plan has no start"))?;
    let child = made
        .done()
        .ok_or_else(|| Error::new("the plan makes no process"))?;
    Fd::close_all(held);
    Ok((child, start))
}

impl Work<'_, '_> {
    fn step(&mut self, step: &HostStep) -> Result<()> {
        match step {
            HostStep::Open { slot, what } => self.open(*slot, what),
            HostStep::Cgroup { plan, first } => self.cgroup(plan, *first),
            HostStep::Clone {
                flags,
                stage,
                into_cgroup,
            } => {
                let cgroup = if *into_cgroup {
                    self.made.group.as_ref().and_then(Group::clone_fd)
                } else {
                    None
                };
                let cgroup = cgroup.map(|fd| std::os::fd::AsRawFd::as_raw_fd(&fd));
                let script = self.plan.encode();
                let fresh = self.job.fresh_init;
                let birth = Birth {
                    flags: *flags,
                    stage: stage.as_ref(),
                    cgroup,
                    script: &script,
                    slots: &mut self.slots,
                    walk: crate::init::walk::walk,
                    fresh,
                };
                self.made.child = Some(spawn::spawn(birth)?);
                Ok(())
            }
            HostStep::OomScore { value, lenient } => self.oom_score(*value, *lenient),
            HostStep::IdMap {
                uid,
                mappings,
                writer,
                deny_setgroups,
            } => idmap::write(self.child()?.pid, *uid, mappings, writer, *deny_setgroups),
            HostStep::JoinCgroup => self.join_cgroup(),
            HostStep::Unit { plan } => self.unit(plan),
            HostStep::NetDevice {
                host,
                name,
                namespace,
            } => crate::net::device::move_device(
                host,
                name,
                &self.network(*namespace)?,
                self.job.directory,
            ),
            HostStep::Network(setup) => {
                let pid = self.child()?.pid;
                crate::net::attach::attach(
                    setup,
                    self.job.id,
                    &self.network(None)?,
                    pid,
                    self.job.directory,
                )
            }
            HostStep::Barrier(kind) => self.meeting()?.barrier(*kind),
            HostStep::Hook { list, index, hook } => {
                // The words that each list's hooks are known to look for.
                let status = if *list == "prestart" {
                    "created"
                } else {
                    "creating"
                };
                let state =
                    state_document(self.job.spec, self.job.id, status, Some(self.child()?.pid));
                crate::hooks::host::run(list, *index, hook, &state, self.job.spec.bundle())?;
                if *index + 1 == self.hooks_in(list) && self.is_last_hook(list) {
                    self.meeting()?.send(Barrier::Hooks)
                } else {
                    Ok(())
                }
            }
            HostStep::Listener { path, metadata } => self.meeting()?.listener(
                self.job.spec,
                self.job.id,
                self.child()?.pid,
                path,
                metadata,
            ),
            HostStep::Rlimit(limit) => {
                let name =
                    crate::security::rlimits::name(limit.resource).unwrap_or("resource limit");
                ids::prlimit(self.child()?.pid, limit.resource, limit.soft, limit.hard)
                    .on("set", name)
            }
            HostStep::Record => {
                let (pid, cgroup) = (
                    self.child()?.pid,
                    self.made.group.as_ref().map(Group::record),
                );
                let outcomes = self.outcomes();
                (self.job.record)(pid, cgroup, outcomes)
            }
        }
    }

    /// The container's network namespace: the one that it joins, or its own.
    fn network(&self, slot: Option<u32>) -> Result<crate::net::netlink::Namespace> {
        let pid = match slot {
            Some(slot) => {
                return crate::net::netlink::Namespace::at(&format!(
                    "/proc/self/fd/{}",
                    self.slots.get(slot as usize).copied().unwrap_or(-1)
                ));
            }
            None => self.child()?.pid,
        };
        crate::net::netlink::Namespace::of_process(pid)
    }

    fn child(&self) -> Result<&Child> {
        self.made
            .child
            .as_ref()
            .ok_or_else(|| Error::new("the plan uses a process before it makes it"))
    }

    fn cgroup(&mut self, plan: &cgroups::plan::Plan, first: u32) -> Result<()> {
        (self.job.record)(0, Some(plan.record()), Vec::new())?;
        let mut group = Group::create(plan)?;
        group.apply(plan)?;
        for (index, fd) in group.join_fds()?.into_iter().enumerate() {
            let held = Fd(std::os::fd::IntoRawFd::into_raw_fd(fd));
            if let Some(slot) = self.slots.get_mut(first as usize + index) {
                *slot = held.0;
            }
            self.held.push(held);
        }
        self.made.group = Some(group);
        Ok(())
    }

    fn join_cgroup(&mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.child()?.pid);
        self.made
            .group
            .as_ref()
            .map_or(Ok(()), |group| group.add(pid))
    }

    fn unit(&mut self, plan: &cgroups::plan::Plan) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.child()?.pid);
        (self.job.record)(0, Some(plan.record()), Vec::new())?;
        let mut group = Group::start(plan, pid)?;
        group.apply(plan)?;
        self.made.group = Some(group);
        Ok(())
    }

    fn oom_score(&self, value: i32, lenient: bool) -> Result<()> {
        let path = format!("/proc/{}/oom_score_adj", self.child()?.pid);
        match idmap::write_file(&path, &value.to_string()) {
            Err(error)
                if lenient
                    && matches!(
                        error.errno(),
                        Some(nix::errno::Errno::EACCES | nix::errno::Errno::EPERM)
                    ) =>
            {
                Ok(())
            }
            Err(error) => Err(error.within("unable to set the oom score")),
            Ok(()) => Ok(()),
        }
    }

    fn hooks_in(&self, wanted: &str) -> usize {
        self.plan
            .host
            .iter()
            .filter(|placed| matches!(&placed.step, HostStep::Hook { list, .. } if *list == wanted))
            .count()
    }

    fn is_last_hook(&self, list: &str) -> bool {
        list == "createRuntime" || self.hooks_in("createRuntime") == 0
    }

    fn meeting(&self) -> Result<Barriers<'_>> {
        Ok(Barriers {
            plan: self.plan,
            child: self.child()?,
        })
    }

    fn outcomes(&self) -> Vec<Decided> {
        self.made
            .child
            .as_ref()
            .map(|child| decided(self.plan, child))
            .unwrap_or_default()
    }
}

/// For `--debug`: the steps of a child that came to its wait for start, or to its program, each
/// with what its policy decided. Their values are not told: the environment is among them.
pub fn log_inside(plan: &Plan, child: &Child) {
    let outcomes = std::cell::LazyCell::new(|| decided(plan, child));
    for (index, placed) in
        plan.container.iter().enumerate().take_while(|(_, placed)| {
            !matches!(placed.step, Step::WaitStart {} | Step::Exec { .. })
        })
    {
        crate::log::debug(|| {
            let outcome = outcomes
                .iter()
                .find(|decided| decided.step as usize == index)
                .map_or("done", |decided| &decided.outcome);
            format!(
                "inside: step {index} of {}, {} {outcome}, from {}",
                plan.container.len(),
                placed.step.name(),
                placed.from
            )
        });
    }
}

/// What the child's policies decided, from its page.
pub fn decided(plan: &Plan, child: &Child) -> Vec<Decided> {
    let report = child.page.report();
    let count = report.outcomes.load(Ordering::Acquire) as usize;
    let codes = report
        .outcome
        .iter()
        .take(count)
        .map(|code| code.load(Ordering::Relaxed));
    codes
        .map(|code| {
            let step = code >> 8;
            let from = plan
                .container
                .get(step as usize)
                .map(|placed| placed.from.to_string())
                .unwrap_or_default();
            Decided {
                step,
                from,
                outcome: Outcome::name(code).to_owned(),
            }
        })
        .collect()
}
