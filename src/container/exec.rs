//! `exec`: another process in a container, by way of a stage that joins its namespaces.

use super::{Container, Status};
use crate::backend;
use crate::backend::namespaces::{EnteredContainer, Namespaces, Role, Target};
use crate::backend::run;
use crate::cgroups::exec::sub_cgroups;
use crate::facts::Facts;
use crate::namespaces::spawn::Child;
use crate::process::exec::{self, CgroupEntry, ExecRequest};
use crate::security::lsm::Lsm;
use crate::spec::config::Process;
use crate::state::VmRecord;
use crate::sys::fd::Fd;
use crate::vm;
use crate::{Error, Result};
use nix::unistd::Pid;
use std::os::fd::IntoRawFd;

/// What `exec` was asked besides the process.
#[derive(Default)]
pub struct ExecOptions {
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
    pub fn exec(
        &self,
        process: &Process,
        options: &ExecOptions,
        console: Option<Fd>,
    ) -> Result<Child> {
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
        let process = &exec::completed(process, &self.record.spec);
        if let Some(vm) = &self.record.vm {
            return self.exec_in_vm(vm, process, options, console);
        }
        let mut facts = Facts::probe(&self.record.spec)?;
        let labels = [&process.apparmor_profile, &process.selinux_label];
        // The container's config may have no label where the exec has one.
        if facts.lsm.is_none() && labels.into_iter().flatten().any(|label| !label.is_empty()) {
            facts.lsm = Some(Lsm::probe());
        }
        let entered = self.enter(options)?;
        let request = self.exec_request(options, &entered)?;
        let plan = exec::exec(process, &facts, &request)?;
        plan.log_warnings();
        let directory = self.directory();
        let mut backend = Namespaces {
            target: Target {
                spec: &self.record.spec,
                id: &self.record.id,
                directory: &directory,
            },
            plan: &plan,
            console,
            fresh_init: false,
            role: Role::Exec(entered),
        };
        let done = run::run(&plan.host, plan.slots, &directory, &mut backend)?;
        backend::log_container_steps(&plan, &done.child);
        Ok(done.child)
    }

    fn exec_in_vm(
        &self,
        vm: &VmRecord,
        process: &Process,
        options: &ExecOptions,
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

    fn exec_request(
        &self,
        options: &ExecOptions,
        entered: &EnteredContainer,
    ) -> Result<ExecRequest> {
        let joins = exec::joins(&self.record.spec, &self.record.facts);
        let unified = entered.cgroup.as_ref();
        let cgroups = CgroupEntry {
            v1: entered.tasks.len() as u32,
            v2: unified.is_some_and(|(_, target)| target.unified.is_some()),
        };
        Ok(ExecRequest {
            joins,
            may_set_groups: !joins.user || setgroups_allowed(self.record.pid),
            filter: crate::compile::filter(&self.store, &self.record.spec)?,
            preserve_fds: options.preserve_fds,
            cgroups,
            keyring: (!self.record.no_new_keyring).then(|| format!("_ses.{}", self.record.id)),
            ..ExecRequest::of(&self.record.spec)
        })
    }

    /// What the exec needs of the container: its init, and its cgroup with the place in it where
    /// the process goes (none where it stays in hull's own).
    fn enter(&self, options: &ExecOptions) -> Result<EnteredContainer> {
        let init = self.pidfd()?;
        let subs = sub_cgroups(&options.cgroup)?;
        let mut cgroup = match self.group()? {
            Some(group) => {
                let target = group.exec_target(Pid::from_raw(self.record.pid), &subs)?;
                Some((group, target))
            }
            None if subs.is_empty() => None,
            None => {
                return Err(Error::new(format!(
                    "--cgroup: container {} has no cgroup",
                    self.record.id
                )));
            }
        };
        let tasks = cgroup
            .iter_mut()
            .flat_map(|(_, target)| target.tasks.drain(..))
            .map(|fd| Some(Fd(fd.into_raw_fd())))
            .collect();
        Ok(EnteredContainer {
            init,
            pid: self.record.pid,
            cgroup,
            tasks,
        })
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
