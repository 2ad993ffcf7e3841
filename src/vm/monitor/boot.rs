//! From a job to a machine that boots.

use super::forward::Forward;
use super::{Monitor, Stage};
use crate::compile::CreateOptions;
use crate::settings::vm::VmOptions;
use crate::spec::Spec;
use crate::step::container::slot;
use crate::step::host::Interface;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::sys::page::Page;
use crate::sys::{event, file, ids, process};
use crate::vm::boot::disk::{Disk, Opened};
use crate::vm::boot::kernel::Kernel;
use crate::vm::channel::client;
use crate::vm::channel::client::News;
use crate::vm::channel::frame::Kind;
use crate::vm::channel::message::{Node, PROGRAM};
use crate::vm::channel::mux::{Channel, STDERR, STDIN, STDOUT, Streams, stream};
use crate::vm::engine::{Accelerator, Boot, Machine, Tap};
use crate::vm::plan::FIRST_CGROUP;
use crate::vm::rootless::Own;
use crate::vm::share;
use crate::vm::stdio::{self, Ends, Stdio};
use crate::vm::translate::{Network, Share};
use crate::{Context, Error, Result};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a monitor is to do.
pub struct Job {
    /// The container's id.
    pub id: String,
    /// Its directory.
    pub directory: PathBuf,
    /// Where compiled filters are cached.
    pub store: Store,
    /// The guest's config.
    pub spec: Spec,
    /// What create was asked.
    pub create: CreateOptions,
    /// What was asked of the machine.
    pub options: VmOptions,
    /// How it runs.
    pub accelerator: Accelerator,
    /// The kernel.
    pub kernel: Kernel,
    /// The guest's first file system.
    pub initramfs: PathBuf,
    /// Memory in bytes.
    pub memory: u64,
    /// What it may grow to, where that is more.
    pub memory_max: Option<u64>,
    /// How much of that is there from the beginning.
    pub plugged: u64,
    /// Processors.
    pub cpus: u32,
    /// What the guest sees of the host.
    pub shares: Vec<Share>,
    /// Disks, and their files.
    pub disks: Vec<Disk>,
    /// The files, until the machine has them.
    pub opened: Vec<Opened>,
    /// Device nodes of the guest's own root.
    pub nodes: Vec<Node>,
    /// What the guest's binfmt_misc is told.
    pub interpreter: Option<String>,
    /// The host's part of the network.
    pub network: Network,
    /// The fifo of start.
    pub start: Fd,
    /// An ordinary user's ids.
    pub own: Option<Own>,
    /// v1 cgroups to join.
    pub tasks: Vec<Fd>,
    /// The socket that takes the terminal.
    pub console: Option<Fd>,
    /// How long until the container is made.
    pub timeout: Duration,
    /// What the guest's kernel can do, once it has said so.
    pub facts: Option<crate::facts::Facts>,
    /// What the guest has of the network.
    pub interfaces: Vec<Interface>,
    /// The last session's number.
    pub sessions: u32,
}

impl Job {
    /// The descriptors that the monitor needs of its maker's; `maker` is where whoever makes the
    /// container listens.
    pub fn descriptors(&self, maker: i32) -> Vec<i32> {
        let disks = self.opened.iter().map(|opened| &opened.fd);
        [maker, self.start.0]
            .into_iter()
            .chain(
                self.tasks
                    .iter()
                    .chain(&self.console)
                    .chain(disks)
                    .map(|held| held.0),
            )
            .collect()
    }

    /// Takes over what the host's steps filled the slots with. (In the monitor's own process.)
    pub fn with_slots(mut self, slots: &[i32]) -> Self {
        let at = |number: u32| slots.get(number as usize).copied().unwrap_or(-1);
        self.start = Fd(at(slot::START));
        self.console = Some(at(slot::CONSOLE)).filter(|fd| *fd >= 0).map(Fd);
        self.tasks = (FIRST_CGROUP..slots.len() as u32)
            .map(|slot| Fd(at(slot)))
            .collect();
        self
    }

    /// A number for a session.
    pub(super) fn next_session(&mut self) -> u32 {
        self.sessions = self.sessions.max(PROGRAM) + 1;
        self.sessions
    }
}

impl Monitor {
    pub(super) fn boot(mut job: Job, maker: Fd, page: Page) -> Result<Self, (Error, Fd)> {
        match Self::try_boot(&mut job, &maker) {
            Ok(parts) => {
                let Parts {
                    machine,
                    share,
                    channel,
                    streams,
                    stdin,
                    stdio,
                    signals,
                    console,
                    listener,
                    forward,
                    nonce,
                } = parts;
                let deadline = Instant::now() + job.timeout;
                Ok(Self {
                    job,
                    stage: Stage::Booting,
                    machine,
                    share,
                    channel,
                    streams,
                    stdin: Some(stdin),
                    stdio,
                    signals,
                    console,
                    tail: VecDeque::new(),
                    listener,
                    forward,
                    connections: BTreeMap::new(),
                    next: 1,
                    sessions: BTreeMap::new(),
                    asked_guest: VecDeque::new(),
                    // The first answer of the engine is to the language's own opening.
                    asked_engine: VecDeque::from([(super::control::Asked::Opening, 0)]),
                    paused: false,
                    nonce,
                    plan: None,
                    maker: Some(maker),
                    recorded: false,
                    page,
                    deadline,
                    ended: None,
                    taken: None,
                })
            }
            Err(error) => Err((error, maker)),
        }
    }

    fn try_boot(job: &mut Job, maker: &Fd) -> Result<Parts> {
        event::name_process(c"hull-vm");
        let _ = process::setsid();
        let signals = hold_signals()?;
        // Each exec and each connection has some.
        ids::raise_open_files().on("raise", "the limit of open files")?;
        job.own
            .as_ref()
            .map_or(Ok(()), |own| own.become_root(maker.0))?;
        for tasks in std::mem::take(&mut job.tasks) {
            file::write(tasks.0, b"0").on("join", "the cgroup")?;
        }
        enter_network(&job.network)?;
        let taps = interfaces(job, maker)?;
        // Until here the network of an ordinary user comes in by programs of the same user
        // (ptrace(2), access mode checking).
        ids::prctl(libc::PR_SET_DUMPABLE, 0, 0).on("become", "undumpable")?;
        let own = stdio::own()?;
        // Before the share's server, which keeps what is stdio then.
        let (mut stdio, ends) = match job.console.take() {
            Some(console) => Stdio::terminal(&console, terminal_size(&job.spec))?,
            None => Stdio::pipes(own)?,
        };
        let share = if job.shares.is_empty() {
            None
        } else {
            Some(share::start(&job.directory, &job.shares)?)
        };
        let (share, share_socket) = match share {
            Some(share::Server { pidfd, socket }) => (
                Some(share::Server {
                    pidfd,
                    socket: Fd(-1),
                }),
                Some(socket),
            ),
            None => (None, None),
        };
        let boot = Boot {
            id: &job.id,
            directory: &job.directory,
            program: job.options.program.as_deref(),
            accelerator: job.accelerator,
            kernel: &job.kernel,
            initramfs: &job.initramfs,
            parameters: &job.options.parameters,
            memory: job.memory,
            more: job.memory_max.map(|most| (most - job.memory, job.plugged)),
            cpus: job.cpus,
            share: share_socket,
            taps,
            own: job.own.as_ref(),
            disks: std::mem::take(&mut job.opened),
        };
        let (machine, channel, console) = Machine::boot(boot)?;
        if matches!(stdio, Stdio::Pipes { .. }) {
            stdio::let_go()?;
        }
        let listener = client::listen(&job.directory)?;
        // While QEMU starts.
        let forward = if job.interfaces.is_empty() {
            None
        } else {
            Forward::open()
        };
        let mut streams = Streams::default();
        let Ends {
            stdin,
            stdout,
            stderr,
        } = ends;
        streams.receive(stream(PROGRAM, STDOUT), stdout)?;
        stderr.map_or(Ok(()), |stderr| {
            streams.receive(stream(PROGRAM, STDERR), stderr)
        })?;
        stdio.start();
        let mut channel = Channel::new(channel)?;
        let nonce = nonce()?;
        channel.put(Kind::Hello, 0, &nonce);
        event::nonblocking(console.0).on("use", "the guest's console")?;
        Ok(Parts {
            machine,
            share,
            channel,
            streams,
            stdin,
            stdio,
            signals,
            console,
            listener,
            forward,
            nonce,
        })
    }
}

struct Parts {
    machine: Machine,
    share: Option<share::Server>,
    channel: Channel,
    streams: Streams,
    stdin: Fd,
    stdio: Stdio,
    signals: SignalFd,
    console: Fd,
    listener: Fd,
    forward: Option<Forward>,
    nonce: [u8; 16],
}

/// A session's ends become its streams.
pub(super) fn wire(streams: &mut Streams, session: u32, ends: Ends) -> Result<()> {
    let Ends {
        stdin,
        stdout,
        stderr,
    } = ends;
    streams.send(stream(session, STDIN), stdin)?;
    streams.receive(stream(session, STDOUT), stdout)?;
    stderr.map_or(Ok(()), |stderr| {
        streams.receive(stream(session, STDERR), stderr)
    })
}

/// All signals come by a descriptor: they are the program's.
pub fn hold_signals() -> Result<SignalFd> {
    let set = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None).on("block", "signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .on("make", "a signalfd")
}

fn terminal_size(spec: &Spec) -> (u16, u16) {
    let size = spec
        .config()
        .process
        .as_ref()
        .and_then(|process| process.console_size.clone())
        .unwrap_or_default();
    let clamp = |value: u64| value.min(u64::from(u16::MAX)) as u16;
    (clamp(size.height), clamp(size.width))
}

fn nonce() -> Result<[u8; 16]> {
    use std::io::Read;
    let mut nonce = [0_u8; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut nonce))
        .on("read", "/dev/urandom")?;
    Ok(nonce)
}

/// The interfaces of the namespace, those that hull's own networks put there among them.
fn interfaces(job: &mut Job, maker: &Fd) -> Result<Vec<Tap>> {
    client::send(maker, &News::Placed, &[])?;
    let mut byte = [0_u8; 1];
    if crate::sys::socket::recv(maker.0, &mut byte) != Ok(1) {
        return Err(Error::new("the parent process exited"));
    }
    let (taps, interfaces) = crate::vm::network::carry_in()?.into_iter().unzip();
    job.interfaces = interfaces;
    Ok(taps)
}

/// The container's network namespace on the host's side: the one that is given, or a new one.
fn enter_network(network: &Network) -> Result<()> {
    match network {
        Network::New => {
            process::unshare(libc::CLONE_NEWNET as u64).on("make", "a network namespace")
        }
        Network::Path(path) => {
            let namespace = crate::sys::namespace::open(path)?;
            process::setns(namespace.0, libc::CLONE_NEWNET as u64)
                .on("join the network namespace", path)
        }
    }
}
