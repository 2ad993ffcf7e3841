//! What hull's commands ask of a container's VM, by way of its monitor.

use crate::cgroups::group::Group;
use crate::cgroups::stats::types::Stats;
use crate::spec::Spec;
use crate::spec::config::{Memory, Resources};
use crate::state::VmRecord;
use crate::vm::channel::client;
use crate::vm::channel::client::Request;
use crate::vm::channel::message;
use crate::vm::translate;
use crate::{Error, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a guest may take to bring memory into use that was plugged in or that the balloon gives
/// back, or to empty it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A container's VM, by the container's directory.
pub struct Vm {
    directory: PathBuf,
}

impl Vm {
    /// The VM of the container in this directory.
    pub fn of(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Asks the monitor.
    ///
    /// # Errors
    /// `container not running`; the guest's.
    pub fn ask(&self, request: &Request) -> Result<Option<serde_json::Value>> {
        client::ask(&self.directory, request)
    }

    /// A signal for the program or for all, by the guest. One that the kernel would act on itself,
    /// on the monitor, goes the same way.
    pub fn signal(&self, request: &Request) -> Result<()> {
        client::signal(&self.directory, request)
    }

    /// Whether the program does nothing about a signal: the guest's kernel is asked.
    pub fn leaves_to_default(&self, signal: i32) -> bool {
        let answer = self.ask(&Request::Handled).ok().flatten();
        answer
            .and_then(|mask| mask.as_u64())
            .is_some_and(|mask| mask & (1 << (signal - 1)) == 0)
    }

    /// The counters of the container's cgroup in the guest.
    pub fn stats(&self) -> Result<Stats> {
        let value = self
            .ask(&Request::Stats)?
            .ok_or_else(|| Error::new("the guest gives no counters"))?;
        serde_json::from_value(value)
            .map_err(|error| Error::new(format!("the guest's counters: {error}")))
    }

    /// The guest's processes that belong to the container.
    ///
    /// # Errors
    /// `container not running`.
    pub fn processes(&self) -> Result<Vec<message::Process>> {
        let value = self
            .ask(&Request::Processes)?
            .ok_or_else(|| Error::new("the guest gives no processes"))?;
        serde_json::from_value(value)
            .map_err(|error| Error::new(format!("the guest's processes: {error}")))
    }

    /// New limits: the guest's kernel applies them to the container, the balloon takes what the
    /// container may not have any more, memory is plugged in where it may have more than the
    /// machine booted with, and the host's cgroup limits what is the host's. `before` has the
    /// limits until now.
    pub fn update(
        &self,
        machine: &VmRecord,
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
            crate::settings::vm::memory_for(
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
            Some((left, plugged)) if grows => {
                self.grow(left, plugged).and_then(|()| self.ask(&limits))
            }
            _ => self.ask(&limits),
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
        self.ask(&Request::Memory(left, plugged))?;
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
    fn shrink(&self, machine: &VmRecord, left: u64) -> Result<()> {
        if machine.memory_max.is_some() {
            self.ask(&Request::Memory(machine.memory, 0))?;
            let kept = self.number_when(&Request::Plugged, |kept| kept == 0)?;
            if kept > 0 {
                crate::log::warn(&format!(
                    "the guest keeps {kept} bytes of its memory for now: it has no place for what \
                        is in them"
                ));
            }
        }
        self.ask(&Request::Memory(left, 0)).map(drop)
    }

    /// What is asked for by its number.
    fn number(&self, request: &Request) -> Result<u64> {
        let number = self.ask(request)?.and_then(|value| value.as_u64());
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
