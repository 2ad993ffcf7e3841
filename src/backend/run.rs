//! The one executor of host steps: for a container in namespaces, for the host and the guest of a
//! VM, for exec and for restore. The plan has the order; [`Backend`] has what differs.

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

/// The parts of executing host steps that differ between the backends.
pub trait Backend {
    /// Opens the file or the like that fills a slot.
    ///
    /// # Errors
    /// open(2), open_tree(2) or the like fails; this backend has no such file.
    fn open(&mut self, what: &Open) -> Result<Fd>;

    /// Makes the process: the container's init, a VM's monitor, or criu.
    ///
    /// # Errors
    /// clone3(2) fails; a namespace cannot be joined; the program cannot be executed.
    fn clone(&mut self, birth: CloneRequest) -> Result<Child>;

    /// Gives the container network devices and addresses.
    ///
    /// # Errors
    /// The kernel refuses a netlink request; an address is in use.
    fn network(&mut self, network: Network, child: Option<&Child>) -> Result<()> {
        let _ = (network, child);
        Err(no("network"))
    }

    /// Runs a hook in hull's own namespaces.
    ///
    /// # Errors
    /// The hook fails, or runs longer than its timeout.
    fn hook(&mut self, list: HookList, index: usize, hook: &Hook, child: &Child) -> Result<()> {
        let _ = (list, index, hook, child);
        Err(no("hooks"))
    }

    /// Writes the container's record. It is called before a cgroup is made, so that `delete` finds
    /// the cgroup if hull is killed, and after the process has been made.
    ///
    /// # Errors
    /// write(2) fails: the disk is full, or the like.
    fn record(&mut self, made: Progress) -> Result<()> {
        let _ = made;
        Err(no("record"))
    }

    /// Sends the seccomp listener to its agent.
    ///
    /// # Errors
    /// connect(2) or sendmsg(2) to the agent's socket fails.
    fn listener(&mut self, child: &Child, listener: &Fd, path: &str, metadata: &str) -> Result<()> {
        let _ = (child, listener, path, metadata);
        Err(no("seccomp listener"))
    }

    /// Moves the child into a cgroup that these host steps did not make.
    ///
    /// # Errors
    /// Writing to `cgroup.procs` fails.
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

    /// The error of a child that failed or exited.
    fn child_failed(&mut self, child: &Child) -> Error;

    /// Waits until the child has reached a barrier.
    ///
    /// # Errors
    /// The child failed or exited; its socket cannot be polled.
    fn wait(&mut self, child: &Child, kind: Barrier) -> BarrierResult {
        barrier::wait(child, kind)
    }

    /// Releases the child from a barrier.
    ///
    /// # Errors
    /// The child exited.
    fn release(&mut self, child: &Child, kind: Barrier) -> BarrierResult {
        barrier::release(child, kind)
    }

    /// Is called when a step has failed, before everything that was made is undone.
    fn abandon(&mut self) {}

    /// Is called when a failed run is undone and hooks may have run: runs the poststop hooks
    /// (runtime.md, Lifecycle 12 and 13).
    fn stopped(&mut self) {}
}

/// The error of a step that a backend does not implement: its plans have no such step.
fn no(what: &str) -> Error {
    Error::new(format!("this backend has no {what}"))
}

/// The arguments of [`Backend::clone`].
pub struct CloneRequest<'a> {
    /// The new namespaces (`CLONE_NEW*`).
    pub flags: u64,
    /// The stage that clones the child, if one is needed.
    pub stage: Option<&'a Stage>,
    /// A descriptor of the v2 cgroup that the child is cloned into.
    pub cgroup: Option<i32>,
    /// The descriptors in the slots of the plan; -1 where a slot is empty.
    pub slots: &'a mut [i32],
}

/// A step that concerns the container's network.
pub enum Network<'a> {
    /// Moves a device of the host into the container.
    Device {
        /// Its name on the host.
        host: &'a str,
        /// Its name in the container.
        name: &'a str,
        /// A descriptor of a joined network namespace; nothing if the child has a new one.
        namespace: Option<i32>,
    },
    /// Attaches the container to networks that hull manages.
    Attach(&'a crate::net::setup::Setup),
    /// Hands the addresses that hull held during a restore to the container.
    Adopt,
    /// Moves the guest's interfaces into the container.
    Interfaces(&'a [Interface]),
}

/// How far the creation of the container has come.
pub enum Progress<'a> {
    /// Its cgroup is about to be made.
    Cgroup(cgroups::group::Record),
    /// Its process has been made and waits at [`Barrier::Ready`].
    Process {
        /// The process.
        child: &'a Child,
        /// Its cgroup.
        cgroup: Option<cgroups::group::Record>,
    },
}

/// The results of a run of host steps.
pub struct Executed {
    /// The process.
    pub child: Child,
    /// The descriptors in the slots, by number.
    held: Vec<(u32, Fd)>,
}

impl Executed {
    /// Takes the descriptor of a slot; the others are closed.
    pub fn keep(self, slot: u32) -> (Child, Option<Fd>) {
        let mut held = self.held;
        let index = held.iter().position(|(number, _)| *number == slot);
        let kept = index.map(|at| held.swap_remove(at).1);
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

/// Executes host steps. The child executes its container steps at the same time.
///
/// # Errors
/// A host step or a container step fails. Everything that was made is undone then.
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
    // From the first barrier with the hooks or after them.
    let mut hooks = false;
    for placed in steps {
        hooks |= matches!(
            placed.step,
            HostStep::Barrier(Barrier::Hooks | Barrier::Ready)
        );
        if let Err(error) = run.step(&placed.step) {
            run.backend.abandon();
            let Run { backend, made, .. } = run;
            drop(made);
            if hooks {
                backend.stopped();
            }
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
                self.synchronise(|backend, child| backend.release(child, Barrier::Hooks))
            }
            HostStep::Listener { path, metadata } => self.synchronise(|backend, child| {
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
            HostStep::Filtered => self.synchronise(|_, child| barrier::filtered(child)),
            HostStep::Executed => self.synchronise(|_, child| barrier::executed(child)),
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
        self.synchronise(|backend, child| match kind {
            Barrier::Placed | Barrier::Recorded => backend.release(child, kind),
            Barrier::Hooks | Barrier::Ready => backend.wait(child, kind),
        })
    }

    fn synchronise(
        &mut self,
        with_child: impl FnOnce(&mut dyn Backend, &Child) -> BarrierResult,
    ) -> Result<()> {
        let child = child(&self.made)?;
        with_child(self.backend, child).map_err(|unmet| match unmet {
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
                crate::log::warn(&format!(
                    "process.oomScoreAdj: {value} has no effect: without CAP_SYS_RESOURCE on the \
                     host the score can only be raised"
                ));
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
