//! One program of the guest: a process of hull's own that executes the guest's host steps, waits
//! for the program, and says how it ended.
//!
//! It may wait for as long as it likes: the agent, which serves the channel, never does.

use crate::backend::barrier;
use crate::backend::namespaces::open_common;
use crate::backend::run::{self, Backend, CloneRequest, Network, Progress};
use crate::guest::network;
use crate::init::executor::execute;
use crate::namespaces::idmap;
use crate::namespaces::spawn::{self, Child};
use crate::net::netlink::Namespace;
use crate::step::host::Open;
use crate::sys::fd::Fd;
use crate::sys::process::{self, Ended};
use crate::sys::{event, file, socket};
use crate::vm::channel::message::{FromGuest, Task};
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::sync::atomic::Ordering;

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
    /// The host steps.
    pub task: Task,
    /// The container steps, as bytes.
    pub script: Vec<u8>,
    /// stdin, stdout, stderr.
    pub stdio: Vec<Fd>,
    /// The socket that takes the terminal.
    pub console: Option<Fd>,
    /// The container's init, for an exec.
    pub program: i32,
}

/// The guest's half of the VM backend: a child on the guest's kernel, that reports to the agent.
struct Session<'a> {
    script: Vec<u8>,
    console: Option<Fd>,
    /// The container's init, for an exec.
    program: i32,
    link: &'a Fd,
    /// The other end of the pipe on which the child waits for `start`.
    start: Option<Fd>,
    /// How the child failed.
    failed: Option<FromGuest>,
}

/// The session's life.
pub fn run(launch: Launch, link: &Fd) -> ! {
    event::name_process(c"hull-session");
    let Launch {
        task,
        script,
        stdio,
        console,
        program,
    } = launch;
    // The agent's other descriptors: a pipe's end that two hold never ends.
    let needed = stdio.iter().chain(&console).chain([link]);
    let mut needed: Vec<i32> = needed.map(|fd| fd.0).collect();
    file::close_all_but(3, &mut needed);
    let mut session = Session {
        script,
        console,
        program,
        link,
        start: None,
        failed: None,
    };
    let waits = task.waits;
    let last = match session.execute(task, stdio) {
        Ok(child) => session.attend(&child, waits),
        Err(error) => {
            let refused = || FromGuest::Refused(error.to_string());
            session.failed.take().unwrap_or_else(refused)
        }
    };
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

    fn execute(&mut self, task: Task, stdio: Vec<Fd>) -> Result<Child> {
        for (number, fd) in (0..).zip(&stdio) {
            file::dup_to(fd.0, number).on("set", "stdio")?;
        }
        drop(stdio);
        // No directory: a guest keeps no networks of hull's.
        let done = run::run(&task.steps, task.slots, Path::new("/"), self)?;
        Ok(done.child)
    }

    /// The program's life from here on.
    fn attend(&mut self, child: &Child, waits: bool) -> FromGuest {
        if waits && self.wait_for_start(child) {
            let start = self.start.as_ref();
            if start.is_some_and(|start| file::write(start.0, b"0").is_err()) {
                return FromGuest::Refused("the program that waits for start is gone".to_owned());
            }
        }
        self.start = None;
        if waits {
            self.say(started(child));
        }
        match process::wait(child.pidfd.0, false) {
            Ok(Some(Ended::Exited(status))) => FromGuest::Exited(status),
            Ok(Some(Ended::Killed(signal))) => FromGuest::Killed(signal),
            _ => FromGuest::Refused("wait for the program: it is not there".to_owned()),
        }
    }

    /// Waits for the agent's word; false where the child ended before. The agent's end is the
    /// guest's end.
    fn wait_for_start(&self, child: &Child) -> bool {
        loop {
            let Ok((spoken, ended)) = process::poll2(self.link.0, child.pidfd.0, None) else {
                return false;
            };
            let mut byte = [0_u8; 1];
            if spoken {
                match socket::recv(self.link.0, &mut byte) {
                    Ok(1) if byte[0] == START => return true,
                    Ok(1) => {}
                    _ => process::exit(1),
                }
            } else if ended {
                return false;
            }
        }
    }
}

impl Backend for Session<'_> {
    fn open(&mut self, what: &Open) -> Result<Fd> {
        match what {
            Open::StartFifo => {
                let (theirs, ours) =
                    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).on("make", "a pipe")?;
                self.start = Some(Fd(ours.into_raw_fd()));
                Ok(Fd(theirs.into_raw_fd()))
            }
            Open::ConsoleSocket => self
                .console
                .take()
                .ok_or_else(|| Error::new("the session has no terminal")),
            Open::Init => process::pidfd_open(self.program)
                .map(Fd)
                .on("open", "the container's process"),
            Open::Namespace { path } => Err(Error::new(format!("namespace {path} is the host's"))),
            other => open_common(other),
        }
    }

    fn clone(&mut self, birth: CloneRequest) -> Result<Child> {
        let child = spawn::spawn(spawn::SpawnRequest {
            flags: birth.flags,
            stage: birth.stage,
            cgroup: birth.cgroup,
            steps: &self.script,
            slots: birth.slots,
            executor: execute,
            fresh: false,
        })?;
        self.report(&Report::Pid(child.pid));
        // Its stdio ends when the program has closed it, and not with this process.
        let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0)
            .map(Fd)
            .on("open", "/dev/null")?;
        (0..3)
            .try_for_each(|number| file::dup_to(null.0, number))
            .on("set", "stdio")?;
        Ok(child)
    }

    fn network(&mut self, network: Network, child: Option<&Child>) -> Result<()> {
        let (Network::Interfaces(list), Some(child)) = (network, child) else {
            return Err(Error::new("a guest has no networks of hull's"));
        };
        let namespace = Namespace::of_process(child.pid)?;
        list.iter()
            .try_for_each(|interface| network::move_into(interface, &namespace))
    }

    /// The record is the host's: it gets what the policies decided.
    fn record(&mut self, made: Progress) -> Result<()> {
        if let Progress::Process { child, .. } = made {
            let report = child.page.report();
            let count = report.outcomes.load(Ordering::Acquire) as usize;
            let codes = report.outcome.iter().take(count);
            let codes = codes.map(|code| code.load(Ordering::Relaxed)).collect();
            self.say(FromGuest::Ready(codes));
        }
        Ok(())
    }

    /// An exec's process goes where the container's init is.
    fn join_cgroup(&mut self, child: &Child) -> Result<()> {
        let path = format!("/proc/{}/cgroup", self.program);
        let text = std::fs::read_to_string(&path).on("read", path)?;
        let own = text
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or("/");
        idmap::write_file(
            &format!("/sys/fs/cgroup{own}/cgroup.procs"),
            &child.pid.to_string(),
        )
    }

    /// The host, which has the plan, words it.
    fn child_failed(&mut self, child: &Child) -> Error {
        let ended = match process::wait(child.pidfd.0, false) {
            Ok(Some(Ended::Exited(status))) => Some(status),
            Ok(Some(Ended::Killed(signal))) => Some(-signal),
            _ => None,
        };
        let (step, errno, detail) = told(child);
        self.failed = Some(FromGuest::Failed(step, errno, detail, ended));
        Error::new("the child failed")
    }
}

/// Its end of the socket closes when it becomes the program, or dies; then the page says which.
fn started(child: &Child) -> FromGuest {
    barrier::closed(child);
    let (step, errno, detail) = told(child);
    FromGuest::Started((errno != 0).then_some((step, errno, detail)))
}

/// What the child's page has of a failure: step, error number, detail.
fn told(child: &Child) -> (u32, i32, u32) {
    let report = child.page.report();
    let errno = report.errno.load(Ordering::Acquire);
    (
        report.step.load(Ordering::Relaxed),
        errno,
        report.detail.load(Ordering::Relaxed),
    )
}
