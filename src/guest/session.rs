//! One program of the guest: a process of hull's own that makes it as the namespace backend would, waits
//! for it, and says how it ended.
//!
//! It may wait for as long as it likes: the agent, which serves the channel, never does.

use crate::cgroups::group::Group;
use crate::guest::network;
use crate::namespaces::idmap;
use crate::namespaces::spawn::{Birth, Child, spawn};
use crate::net::netlink::Namespace;
use crate::step::container::Barrier;
use crate::step::host::{MapWriter, Open};
use crate::sys::fd::Fd;
use crate::sys::process::{self, Ended};
use crate::sys::{event, file, ids, socket};
use crate::vm::channel::message::{FromGuest, Outer, Task};
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::os::fd::IntoRawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a session tells the agent.
#[derive(Serialize, Deserialize)]
pub enum Report {
    /// The program's process.
    Pid(i32),
    /// For the host.
    Say(FromGuest),
}

/// What the agent says: one byte. The program may begin.
pub const START: u8 = b's';

/// What a session is given.
pub struct Launch {
    /// The steps.
    pub task: Task,
    /// `inside`.
    pub script: Vec<u8>,
    /// stdin, stdout, stderr.
    pub stdio: Vec<Fd>,
    /// The socket that takes the terminal.
    pub console: Option<Fd>,
    /// The container's first process, for an exec.
    pub program: i32,
}

/// Why it goes no further.
enum Stop {
    /// Of hull's own doing.
    Error(Error),
    /// The child says why.
    Child,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Error(error)
    }
}

struct Session<'a> {
    launch: Launch,
    link: &'a Fd,
    slots: Vec<i32>,
    held: Vec<Fd>,
    start: Option<Fd>,
    group: Option<Group>,
    child: Option<Child>,
}

/// The session's life.
pub fn run(launch: Launch, link: &Fd) -> ! {
    event::name_process(c"hull-session");
    // The agent's other descriptors: a pipe's end that two hold never ends.
    let mut needed: Vec<i32> = launch
        .stdio
        .iter()
        .chain(&launch.console)
        .chain([link])
        .map(|held| held.0)
        .collect();
    file::close_all_but(3, &mut needed);
    let slots = vec![-1; launch.task.slots as usize];
    let mut session = Session {
        launch,
        link,
        slots,
        held: Vec::new(),
        start: None,
        group: None,
        child: None,
    };
    let last = match session.execute() {
        Ok(()) => session.attend(),
        Err(Stop::Error(error)) => FromGuest::Refused(error.to_string()),
        Err(Stop::Child) => session.failure(),
    };
    if let (true, Some(child)) = (matches!(last, FromGuest::Refused(_)), &session.child) {
        let _ = process::pidfd_send_signal(child.pidfd.0, libc::SIGKILL);
    }
    session.say(last);
    process::exit(0)
}

impl Session<'_> {
    fn report(&self, report: &Report) {
        if let Ok(text) = serde_json::to_vec(report) {
            let _ = socket::send(self.link.0, &text);
        }
    }

    fn say(&self, message: FromGuest) {
        self.report(&Report::Say(message));
    }

    fn execute(&mut self) -> Result<(), Stop> {
        for (number, held) in self.launch.stdio.iter().enumerate() {
            file::dup_to(held.0, number as i32).on("set", "stdio")?;
        }
        self.launch.stdio.clear();
        for step in std::mem::take(&mut self.launch.task.outer) {
            self.step(&step)?;
        }
        self.wait_for(|page| page.filtered.load(Ordering::Acquire) != 0)?;
        if !self.launch.task.waits {
            let child = self.child()?;
            let mut byte = [0_u8; 1];
            // Its end of the socket closes at execve.
            while matches!(socket::recv(child.sync.0, &mut byte), Ok(1)) {}
            if child.page.report().errno.load(Ordering::Acquire) != 0 {
                return Err(Stop::Child);
            }
        }
        if let Some(group) = &mut self.group {
            group.commit();
        }
        let report = self.child()?.page.report();
        let count = report.outcomes.load(Ordering::Acquire) as usize;
        self.say(FromGuest::Ready(
            report
                .outcome
                .iter()
                .take(count)
                .map(|code| code.load(Ordering::Relaxed))
                .collect(),
        ));
        Ok(())
    }

    fn step(&mut self, step: &Outer) -> Result<(), Stop> {
        match step {
            Outer::Open(slot, what) => self.open(*slot, what)?,
            Outer::Program(slot) => {
                let pidfd = process::pidfd_open(self.launch.program)
                    .map(Fd)
                    .on("open", "the container's process")?;
                self.fill(*slot, pidfd);
            }
            Outer::Cgroup(plan, first) => {
                let mut group = Group::create(plan)?;
                group.apply(plan)?;
                for (index, fd) in group.join_fds()?.into_iter().enumerate() {
                    self.fill(*first + index as u32, Fd(fd.into_raw_fd()));
                }
                self.group = Some(group);
            }
            Outer::Clone {
                flags,
                stage,
                into_cgroup,
            } => {
                if stage.is_some() {
                    // A process of the container must not reach hull through its own /proc while it
                    // joins (CVE-2016-9962).
                    ids::prctl(libc::PR_SET_DUMPABLE, 0, 0).on("become", "undumpable")?;
                }
                let cgroup = if *into_cgroup {
                    self.group.as_ref().and_then(Group::clone_fd)
                } else {
                    None
                };
                let cgroup = cgroup.map(|fd| std::os::fd::AsRawFd::as_raw_fd(&fd));
                let birth = Birth {
                    flags: *flags,
                    stage: stage.as_ref(),
                    cgroup,
                    script: &self.launch.script,
                    slots: &mut self.slots,
                    walk: crate::init::walk::walk,
                    fresh: false,
                };
                let child = spawn(birth)?;
                self.report(&Report::Pid(child.pid));
                self.child = Some(child);
                // Its stdio ends when the program has closed it, and not with this process.
                let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0)
                    .map(Fd)
                    .on("open", "/dev/null")?;
                (0..3)
                    .try_for_each(|number| file::dup_to(null.0, number))
                    .on("set", "stdio")?;
            }
            Outer::JoinCgroup => self.join_cgroup()?,
            Outer::OomScore(value) => idmap::write_file(
                &format!("/proc/{}/oom_score_adj", self.child()?.pid),
                &value.to_string(),
            )?,
            Outer::IdMap(uid, mappings) => {
                idmap::write(self.child()?.pid, *uid, mappings, &MapWriter::Direct, false)?
            }
            Outer::Interfaces(list) => {
                let namespace = Namespace::of_process(self.child()?.pid)?;
                list.iter()
                    .try_for_each(|interface| network::move_into(interface, &namespace))?;
            }
            Outer::Barrier(kind) => self.barrier(*kind)?,
            Outer::Hooks => self.send(Barrier::Hooks)?,
            Outer::Rlimit(limit) => {
                let name =
                    crate::security::rlimits::name(limit.resource).unwrap_or("resource limit");
                ids::prlimit(self.child()?.pid, limit.resource, limit.soft, limit.hard)
                    .on("set", name)?;
            }
        }
        Ok(())
    }

    fn fill(&mut self, slot: u32, held: Fd) {
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = held.0;
        }
        self.held.push(held);
    }

    fn open(&mut self, slot: u32, what: &Open) -> Result<()> {
        let held = match what {
            Open::Procfs => crate::rootfs::sources::procfs()?,
            Open::Tree {
                path,
                recursive,
                propagation,
                id_map,
                link,
            } => crate::rootfs::sources::tree(
                path,
                *recursive,
                *propagation,
                id_map.as_ref(),
                *link,
            )?,
            Open::StartFifo => {
                let (theirs, ours) =
                    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).on("make", "a pipe")?;
                self.start = Some(Fd(ours.into_raw_fd()));
                Fd(theirs.into_raw_fd())
            }
            Open::ConsoleSocket => self
                .launch
                .console
                .take()
                .ok_or_else(|| Error::new("the session has no terminal"))?,
            Open::Namespace { path } => {
                return Err(Error::new(format!("namespace {path} is the host's")));
            }
        };
        self.fill(slot, held);
        Ok(())
    }

    fn child(&self) -> Result<&Child> {
        self.child
            .as_ref()
            .ok_or_else(|| Error::new("the task uses a process before it makes it"))
    }

    /// Its own cgroup, or for an exec the one where the container's first process is.
    fn join_cgroup(&self) -> Result<()> {
        let pid = self.child()?.pid;
        if let Some(group) = &self.group {
            return group.add(nix::unistd::Pid::from_raw(pid));
        }
        let path = format!("/proc/{}/cgroup", self.launch.program);
        let text = std::fs::read_to_string(&path).on("read", path)?;
        let own = text
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or("/");
        idmap::write_file(
            &format!("/sys/fs/cgroup{own}/cgroup.procs"),
            &pid.to_string(),
        )
    }

    fn send(&self, kind: Barrier) -> Result<(), Stop> {
        socket::send(self.child()?.sync.0, &[kind as u8]).map_err(|_| Stop::Child)
    }

    fn barrier(&self, kind: Barrier) -> Result<(), Stop> {
        if matches!(kind, Barrier::Placed | Barrier::Recorded) {
            return self.send(kind);
        }
        let child = self.child()?;
        let (readable, _) = process::poll2(child.sync.0, child.pidfd.0, None)
            .on("wait for", "the container's process")?;
        let mut byte = [0_u8; 1];
        if readable
            && matches!(socket::recv(child.sync.0, &mut byte), Ok(1))
            && byte[0] == kind as u8
        {
            Ok(())
        } else {
            Err(Stop::Child)
        }
    }

    /// Looks at the page until it says so; the child's death ends the wait.
    fn wait_for(&self, done: impl Fn(&crate::sys::page::Report) -> bool) -> Result<(), Stop> {
        let child = self.child()?;
        let report = child.page.report();
        while !done(report) {
            match process::poll2(child.pidfd.0, -1, Some(0)) {
                Ok((false, _)) => std::thread::sleep(Duration::from_micros(50)),
                // It may have come to its end between the two looks.
                _ if done(report) => break,
                _ => return Err(Stop::Child),
            }
        }
        Ok(())
    }

    /// Waits for the agent's word. The agent's end is the machine's end.
    fn wait_for_byte(&self, wanted: u8) -> Result<(), Stop> {
        let pidfd = self.child()?.pidfd.0;
        loop {
            let (spoken, ended) =
                process::poll2(self.link.0, pidfd, None).on("wait for", "the agent")?;
            let mut byte = [0_u8; 1];
            if spoken {
                match socket::recv(self.link.0, &mut byte) {
                    Ok(1) if byte[0] == wanted => return Ok(()),
                    Ok(1) => {}
                    _ => process::exit(1),
                }
            } else if ended {
                return Err(Stop::Child);
            }
        }
    }

    /// The program's life from here on.
    fn attend(&mut self) -> FromGuest {
        if self.launch.task.waits && self.wait_for_byte(START).is_ok() {
            let written = self
                .start
                .as_ref()
                .map_or(Ok(0), |start| file::write(start.0, b"0"));
            if written.is_err() {
                return FromGuest::Refused("the program that waits for start is gone".to_owned());
            }
        }
        self.start = None;
        if self.launch.task.waits {
            self.say(self.started());
        }
        match self
            .child
            .as_ref()
            .map(|child| process::wait(child.pidfd.0, false))
        {
            Some(Ok(Some(Ended::Exited(status)))) => FromGuest::Exited(status),
            Some(Ok(Some(Ended::Killed(signal)))) => FromGuest::Killed(signal),
            _ => FromGuest::Refused("wait for the program: it is not there".to_owned()),
        }
    }

    /// Its end of the socket closes when it becomes the program, or dies; then the page says which.
    fn started(&self) -> FromGuest {
        let Some(child) = &self.child else {
            return FromGuest::Started(None);
        };
        let mut byte = [0_u8; 1];
        while matches!(socket::recv(child.sync.0, &mut byte), Ok(1)) {}
        let report = child.page.report();
        let (step, errno, detail) = (
            report.step.load(Ordering::Relaxed),
            report.errno.load(Ordering::Acquire),
            report.detail.load(Ordering::Relaxed),
        );
        FromGuest::Started((errno != 0).then_some((step, errno, detail)))
    }

    fn failure(&self) -> FromGuest {
        let Some(child) = &self.child else {
            return FromGuest::Refused("the program was not made".to_owned());
        };
        let ended = match process::wait(child.pidfd.0, false) {
            Ok(Some(Ended::Exited(status))) => Some(status),
            Ok(Some(Ended::Killed(signal))) => Some(-signal),
            _ => None,
        };
        let report = child.page.report();
        let (step, detail) = (
            report.step.load(Ordering::Relaxed),
            report.detail.load(Ordering::Relaxed),
        );
        FromGuest::Failed(step, report.errno.load(Ordering::Acquire), detail, ended)
    }
}
