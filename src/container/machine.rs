//! The verbs of a container behind the second wall: asked of its monitor.

use super::Container;
use super::exec::Options;
use crate::cgroups::{Group, Stats};
use crate::init::Held;
use crate::namespaces::spawn::Child;
use crate::plan::{self, ExecRequest};
use crate::security::rlimits;
use crate::spec::config::{Process, Resources};
use crate::sys::file;
use crate::sys::page::Page;
use crate::sys::process::{self, Cloned};
use crate::vm::client::{self, News, Request};
use crate::vm::message;
use crate::vm::{Record, proxy, task, translate};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType as Kind;

impl Container {
    /// Asks the monitor.
    ///
    /// # Errors
    /// `container not running`; the guest's.
    pub fn machine(&self, request: &Request) -> Result<Option<serde_json::Value>> {
        client::ask(&self.folder(), request)
    }

    /// A signal for the program, by the guest. One that the kernel would act on itself, on the monitor, goes the same way.
    pub(super) fn signal_machine(&self, signal: i32) -> Result<()> {
        self.machine(&Request::Signal(signal)).map(drop)
    }

    /// The counters of the container's cgroup in the guest.
    pub(super) fn machine_stats(&self) -> Result<Stats> {
        let value = self.machine(&Request::Stats)?.ok_or_else(|| Error::new("the guest gives no counters"))?;
        serde_json::from_value(value).map_err(|error| Error::new(format!("the guest's counters: {error}")))
    }

    /// The guest's processes that belong to the container.
    ///
    /// # Errors
    /// `container not running`.
    pub fn machine_processes(&self) -> Result<Vec<message::Process>> {
        let value = self.machine(&Request::Processes)?.ok_or_else(|| Error::new("the guest gives no processes"))?;
        serde_json::from_value(value).map_err(|error| Error::new(format!("the guest's processes: {error}")))
    }

    /// New limits: the guest's kernel applies them to the container, the balloon takes what the container may not have any more, and the
    /// host's cgroup limits what is the host's.
    pub(super) fn update_machine(&self, machine: &Record, group: &mut Group, change: &Resources) -> Result<()> {
        let limit = change.memory.as_ref().and_then(|memory| memory.limit).filter(|limit| *limit > 0).map(|limit| limit as u64);
        if let Some(limit) = limit.filter(|limit| *limit > machine.memory) {
            return Err(Error::new(format!("memory limit {limit}: the guest was booted with {} bytes, and a balloon cannot grow past that", machine.memory)));
        }
        self.machine(&Request::Update(Box::new(translate::guests_part(change))))?;
        if let Some(limit) = limit {
            self.machine(&Request::Balloon((limit + translate::KERNEL).min(machine.memory)))?;
        }
        let mut host = translate::host_limits(Some(change), machine.memory);
        host.memory = None;
        group.update(&host)
    }

    /// Another program in the guest. The process that is answered stands for it.
    pub(super) fn exec_in_machine(&self, machine: &Record, process: &Process, options: &Options, console: Option<Held>) -> Result<Child> {
        if options.preserve_fds > 0 || !options.cgroup.is_empty() {
            return Err(Error::new("--preserve-fds and --cgroup cannot cross into a virtual machine"));
        }
        // Only a container with a user namespace has a network namespace in the guest.
        let user = self.record.spec.namespace(Kind::User).is_some();
        let guest_kinds = |kind: Kind| kind == Kind::Uts || (kind != Kind::Network || user) && self.record.spec.namespace(kind).is_some();
        let spec = &self.record.spec;
        let request = ExecRequest {
            user_namespace: user,
            may_set_groups: true,
            keep_groups: spec.config().annotations.get("run.oci.keep_original_groups").is_some_and(|value| value == "1"),
            filter: super::create::filter(&self.store, spec)?,
            preserve_fds: 0,
            cgroups: 0,
            personality: spec.config().linux.as_ref().and_then(|linux| linux.personality.clone()),
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
        let kinds = [Kind::Cgroup, Kind::Ipc, Kind::Mount, Kind::Network, Kind::Pid, Kind::Time, Kind::Uts];
        let mask = kinds.into_iter().filter(|kind| guest_kinds(*kind)).fold(0, |mask, kind| mask | kind as u32);
        let outside = limits.into_iter().filter(|limit| !plan::sets_itself(limit, &facts, user)).collect();
        let task = task::exec(&plan, mask, user, process.oom_score_adj, outside, process.terminal);
        let size = process.console_size.clone().unwrap_or_default();
        let clamp = |value: u64| value.min(u64::from(u16::MAX)) as u16;
        let job = proxy::Job { folder: &self.folder(), task, plan: &plan, console, size: (clamp(size.height), clamp(size.width)) };
        start(job)
    }
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
        Cloned::Parent { pid, pidfd } => Child { pid, pidfd: Held(pidfd), sync, page },
    };
    drop(theirs);
    let error = match client::receive::<News>(&child.sync)? {
        Some((News::Ready(..), _)) => return Ok(child),
        Some((News::Failed(text, status), _)) => status.map_or(Error::new(text.clone()), |status| Error::new(text).with_status(status)),
        _ => Error::new("the exec's process ended before its program ran"),
    };
    let _ = process::wait(child.pidfd.0, false);
    Err(error)
}
