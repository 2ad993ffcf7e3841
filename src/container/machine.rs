//! The verbs of a container behind the second wall: asked of its monitor.

use super::Container;
use super::exec::Options;
use crate::cgroups::{Group, Stats};
use crate::init::Held;
use crate::namespaces::spawn::Child;
use crate::plan::{self, ExecRequest};
use crate::security::rlimits;
use crate::spec::Spec;
use crate::spec::config::{Memory, Process, Resources};
use crate::sys::file;
use crate::sys::page::Page;
use crate::sys::process::{self, Cloned};
use crate::vm::client::{self, News, Request};
use crate::vm::message;
use crate::vm::{Record, proxy, task, translate};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::time::{Duration, Instant};

/// How long a guest may take to bring memory into use that was plugged in or that the balloon gives
/// back, or to empty it.
const PATIENCE: Duration = Duration::from_secs(30);

impl Container {
    /// Asks the monitor.
    ///
    /// # Errors
    /// `container not running`; the guest's.
    pub fn machine(&self, request: &Request) -> Result<Option<serde_json::Value>> {
        client::ask(&self.folder(), request)
    }

    /// A signal for the program or for all, by the guest. One that the kernel would act on itself,
    /// on the monitor, goes the same way.
    pub(super) fn signal_machine(&self, request: &Request) -> Result<()> {
        client::signal(&self.folder(), request)
    }

    /// The counters of the container's cgroup in the guest.
    pub(super) fn machine_stats(&self) -> Result<Stats> {
        let value = self
            .machine(&Request::Stats)?
            .ok_or_else(|| Error::new("the guest gives no counters"))?;
        serde_json::from_value(value)
            .map_err(|error| Error::new(format!("the guest's counters: {error}")))
    }

    /// The guest's processes that belong to the container.
    ///
    /// # Errors
    /// `container not running`.
    pub fn machine_processes(&self) -> Result<Vec<message::Process>> {
        let value = self
            .machine(&Request::Processes)?
            .ok_or_else(|| Error::new("the guest gives no processes"))?;
        serde_json::from_value(value)
            .map_err(|error| Error::new(format!("the guest's processes: {error}")))
    }

    /// New limits: the guest's kernel applies them to the container, the balloon takes what the
    /// container may not have any more, memory is plugged in where it may have more than the
    /// machine booted with, and the host's cgroup limits what is the host's. `before` has the
    /// limits until now.
    pub(super) fn update_machine(
        &self,
        machine: &Record,
        group: &mut Group,
        change: &Resources,
        before: &Spec,
    ) -> Result<()> {
        let limit = change
            .memory
            .as_ref()
            .and_then(|memory| memory.limit)
            .filter(|limit| *limit != 0);
        let wanted = limit.map(|limit| {
            translate::memory_for(
                u64::try_from(limit).ok(),
                machine.memory,
                machine.memory_max,
            )
        });
        match (limit, machine.memory_max) {
            (Some(limit), None) if limit > 0 && limit as u64 > machine.memory => {
                return Err(Error::new(format!(
                    "memory limit {limit}: the guest was booted with {} bytes, and a balloon \
                        cannot grow past that (--vm-memory-max, when it is made)",
                    machine.memory
                )));
            }
            (Some(limit), Some(most)) if limit > 0 && limit as u64 > most => {
                return Err(Error::new(format!(
                    "memory limit {limit}: the guest was made to grow to {most} bytes at most \
                        (--vm-memory-max)"
                )));
            }
            _ => {}
        }
        translate::without_effect(change)
            .iter()
            .for_each(|words| crate::log::warn(words));
        let grows = match wanted {
            Some((left, plugged)) => plugged > 0 || self.number(&Request::Left)? < left,
            None => false,
        };
        let mut host = translate::host_limits(Some(change), machine.memory);
        host.memory = match wanted {
            Some((_, plugged)) if grows => higher_limit(group, machine.memory + plugged)?,
            _ => None,
        };
        group.update(&host)?;
        let limits = Request::Update(Box::new(translate::guests_part(change)));
        let carried_out = match wanted {
            // Before the limit: a program that may have more would be killed for the lack of what
            // is still on its way.
            Some((left, plugged)) if grows => self
                .grow(left, plugged)
                .and_then(|()| self.machine(&limits)),
            _ => self.machine(&limits),
        };
        if let Err(refused) = carried_out {
            // All or nothing: the host's part is as it was.
            let before = before
                .config()
                .linux
                .as_ref()
                .and_then(|linux| linux.resources.as_ref());
            group.update(&Resources {
                memory: None,
                ..translate::host_limits(before, machine.memory)
            })?;
            return Err(refused);
        }
        match wanted {
            Some((left, _)) if !grows => self.shrink(machine, left),
            _ => Ok(()),
        }
    }

    /// Plugs memory in and has the balloon give back what it took, and waits until the guest has
    /// both.
    fn grow(&self, left: u64, plugged: u64) -> Result<()> {
        self.machine(&Request::Memory(left, plugged))?;
        let late = |what: &str, came: u64| {
            Err(Error::new(format!(
                "give the guest {what} {came} within {} s",
                PATIENCE.as_secs()
            )))
        };
        if plugged > 0 {
            let taken = self.number_when(&Request::Plugged, |taken| taken >= plugged)?;
            if taken < plugged {
                return late(&format!("{plugged} bytes of memory more: it took"), taken);
            }
        }
        match self.number_when(&Request::Left, |now| now >= left)? {
            now if now >= left => Ok(()),
            now => late(
                &format!("{left} bytes of the memory it was booted with: the balloon left it"),
                now,
            ),
        }
    }

    /// Takes what was plugged in, and then what the balloon is to take: the guest moves what is in
    /// the one into the other.
    fn shrink(&self, machine: &Record, left: u64) -> Result<()> {
        if machine.memory_max.is_some() {
            self.machine(&Request::Memory(machine.memory, 0))?;
            let kept = self.number_when(&Request::Plugged, |kept| kept == 0)?;
            if kept > 0 {
                crate::log::warn(&format!(
                    "the guest keeps {kept} bytes of its memory for now: it has no place for what \
                        is in them"
                ));
            }
        }
        self.machine(&Request::Memory(left, 0)).map(drop)
    }

    /// What is asked for by its number.
    fn number(&self, request: &Request) -> Result<u64> {
        let number = self.machine(request)?.and_then(|value| value.as_u64());
        number.ok_or_else(|| Error::new("the container's monitor answers something else"))
    }

    /// The same, once the number is as wanted, or as it is after a while.
    fn number_when(&self, request: &Request, done: impl Fn(u64) -> bool) -> Result<u64> {
        let until = Instant::now() + PATIENCE;
        loop {
            let number = self.number(request)?;
            if done(number) || Instant::now() >= until {
                return Ok(number);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Another program in the guest. The process that is answered stands for it.
    pub(super) fn exec_in_machine(
        &self,
        machine: &Record,
        process: &Process,
        options: &Options,
        console: Option<Held>,
    ) -> Result<Child> {
        if options.preserve_fds > 0 || !options.cgroup.is_empty() {
            return Err(Error::new(
                "--preserve-fds and --cgroup name what is the host's, which cannot cross into a \
                    virtual machine",
            ));
        }
        // Only a container with a user namespace has a network namespace in the guest.
        let user = self.record.spec.namespace(Kind::User).is_some();
        let guest_kinds = |kind: Kind| {
            kind == Kind::Uts
                || (kind != Kind::Network || user) && self.record.spec.namespace(kind).is_some()
        };
        let spec = &self.record.spec;
        let request = ExecRequest {
            user_namespace: user,
            may_set_groups: true,
            keep_groups: spec
                .config()
                .annotations
                .get("run.oci.keep_original_groups")
                .is_some_and(|value| value == "1"),
            filter: super::create::filter(&self.store, spec)?,
            preserve_fds: 0,
            cgroups: 0,
            personality: spec
                .config()
                .linux
                .as_ref()
                .and_then(|linux| linux.personality.clone()),
            keyring: (!self.record.no_new_keyring).then(|| format!("_ses.{}", self.record.id)),
        };
        let mut process = process.clone();
        // Labels of the host's security modules mean nothing to the guest's kernel.
        (process.apparmor_profile, process.selinux_label) = (None, None);
        let mut facts = machine.facts.clone();
        let limits = rlimits::parse(&process.rlimits)?;
        facts.hard_limits = limits.iter().map(|limit| (limit.resource, 0)).collect();
        let plan = plan::exec(&process, &facts, &request)?;
        for warning in &plan.warnings {
            crate::log::warn(warning);
        }
        let kinds = [
            Kind::Cgroup,
            Kind::Ipc,
            Kind::Mount,
            Kind::Network,
            Kind::Pid,
            Kind::Time,
            Kind::Uts,
        ];
        let mask = kinds
            .into_iter()
            .filter(|kind| guest_kinds(*kind))
            .fold(0, |mask, kind| mask | kind as u32);
        let outside = limits
            .into_iter()
            .filter(|limit| !plan::sets_itself(limit, &facts, user))
            .collect();
        let task = task::exec(
            &plan,
            mask,
            user,
            process.oom_score_adj,
            outside,
            process.terminal,
        );
        let size = process.console_size.clone().unwrap_or_default();
        let clamp = |value: u64| value.min(u64::from(u16::MAX)) as u16;
        let job = proxy::Job {
            folder: &self.folder(),
            task,
            plan: &plan,
            console,
            patience: client::patience()?,
            size: (clamp(size.height), clamp(size.width)),
        };
        start(job)
    }
}

/// The host's limit for a machine of so much memory, where the one in force is lower. It is never
/// lowered: a guest gives its memory back when it can, and below what it has the kernel would end
/// it.
fn higher_limit(group: &Group, guest_memory: u64) -> Result<Option<Memory>> {
    let wanted = translate::host_memory(guest_memory);
    let now = group.stats()?.memory.usage.limit;
    // None at all where the host has no such controller.
    Ok((1..wanted as u64).contains(&now).then(|| Memory {
        limit: Some(wanted),
        ..Memory::default()
    }))
}

/// The exec's process, and its first word.
fn start(job: proxy::Job) -> Result<Child> {
    let (sync, theirs) = crate::namespaces::idmap::socket_pair()?;
    let page = Page::new().on("make", "the report page")?;
    let child = match process::clone(0, None).on("clone", "the exec's process")? {
        Cloned::Child => {
            let console = job.console.as_ref().map_or(-1, |console| console.0);
            file::close_all_but(3, &mut [theirs.0, console]);
            proxy::run(job, &theirs)
        }
        Cloned::Parent { pid, pidfd } => Child {
            pid,
            pidfd: Held(pidfd),
            sync,
            page,
        },
    };
    drop(theirs);
    let error = match client::receive::<News>(&child.sync)? {
        Some((News::Ready(..), _)) => return Ok(child),
        Some((News::Failed(text, status), _)) => status
            .map_or(Error::new(text.clone()), |status| {
                Error::new(text).with_status(status)
            }),
        _ => Error::new("the exec's process ended before its program ran"),
    };
    let _ = process::wait(child.pidfd.0, false);
    Err(error)
}
