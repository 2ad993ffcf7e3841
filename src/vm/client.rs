//! What hull's commands do with a running VM, through its monitor's control socket.

use crate::cgroups::group::Group;
use crate::cgroups::stats::types::Stats;
use crate::settings::vm::{GuestMemory, memory_for};
use crate::spec::Spec;
use crate::spec::config::{Memory, Resources};
use crate::state::VmRecord;
use crate::vm::channel::client::{self, MonitorRequest};
use crate::vm::channel::message;
use crate::vm::translate::limits;
use crate::{Error, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a guest may take to online memory that was plugged in or that the balloon gave back,
/// or to offline it.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(30);

/// A container's VM, by the container's directory.
pub struct Vm {
    directory: PathBuf,
}

impl Vm {
    /// The VM of the container in this directory.
    pub(crate) fn of(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Sends the monitor a request and waits for the answer.
    ///
    /// # Errors
    /// `container not running`; the guest or QEMU refuses the request, or does not answer in time.
    pub(crate) fn request(&self, request: &MonitorRequest) -> Result<Option<serde_json::Value>> {
        client::request(&self.directory, request)
    }

    /// Has the guest send a signal to the container's program or to all of its processes. The
    /// host's kill(2) would act on the monitor process instead.
    ///
    /// # Errors
    /// `container not running`; the guest refuses the signal.
    pub(crate) fn signal(&self, request: &MonitorRequest) -> Result<()> {
        client::signal(&self.directory, request)
    }

    /// Whether the container's program leaves a signal to its default action, as far as the guest
    /// answers.
    pub(crate) fn leaves_to_default(&self, signal: i32) -> bool {
        let answer = self.request(&MonitorRequest::Handled).ok().flatten();
        answer
            .and_then(|mask| mask.as_u64())
            .is_some_and(|mask| mask & (1 << (signal - 1)) == 0)
    }

    /// The counters of the container's cgroup in the guest.
    ///
    /// # Errors
    /// As [`Vm::request`].
    pub(crate) fn stats(&self) -> Result<Stats> {
        let value = self
            .request(&MonitorRequest::Stats)?
            .ok_or_else(client::unexpected_answer)?;
        serde_json::from_value(value)
            .map_err(|error| Error::new(format!("decode the guest's counters: {error}")))
    }

    /// The guest's processes that belong to the container.
    ///
    /// # Errors
    /// As [`Vm::request`].
    pub(crate) fn processes(&self) -> Result<Vec<message::Process>> {
        let value = self
            .request(&MonitorRequest::Processes)?
            .ok_or_else(client::unexpected_answer)?;
        serde_json::from_value(value)
            .map_err(|error| Error::new(format!("decode the guest's processes: {error}")))
    }

    /// Sets new resource limits. The guest's kernel applies them to the container's cgroup in the
    /// guest. A lower memory limit inflates the balloon; one above the memory at boot plugs memory
    /// in. `group` is the container's cgroup on the host, which limits the monitor, the share
    /// server and QEMU; `before` has the limits until now.
    ///
    /// # Errors
    /// The new memory limit is more than the guest can have; the guest refuses a limit or does not
    /// take its new memory in time. The limits on the host are restored then.
    pub(crate) fn update(
        &self,
        vm: &VmRecord,
        group: &mut Group,
        change: &Resources,
        before: &Spec,
    ) -> Result<()> {
        let limit = change
            .memory
            .as_ref()
            .and_then(|memory| memory.limit)
            .filter(|limit| *limit != 0);
        check_memory_limit(vm, limit)?;
        let wanted =
            limit.map(|limit| memory_for(u64::try_from(limit).ok(), vm.memory, vm.memory_max));
        limits::without_effect(change)
            .iter()
            .for_each(|words| crate::log::warn(words));
        let grow = match wanted {
            Some(wanted) if self.grows_to(wanted)? => Some(wanted),
            _ => None,
        };
        let mut host = limits::host_limits(Some(change), vm.memory);
        host.memory = match grow {
            Some(wanted) => higher_limit(group, vm.memory + wanted.plugged)?,
            None => None,
        };
        group.update(&host)?;
        if let Err(error) = self.update_guest(change, grow) {
            let before = before
                .config()
                .linux
                .as_ref()
                .and_then(|linux| linux.resources.as_ref());
            group.update(&Resources {
                memory: None,
                ..limits::host_limits(before, vm.memory)
            })?;
            return Err(error);
        }
        match (wanted, grow) {
            (Some(wanted), None) => self.shrink(vm, wanted.at_boot),
            _ => Ok(()),
        }
    }

    /// The guest gets more memory before the higher limit: with the limit alone, its kernel would
    /// kill a program for lack of the memory that is not there yet.
    fn update_guest(&self, change: &Resources, grow: Option<GuestMemory>) -> Result<()> {
        if let Some(wanted) = grow {
            self.grow(wanted)?;
        }
        let limits = limits::guest_limits(change);
        self.request(&MonitorRequest::Update(Box::new(limits)))
            .map(drop)
    }

    /// Whether the guest has less memory than this.
    fn grows_to(&self, wanted: GuestMemory) -> Result<bool> {
        Ok(wanted.plugged > 0 || self.number(&MonitorRequest::Balloon)? < wanted.at_boot)
    }

    /// Plugs memory in and deflates the balloon, and waits until the guest has the memory.
    fn grow(&self, wanted: GuestMemory) -> Result<()> {
        self.request(&MonitorRequest::Memory(wanted))?;
        let seconds = MEMORY_TIMEOUT.as_secs();
        let GuestMemory { at_boot, plugged } = wanted;
        if plugged > 0 {
            let taken = self.number_when(&MonitorRequest::Plugged, |taken| taken >= plugged)?;
            if taken < plugged {
                return Err(Error::new(format!(
                    "plug in {plugged} bytes of memory: the guest took {taken} bytes within \
                        {seconds} s"
                )));
            }
        }
        let balloon = self.number_when(&MonitorRequest::Balloon, |now| now >= at_boot)?;
        if balloon < at_boot {
            return Err(Error::new(format!(
                "deflate the balloon to leave {at_boot} bytes: it left {balloon} bytes within \
                    {seconds} s"
            )));
        }
        Ok(())
    }

    /// Unplugs all that was plugged in and then inflates the balloon, so that it leaves the guest
    /// `at_boot` bytes. In this order the guest can migrate the pages of the memory that is
    /// unplugged to the memory at boot.
    fn shrink(&self, vm: &VmRecord, at_boot: u64) -> Result<()> {
        if vm.memory_max.is_some() {
            self.request(&MonitorRequest::Memory(GuestMemory {
                at_boot: vm.memory,
                plugged: 0,
            }))?;
            let kept = self.number_when(&MonitorRequest::Plugged, |kept| kept == 0)?;
            if kept > 0 {
                crate::log::warn(&format!(
                    "the guest keeps {kept} bytes of the memory that was plugged in: it cannot \
                        move the pages there to other memory now"
                ));
            }
        }
        self.request(&MonitorRequest::Memory(GuestMemory {
            at_boot,
            plugged: 0,
        }))
        .map(drop)
    }

    /// A request that is answered by a number.
    fn number(&self, request: &MonitorRequest) -> Result<u64> {
        let number = self.request(request)?.and_then(|value| value.as_u64());
        number.ok_or_else(client::unexpected_answer)
    }

    /// Repeats the request until the number satisfies the condition, for [`MEMORY_TIMEOUT`] at
    /// most; returns the last number.
    fn number_when(
        &self,
        request: &MonitorRequest,
        condition: impl Fn(u64) -> bool,
    ) -> Result<u64> {
        let until = Instant::now() + MEMORY_TIMEOUT;
        loop {
            let number = self.number(request)?;
            if condition(number) || Instant::now() >= until {
                return Ok(number);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A limit above the memory that the guest can have is an error.
fn check_memory_limit(vm: &VmRecord, limit: Option<i64>) -> Result<()> {
    match (limit, vm.memory_max) {
        (Some(limit), None) if limit > 0 && limit as u64 > vm.memory => Err(Error::new(format!(
            "memory limit {limit}: the guest was booted with {} bytes, and a balloon cannot grow \
                past that (--vm-memory-max, when it is made)",
            vm.memory
        ))),
        (Some(limit), Some(max)) if limit > 0 && limit as u64 > max => Err(Error::new(format!(
            "memory limit {limit}: the guest was made to grow to {max} bytes at most \
                (--vm-memory-max)"
        ))),
        _ => Ok(()),
    }
}

/// The memory limit on the host for a guest of this size, in bytes, if it is above the limit in
/// force. hull never lowers this limit: the guest gives its memory back when it can, and with a
/// limit below what QEMU uses the host's kernel would kill it.
fn higher_limit(group: &Group, guest_memory: u64) -> Result<Option<Memory>> {
    let wanted = limits::host_memory(guest_memory);
    let now = group.stats()?.memory.usage.limit;
    // The limit is 0 if the host has no memory controller.
    Ok((1..wanted as u64).contains(&now).then(|| Memory {
        limit: Some(wanted),
        ..Memory::default()
    }))
}
