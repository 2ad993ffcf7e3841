//! The backend of a restore: CRIU creates the container's processes from the images, and its
//! notifications are the barriers.

use super::criu;
use super::mounts::Mounts;
use super::namespaces::{NETWORK_LABEL, joined};
use super::network_lock;
use super::proto::rpc::CriuReqType;
use super::request::{self, RestoreInput};
use super::session::{Incoming, Notification, Session, SessionConfig};
use super::tmpfs::TarShim;
use crate::backend::barrier::{BarrierError, BarrierResult};
use crate::backend::namespaces::{Target, open_common};
use crate::backend::run::{Backend, CloneRequest, Network, Progress};
use crate::compile::Compiled;
use crate::namespaces::spawn::Child;
use crate::net::netlink::Namespace;
use crate::net::saved;
use crate::spec::Spec;
use crate::spec::config::Hook;
use crate::state::{self, PolicyOutcome, Record};
use crate::step::container::{Barrier, Refused, Step, slot};
use crate::step::draft::Plan;
use crate::step::host::{HookList, Open};
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::sys::page::Page;
use crate::sys::{Sys, process, socket};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::os::fd::AsRawFd;

/// A restore.
pub(super) struct CriuBackend<'a> {
    /// The container.
    pub target: Target<'a>,
    /// The store with the container's record.
    pub store: &'a Store,
    /// The config, and the plan of create for it.
    pub compiled: &'a Compiled,
    /// Options, images and directories.
    pub input: RestoreInput<'a>,
    /// The container's record; every change is written to the store.
    pub record: Record,
    /// The console socket, to which hull sends the terminal.
    pub console: Option<Fd>,
    /// hull in the place of `tar`, while CRIU runs.
    pub tar_shim: Option<TarShim>,
    /// The network namespace that hull created, where the container is on hull's own networks.
    pub network: Option<Namespace>,
    /// CRIU leaves the container's network namespace empty, and hull sets it up.
    pub empty_network: bool,
    /// The session with CRIU, while CRIU runs.
    pub session: Option<Session>,
    /// The restore was requested.
    pub requested: bool,
    /// The notification that hull has not acknowledged yet.
    pub pending: Option<Notification>,
    /// Process id of the container's init; 0 until CRIU has created it.
    pub pid: i32,
    /// A pidfd of the container's init, once CRIU has restored its processes.
    pub pidfd: Option<Fd>,
}

impl<'a> CriuBackend<'a> {
    /// The backend before the first step.
    pub fn new(
        target: Target<'a>,
        store: &'a Store,
        compiled: &'a Compiled,
        input: RestoreInput<'a>,
        record: Record,
    ) -> Self {
        Self {
            target,
            store,
            compiled,
            input,
            record,
            console: None,
            tar_shim: None,
            network: None,
            empty_network: false,
            session: None,
            requested: false,
            pending: None,
            pid: 0,
            pidfd: None,
        }
    }

    fn session(&mut self) -> Result<&mut Session> {
        let session = self.session.as_mut();
        session.ok_or_else(|| Error::new("criu has not been started"))
    }

    /// The file descriptors that CRIU inherits, by their labels in the images.
    fn inherited(&self, slots: &[i32]) -> Vec<(&'static str, i32)> {
        let at = |number: u32| slots.get(number as usize).copied().unwrap_or(-1);
        let namespaces = (slot::FIRST_FREE..)
            .zip(joined(&self.compiled.facts))
            .map(|(slot, joined)| (joined.label, at(slot)));
        let own = self.network.iter().map(|own| (NETWORK_LABEL, own.0.0));
        namespaces.chain(own).collect()
    }

    /// Requests the restore, unless that was done. hull first verifies the images, while CRIU
    /// loads.
    fn request(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.requested, true) {
            return Ok(());
        }
        let tar_shim = self.tar_shim.as_ref();
        tar_shim.map_or(Ok(()), TarShim::make)?;
        let RestoreInput {
            options,
            manifest,
            directories,
            ..
        } = &self.input;
        if !options.common.auto_dedup {
            manifest.verify(&directories.images)?;
        }
        let labels: Vec<&str> = self
            .inherited(&[])
            .into_iter()
            .map(|(label, _)| label)
            .collect();
        let (network, in_cgroup) = (self.network.is_some(), self.record.cgroup.is_some());
        self.session()?.check_version()?;
        let session = self.session.as_ref();
        let session = session.ok_or_else(|| Error::new("criu has not been started"))?;
        let mut opts = request::criu_opts(&self.input, self.compiled)?;
        opts.cg_root = request::cgroup_roots(session.pid)?;
        opts.inherit_fd.extend(request::inherited_fds(&labels));
        self.empty_network = !network && request::is_without_network(&self.input, self.compiled);
        if self.empty_network {
            let kinds = opts.empty_ns;
            opts.empty_ns = kinds.map(|kinds| kinds | libc::CLONE_NEWNET as u32);
        }
        request::skip_unneeded(
            &mut opts,
            &self.input,
            &self.compiled.spec,
            &request::Unneeded {
                network_lock: session.version >= criu::SKIP_LOCK_VERSION && self.empty_network,
                cgroups: in_cgroup,
            },
        );
        crate::log::debug(|| format!("criu: {opts:?}"));
        self.session()?.request(CriuReqType::Restore, opts)
    }

    /// Waits for a notification, which is then pending. Handles those that come before it.
    fn wait_for(&mut self, script: &str) -> BarrierResult {
        self.request()?;
        let log = self.input.directories.log.clone();
        loop {
            match self.session()?.next_message(&log)? {
                Incoming::Notification(notification) if notification.script == script => {
                    self.pid = notification.pid;
                    self.pending = Some(notification);
                    return Ok(());
                }
                Incoming::Notification(notification) => self.handle(notification)?,
                Incoming::Response(response) => {
                    self.session()?
                        .check(CriuReqType::Restore, *response, &log)?;
                    return Err(BarrierError::Error(Error::new(format!(
                        "criu restored without the notification {script:?}"
                    ))));
                }
            }
        }
    }

    /// Handles a notification, and acknowledges it.
    fn handle(&mut self, notification: Notification) -> Result<()> {
        let handled = match notification.script.as_str() {
            "setup-namespaces" => {
                self.pid = notification.pid;
                Ok(())
            }
            "post-setup-namespaces" if self.empty_network => self.set_up_network(),
            "orphan-pts-master" => self.send_terminal(notification),
            _ => Ok(()),
        };
        if handled.is_err() {
            // CRIU rolls back, and sends its response after that.
            self.session()?.acknowledge(false)?;
            self.drain();
            return handled;
        }
        self.session()?.acknowledge(true)
    }

    /// Receives CRIU's messages until it has sent its response or ended.
    fn drain(&mut self) {
        let log = self.input.directories.log.clone();
        while let Some(Ok(Incoming::Notification(_))) =
            self.session.as_mut().map(|one| one.next_message(&log))
        {
            if self
                .session
                .as_ref()
                .is_some_and(|one| one.acknowledge(false).is_err())
            {
                break;
            }
        }
    }

    /// Lets the processes run, and waits until CRIU has ended.
    fn finish(&mut self) -> Result<()> {
        let log = self.input.directories.log.clone();
        self.pending = None;
        self.session()?.acknowledge(true)?;
        loop {
            match self.session()?.next_message(&log)? {
                Incoming::Notification(notification) => self.handle(notification)?,
                Incoming::Response(response) => {
                    self.session()?
                        .check(CriuReqType::Restore, *response, &log)?;
                    break;
                }
            }
        }
        self.tar_shim = None;
        match self.session.take() {
            Some(session) => session.wait(&log)?,
            None => return Err(Error::new("criu has not been started")),
        }
        self.warn_of_lost_no_new_privs();
        Ok(())
    }

    fn plan(&self) -> &'a Plan {
        &self.compiled.plan
    }

    fn spec(&self) -> &'a Spec {
        &self.compiled.spec
    }

    /// Sets up the container's new network namespace as create does, before CRIU restores sockets:
    /// the loopback device and the config's `net` sysctls.
    fn set_up_network(&self) -> Result<()> {
        let settings = self
            .plan()
            .container
            .iter()
            .filter_map(|placed| match &placed.step {
                Step::Sysctl { path, value } if path.starts_with("sys/net/") => {
                    Some((format!("/proc/{path}"), value))
                }
                _ => None,
            });
        let settings: Vec<_> = settings.collect();
        let pidfd = process::pidfd_open(self.pid)
            .map(Fd)
            .on("open", "the restored process")?;
        in_namespace(
            &pidfd,
            libc::CLONE_NEWNET,
            "set up",
            "the container's network namespace",
            || {
                socket::loopback_up()?;
                settings.iter().try_for_each(|(path, value)| {
                    std::fs::write(path, value.as_bytes()).map_err(|error| {
                        nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
                    })
                })
            },
        )
    }

    /// Sends the master end of the container's terminal to the console socket.
    fn send_terminal(&self, notification: Notification) -> Result<()> {
        let master = notification
            .descriptor
            .ok_or_else(|| Error::new("criu sent no terminal"))?;
        let Some(console) = &self.console else {
            return Err(Error::new(
                "the images have a terminal, and the config has none: process.terminal is not set",
            ));
        };
        socket::send_fd(console.0, b"/dev/ptmx", master.as_raw_fd())
            .on("send the terminal to", "the console socket")
    }

    /// Warns where CRIU did not restore `no_new_privs` (before 3.19): no other process can set it.
    /// To be called when CRIU has ended, as CRIU sets it last.
    fn warn_of_lost_no_new_privs(&self) {
        let pid = self.record.pid;
        let wanted = self
            .spec()
            .config()
            .process
            .as_ref()
            .is_some_and(|process| process.no_new_privileges);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if wanted && status.lines().any(|line| line == "NoNewPrivs:\t0") {
            crate::log::warn(&format!(
                "container {}: this criu does not restore no_new_privs (3.19 and later do): its \
                    programs may gain privileges",
                self.record.id
            ));
        }
    }
}

impl Backend for CriuBackend<'_> {
    fn stopped(&mut self) {
        crate::hooks::host::poststop(self.target.spec, self.target.id);
    }

    fn open(&mut self, what: &Open) -> Result<Fd> {
        open_common(what)
    }

    /// Creates a network namespace with the container's links and addresses, in which hull drops
    /// incoming packets until the processes are restored. The addresses belong to hull's process
    /// until [`Network::Adopt`] gives them to the container's init.
    fn network(&mut self, network: Network, _child: Option<&Child>) -> Result<()> {
        let Target { id, directory, .. } = self.target;
        match network {
            Network::Attach(setup) => {
                setup.prepare_files(directory)?;
                let namespace = saved::new_namespace()?;
                network_lock::drop_incoming(&namespace)?;
                crate::net::attach::attach(setup, id, &namespace, process::getpid(), directory)?;
                self.network = Some(namespace);
                Ok(())
            }
            Network::Adopt => {
                let (Some(setup), Some(namespace)) = (&self.compiled.network, &self.network) else {
                    return Ok(());
                };
                saved::adopt(directory, id, self.pid)?;
                network_lock::accept_incoming(namespace)?;
                saved::announce(setup, id, namespace)
            }
            Network::Device { .. } | Network::Interfaces(_) => {
                Err(Error::new("a restore has no such network step"))
            }
        }
    }

    /// Starts CRIU in the container's cgroup, so that the processes that it creates are there too.
    fn clone(&mut self, birth: CloneRequest) -> Result<Child> {
        let inherited = self.inherited(birth.slots);
        let inherit: Vec<i32> = inherited.iter().map(|(_, raw)| *raw).collect();
        let namespaces = joined(&self.compiled.facts).len();
        let first = slot::FIRST_FREE as usize + namespaces;
        let tar_shim = self.tar_shim.insert(TarShim::of(self.target.directory)?);
        let RestoreInput {
            options,
            directories,
            program,
            mounts,
            ..
        } = &self.input;
        let tls = options
            .common
            .may_use_tls(&self.compiled.spec.config().annotations);
        let session = Session::start(
            program,
            &SessionConfig {
                images: &directories.images,
                work: &directories.work,
                inherit: &inherit,
                keep_stdio: true,
                mounts,
                cgroup: birth.cgroup,
                tasks: birth.slots.get(first..).unwrap_or_default(),
                tar_shim,
                tls,
            },
        )?;
        let pidfd = process::pidfd_open(session.pid)
            .map(Fd)
            .on("open", "criu")?;
        let pid = session.pid;
        self.session = Some(session);
        Ok(Child {
            pid,
            pidfd,
            sync: Fd(-1),
            page: Page::new().on("make", "the report page")?,
        })
    }

    fn hook(&mut self, list: HookList, index: usize, hook: &Hook, _child: &Child) -> Result<()> {
        self.target.hook(list, index, hook, self.pid)
    }

    /// Records the processes as soon as they are restored, so that `delete` finds them even if hull
    /// is killed.
    fn record(&mut self, made: Progress) -> Result<()> {
        match made {
            Progress::Cgroup(cgroup) => self.record.cgroup = Some(cgroup),
            Progress::Process { cgroup, .. } => {
                let pid = self.pid;
                let opened = process::pidfd_open(pid).map(Fd);
                self.pidfd = Some(opened.on("open", "the restored process")?);
                let mut outcomes = std::mem::take(&mut self.record.outcomes);
                if outcomes.is_empty() {
                    let user = self.spec().namespace(LinuxNamespaceType::User).is_some();
                    outcomes = observed(self.plan(), &Mounts::of(pid)?, user);
                }
                let cgroup = cgroup.or(self.record.cgroup.take());
                self.record.fill(state::Made {
                    pid,
                    cgroup,
                    outcomes,
                    vm: None,
                })?;
            }
        }
        self.record.write(self.store)
    }

    fn hostname(&mut self, name: &str) -> Result<()> {
        let pidfd = self.pidfd.as_ref();
        let pidfd = pidfd.ok_or_else(|| Error::new("there is no restored process"))?;
        set_hostname(pidfd, name)
    }

    fn child_failed(&mut self, _child: &Child) -> Error {
        Error::new("criu ended without an answer")
    }

    fn wait(&mut self, _child: &Child, kind: Barrier) -> BarrierResult {
        self.wait_for(match kind {
            Barrier::Hooks => "setup-namespaces",
            _ => "post-restore",
        })
    }

    fn release(&mut self, _child: &Child, kind: Barrier) -> BarrierResult {
        match kind {
            Barrier::Recorded => Ok(self.finish()?),
            _ => {
                self.pending = None;
                Ok(self.session()?.acknowledge(true)?)
            }
        }
    }

    fn abandon(&mut self) {
        if self.pending.take().is_some() {
            let _ = self
                .session()
                .and_then(|session| session.acknowledge(false));
            self.drain();
        }
        // CRIU rolls back what it has not finished.
        self.session = None;
        self.tar_shim = None;
        if let Some(pidfd) = &self.pidfd {
            let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
        }
    }
}

/// The outcomes of the steps' policies in a container that was restored from another runtime's
/// images, as far as its mounts show them. `user` says that it has a user namespace: the kernel
/// refuses to mount file systems only there.
fn observed(plan: &Plan, mounts: &Mounts, user: bool) -> Vec<PolicyOutcome> {
    let host = Mounts::of(process::getpid()).ok();
    let is_hosts = |target: &str, source: &str| {
        let of_host = host.as_ref().and_then(|host| {
            host.at(if source.starts_with('/') {
                source
            } else {
                target
            })
        });
        mounts
            .at(target)
            .zip(of_host)
            .is_some_and(|(ours, theirs)| ours.device == theirs.device)
    };
    let mut outcomes = Vec::new();
    for (index, placed) in plan.container.iter().enumerate() {
        let bound = match &placed.step {
            Step::Mount {
                target,
                source,
                refused: Refused::BindHost,
                ..
            } => user && is_hosts(target, source),
            Step::Node {
                path, bind: true, ..
            } => mounts.at(path).is_some(),
            _ => false,
        };
        if bound {
            outcomes.push(PolicyOutcome {
                step: index as u32,
                from: placed.from.to_string(),
                outcome: "bound-from-host".to_owned(),
            });
        }
    }
    outcomes
}

/// Sets the host name in the container's UTS namespace.
fn set_hostname(pidfd: &Fd, name: &str) -> Result<()> {
    in_namespace(
        pidfd,
        libc::CLONE_NEWUTS,
        "set the host name to",
        name,
        || crate::sys::ids::sethostname(name.as_bytes()),
    )
}

/// Runs `work` in a child process that joins one of the container's namespaces; `kind` is a
/// `CLONE_NEW*` flag. Operation and object are for the error message.
fn in_namespace(
    pidfd: &Fd,
    kind: i32,
    operation: &str,
    object: &str,
    work: impl FnOnce() -> Sys<()>,
) -> Result<()> {
    match process::clone(0, None).on("make", "a process in the container's namespaces")? {
        process::Cloned::Child => {
            let done = process::setns(pidfd.0, kind as u64).and_then(|()| work());
            process::exit(done.map_or_else(|errno| errno as i32, |()| 0))
        }
        process::Cloned::Parent { pidfd, .. } => match process::wait(Fd(pidfd).0, false)
            .on("wait for", "a process in the container's namespaces")?
        {
            // ESRCH: the container has ended already.
            Some(process::Ended::Exited(0 | libc::ESRCH)) => Ok(()),
            Some(process::Ended::Exited(number)) => Err(Error::sys(
                operation,
                object,
                nix::errno::Errno::from_raw(number),
            )),
            _ => Err(Error::new(format!(
                "{operation} {object}: the process was killed"
            ))),
        },
    }
}
