//! The agent: serves the channel, and keeps the sessions. It never waits for anything but all of
//! them at once.

use crate::cgroups;
use crate::cgroups::group::Group;
use crate::cgroups::oom::{Oom, OomEvents};
use crate::guest::modules::Modules;
use crate::guest::session;
use crate::guest::session::{Launch, Report, START};
use crate::guest::{describe, mount_on};
use crate::guest::{disks, network};
use crate::stdio::foreground::receive_terminal;
use crate::stdio::notify;
use crate::stdio::notify::GUEST_DIRECTORY;
use crate::step::host::HostStep;
use crate::sys::fd::{Fd, c_string, socket_pair};
use crate::sys::process::{self, Cloned};
use crate::sys::{event, file, socket};
use crate::vm::channel::frame::{Frame, Kind, LONGEST};
use crate::vm::channel::message::{
    FromGuest, MACHINE, PROGRAM, Process, SHARE, Setup, Task, ToGuest,
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

/// So much of a process's command line is told, in bytes.
const COMMAND: usize = 4096;

/// A session as the agent keeps it.
struct Session {
    link: Option<Fd>,
    /// The program's process; 0 before it is made.
    pid: i32,
    pidfd: Option<Fd>,
    /// Where the terminal comes from.
    console: Option<Fd>,
    /// The terminal, for its size.
    terminal: Option<Fd>,
    size: Option<(u16, u16)>,
    /// How it ended: told once its streams are carried.
    last: Option<FromGuest>,
}

/// The agent.
pub struct Agent {
    channel: Channel,
    streams: Streams,
    modules: Modules,
    signals: SignalFd,
    sessions: BTreeMap<u32, Session>,
    blobs: BTreeMap<u32, Vec<u8>>,
    cgroup: Option<cgroups::group::Record>,
    /// Tells of kills for lack of memory; none before the container's cgroup is there.
    oom: Option<OomEvents>,
    /// Where the container says that it is ready, from its start until it has said so.
    notify: Option<UnixDatagram>,
}

/// Whose a descriptor of the poll is.
#[derive(Clone, Copy)]
enum Whose {
    Link(u32),
    Console(u32),
    Oom,
    Notify,
}

impl Agent {
    /// An agent on a port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(port: Fd, modules: Modules) -> Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).on("block", "signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .on("make", "a signalfd")?;
        let (sessions, blobs) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self {
            channel: Channel::new(port)?,
            streams: Streams::default(),
            modules,
            signals,
            sessions,
            blobs,
            cgroup: None,
            oom: None,
            notify: None,
        })
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// The channel is broken.
    pub fn serve(&mut self) -> Result<()> {
        loop {
            let mut fds = vec![
                self.channel.interest(),
                libc::pollfd {
                    fd: self.signals.as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                },
            ];
            let mut whose = Vec::new();
            for (number, session) in &self.sessions {
                let mut watch = |held: &Option<Fd>, as_whose| {
                    if let Some(held) = held {
                        fds.push(libc::pollfd {
                            fd: held.0,
                            events: libc::POLLIN,
                            revents: 0,
                        });
                        whose.push(as_whose);
                    }
                };
                watch(&session.link, Whose::Link(*number));
                watch(&session.console, Whose::Console(*number));
            }
            if let Some(oom) = &self.oom {
                fds.push(libc::pollfd {
                    fd: oom.as_fd().as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                });
                whose.push(Whose::Oom);
            }
            if let Some(notify) = &self.notify {
                fds.push(libc::pollfd {
                    fd: notify.as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                });
                whose.push(Whose::Notify);
            }
            let mut streams = Vec::new();
            let first_stream = fds.len();
            self.streams.interests(&mut fds, &mut streams);
            event::poll(&mut fds, None).on("wait for", "the channel")?;
            if fds[0].revents & !libc::POLLOUT != 0 && !self.channel.fill()? {
                // Nobody has the other end open.
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            if fds[1].revents != 0 {
                self.reap();
            }
            for (which, events) in streams
                .iter()
                .zip(fds[first_stream..].iter().map(|fd| fd.revents))
            {
                self.streams.ready(&mut self.channel, *which, events);
            }
            for (which, events) in whose.iter().zip(fds[2..].iter().map(|fd| fd.revents)) {
                if events != 0 {
                    self.session_ready(*which)?;
                }
            }
            while let Some(frame) = self.channel.next_frame() {
                self.take(frame)?;
            }
            self.tell_the_ended()?;
            self.channel.flush()?;
        }
    }

    /// Every orphan of the machine is the first process's to reap.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<()> {
        match frame.kind {
            Kind::Hello => {
                let text = serde_json::to_vec(&describe()?)
                    .map_err(|error| Error::new(format!("describe the guest: {error}")))?;
                let payload = [&frame.payload[..], &text].concat();
                self.channel.put(Kind::Hello, 0, &payload);
            }
            Kind::Blob => drop(self.blobs.insert(frame.stream, frame.payload)),
            Kind::Message => {
                let answer = match serde_json::from_slice(&frame.payload) {
                    Ok(message) => self.message(frame.stream, message),
                    Err(error) => Err(Error::new(format!(
                        "a message that cannot be read: {error}"
                    ))),
                };
                match answer {
                    Ok(None) => {}
                    Ok(Some(answer)) => self.answer(frame.stream, &answer)?,
                    Err(error) => self
                        .channel
                        .message(frame.stream, &FromGuest::Refused(error.to_string()))?,
                }
            }
            _ => drop(self.streams.take(&mut self.channel, &frame)),
        }
        Ok(())
    }

    fn answer(&mut self, number: u32, answer: &FromGuest) -> Result<()> {
        let text = serde_json::to_vec(answer)
            .map_err(|error| Error::new(format!("write an answer: {error}")))?;
        if text.len() > LONGEST {
            return self.channel.message(
                number,
                &FromGuest::Refused(format!(
                    "the guest's answer has {} bytes: too many",
                    text.len()
                )),
            );
        }
        self.channel.put(Kind::Message, number, &text);
        Ok(())
    }

    fn message(&mut self, number: u32, message: ToGuest) -> Result<Option<FromGuest>> {
        match message {
            ToGuest::Setup(setup) => self.set_up(&setup).map(|()| Some(FromGuest::Done)),
            ToGuest::Spawn(task) => self.spawn(number, *task).map(|()| None),
            ToGuest::Start => {
                self.notify = notify::listen(Path::new(GUEST_DIRECTORY))?;
                self.notify
                    .as_ref()
                    .map_or(Ok(()), |socket| socket.set_nonblocking(true))
                    .on("use", "the notification socket")?;
                self.speak(number, START).map(|()| None)
            }
            ToGuest::Signal(signal) => {
                self.signal(number, signal);
                Ok(None)
            }
            ToGuest::SignalProgram(signal) => {
                self.signal(PROGRAM, signal);
                Ok(Some(FromGuest::Done))
            }
            ToGuest::SignalAll(signal) => self.signal_all(signal).map(|()| Some(FromGuest::Done)),
            ToGuest::Resize(rows, columns) => {
                if let Some(session) = self.sessions.get_mut(&number) {
                    session.size = Some((rows, columns));
                    if let Some(terminal) = &session.terminal {
                        let _ = socket::window_size(terminal.0, rows, columns);
                    }
                }
                Ok(None)
            }
            ToGuest::Stats => {
                let stats = self.group()?.stats()?;
                serde_json::to_value(stats)
                    .map(|value| Some(FromGuest::Value(value)))
                    .map_err(|error| Error::new(format!("stats: {error}")))
            }
            ToGuest::Processes => {
                let list = self.processes()?;
                serde_json::to_value(list)
                    .map(|value| Some(FromGuest::Value(value)))
                    .map_err(|error| Error::new(format!("processes: {error}")))
            }
            ToGuest::Handled => {
                let pid = self.sessions.get(&PROGRAM).map_or(0, |session| session.pid);
                Ok(Some(FromGuest::Value(
                    crate::sys::procfs::handled(pid).into(),
                )))
            }
            ToGuest::Update(resources) => {
                // The machine's memory may change with the limit; a guest that lives without does
                // without the driver.
                self.modules.load("virtio_balloon")?;
                self.group()?
                    .update(&resources)
                    .map(|()| Some(FromGuest::Done))
            }
            ToGuest::Connect(session, address) => {
                self.connect(session, address);
                Ok(None)
            }
            ToGuest::Clock(now) => event::set_clock(now)
                .on("set", "the clock")
                .map(|()| Some(FromGuest::Done)),
        }
    }

    /// A connection from the host's side of the container's network. Where nobody listens, its end
    /// says so.
    fn connect(&mut self, session: u32, address: SocketAddr) {
        let (there, back) = (stream(session, STDIN), stream(session, STDOUT));
        let program = self
            .sessions
            .get(&PROGRAM)
            .and_then(|session| session.pidfd.as_ref());
        let made = program
            .ok_or_else(|| Error::new("there is no program"))
            .and_then(|program| network::connect(program, address));
        if made
            .and_then(|socket| self.streams.connect((back, there), socket))
            .is_err()
        {
            self.streams.forget(session);
            self.channel.put(Kind::Closed, there, &[]);
            self.channel.put(Kind::End, back, &[]);
        }
    }

    fn set_up(&mut self, setup: &Setup) -> Result<()> {
        event::set_clock(setup.clock).on("set", "the clock")?;
        setup
            .modules
            .iter()
            .try_for_each(|name| self.modules.load(name))?;
        socket::loopback_up().on("bring up", "lo")?;
        if let Some(tag) = &setup.share {
            std::fs::create_dir_all(SHARE).on("make", SHARE)?;
            crate::sys::mount::mount(
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
            std::fs::create_dir_all(GUEST_DIRECTORY).on("make", GUEST_DIRECTORY)?;
        }
        if let Some(line) = &setup.interpreter {
            let safe = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
            mount_on(crate::binfmt::REGISTRY, "binfmt_misc", safe, "")?;
            crate::binfmt::register(line)?;
        }
        // What a container mounts is its own file system; the machine has one of each to begin
        // with.
        mount_on("/dev/pts", "devpts", libc::MS_NOSUID | libc::MS_NOEXEC, "")
    }

    fn speak(&self, number: u32, byte: u8) -> Result<()> {
        let link = self
            .sessions
            .get(&number)
            .and_then(|session| session.link.as_ref());
        let link = link.ok_or_else(|| Error::new(format!("no session {number}")))?;
        socket::send(link.0, &[byte]).on("speak to session", number)
    }

    fn group(&self) -> Result<Group> {
        Group::open(
            self.cgroup
                .as_ref()
                .ok_or_else(|| Error::new("the container has no cgroup"))?,
        )
    }

    /// One that has ended meanwhile needs none.
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
            .filter_map(|pid| look_at(pid.as_raw()))
            .collect())
    }

    fn spawn(&mut self, number: u32, task: Task) -> Result<()> {
        let script = self
            .blobs
            .remove(&number)
            .ok_or_else(|| Error::new("a task without its script"))?;
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
        let mut session = Session {
            link: None,
            pid: 0,
            pidfd: None,
            console: None,
            terminal: None,
            size: None,
            last: None,
        };
        let (stdio, console) = self.wire(number, &task, &mut session)?;
        let (ours, theirs) = socket_pair()?;
        session.link = Some(ours);
        self.sessions.insert(number, session);
        match process::clone(0, None).on("make", "a session")? {
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

    /// Pipes for the program, or the socket on which its terminal will come.
    fn wire(
        &mut self,
        number: u32,
        task: &Task,
        session: &mut Session,
    ) -> Result<(Vec<Fd>, Option<Fd>)> {
        if task.terminal {
            let (ours, theirs) = socket_pair()?;
            session.console = Some(ours);
            self.streams.expect(stream(number, STDIN));
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
                nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).on("make", "a pipe")?;
            let (read, write) = (Fd(read.into_raw_fd()), Fd(write.into_raw_fd()));
            if which == STDIN {
                self.streams.receive(stream(number, which), write)?;
                stdio.push(read);
            } else {
                self.streams.send(stream(number, which), read)?;
                stdio.push(write);
            }
        }
        Ok((stdio, None))
    }

    fn session_ready(&mut self, which: Whose) -> Result<()> {
        match which {
            Whose::Console(number) => self.take_terminal(number),
            Whose::Oom => self.tell_of_kills(),
            Whose::Notify => self.tell_of_readiness(),
            Whose::Link(number) => {
                let Some(session) = self.sessions.get_mut(&number) else {
                    return Ok(());
                };
                let Some(link) = &session.link else {
                    return Ok(());
                };
                let mut buffer = [0_u8; 16384];
                let count = socket::recv(link.0, &mut buffer).unwrap_or(0);
                let report = serde_json::from_slice(&buffer[..count]);
                match report {
                    Ok(Report::Pid(pid)) => {
                        session.pid = pid;
                        session.pidfd = process::pidfd_open(pid).ok().map(Fd);
                    }
                    Ok(Report::Say(
                        last @ (FromGuest::Exited(_)
                        | FromGuest::Killed(_)
                        | FromGuest::Failed(..)
                        | FromGuest::Refused(_)),
                    )) => {
                        session.last = Some(last);
                        session.link = None;
                    }
                    Ok(Report::Say(message)) => {
                        if number == PROGRAM && matches!(message, FromGuest::Ready(_)) {
                            // A guest without the memory controller has nothing to tell.
                            self.oom = self.group().and_then(|group| group.oom_events()).ok();
                        }
                        self.channel.message(number, &message)?;
                    }
                    Err(_) => {
                        session.link = None;
                        session.last.get_or_insert(FromGuest::Killed(libc::SIGKILL));
                    }
                }
                Ok(())
            }
        }
    }

    fn tell_of_kills(&mut self) -> Result<()> {
        match self.oom.as_mut().map(OomEvents::read) {
            Some(Ok(Oom::Kills(count))) => self.channel.message(MACHINE, &FromGuest::Oom(count)),
            Some(Ok(Oom::Gone) | Err(_)) => {
                self.oom = None;
                Ok(())
            }
            Some(Ok(Oom::Nothing)) | None => Ok(()),
        }
    }

    /// Passes on what the container says of its being ready. After that nobody listens, as behind
    /// the namespace backend.
    fn tell_of_readiness(&mut self) -> Result<()> {
        // As many as the socket keeps (net.unix.max_dgram_qlen): a program that goes on talking
        // holds nobody up.
        for _ in 0..16 {
            let Some(Ok(said)) = self.notify.as_ref().map(notify::receive_ready) else {
                break;
            };
            if let Some(line) = said {
                self.notify = None;
                self.channel.message(MACHINE, &FromGuest::Notify(line))?;
            }
        }
        Ok(())
    }

    fn take_terminal(&mut self, number: u32) -> Result<()> {
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
                .on("copy", "the terminal")
        };
        if let Some((rows, columns)) = session.size {
            let _ = socket::window_size(master.as_raw_fd(), rows, columns);
        }
        session.terminal = Some(copy()?);
        self.streams.receive(stream(number, STDIN), copy()?)?;
        self.streams.send(stream(number, STDOUT), copy()?)
    }

    /// A session's end is told after the last byte that its program wrote. What its own children
    /// write later is not waited for.
    fn tell_the_ended(&mut self) -> Result<()> {
        let ended: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.last.is_some())
            .map(|(number, _)| *number)
            .collect();
        for number in ended {
            if let Some(last) = self
                .sessions
                .remove(&number)
                .and_then(|session| session.last)
            {
                if number == PROGRAM {
                    // The kill that ended it, and what it said last, are told before its end.
                    self.tell_of_kills()?;
                    self.tell_of_readiness()?;
                    // What was written to shared mappings is the host's before the machine ends.
                    event::sync();
                }
                for which in [STDOUT, STDERR] {
                    self.streams
                        .finish(&mut self.channel, stream(number, which));
                }
                self.streams.forget(number);
                self.channel.message(number, &last)?;
            }
        }
        debug_assert!(!self.sessions.contains_key(&MACHINE));
        Ok(())
    }
}

/// What proc(5) says of a process; none where it is gone.
fn look_at(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok())?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&line[..line.len().min(COMMAND)])
        .trim_end_matches('\0')
        .replace('\0', " ");
    Some(Process {
        pid,
        parent: number(1) as i32,
        uid,
        ticks: number(11) + number(12),
        command,
    })
}
