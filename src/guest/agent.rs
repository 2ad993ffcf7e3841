//! The agent: PID 1 of the guest, which serves the channel. Its event loop waits for all of its
//! descriptors at once and never blocks on a single one; each program has a session process, which
//! may block.

use crate::cgroups;
use crate::cgroups::group::Group;
use crate::cgroups::oom::{Oom, OomEvents};
use crate::guest::boot::{describe, mount_on};
use crate::guest::modules::Modules;
use crate::guest::session::{self, Launch, Report, START};
use crate::guest::{disks, network, processes};
use crate::stdio::foreground::receive_terminal;
use crate::stdio::notify;
use crate::stdio::notify::GUEST_DIRECTORY;
use crate::step::host::HostStep;
use crate::sys::fd::{Fd, c_string, socket_pair};
use crate::sys::process::{self, Cloned};
use crate::sys::{event, file, mount, socket};
use crate::vm::channel::frame::{Frame, Kind, LONGEST};
use crate::vm::channel::message::{
    AGENT, FromGuest, PROGRAM, Process, SHARE, Setup, Task, ToGuest,
};
use crate::vm::channel::mux::{Channel, STDERR, STDIN, STDOUT, Streams, stream};
use crate::{Context, Error, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// How many notifications the agent reads in one turn of its loop. The kernel queues about as many
/// (net.unix.max_dgram_qlen), and a program that sends more must not keep the agent busy.
const NOTIFICATIONS: usize = 16;

/// What the agent knows of a session.
#[derive(Default)]
struct Session {
    /// The socket to the session's process.
    link: Option<Fd>,
    /// The program's pid; 0 before it is cloned.
    pid: i32,
    /// The program's pidfd.
    pidfd: Option<Fd>,
    /// The socket on which the terminal's master will come.
    console: Option<Fd>,
    /// The terminal's master, kept to set its size.
    terminal: Option<Fd>,
    /// The terminal's size: rows, columns.
    size: Option<(u16, u16)>,
    /// How the program ended, until it is reported.
    end: Option<FromGuest>,
}

/// The agent.
pub(super) struct Agent {
    channel: Channel,
    streams: Streams,
    modules: Modules,
    signals: SignalFd,
    sessions: BTreeMap<u32, Session>,
    /// The payload of the last blob of a session, until its message comes.
    blobs: BTreeMap<u32, Vec<u8>>,
    /// The container's cgroup, once its session is spawned.
    cgroup: Option<cgroups::group::Record>,
    /// The OOM kills in the container's cgroup, once it exists.
    oom: Option<OomEvents>,
    /// The socket for the container's readiness notification, from the start until the
    /// notification has come.
    notify: Option<UnixDatagram>,
}

/// What a descriptor of the poll set belongs to.
#[derive(Clone, Copy)]
enum Source {
    /// A session's process.
    Link(u32),
    /// The console socket of a session.
    Console(u32),
    /// The OOM events.
    Oom,
    /// The notification socket.
    Notify,
}

fn readable(fd: i32) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

impl Agent {
    /// An agent for the channel's port.
    ///
    /// # Errors
    /// The port cannot be made non-blocking; signalfd(2) fails.
    pub fn new(port: Fd, modules: Modules) -> Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).on("block", "signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .on("create", "a signalfd")?;
        Ok(Self {
            channel: Channel::new(port)?,
            streams: Streams::default(),
            modules,
            signals,
            sessions: BTreeMap::new(),
            blobs: BTreeMap::new(),
            cgroup: None,
            oom: None,
            notify: None,
        })
    }

    /// Serves the channel; returns only with an error.
    ///
    /// # Errors
    /// poll(2) fails; the channel's port cannot be read or written.
    pub fn serve(&mut self) -> Result<()> {
        loop {
            let mut fds = vec![self.channel.pollfd(), readable(self.signals.as_raw_fd())];
            let mut sources = Vec::new();
            self.add_sources(&mut fds, &mut sources);
            let mut ends = Vec::new();
            let first_stream = fds.len();
            self.streams.pollfds(&mut fds, &mut ends);
            event::poll(&mut fds, None).on("poll", "the channel")?;
            if fds[0].revents & !libc::POLLOUT != 0 && !self.channel.fill()? {
                // No process on the host has the port open.
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            if fds[1].revents != 0 {
                self.reap();
            }
            for (end, fd) in ends.iter().zip(&fds[first_stream..]) {
                self.streams.ready(&mut self.channel, *end, fd.revents);
            }
            for (source, fd) in sources.iter().zip(&fds[2..]) {
                if fd.revents != 0 {
                    self.ready(*source)?;
                }
            }
            while let Some(frame) = self.channel.next_frame() {
                self.handle_frame(frame)?;
            }
            self.report_ends()?;
            self.channel.flush()?;
        }
    }

    fn add_sources(&self, fds: &mut Vec<libc::pollfd>, sources: &mut Vec<Source>) {
        let mut add = |fd: i32, source| {
            fds.push(readable(fd));
            sources.push(source);
        };
        for (number, session) in &self.sessions {
            if let Some(link) = &session.link {
                add(link.0, Source::Link(*number));
            }
            if let Some(console) = &session.console {
                add(console.0, Source::Console(*number));
            }
        }
        if let Some(oom) = &self.oom {
            add(oom.as_fd().as_raw_fd(), Source::Oom);
        }
        if let Some(notify) = &self.notify {
            add(notify.as_raw_fd(), Source::Notify);
        }
    }

    fn ready(&mut self, source: Source) -> Result<()> {
        match source {
            Source::Link(number) => self.read_link(number),
            Source::Console(number) => self.receive_terminal(number),
            Source::Oom => self.report_oom(),
            Source::Notify => self.report_readiness(),
        }
    }

    /// Reaps all orphans of the guest and the session processes.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }

    fn handle_frame(&mut self, frame: Frame) -> Result<()> {
        match frame.kind {
            Kind::Hello => {
                let text = serde_json::to_vec(&describe()?)
                    .map_err(|error| Error::new(format!("encode the handshake: {error}")))?;
                let payload = [&frame.payload[..], &text].concat();
                self.channel.put(Kind::Hello, 0, &payload);
            }
            Kind::Blob => drop(self.blobs.insert(frame.stream, frame.payload)),
            Kind::Message => {
                let answer = serde_json::from_slice(&frame.payload)
                    .map_err(|error| Error::new(format!("decode a message: {error}")))
                    .and_then(|message| self.handle_message(frame.stream, message));
                match answer {
                    Ok(None) => {}
                    Ok(Some(answer)) => self.answer(frame.stream, &answer)?,
                    Err(error) => self
                        .channel
                        .message(frame.stream, &FromGuest::Refused(error.to_string()))?,
                }
            }
            _ => drop(self.streams.handle(&mut self.channel, &frame)),
        }
        Ok(())
    }

    /// Sends an answer, or an error if it is too long for a frame.
    fn answer(&mut self, number: u32, answer: &FromGuest) -> Result<()> {
        let text = serde_json::to_vec(answer)
            .map_err(|error| Error::new(format!("encode an answer: {error}")))?;
        if text.len() > LONGEST {
            return self.channel.message(
                number,
                &FromGuest::Refused(format!(
                    "the guest's answer has {} bytes, more than {LONGEST}",
                    text.len()
                )),
            );
        }
        self.channel.put(Kind::Message, number, &text);
        Ok(())
    }

    /// Handles a message to the session with this number. Returns the answer, if it has one now.
    fn handle_message(&mut self, number: u32, message: ToGuest) -> Result<Option<FromGuest>> {
        match message {
            ToGuest::Setup(setup) => {
                self.set_up(&setup)?;
                Ok(Some(FromGuest::Done))
            }
            ToGuest::Spawn(task) => {
                self.spawn(number, *task)?;
                Ok(None)
            }
            ToGuest::Start => {
                self.start(number)?;
                Ok(None)
            }
            ToGuest::Signal(signal) => {
                self.signal(number, signal);
                Ok(None)
            }
            ToGuest::SignalProgram(signal) => {
                self.signal(PROGRAM, signal);
                Ok(Some(FromGuest::Done))
            }
            ToGuest::SignalAll(signal) => {
                self.signal_all(signal)?;
                Ok(Some(FromGuest::Done))
            }
            ToGuest::Resize(rows, columns) => {
                self.resize(number, rows, columns);
                Ok(None)
            }
            ToGuest::Stats => value("stats", self.group()?.stats()?).map(Some),
            ToGuest::Processes => value("processes", self.processes()?).map(Some),
            ToGuest::Handled => {
                let pid = self.sessions.get(&PROGRAM).map_or(0, |session| session.pid);
                Ok(Some(FromGuest::Value(
                    crate::sys::procfs::handled(pid).into(),
                )))
            }
            ToGuest::Update(resources) => {
                // The balloon changes the guest's memory with its limit. Its driver is loaded only
                // when it is needed.
                self.modules.load("virtio_balloon")?;
                self.group()?.update(&resources)?;
                Ok(Some(FromGuest::Done))
            }
            ToGuest::Connect(session, address) => {
                self.connect(session, address);
                Ok(None)
            }
            ToGuest::Clock(now) => {
                event::set_clock(now).on("set", "the clock")?;
                Ok(Some(FromGuest::Done))
            }
        }
    }

    /// Lets the program start, and listens for its readiness notification from here on.
    fn start(&mut self, number: u32) -> Result<()> {
        self.notify = notify::listen(Path::new(GUEST_DIRECTORY))?;
        self.notify
            .as_ref()
            .map_or(Ok(()), |socket| socket.set_nonblocking(true))
            .on("use", "the notification socket")?;
        let link = self
            .sessions
            .get(&number)
            .and_then(|session| session.link.as_ref());
        let link = link.ok_or_else(|| Error::new(format!("there is no session {number}")))?;
        socket::send(link.0, &[START]).on("send to session", number)
    }

    fn resize(&mut self, number: u32, rows: u16, columns: u16) {
        if let Some(session) = self.sessions.get_mut(&number) {
            session.size = Some((rows, columns));
            if let Some(terminal) = &session.terminal {
                let _ = socket::window_size(terminal.0, rows, columns);
            }
        }
    }

    /// Connects to an address in the container's network namespace and forwards the connection. If
    /// that fails, the streams' end tells the host.
    fn connect(&mut self, session: u32, address: SocketAddr) {
        let (from_host, to_host) = (stream(session, STDIN), stream(session, STDOUT));
        let program = self
            .sessions
            .get(&PROGRAM)
            .and_then(|session| session.pidfd.as_ref());
        let connected = program
            .ok_or_else(|| Error::new("there is no program"))
            .and_then(|program| network::connect(program, address))
            .and_then(|socket| self.streams.add_connection(to_host, from_host, socket));
        if connected.is_err() {
            self.streams.remove_session(session);
            self.channel.put(Kind::Closed, from_host, &[]);
            self.channel.put(Kind::End, to_host, &[]);
        }
    }

    /// Sets up the guest before its first program.
    fn set_up(&mut self, setup: &Setup) -> Result<()> {
        event::set_clock(setup.clock).on("set", "the clock")?;
        setup
            .modules
            .iter()
            .try_for_each(|name| self.modules.load(name))?;
        socket::loopback_up().on("bring up", "lo")?;
        if let Some(tag) = &setup.share {
            std::fs::create_dir_all(SHARE).on("create", SHARE)?;
            mount::mount(
                &c_string(tag.as_str())?,
                &c_string(SHARE)?,
                c"virtiofs",
                0,
                c"",
            )
            .on("mount share", tag)?;
        }
        setup.interfaces.iter().try_for_each(network::set_up)?;
        disks::make_nodes(&setup.nodes)?;
        disks::set_up(&setup.disks, &mut self.modules)?;
        if setup.notify {
            std::fs::create_dir_all(GUEST_DIRECTORY).on("create", GUEST_DIRECTORY)?;
        }
        if let Some(line) = &setup.interpreter {
            let flags = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
            mount_on(crate::binfmt::REGISTRY, "binfmt_misc", flags, "")?;
            crate::binfmt::register(line)?;
        }
        // A container mounts a devpts instance of its own; this one is the guest's.
        mount_on("/dev/pts", "devpts", libc::MS_NOSUID | libc::MS_NOEXEC, "")
    }

    /// The container's cgroup.
    fn group(&self) -> Result<Group> {
        let recorded = self.cgroup.as_ref().map(Group::open);
        recorded.ok_or_else(|| Error::new("the container has no cgroup"))
    }

    /// Signals the program of a session. If the program has ended, nothing happens.
    fn signal(&self, number: u32, signal: i32) {
        if let Some(pidfd) = self
            .sessions
            .get(&number)
            .and_then(|session| session.pidfd.as_ref())
        {
            let _ = process::pidfd_send_signal(pidfd.0, signal);
        }
    }

    fn signal_all(&self, signal: i32) -> Result<()> {
        for pid in self.group()?.pids(true)? {
            if let Ok(pidfd) = process::pidfd_open(pid.as_raw()).map(Fd) {
                let _ = process::pidfd_send_signal(pidfd.0, signal);
            }
        }
        Ok(())
    }

    fn processes(&self) -> Result<Vec<Process>> {
        Ok(self
            .group()?
            .pids(true)?
            .into_iter()
            .filter_map(|pid| processes::read(pid.as_raw()))
            .collect())
    }

    /// Clones a session's process for a program.
    fn spawn(&mut self, number: u32, task: Task) -> Result<()> {
        let script = self
            .blobs
            .remove(&number)
            .ok_or_else(|| Error::new("the container steps are missing"))?;
        if let (PROGRAM, Some(plan)) = (
            number,
            task.steps.iter().find_map(|placed| match &placed.step {
                HostStep::Cgroup { plan, .. } => Some(plan),
                _ => None,
            }),
        ) {
            self.cgroup = Some(plan.record());
        }
        let program = self.sessions.get(&PROGRAM).map_or(0, |session| session.pid);
        let mut session = Session::default();
        let (stdio, console) = self.open_stdio(number, &task, &mut session)?;
        let (ours, theirs) = socket_pair()?;
        session.link = Some(ours);
        self.sessions.insert(number, session);
        match process::clone(0, None).on("clone", "a session")? {
            Cloned::Child => session::run(
                Launch {
                    task,
                    script,
                    stdio,
                    console,
                    program,
                },
                &theirs,
            ),
            Cloned::Parent { pidfd, .. } => {
                file::close(pidfd);
                Ok(())
            }
        }
    }

    /// Opens the stdio of a session's program: pipes, or `/dev/null` and the console socket on
    /// which its terminal will come.
    fn open_stdio(
        &mut self,
        number: u32,
        task: &Task,
        session: &mut Session,
    ) -> Result<(Vec<Fd>, Option<Fd>)> {
        if task.terminal {
            let (ours, theirs) = socket_pair()?;
            session.console = Some(ours);
            self.streams.expect_sink(stream(number, STDIN));
            let null = || {
                file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0)
                    .map(Fd)
                    .on("open", "/dev/null")
            };
            return Ok((vec![null()?, null()?, null()?], Some(theirs)));
        }
        let mut stdio = Vec::new();
        for which in [STDIN, STDOUT, STDERR] {
            let (read, write) =
                nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).on("create", "a pipe")?;
            let (read, write) = (Fd(read.into_raw_fd()), Fd(write.into_raw_fd()));
            if which == STDIN {
                self.streams.add_sink(stream(number, which), write)?;
                stdio.push(read);
            } else {
                self.streams.add_source(stream(number, which), read)?;
                stdio.push(write);
            }
        }
        Ok((stdio, None))
    }

    /// Reads a report of a session's process.
    fn read_link(&mut self, number: u32) -> Result<()> {
        let Some(session) = self.sessions.get_mut(&number) else {
            return Ok(());
        };
        let Some(link) = &session.link else {
            return Ok(());
        };
        let mut buffer = [0_u8; 16384];
        let count = socket::recv(link.0, &mut buffer).unwrap_or(0);
        match serde_json::from_slice(&buffer[..count]) {
            Ok(Report::Pid(pid)) => {
                session.pid = pid;
                session.pidfd = process::pidfd_open(pid).ok().map(Fd);
            }
            Ok(Report::Say(
                end @ (FromGuest::Exited(_)
                | FromGuest::Killed(_)
                | FromGuest::Failed(..)
                | FromGuest::Refused(_)),
            )) => {
                session.end = Some(end);
                session.link = None;
            }
            Ok(Report::Say(message)) => {
                if number == PROGRAM && matches!(message, FromGuest::Ready(_)) {
                    // Without the memory controller there are no events.
                    self.oom = self.group().and_then(|group| group.oom_events()).ok();
                }
                self.channel.message(number, &message)?;
            }
            // The session's process was killed.
            Err(_) => {
                session.link = None;
                session.end.get_or_insert(FromGuest::Killed(libc::SIGKILL));
            }
        }
        Ok(())
    }

    fn report_oom(&mut self) -> Result<()> {
        match self.oom.as_mut().map(OomEvents::read) {
            Some(Ok(Oom::Kills(count))) => self.channel.message(AGENT, &FromGuest::Oom(count)),
            Some(Ok(Oom::Gone) | Err(_)) => {
                self.oom = None;
                Ok(())
            }
            Some(Ok(Oom::Nothing)) | None => Ok(()),
        }
    }

    /// Passes on the container's readiness notification. After it, the agent closes the socket, as
    /// hull does with the namespace backend.
    fn report_readiness(&mut self) -> Result<()> {
        for _ in 0..NOTIFICATIONS {
            let Some(Ok(notification)) = self.notify.as_ref().map(notify::receive_ready) else {
                break;
            };
            if let Some(line) = notification {
                self.notify = None;
                self.channel.message(AGENT, &FromGuest::Notify(line))?;
            }
        }
        Ok(())
    }

    /// Receives the master of a session's terminal and connects the streams to it.
    fn receive_terminal(&mut self, number: u32) -> Result<()> {
        let Some(session) = self.sessions.get_mut(&number) else {
            return Ok(());
        };
        let Some(console) = session.console.take() else {
            return Ok(());
        };
        let Ok(master) = receive_terminal(&socket::owned(console.keep())) else {
            return Ok(());
        };
        let copy = || {
            master
                .try_clone()
                .map(|fd| Fd(fd.into_raw_fd()))
                .on("duplicate", "the terminal")
        };
        if let Some((rows, columns)) = session.size {
            let _ = socket::window_size(master.as_raw_fd(), rows, columns);
        }
        session.terminal = Some(copy()?);
        self.streams.add_sink(stream(number, STDIN), copy()?)?;
        self.streams.add_source(stream(number, STDOUT), copy()?)
    }

    /// Reports the sessions' ends, each after the last byte that its program wrote. What the
    /// program's children write later is not sent.
    fn report_ends(&mut self) -> Result<()> {
        let ended: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.end.is_some())
            .map(|(number, _)| *number)
            .collect();
        for number in ended {
            if let Some(end) = self
                .sessions
                .remove(&number)
                .and_then(|session| session.end)
            {
                if number == PROGRAM {
                    // The OOM kill that ended the program and its last notification come before
                    // its end.
                    self.report_oom()?;
                    self.report_readiness()?;
                    // Dirty pages of shared mappings reach the host before the VM ends.
                    event::sync();
                }
                for which in [STDOUT, STDERR] {
                    self.streams
                        .finish_source(&mut self.channel, stream(number, which));
                }
                self.streams.remove_session(number);
                self.channel.message(number, &end)?;
            }
        }
        debug_assert!(!self.sessions.contains_key(&AGENT));
        Ok(())
    }
}

/// An answer with a value.
fn value(what: &str, value: impl serde::Serialize) -> Result<FromGuest> {
    serde_json::to_value(value)
        .map(FromGuest::Value)
        .map_err(|error| Error::new(format!("encode {what}: {error}")))
}
