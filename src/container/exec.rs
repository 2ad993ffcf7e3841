//! `exec`: another process in a container, by way of a stage that joins its namespaces.

use super::{Container, Status};
use crate::backend::barrier::Barriers;
use crate::cgroups::exec::{ExecTarget, sub_cgroups};
use crate::cgroups::group::Group;
use crate::facts::{Facts, Owner};
use crate::namespaces::spawn::{Birth, Child, spawn};
use crate::process::exec::ExecRequest;
use crate::rootfs::sources::procfs;
use crate::security::rlimits;
use crate::spec::config::Process;
use crate::state::VmRecord;
use crate::step::container::{Barrier, slot};
use crate::step::host::Stage;
use crate::sys::fd::Fd;
use crate::sys::{ids, process as sys_process};
use crate::vm;
use crate::{Context, Error, Result};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxNamespaceType;
use std::os::fd::IntoRawFd;

/// What `exec` was asked besides the process.
#[derive(Default)]
pub struct Options {
    /// `--preserve-fds`.
    pub preserve_fds: u32,
    /// `--ignore-paused`.
    pub ignore_paused: bool,
    /// `--cgroup`: paths below the container's cgroup, each `[CONTROLLER:]PATH`.
    pub cgroup: Vec<String>,
}

impl Container {
    /// Makes a process in the container; it runs when this returns.
    ///
    /// # Errors
    /// The container is stopped or paused; the program is missing; the kernel refuses a step.
    pub fn exec(&self, process: &Process, options: &Options, console: Option<Fd>) -> Result<Child> {
        match self.status() {
            Status::Running | Status::Created => {}
            Status::Paused if options.ignore_paused => {}
            Status::Paused => {
                return Err(Error::new(
                    "cannot exec in a paused container (use --ignore-paused to override)",
                ));
            }
            Status::Stopped | Status::Creating => {
                return Err(Error::new("cannot exec in a stopped container"));
            }
        }
        check(process)?;
        let process = &self.completed(process);
        if let Some(machine) = &self.record.vm {
            return self.exec_in_vm(machine, process, options, console);
        }
        let init = self.pidfd()?;
        let facts = Facts::probe(&self.record.spec)?;
        let mut entry = self.entry(options)?;
        let tasks: Vec<Fd> = entry
            .iter_mut()
            .flat_map(|(_, target)| target.tasks.drain(..))
            .map(|fd| Fd(fd.into_raw_fd()))
            .collect();
        let request = self.exec_request(options, tasks.len() as u32)?;
        let plan = crate::process::exec::exec(process, &facts, &request)?;
        for warning in &plan.warnings {
            crate::log::warn(warning);
        }
        plan.remarks
            .iter()
            .for_each(|remark| crate::log::remark(remark));
        let mut slots = vec![-1; plan.slots as usize + 1];
        let pidfd_slot = plan.slots;
        slots[pidfd_slot as usize] = init.0;
        let proc = procfs()?;
        slots[slot::PROC as usize] = proc.0;
        slots[slot::CONSOLE as usize] = console.as_ref().map_or(-1, |held| held.0);
        for (index, held) in tasks.iter().enumerate() {
            slots[crate::process::exec::FIRST_CGROUP as usize + index] = held.0;
        }
        // A process of the container must not reach hull through its own /proc while it joins
        // (CVE-2016-9962).
        ids::prctl(libc::PR_SET_DUMPABLE, 0, 0).on("become", "undumpable")?;
        take_initial_affinity(process)?;
        let stage = self.stage(pidfd_slot);
        let script = plan.encode();
        let birth = Birth {
            flags: 0,
            stage: Some(&stage),
            cgroup: None,
            script: &script,
            slots: &mut slots,
            walk: crate::init::walk::walk,
            fresh: false,
        };
        let child = spawn(birth)?;
        match self.settle(&plan, &child, process, (&facts, &request, entry.as_ref())) {
            Ok(()) => {
                crate::backend::log_inside(&plan, &child);
                Ok(child)
            }
            Err(error) => {
                let _ = sys_process::pidfd_send_signal(child.pidfd.0, libc::SIGKILL);
                let _ = sys_process::wait(child.pidfd.0, false);
                Err(error)
            }
        }
    }

    fn exec_in_vm(
        &self,
        vm: &VmRecord,
        process: &Process,
        options: &Options,
        console: Option<Fd>,
    ) -> Result<Child> {
        if options.preserve_fds > 0 || !options.cgroup.is_empty() {
            return Err(Error::new(
                "--preserve-fds and --cgroup name what is the host's, which cannot cross into a \
                 virtual machine",
            ));
        }
        let target = vm::exec::Target {
            store: &self.store,
            record: &self.record,
            vm,
        };
        vm::exec::exec(&target, process, console)
    }

    /// What a process file leaves out is the container's own: capabilities and limits (as runc has
    /// it).
    pub(super) fn completed(&self, process: &Process) -> Process {
        let own = self
            .record
            .spec
            .config()
            .process
            .clone()
            .unwrap_or_default();
        let mut process = process.clone();
        process.capabilities = process.capabilities.or(own.capabilities);
        if process.rlimits.is_empty() {
            process.rlimits = own.rlimits;
        }
        process
    }

    pub(super) fn exec_request(&self, options: &Options, cgroups: u32) -> Result<ExecRequest> {
        let spec = &self.record.spec;
        let user_namespace = self.is_other(LinuxNamespaceType::User);
        let filter = crate::compile::filter(&self.store, spec)?;
        Ok(ExecRequest {
            user_namespace,
            may_set_groups: !user_namespace || setgroups_allowed(self.record.pid),
            keep_groups: spec
                .config()
                .annotations
                .get("run.oci.keep_original_groups")
                .is_some_and(|value| value == "1"),
            filter,
            preserve_fds: options.preserve_fds,
            cgroups,
            personality: spec
                .config()
                .linux
                .as_ref()
                .and_then(|linux| linux.personality.clone()),
            keyring: (!self.record.no_new_keyring).then(|| format!("_ses.{}", self.record.id)),
        })
    }

    /// Whether the container has a namespace of a kind that is not hull's own.
    fn is_other(&self, kind: LinuxNamespaceType) -> bool {
        let own = self
            .record
            .facts
            .joined
            .iter()
            .any(|joined| joined.kind == kind as u32 && joined.owner == Owner::Own);
        self.record.spec.namespace(kind).is_some() && !own
    }

    /// Joins by init's pidfd, several namespaces at once (setns(2)): first what the outer user
    /// namespace owns.
    fn stage(&self, pidfd: u32) -> Stage {
        use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
        let kinds = [Cgroup, Ipc, Mount, Network, Pid, Time, Uts];
        let user = self.is_other(User);
        let outer = |kind: LinuxNamespaceType| {
            !user
                || self
                    .record
                    .facts
                    .joined
                    .iter()
                    .any(|joined| joined.kind == kind as u32 && joined.owner == Owner::Outer)
        };
        let mask = |wanted: bool| {
            kinds
                .iter()
                .filter(|kind| self.is_other(**kind) && outer(**kind) == wanted)
                .fold(0, |mask, kind| mask | *kind as u32)
        };
        let list = |mask: u32| {
            if mask == 0 {
                Vec::new()
            } else {
                vec![(pidfd, mask)]
            }
        };
        Stage {
            before: list(mask(true)),
            user: user.then_some(pidfd),
            after: list(mask(false)),
            time: None,
        }
    }

    fn settle(
        &self,
        plan: &crate::step::draft::Plan,
        child: &Child,
        process: &Process,
        (facts, request, entry): (&Facts, &ExecRequest, Option<&(Group, ExecTarget)>),
    ) -> Result<()> {
        let meeting = Barriers { plan, child };
        if let Some((group, target)) = entry {
            group.join_unified(
                target,
                Pid::from_raw(child.pid),
                Pid::from_raw(self.record.pid),
            )?;
        }
        if let Some(score) = process.oom_score_adj {
            let path = format!("/proc/{}/oom_score_adj", child.pid);
            crate::namespaces::idmap::write_file(&path, &score.to_string())?;
        }
        meeting.barrier(Barrier::Placed)?;
        meeting.barrier(Barrier::Ready)?;
        for limit in rlimits::parse(&process.rlimits)? {
            if !crate::process::plan::sets_itself(&limit, facts, request.user_namespace) {
                ids::prlimit(child.pid, limit.resource, limit.soft, limit.hard)
                    .on("error setting rlimits for", child.pid)?;
            }
        }
        meeting.barrier(Barrier::Recorded)?;
        if request.filter.as_ref().is_some_and(|filter| filter.notify) {
            let spec = &self.record.spec;
            let seccomp = spec
                .config()
                .linux
                .as_ref()
                .and_then(|linux| linux.seccomp.clone())
                .unwrap_or_default();
            meeting.listener(
                spec,
                &self.record.id,
                self.record.pid,
                &seccomp.listener_path.unwrap_or_default(),
                &seccomp.listener_metadata.unwrap_or_default(),
            )?;
        }
        meeting.filtered()?;
        meeting.executed()
    }

    /// The container's cgroup and the place in it where the process goes; none where it stays in
    /// hull's own.
    fn entry(&self, options: &Options) -> Result<Option<(Group, ExecTarget)>> {
        let subs = sub_cgroups(&options.cgroup)?;
        match self.group()? {
            Some(group) => {
                let target = group.exec_target(Pid::from_raw(self.record.pid), &subs)?;
                Ok(Some((group, target)))
            }
            None if subs.is_empty() => Ok(None),
            None => Err(Error::new(format!(
                "--cgroup: container {} has no cgroup",
                self.record.id
            ))),
        }
    }
}

/// `execCPUAffinity.initial` is hull's own before the child joins the container's cgroup
/// (config.md).
fn take_initial_affinity(process: &Process) -> Result<()> {
    let Some(affinity) = &process.exec_cpu_affinity else {
        return Ok(());
    };
    let (initial, _) = crate::security::process::exec_cpu_affinity(affinity)?;
    match crate::process::plan::mask_bytes(initial) {
        mask if mask.is_empty() => Ok(()),
        mask => ids::sched_setaffinity(0, &mask).on("set", "the initial CPU affinity"),
    }
}

fn setgroups_allowed(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/setgroups"))
        .map_or(true, |text| text.trim() != "deny")
}

/// What must hold of a process given to exec.
fn check(process: &Process) -> Result<()> {
    if process.args.is_empty() {
        return Err(Error::new("process args cannot be empty"));
    }
    if !process.cwd.starts_with('/') {
        return Err(Error::new(format!(
            "cwd must be an absolute path: {:?}",
            process.cwd
        )));
    }
    let strings = process
        .args
        .iter()
        .chain(&process.env)
        .chain([&process.cwd]);
    match strings.into_iter().find(|text| text.contains('\0')) {
        Some(text) => Err(Error::new(format!("process: {text:?} contains a NUL byte"))),
        None => Ok(()),
    }
}
