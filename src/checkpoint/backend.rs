//! criu in the place of clone: it makes the container's processes from the images, and its events
//! are the barriers of a restore.

use super::criu::{self, Event, Heard, Session, World};
use super::inventory::Mounts;
use super::request::{self, Images};
use super::rpc::Kind;
use super::tmpfs::StandIn;
use super::{NETWORK, joined, network_lock};
use crate::backend::barrier::{BarrierError, BarrierResult};
use crate::backend::namespaces::{Target, open_common};
use crate::backend::run::{Backend, CloneRequest, Network, Progress};
use crate::compile::Compiled;
use crate::namespaces::spawn::Child;
use crate::net::netlink::Namespace;
use crate::net::saved;
use crate::spec::Spec;
use crate::spec::config::Hook;
use crate::state::{Phase, PolicyOutcome, Record};
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
    /// Whose steps they are.
    pub target: Target<'a>,
    /// Where the record is.
    pub store: &'a Store,
    /// The config, and create's plan of it.
    pub compiled: &'a Compiled,
    /// What is restored.
    pub images: Images<'a>,
    /// The record, kept up to date.
    pub record: Record,
    /// The socket that takes the terminal.
    pub console: Option<Fd>,
    /// What criu finds before PATH.
    pub stand_in: Option<StandIn>,
    /// The network namespace that hull made, where the container is on networks of hull's.
    pub network: Option<Namespace>,
    /// criu leaves the container's network namespace empty.
    pub empty_network: bool,
    /// A running criu.
    pub session: Option<Session>,
    /// It was asked to restore.
    pub asked: bool,
    /// The event that waits for a reply.
    pub event: Option<Event>,
    /// The container's init, once criu has made it.
    pub pid: i32,
    /// A descriptor of it, once its processes stand.
    pub pidfd: Option<Fd>,
}

impl<'a> CriuBackend<'a> {
    /// Before any step.
    pub fn new(
        target: Target<'a>,
        store: &'a Store,
        compiled: &'a Compiled,
        images: Images<'a>,
        record: Record,
    ) -> Self {
        Self {
            target,
            store,
            compiled,
            images,
            record,
            console: None,
            stand_in: None,
            network: None,
            empty_network: false,
            session: None,
            asked: false,
            event: None,
            pid: 0,
            pidfd: None,
        }
    }

    fn session(&mut self) -> Result<&mut Session> {
        let session = self.session.as_mut();
        session.ok_or_else(|| Error::new("criu has not been started"))
    }

    /// The descriptors that criu inherits, by the names that the images have for them.
    fn inherited(&self, slots: &[i32]) -> Vec<(&'static str, i32)> {
        let at = |number: u32| slots.get(number as usize).copied().unwrap_or(-1);
        let namespaces = (slot::FIRST_FREE..)
            .zip(joined(&self.compiled.facts))
            .map(|(slot, joined)| (joined.key, at(slot)));
        let own = self.network.iter().map(|own| (NETWORK, own.0.0));
        namespaces.chain(own).collect()
    }

    /// Asks criu to restore, once it is found that the images are whole. criu loads meanwhile.
    fn ask(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.asked, true) {
            return Ok(());
        }
        let stand_in = self.stand_in.as_ref();
        stand_in.map_or(Ok(()), StandIn::make)?;
        let Images {
            options,
            beside,
            directories,
            ..
        } = &self.images;
        if !options.common.auto_dedup {
            beside.verify(&directories.images)?;
        }
        let keys: Vec<&str> = self
            .inherited(&[])
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        let (network, in_cgroup) = (self.network.is_some(), self.record.cgroup.is_some());
        self.session()?.greet()?;
        let session = self.session.as_ref();
        let session = session.ok_or_else(|| Error::new("criu has not been started"))?;
        let mut asked = request::request(&self.images, self.compiled)?;
        asked.cg_root = request::cgroup_roots(session.pid)?;
        asked.inherit_fd.extend(request::inherited(&keys));
        self.empty_network = !network && request::is_without_network(&self.images, self.compiled);
        if self.empty_network {
            let kinds = asked.empty_ns;
            asked.empty_ns = kinds.map(|kinds| kinds | libc::CLONE_NEWNET as u32);
        }
        request::leave_out(
            &mut asked,
            &self.images,
            &self.compiled.spec,
            &request::Spared {
                lock: session.version >= criu::SKIPS_LOCK && self.empty_network,
                cgroups: in_cgroup,
            },
        );
        crate::log::debug(|| format!("criu: {asked:?}"));
        self.session()?.ask(Kind::Restore, asked)
    }

    /// Hears criu until an event, which then waits for a reply; does what others ask for.
    fn hear_until(&mut self, script: &str) -> BarrierResult {
        self.ask()?;
        let log = self.images.directories.log.clone();
        loop {
            match self.session()?.hear(&log)? {
                Heard::Event(event) if event.script == script => {
                    self.pid = event.pid;
                    self.event = Some(event);
                    return Ok(());
                }
                Heard::Event(event) => self.answer(event)?,
                Heard::Answer(answer) => {
                    self.session()?.done(Kind::Restore, *answer, &log)?;
                    return Err(BarrierError::Error(Error::new(format!(
                        "criu did not tell of {script:?}"
                    ))));
                }
            }
        }
    }

    /// Does what an event asks for, and replies.
    fn answer(&mut self, event: Event) -> Result<()> {
        let done = match event.script.as_str() {
            "setup-namespaces" => {
                self.pid = event.pid;
                Ok(())
            }
            "post-setup-namespaces" if self.empty_network => self.set_up_network(),
            "orphan-pts-master" => self.terminal(event),
            _ => Ok(()),
        };
        if done.is_err() {
            // What it has done criu takes back, and says so last.
            self.session()?.reply(false)?;
            self.drain();
            return done;
        }
        self.session()?.reply(true)
    }

    /// Hears criu to its last word.
    fn drain(&mut self) {
        let log = self.images.directories.log.clone();
        while let Some(Ok(Heard::Event(_))) = self.session.as_mut().map(|one| one.hear(&log)) {
            if self
                .session
                .as_ref()
                .is_some_and(|one| one.reply(false).is_err())
            {
                break;
            }
        }
    }

    /// Lets the processes run, and waits for criu's end.
    fn finish(&mut self) -> Result<()> {
        let log = self.images.directories.log.clone();
        self.event = None;
        self.session()?.reply(true)?;
        loop {
            match self.session()?.hear(&log)? {
                Heard::Event(event) => self.answer(event)?,
                Heard::Answer(answer) => {
                    self.session()?.done(Kind::Restore, *answer, &log)?;
                    break;
                }
            }
        }
        self.stand_in = None;
        match self.session.take() {
            Some(session) => session.end(&log)?,
            None => return Err(Error::new("criu has not been started")),
        }
        self.compare_privileges();
        Ok(())
    }

    fn plan(&self) -> &'a Plan {
        &self.compiled.plan
    }

    fn spec(&self) -> &'a Spec {
        &self.compiled.spec
    }

    /// What create does in a new network namespace, before there are sockets again: its loopback,
    /// and the config's settings.
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
        inside(
            &pidfd,
            libc::CLONE_NEWNET,
            ("set up", "the container's network namespace"),
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

    /// The terminal's other end, for whoever holds the console.
    fn terminal(&self, event: Event) -> Result<()> {
        let master = event
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

    /// Warns of a criu that does not bring `no_new_privs` back (before 3.19): nobody else can give
    /// it to a process. Asked when criu is done, which sets it last.
    fn compare_privileges(&self) {
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
    fn open(&mut self, what: &Open) -> Result<Fd> {
        open_common(what)
    }

    /// A network namespace with the container's links and addresses, in which no packet passes yet.
    /// hull holds the addresses until the container's init does.
    fn network(&mut self, network: Network, _child: Option<&Child>) -> Result<()> {
        let Target { id, directory, .. } = self.target;
        match network {
            Network::Attach(setup) => {
                setup.prepare_files(directory)?;
                let namespace = saved::new_namespace()?;
                network_lock::packets(&namespace)?;
                crate::net::attach::attach(setup, id, &namespace, process::getpid(), directory)?;
                self.network = Some(namespace);
                Ok(())
            }
            Network::Adopt => {
                let (Some(setup), Some(namespace)) = (&self.compiled.network, &self.network) else {
                    return Ok(());
                };
                saved::adopt(directory, id, self.pid)?;
                network_lock::release(namespace)?;
                saved::announce(setup, id, namespace)
            }
            Network::Device { .. } | Network::Interfaces(_) => {
                Err(Error::new("a restore has no such network step"))
            }
        }
    }

    /// criu, born in the container's cgroup: what it makes is born there too.
    fn clone(&mut self, birth: CloneRequest) -> Result<Child> {
        let inherited = self.inherited(birth.slots);
        let inherit: Vec<i32> = inherited.iter().map(|(_, raw)| *raw).collect();
        let namespaces = joined(&self.compiled.facts).len();
        let first = slot::FIRST_FREE as usize + namespaces;
        let stand_in = self.stand_in.insert(StandIn::of(self.target.directory)?);
        let Images {
            options,
            directories,
            program,
            mounts,
            ..
        } = &self.images;
        let tls = options
            .common
            .may_use_tls(&self.compiled.spec.config().annotations);
        let session = Session::start(
            program,
            &World {
                images: &directories.images,
                work: &directories.work,
                inherit: &inherit,
                stdio: true,
                mounts,
                cgroup: birth.cgroup,
                tasks: birth.slots.get(first..).unwrap_or_default(),
                stand_in,
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

    /// With the restored processes the record knows them: whatever becomes of hull, `delete` finds
    /// them.
    fn record(&mut self, made: Progress) -> Result<()> {
        match made {
            Progress::Cgroup(cgroup) => self.record.cgroup = Some(cgroup),
            Progress::Process { cgroup, .. } => {
                let pid = self.pid;
                let opened = process::pidfd_open(pid).map(Fd);
                self.pidfd = Some(opened.on("open", "the restored process")?);
                self.record.cgroup = cgroup.or(self.record.cgroup.take());
                self.record.pid = pid;
                self.record.phase = Phase::Made;
                self.record.start_time = crate::sys::procfs::process_stat(pid)
                    .map(|(_, started)| started)
                    .ok_or_else(|| Error::new("the restored process is gone"))?;
                if self.record.outcomes.is_empty() {
                    let user = self.spec().namespace(LinuxNamespaceType::User).is_some();
                    self.record.outcomes = observed(self.plan(), &Mounts::of(pid)?, user);
                }
            }
        }
        self.record.write(self.store)
    }

    fn hostname(&mut self, name: &str) -> Result<()> {
        let pidfd = self.pidfd.as_ref();
        let pidfd = pidfd.ok_or_else(|| Error::new("there is no restored process"))?;
        rename(pidfd, name)
    }

    fn child_failed(&mut self, _child: &Child) -> Error {
        Error::new("criu ended without an answer")
    }

    fn wait(&mut self, _child: &Child, kind: Barrier) -> BarrierResult {
        self.hear_until(match kind {
            Barrier::Hooks => "setup-namespaces",
            _ => "post-restore",
        })
    }

    fn release(&mut self, _child: &Child, kind: Barrier) -> BarrierResult {
        match kind {
            Barrier::Recorded => Ok(self.finish()?),
            _ => {
                self.event = None;
                Ok(self.session()?.reply(true)?)
            }
        }
    }

    fn abandon(&mut self) {
        if self.event.take().is_some() {
            let _ = self.session().and_then(|session| session.reply(false));
            self.drain();
        }
        // criu takes back what it has not finished.
        self.session = None;
        self.stand_in = None;
        if let Some(pidfd) = &self.pidfd {
            let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
        }
    }
}

/// What the steps' policies have come to in a restored container, which another runtime's images
/// decided: seen in its mounts. The kernel refuses file systems in user namespaces alone.
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

/// Sets the host name in the container, whose images may have another container's.
///
/// # Errors
/// The kernel's.
pub fn rename(pidfd: &Fd, name: &str) -> Result<()> {
    inside(
        pidfd,
        libc::CLONE_NEWUTS,
        ("set the host name to", name),
        || crate::sys::ids::sethostname(name.as_bytes()),
    )
}

/// Does something in a namespace of the container's, in a process of its own.
fn inside(
    pidfd: &Fd,
    kind: i32,
    (operation, object): (&str, &str),
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
            // It may have come to its end already.
            Some(process::Ended::Exited(0 | libc::ESRCH)) => Ok(()),
            Some(process::Ended::Exited(number)) => Err(Error::sys(
                operation,
                object,
                nix::errno::Errno::from_raw(number),
            )),
            _ => Err(Error::new(format!(
                "{operation} {object}: the process was ended"
            ))),
        },
    }
}
