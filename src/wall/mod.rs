//! The first wall: `outside` carried out on this kernel, with the child on the other side.

mod hooks;
mod listener;
mod slots;
pub mod words;

pub use hooks::run as run_hook;
pub use words::child_error;

use crate::cgroups::{self, Group};
use crate::init::Held;
use crate::init::report::Outcome;
use crate::namespaces::idmap;
use crate::namespaces::spawn::{self, Birth, Child};
use crate::plan::outside::OutStep;
use crate::plan::step::{Barrier, slot};
use crate::plan::{Plan, state_document};
use crate::spec::Spec;
use crate::state::Decided;
use crate::sys::{ids, process, socket};
use crate::{Context, Error, Result};
use std::path::Path;
use std::sync::atomic::Ordering;

/// What a plan needs besides itself to be carried out.
pub struct Job<'a> {
    /// The config, for hooks' state.
    pub spec: &'a Spec,
    /// The container's id.
    pub id: &'a str,
    /// The container's folder.
    pub folder: &'a Path,
    /// The socket that takes the terminal.
    pub console: Option<Held>,
    /// A fresh process carries out `inside`.
    pub fresh_init: bool,
    /// Writes the record: (pid, cgroup, outcomes). Called with pid 0 before anything is made, so that whatever a killed hull leaves
    /// can be found.
    pub record: &'a mut dyn FnMut(i32, Option<cgroups::Record>, Vec<Decided>) -> Result<()>,
}

/// A container that was made and waits for `start`.
pub struct Made {
    /// Its init.
    pub child: Child,
    /// The fifo on which it waits.
    pub start: Held,
}

/// Work in progress; what it made is undone when it is dropped before it is done.
struct Work<'a, 'b> {
    plan: &'a Plan,
    job: &'a mut Job<'b>,
    slots: Vec<i32>,
    held: Vec<Held>,
    group: Option<Group>,
    child: Option<Child>,
    done: bool,
}

impl Drop for Work<'_, '_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(child) = &self.child {
            let _ = process::pidfd_send_signal(child.pidfd.0, libc::SIGKILL);
            let _ = process::wait(child.pidfd.0, false);
        }
        if let Some(group) = &mut self.group {
            // Children of hooks may be there still.
            let _ = group.kill(nix::sys::signal::Signal::SIGKILL);
            let _ = group.remove();
        }
    }
}

/// Carries out `outside`; the child carries out `inside` beside it.
///
/// # Errors
/// Of the step that failed, on either side; everything made is undone.
pub fn carry_out(plan: &Plan, job: &mut Job) -> Result<Made> {
    let mut work = Work { plan, job, slots: vec![-1; plan.slots as usize], held: Vec::new(), group: None, child: None, done: false };
    for placed in &plan.outside {
        work.step(&placed.step).map_err(|error| if error.errno().is_some() { error.within(&placed.from) } else { error })?;
    }
    work.filtered()?;
    work.done = true;
    if let Some(group) = &mut work.group {
        group.commit();
    }
    let child = work.child.take().ok_or_else(|| Error::new("the plan makes no process"))?;
    let start = work.slots[slot::START as usize];
    let place = work.held.iter().position(|held| held.0 == start);
    let start = place.map(|at| work.held.swap_remove(at)).ok_or_else(|| Error::new("the plan has no start"))?;
    Ok(Made { child, start })
}

impl Work<'_, '_> {
    fn step(&mut self, step: &OutStep) -> Result<()> {
        match step {
            OutStep::Open { slot, what } => self.open(*slot, what),
            OutStep::Cgroup { plan, first } => self.cgroup(plan, *first),
            OutStep::Clone { flags, stage, into_cgroup } => {
                let cgroup = if *into_cgroup { self.group.as_ref().and_then(Group::clone_fd) } else { None };
                let cgroup = cgroup.map(|fd| std::os::fd::AsRawFd::as_raw_fd(&fd));
                let script = self.plan.encode();
                let fresh = self.job.fresh_init;
                let birth = Birth { flags: *flags, stage: stage.as_ref(), cgroup, script: &script, slots: &mut self.slots, fresh };
                self.child = Some(spawn::spawn(birth)?);
                Ok(())
            }
            OutStep::OomScore { value, lenient } => self.oom_score(*value, *lenient),
            OutStep::IdMap { uid, mappings, writer, deny_setgroups } => idmap::write(self.child()?.pid, *uid, mappings, writer, *deny_setgroups),
            OutStep::JoinCgroup => self.join_cgroup(),
            OutStep::NetDevice { host, name } => crate::net::move_device(host, name, self.child()?.pid),
            OutStep::Barrier(kind) => self.barrier(*kind),
            OutStep::Hook { list, index, hook } => {
                let state = state_document(self.job.spec, self.job.id, "creating", Some(self.child()?.pid));
                hooks::run(list, *index, hook, &state, self.job.spec.bundle())?;
                if *index + 1 == self.hooks_in(list) && self.is_last_hook(list) { self.send(Barrier::Hooks) } else { Ok(()) }
            }
            OutStep::Listener { path, metadata } => self.listener(path, metadata),
            OutStep::Rlimit(limit) => {
                let name = crate::security::rlimits::name(limit.resource).unwrap_or("resource limit");
                ids::prlimit(self.child()?.pid, limit.resource, limit.soft, limit.hard).on("set", name)
            }
            OutStep::Record => {
                let (pid, cgroup) = (self.child()?.pid, self.group.as_ref().map(Group::record));
                let outcomes = self.outcomes();
                (self.job.record)(pid, cgroup, outcomes)
            }
        }
    }

    fn child(&self) -> Result<&Child> {
        self.child.as_ref().ok_or_else(|| Error::new("the plan uses a process before it makes it"))
    }

    fn cgroup(&mut self, plan: &cgroups::Plan, first: u32) -> Result<()> {
        (self.job.record)(0, Some(plan.record()), Vec::new())?;
        let mut group = Group::create(plan)?;
        group.apply(plan)?;
        for (index, fd) in group.join_fds()?.into_iter().enumerate() {
            let held = Held(std::os::fd::IntoRawFd::into_raw_fd(fd));
            if let Some(slot) = self.slots.get_mut(first as usize + index) {
                *slot = held.0;
            }
            self.held.push(held);
        }
        self.group = Some(group);
        Ok(())
    }

    fn join_cgroup(&mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.child()?.pid);
        match &self.group {
            Some(group) => group.add(pid),
            None => Err(Error::new("the systemd cgroup driver is not there yet")),
        }
    }

    fn oom_score(&self, value: i32, lenient: bool) -> Result<()> {
        let path = format!("/proc/{}/oom_score_adj", self.child()?.pid);
        match idmap::write_file(&path, &value.to_string()) {
            Err(error) if lenient && matches!(error.errno(), Some(nix::errno::Errno::EACCES | nix::errno::Errno::EPERM)) => Ok(()),
            Err(error) => Err(error.within("unable to set the oom score")),
            Ok(()) => Ok(()),
        }
    }

    /// Meets the child. Its death is an error and not a hang: its pidfd is watched beside the socket.
    fn barrier(&self, kind: Barrier) -> Result<()> {
        let child = self.child()?;
        if matches!(kind, Barrier::Placed | Barrier::Recorded) {
            return self.send(kind);
        }
        let (readable, _) = process::poll2(child.sync.0, child.pidfd.0, None).on("wait for", "the container's process")?;
        let mut byte = [0_u8; 1];
        if readable && matches!(socket::recv(child.sync.0, &mut byte), Ok(1)) && byte[0] == kind as u8 {
            return Ok(());
        }
        Err(words::child_error(self.plan, child))
    }

    fn send(&self, kind: Barrier) -> Result<()> {
        let child = self.child()?;
        match socket::send(child.sync.0, &[kind as u8]) {
            Ok(()) => Ok(()),
            Err(_) => Err(words::child_error(self.plan, child)),
        }
    }

    fn hooks_in(&self, wanted: &str) -> usize {
        self.plan.outside.iter().filter(|placed| matches!(&placed.step, OutStep::Hook { list, .. } if *list == wanted)).count()
    }

    fn is_last_hook(&self, list: &str) -> bool {
        list == "createRuntime" || self.hooks_in("createRuntime") == 0
    }

    fn listener(&mut self, path: &str, metadata: &str) -> Result<()> {
        let child = self.child()?;
        let remote = loop {
            match child.page.report().listener.load(Ordering::Acquire) {
                0 => self.pause_while_alive()?,
                number => break number - 1,
            }
        };
        let fd = process::pidfd_getfd(child.pidfd.0, remote).map(Held).on("take", "the seccomp listener")?;
        listener::send(self.job.spec, self.job.id, child.pid, fd.0, path, metadata)?;
        child.page.report().taken.store(1, Ordering::Release);
        Ok(())
    }

    /// The child tells by memory alone that it is past its filter: seen here by looking, since no call of its could be relied on.
    fn filtered(&self) -> Result<()> {
        while self.child()?.page.report().filtered.load(Ordering::Acquire) == 0 {
            self.pause_while_alive()?;
        }
        Ok(())
    }

    fn pause_while_alive(&self) -> Result<()> {
        let child = self.child()?;
        match process::poll2(child.pidfd.0, -1, Some(0)) {
            Ok((false, _)) => {
                std::thread::sleep(std::time::Duration::from_micros(20));
                Ok(())
            }
            _ => Err(words::child_error(self.plan, child)),
        }
    }

    fn outcomes(&self) -> Vec<Decided> {
        let Some(child) = &self.child else { return Vec::new() };
        decided(self.plan, child)
    }
}

/// What the child's policies decided, from its page.
pub fn decided(plan: &Plan, child: &Child) -> Vec<Decided> {
    let report = child.page.report();
    let count = report.outcomes.load(Ordering::Acquire) as usize;
    let codes = report.outcome.iter().take(count).map(|code| code.load(Ordering::Relaxed));
    codes
        .map(|code| {
            let step = code >> 8;
            let from = plan.inside.get(step as usize).map(|placed| placed.from.to_string()).unwrap_or_default();
            Decided { step, from, outcome: Outcome::name(code).to_owned() }
        })
        .collect()
}
