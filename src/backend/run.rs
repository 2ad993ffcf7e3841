//! The one executor of host steps: for a namespace container, for both halves of a VM, for exec and
//! for restore. The order is the plan's; what differs between backends is behind [`Backend`].

use super::barrier::{self, BarrierError, BarrierResult};
use super::undo::Undo;
use crate::cgroups;
use crate::cgroups::group::Group;
use crate::namespaces::idmap;
use crate::namespaces::spawn::Child;
use crate::security::rlimits;
use crate::spec::config::Hook;
use crate::step::container::Barrier;
use crate::step::draft::Placed;
use crate::step::host::{HookList, HostStep, Interface, Open, Stage};
use crate::sys::fd::Fd;
use crate::sys::ids;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;

/// What of executing host steps depends on who runs the container.
pub trait Backend {
    /// Opens what a slot is filled with.
    ///
    /// # Errors
    /// open(2) and the like fail; this backend has no such thing.
    fn open(&mut self, what: &Open) -> Result<Fd>;

    /// Makes the process: the container's own, a VM's monitor, or criu.
    ///
    /// # Errors
    /// clone3(2) fails; a namespace cannot be joined; the program cannot be run.
    fn clone(&mut self, birth: CloneRequest) -> Result<Child>;

    /// Gives the container network devices and addresses.
    ///
    /// # Errors
    /// The kernel refuses; an address is taken.
    fn network(&mut self, network: Network, child: Option<&Child>) -> Result<()> {
        let _ = (network, child);
        Err(no("network"))
    }

    /// Runs a hook in hull's own namespaces.
    ///
    /// # Errors
    /// It fails, or outlives its timeout.
    fn hook(&mut self, list: HookList, index: usize, hook: &Hook, child: &Child) -> Result<()> {
        let _ = (list, index, hook, child);
        Err(no("hooks"))
    }

    /// Writes down what is made, or is about to be: before anything of it is, so that whatever a
    /// killed hull leaves can be found.
    ///
    /// # Errors
    /// write(2) fails: a full disk, and the like.
    fn record(&mut self, made: Progress) -> Result<()> {
        let _ = made;
        Err(no("record"))
    }

    /// Sends the seccomp listener to its agent.
    ///
    /// # Errors
    /// The agent's socket is not there, or refuses.
    fn listener(&mut self, child: &Child, listener: &Fd, path: &str, metadata: &str) -> Result<()> {
        let _ = (child, listener, path, metadata);
        Err(no("seccomp listener"))
    }

    /// Puts the child into a cgroup that these steps did not make.
    ///
    /// # Errors
    /// The kernel refuses.
    fn join_cgroup(&mut self, child: &Child) -> Result<()> {
        let _ = child;
        Err(no("cgroup to join"))
    }

    /// Sets the container's host name.
    ///
    /// # Errors
    /// sethostname(2) fails.
    fn hostname(&mut self, name: &str) -> Result<()> {
        let _ = name;
        Err(no("host name to set"))
    }

    /// The error of a child that failed or ended.
    fn child_failed(&mut self, child: &Child) -> Error;

    /// Waits until the child has come to a barrier.
    ///
    /// # Errors
    /// [`BarrierError`].
    fn wait(&mut self, child: &Child, kind: Barrier) -> BarrierResult {
        barrier::wait(child, kind)
    }

    /// Lets the child go on from a barrier.
    ///
    /// # Errors
    /// [`BarrierError`].
    fn release(&mut self, child: &Child, kind: Barrier) -> BarrierResult {
        barrier::release(child, kind)
    }

    /// A step has failed, and what was made is about to be undone.
    fn abandon(&mut self) {}
}

/// The error of a step that a backend has nothing for: its plan should not have it.
fn no(what: &str) -> Error {
    Error::new(format!("this backend has no {what}"))
}

/// How the process is made.
pub struct CloneRequest<'a> {
    /// `CLONE_NEW*`.
    pub flags: u64,
    /// By way of a stage.
    pub stage: Option<&'a Stage>,
    /// A descriptor of the v2 cgroup that it is born in.
    pub cgroup: Option<i32>,
    /// What the plan's slots were filled with; -1 where nothing is.
    pub slots: &'a mut [i32],
}

/// A step that concerns the container's network.
pub enum Network<'a> {
    /// A device of the host moves into the container.
    Device {
        /// Its name on the host.
        host: &'a str,
        /// Its name in the container.
        name: &'a str,
        /// A descriptor of the network namespace, where it is joined; the child's own otherwise.
        namespace: Option<i32>,
    },
    /// The container is put on networks of hull's.
    Attach(&'a crate::net::setup::Setup),
    /// The addresses that hull held during a restore become the container's.
    Adopt,
    /// The guest's interfaces move into the container.
    Interfaces(&'a [Interface]),
}

/// How far the container is made.
pub enum Progress<'a> {
    /// Its cgroup is about to be made.
    Cgroup(cgroups::group::Record),
    /// Its process is there and stands before its program.
    Process {
        /// The process.
        child: &'a Child,
        /// Its cgroup.
        cgroup: Option<cgroups::group::Record>,
    },
}

/// What a run of host steps has made.
pub struct Executed {
    /// The process.
    pub child: Child,
    /// What the slots were filled with, by number.
    held: Vec<(u32, Fd)>,
}

impl Executed {
    /// Takes the descriptor of a slot; the others are closed.
    pub fn keep(self, slot: u32) -> (Child, Option<Fd>) {
        let mut held = self.held;
        let place = held.iter().position(|(number, _)| *number == slot);
        let kept = place.map(|at| held.swap_remove(at).1);
        Fd::close_all(held.into_iter().map(|(_, fd)| fd).collect());
        (self.child, kept)
    }
}

struct Run<'a> {
    backend: &'a mut dyn Backend,
    made: Undo,
    slots: Vec<i32>,
    held: Vec<(u32, Fd)>,
}

/// Executes host steps; the child executes container steps beside them.
///
/// # Errors
/// Of the step that failed, on either side; everything made is undone.
pub fn run(
    steps: &[Placed<HostStep>],
    slots: u32,
    directory: &Path,
    backend: &mut dyn Backend,
) -> Result<Executed> {
    let mut run = Run {
        backend,
        made: Undo::new(directory),
        slots: vec![-1; slots as usize],
        held: Vec::new(),
    };
    for placed in steps {
        if let Err(error) = run.step(&placed.step) {
            run.backend.abandon();
            return Err(if error.errno().is_some() {
                error.within(&placed.from)
            } else {
                error
            });
        }
        crate::log::debug(|| format!("host: {} done, from {}", placed.step.name(), placed.from));
    }
    let Run { made, held, .. } = run;
    let child = made
        .done()
        .ok_or_else(|| Error::new("the plan makes no process"))?;
    Ok(Executed { child, held })
}

impl Run<'_> {
    fn step(&mut self, step: &HostStep) -> Result<()> {
        match step {
            HostStep::Open { slot, what } => {
                let fd = self.backend.open(what)?;
                self.fill(*slot, fd);
                Ok(())
            }
            HostStep::Cgroup { plan, first } => self.cgroup(plan, *first),
            HostStep::Undumpable => ids::prctl(libc::PR_SET_DUMPABLE, 0, 0)
                .on("become", "undumpable")
                .map(drop),
            HostStep::Affinity { mask } => {
                ids::sched_setaffinity(0, mask).on("set", "the initial CPU affinity")
            }
            HostStep::Clone {
                flags,
                stage,
                into_cgroup,
            } => self.clone(*flags, stage.as_ref(), *into_cgroup),
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
            } => {
                let namespace = namespace.map(|slot| self.slot(slot));
                self.network(Network::Device {
                    host,
                    name,
                    namespace,
                })
            }
            HostStep::Network(setup) => self.network(Network::Attach(setup)),
            HostStep::Interfaces(list) => self.network(Network::Interfaces(list)),
            HostStep::Barrier(kind) => self.barrier(*kind),
            HostStep::Hook { list, index, hook } => {
                let child = child(&self.made)?;
                self.backend.hook(*list, *index, hook, child)
            }
            HostStep::HooksDone => {
                self.meet(|backend, child| backend.release(child, Barrier::Hooks))
            }
            HostStep::Listener { path, metadata } => self.meet(|backend, child| {
                barrier::listener(child, |fd| backend.listener(child, fd, path, metadata))
            }),
            HostStep::Rlimit(limit) => {
                let name = rlimits::name(limit.resource).unwrap_or("resource limit");
                ids::prlimit(self.child()?.pid, limit.resource, limit.soft, limit.hard)
                    .on("set", name)
            }
            HostStep::Record => {
                let cgroup = self.made.group.as_ref().map(Group::record);
                let child = child(&self.made)?;
                self.backend.record(Progress::Process { child, cgroup })
            }
            HostStep::AdoptNetwork => self.network(Network::Adopt),
            HostStep::Hostname(name) => self.backend.hostname(name),
            HostStep::Filtered => self.meet(|_, child| barrier::filtered(child)),
            HostStep::Executed => self.meet(|_, child| barrier::executed(child)),
        }
    }

    fn child(&self) -> Result<&Child> {
        child(&self.made)
    }

    fn slot(&self, slot: u32) -> i32 {
        self.slots.get(slot as usize).copied().unwrap_or(-1)
    }

    fn fill(&mut self, slot: u32, fd: Fd) {
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = fd.0;
        }
        self.held.push((slot, fd));
    }

    fn cgroup(&mut self, plan: &cgroups::plan::Plan, first: u32) -> Result<()> {
        self.backend.record(Progress::Cgroup(plan.record()))?;
        let group = Group::create(plan)?;
        let group = self.made.group.insert(group);
        group.apply(plan)?;
        let tasks = group.join_fds()?;
        for (index, fd) in (0..).zip(tasks) {
            self.fill(first + index, Fd(fd.into_raw_fd()));
        }
        Ok(())
    }

    fn unit(&mut self, plan: &cgroups::plan::Plan) -> Result<()> {
        let pid = Pid::from_raw(self.child()?.pid);
        self.backend.record(Progress::Cgroup(plan.record()))?;
        let group = Group::start(plan, pid)?;
        self.made.group.insert(group).apply(plan)
    }

    fn clone(&mut self, flags: u64, stage: Option<&Stage>, into_cgroup: bool) -> Result<()> {
        let cgroup = if into_cgroup {
            self.made.group.as_ref().and_then(Group::clone_fd)
        } else {
            None
        };
        let birth = CloneRequest {
            flags,
            stage,
            cgroup: cgroup.map(|fd| fd.as_raw_fd()),
            slots: &mut self.slots,
        };
        self.made.child = Some(self.backend.clone(birth)?);
        Ok(())
    }

    fn join_cgroup(&mut self) -> Result<()> {
        let child = child(&self.made)?;
        match &self.made.group {
            Some(group) => group.add(Pid::from_raw(child.pid)),
            None => self.backend.join_cgroup(child),
        }
    }

    fn network(&mut self, network: Network) -> Result<()> {
        if !matches!(network, Network::Interfaces(_)) {
            self.made.networked = true;
        }
        self.backend.network(network, self.made.child.as_ref())
    }

    fn barrier(&mut self, kind: Barrier) -> Result<()> {
        self.meet(|backend, child| match kind {
            Barrier::Placed | Barrier::Recorded => backend.release(child, kind),
            Barrier::Hooks | Barrier::Ready => backend.wait(child, kind),
        })
    }

    fn meet(
        &mut self,
        meeting: impl FnOnce(&mut dyn Backend, &Child) -> BarrierResult,
    ) -> Result<()> {
        let child = child(&self.made)?;
        meeting(self.backend, child).map_err(|unmet| match unmet {
            BarrierError::Error(error) => error,
            BarrierError::Child => self.backend.child_failed(child),
        })
    }

    fn oom_score(&self, value: i32, lenient: bool) -> Result<()> {
        let path = format!("/proc/{}/oom_score_adj", self.child()?.pid);
        match idmap::write_file(&path, &value.to_string()) {
            Err(error)
                if lenient && matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM)) =>
            {
                Ok(())
            }
            other => other.map_err(|error| error.within("unable to set the oom score")),
        }
    }
}

fn child(made: &Undo) -> Result<&Child> {
    made.child
        .as_ref()
        .ok_or_else(|| Error::new("the plan uses a process before it makes it"))
}
