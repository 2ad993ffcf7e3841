//! The namespace backend: the container is a child process on this kernel.

use super::errors;
use super::run::{Backend, CloneRequest, Network, Progress};
use crate::cgroups::exec::ExecTarget;
use crate::cgroups::group::Group;
use crate::hooks::{host, listener};
use crate::init::executor::execute;
use crate::namespaces::spawn::{self, Child};
use crate::net::netlink::Namespace;
use crate::net::{attach, device};
use crate::rootfs::sources;
use crate::spec::Spec;
use crate::spec::config::Hook;
use crate::spec::state::state_document;
use crate::state;
use crate::step::draft::Plan;
use crate::step::host::{HookList, Open};
use crate::store::START_FIFO;
use crate::sys::fd::{Fd, c_path};
use crate::sys::{file, namespace};
use crate::{Context, Error, Result};
use nix::unistd::Pid;
use std::path::Path;

/// The container whose host steps are executed.
pub struct Target<'a> {
    /// The config, for the state that hooks and the listener's agent get.
    pub spec: &'a Spec,
    /// The container's id.
    pub id: &'a str,
    /// The container's directory in the store.
    pub directory: &'a Path,
}

impl Target<'_> {
    /// Runs a hook on the host, with the container's state document on its stdin.
    ///
    /// # Errors
    /// As [`host::run`].
    pub fn hook(&self, list: HookList, index: usize, hook: &Hook, pid: i32) -> Result<()> {
        let state = state_document(self.spec, self.id, list.status(), Some(pid));
        host::run(list.name(), index, hook, &state, self.spec.bundle())
    }

    /// Makes the fifo on which the container waits for `start`, and opens it for reading and
    /// writing, so that the child's read(2) blocks until there is a byte and never returns 0.
    ///
    /// # Errors
    /// mknod(2) or open(2) fails.
    pub fn start_fifo(&self) -> Result<Fd> {
        let path = self.directory.join(START_FIFO);
        let name = c_path(&path)?;
        file::mknodat(libc::AT_FDCWD, &name, libc::S_IFIFO | 0o600, 0)
            .on("make", path.display())?;
        file::openat(libc::AT_FDCWD, &name, libc::O_RDWR, 0)
            .map(Fd)
            .on("open", path.display())
    }
}

/// Opens what every backend opens in the same way.
///
/// # Errors
/// open(2), open_tree(2) or mount_setattr(2) fails; `what` belongs to one backend alone.
pub fn open_common(what: &Open) -> Result<Fd> {
    match what {
        Open::Procfs => sources::procfs(),
        Open::Tree {
            path,
            recursive,
            propagation,
            id_map,
            link,
        } => sources::tree(path, *recursive, *propagation, id_map.as_ref(), *link),
        Open::Namespace { path } => namespace::open(path),
        Open::StartFifo | Open::ConsoleSocket | Open::Init | Open::CgroupTasks { .. } => {
            Err(Error::new(format!("these steps have no {what:?}")))
        }
    }
}

/// The container that an exec enters.
pub struct EnteredContainer {
    /// A pidfd of the container's init.
    pub init: Fd,
    /// The process id of init.
    pub pid: i32,
    /// The container's cgroup, and the cgroup in it that the process joins; nothing if the process
    /// stays in hull's own cgroup.
    pub cgroup: Option<(Group, ExecTarget)>,
    /// The `tasks` files of the v1 cgroups that the process joins, until a slot takes them.
    pub tasks: Vec<Option<Fd>>,
}

/// Writes the record: before the clone with its cgroup alone.
pub type Recorder<'a> = dyn FnMut(state::Made) -> Result<()> + 'a;

/// What the host steps are executed for.
pub enum Role<'a> {
    /// To create a container.
    Create(&'a mut Recorder<'a>),
    /// To execute another process in a container.
    Exec(EnteredContainer),
}

/// The namespace backend.
pub struct Namespaces<'a> {
    /// The container whose host steps are executed.
    pub target: Target<'a>,
    /// The plan, which has the container steps for the child and for its error messages.
    pub plan: &'a Plan,
    /// The socket that takes the terminal.
    pub console: Option<Fd>,
    /// A fresh process (`hull init`) executes the container steps, not the cloned child.
    pub fresh_init: bool,
    /// Create or exec.
    pub role: Role<'a>,
}

impl Namespaces<'_> {
    fn entered(&mut self) -> Result<&mut EnteredContainer> {
        match &mut self.role {
            Role::Exec(entered) => Ok(entered),
            Role::Create(_) => Err(Error::new("create enters no container")),
        }
    }
}

impl Backend for Namespaces<'_> {
    fn stopped(&mut self) {
        if let Role::Create(_) = self.role {
            host::poststop(self.target.spec, self.target.id);
        }
    }

    fn open(&mut self, what: &Open) -> Result<Fd> {
        match what {
            Open::StartFifo => self.target.start_fifo(),
            Open::ConsoleSocket => self.console.take().ok_or_else(|| {
                Error::new("cannot allocate tty if hull will detach without setting console socket")
            }),
            Open::Init => self.entered()?.init.try_clone(),
            Open::CgroupTasks { index } => self
                .entered()?
                .tasks
                .get_mut(*index)
                .and_then(Option::take)
                .ok_or_else(|| Error::new("the exec enters fewer cgroups")),
            other => open_common(other),
        }
    }

    fn clone(&mut self, birth: CloneRequest) -> Result<Child> {
        let steps = self.plan.encode();
        spawn::spawn(spawn::SpawnRequest {
            flags: birth.flags,
            stage: birth.stage,
            cgroup: birth.cgroup,
            steps: &steps,
            slots: birth.slots,
            executor: execute,
            fresh: self.fresh_init,
        })
    }

    fn network(&mut self, network: Network, child: Option<&Child>) -> Result<()> {
        let own_namespace = || {
            let child = child.ok_or_else(|| Error::new("there is no process"))?;
            Ok::<_, Error>((child.pid, Namespace::of_process(child.pid)?))
        };
        match network {
            Network::Device {
                host,
                name,
                namespace,
            } => {
                let namespace = match namespace {
                    Some(fd) => Namespace::at(&format!("/proc/self/fd/{fd}"))?,
                    None => own_namespace()?.1,
                };
                device::move_device(host, name, &namespace, self.target.directory)
            }
            Network::Attach(setup) => {
                let (pid, namespace) = own_namespace()?;
                attach::attach(
                    setup,
                    self.target.id,
                    &namespace,
                    pid,
                    self.target.directory,
                )
            }
            Network::Adopt | Network::Interfaces(_) => {
                Err(Error::new("create has no such network step"))
            }
        }
    }

    fn hook(&mut self, list: HookList, index: usize, hook: &Hook, child: &Child) -> Result<()> {
        self.target.hook(list, index, hook, child.pid)
    }

    fn record(&mut self, made: Progress) -> Result<()> {
        let Role::Create(write) = &mut self.role else {
            return Err(Error::new("an exec has no record"));
        };
        match made {
            Progress::Cgroup(cgroup) => write(state::Made {
                cgroup: Some(cgroup),
                ..state::Made::default()
            }),
            Progress::Process { child, cgroup } => write(state::Made {
                pid: child.pid,
                cgroup,
                outcomes: errors::decided(self.plan, child),
                vm: None,
            }),
        }
    }

    fn listener(&mut self, child: &Child, listener: &Fd, path: &str, metadata: &str) -> Result<()> {
        let init = match &self.role {
            Role::Create(_) => child.pid,
            Role::Exec(entered) => entered.pid,
        };
        listener::send(&listener::Filtered {
            spec: self.target.spec,
            id: self.target.id,
            init,
            pid: child.pid,
            listener,
            path,
            metadata,
        })
    }

    fn join_cgroup(&mut self, child: &Child) -> Result<()> {
        let entered = self.entered()?;
        match &entered.cgroup {
            Some((group, target)) => {
                group.join_unified(target, Pid::from_raw(child.pid), Pid::from_raw(entered.pid))
            }
            None => Ok(()),
        }
    }

    fn child_failed(&mut self, child: &Child) -> Error {
        errors::child_error(self.plan, child)
    }
}
