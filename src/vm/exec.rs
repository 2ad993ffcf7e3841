//! `exec` in a VM: the plan is made on the host, the guest executes it, and a process of hull's on
//! the host stands for the program.

use crate::backend::barrier::{BarrierError, BarrierResult};
use crate::backend::run::{self, Backend, CloneRequest};
use crate::facts::Facts;
use crate::namespaces::spawn::Child;
use crate::process::exec::{self, CgroupEntry, ExecRequest, Joins};
use crate::security::rlimits;
use crate::spec::Spec;
use crate::spec::config::Process;
use crate::state::{Record, VmRecord};
use crate::step::container::{Barrier, slot};
use crate::step::draft::Plan;
use crate::step::host::Open;
use crate::store::Store;
use crate::sys::fd::{Fd, socket_pair};
use crate::sys::file;
use crate::sys::page::Page;
use crate::sys::process::{self, Cloned};
use crate::vm::channel::client::{self, ToParent};
use crate::vm::{plan, proxy};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::path::PathBuf;

/// Where the exec happens.
pub struct Target<'a> {
    /// The containers' store.
    pub store: &'a Store,
    /// The container's record.
    pub record: &'a Record,
    /// What the record has of its VM.
    pub vm: &'a VmRecord,
}

/// Another program in the guest. The process that is answered stands for it.
///
/// # Errors
/// The VM does not answer; the program is missing; the guest's kernel refuses a step.
pub fn exec(target: &Target, process: &Process, console: Option<Fd>) -> Result<Child> {
    let Target { store, record, vm } = target;
    let keyring = (!record.no_new_keyring).then(|| format!("_ses.{}", record.id));
    let request = ExecRequest {
        filter: crate::compile::filter(store, &record.spec)?,
        keyring,
        ..request(&record.spec)
    };
    let plan = compile(&vm.facts, process, &request)?;
    plan.log_warnings();
    let size = process.console_size.clone().unwrap_or_default();
    let clamp = |value: u64| value.min(u64::from(u16::MAX)) as u16;
    let mut backend = Proxied {
        directory: target.store.directory(&target.record.id),
        plan: &plan,
        terminal: process.terminal,
        size: (clamp(size.height), clamp(size.width)),
        console,
    };
    let steps = plan::host_exec(process.terminal);
    let directory = backend.directory.clone();
    let done = run::run(&steps, slot::FIRST_FREE, &directory, &mut backend)?;
    Ok(done.child)
}

/// What the config says of an exec in the guest.
pub fn request(spec: &Spec) -> ExecRequest {
    ExecRequest {
        joins: joins(spec),
        may_set_groups: true,
        cgroups: CgroupEntry { v1: 0, v2: true },
        ..ExecRequest::of(spec)
    }
}

/// The guest's plan: its host steps are the guest's to execute.
///
/// # Errors
/// What the process asks and the guest cannot do.
pub fn compile(guest: &Facts, process: &Process, request: &ExecRequest) -> Result<Plan> {
    let mut process = process.clone();
    // Labels of the host's security modules mean nothing to the guest's kernel.
    (process.apparmor_profile, process.selinux_label) = (None, None);
    let limits = rlimits::parse(&process.rlimits)?;
    let facts = Facts {
        hard_limits: limits.iter().map(|limit| (limit.resource, 0)).collect(),
        ..guest.clone()
    };
    exec::exec(&process, &facts, request)
}

/// What the guest's first user namespace owns is joined before the container's, and all of a
/// container's is owned by its own.
fn joins(spec: &Spec) -> Joins {
    use Kind::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
    // Only a container with a user namespace has a network namespace in the guest.
    let user = spec.namespace(User).is_some();
    let has =
        |kind: &Kind| *kind == Uts || (*kind != Network || user) && spec.namespace(*kind).is_some();
    let mask = [Cgroup, Ipc, Mount, Network, Pid, Time, Uts]
        .iter()
        .filter(|kind| has(kind))
        .fold(0, |mask, kind| mask | *kind as u32);
    Joins {
        outer: if user { 0 } else { mask },
        user,
        inner: if user { mask } else { 0 },
    }
}

/// The host's half of an exec in a VM: the process that stands for the program.
struct Proxied<'a> {
    directory: PathBuf,
    plan: &'a Plan,
    terminal: bool,
    /// Rows and columns.
    size: (u16, u16),
    console: Option<Fd>,
}

impl Backend for Proxied<'_> {
    fn open(&mut self, what: &Open) -> Result<Fd> {
        match what {
            Open::ConsoleSocket => self.console.take().ok_or_else(|| {
                Error::new("cannot allocate tty if hull will detach without setting console socket")
            }),
            other => Err(Error::new(format!("an exec in a VM opens no {other:?}"))),
        }
    }

    fn clone(&mut self, birth: CloneRequest) -> Result<Child> {
        let timeout = client::answer_timeout()?;
        let console = birth.slots.get(slot::CONSOLE as usize).copied();
        let console = console.filter(|fd| *fd >= 0);
        let (sync, theirs) = socket_pair()?;
        let page = Page::new().on("make", "the report page")?;
        match process::clone(birth.flags, birth.cgroup).on("clone", "the exec's process")? {
            Cloned::Child => {
                file::close_all_but(3, &mut [theirs.0, console.unwrap_or(-1)]);
                let job = proxy::ProxyConfig {
                    directory: &self.directory,
                    task: plan::guest_exec(self.plan, self.terminal),
                    plan: self.plan,
                    console: console.map(Fd),
                    timeout,
                    size: self.size,
                };
                proxy::run(job, &theirs)
            }
            Cloned::Parent { pid, pidfd } => Ok(Child {
                pid,
                pidfd: Fd(pidfd),
                sync,
                page,
            }),
        }
    }

    fn child_failed(&mut self, _child: &Child) -> Error {
        Error::new("the exec's process ended before its program ran")
    }

    fn wait(&mut self, child: &Child, _kind: Barrier) -> BarrierResult {
        match client::receive::<ToParent>(&child.sync)? {
            Some((ToParent::Ready(..), _)) => Ok(()),
            Some((ToParent::Failed(text, status), _)) => {
                let error = Error::new(text);
                Err(BarrierError::Error(match status {
                    Some(status) => error.with_status(status),
                    None => error,
                }))
            }
            _ => Err(BarrierError::Child),
        }
    }
}
