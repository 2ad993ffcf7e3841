//! The start of a monitor: from its configuration to a VM that boots.

use super::config::MonitorConfig;
use super::forward::Forward;
use super::state::{Monitor, PendingCommand, Stage, VmmCommand};
use crate::spec::Spec;
use crate::step::host::Interface;
use crate::sys::fd::Fd;
use crate::sys::page::Page;
use crate::sys::{event, file, ids, process, socket};
use crate::vm::channel::client::{self, ToParent};
use crate::vm::channel::frame::Kind;
use crate::vm::channel::message::PROGRAM;
use crate::vm::channel::mux::{Channel, STDERR, STDOUT, Streams, stream};
use crate::vm::host_process::block_signals;
use crate::vm::network;
use crate::vm::share;
use crate::vm::stdio::{self, Ends, Stdio};
use crate::vm::translate::Network;
use crate::vm::vmm::qemu::{Qemu, Started};
use crate::vm::vmm::{Hotplug, Tap, VmConfig};
use crate::{Context, Error, Result};
use nix::sys::signalfd::SignalFd;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// What [`try_boot`] has started.
struct Booted {
    qemu: Qemu,
    share: Option<share::Server>,
    channel: Channel,
    streams: Streams,
    stdin: Fd,
    stdio: Stdio,
    signals: SignalFd,
    console: Fd,
    listener: Fd,
    forward: Option<Forward>,
    interfaces: Vec<Interface>,
    nonce: [u8; 16],
}

impl Monitor {
    /// Sets up this process as a monitor and starts the share server and QEMU. The socket to the
    /// parent is given back with an error.
    pub(super) fn boot(
        mut config: MonitorConfig,
        parent: Fd,
        page: Page,
    ) -> Result<Self, (Error, Fd)> {
        let booted = match try_boot(&mut config, &parent) {
            Ok(booted) => booted,
            Err(error) => return Err((error, parent)),
        };
        let deadline = Instant::now() + config.timeout;
        Ok(Self {
            config,
            stage: Stage::Booting,
            qemu: booted.qemu,
            share: booted.share,
            channel: booted.channel,
            streams: booted.streams,
            stdin: Some(booted.stdin),
            stdio: booted.stdio,
            signals: booted.signals,
            console: booted.console,
            console_tail: VecDeque::new(),
            listener: booted.listener,
            forward: booted.forward,
            connections: BTreeMap::new(),
            next_connection: 1,
            sessions: BTreeMap::new(),
            last_session: 0,
            pending_guest: VecDeque::new(),
            pending_vmm: VecDeque::from([PendingCommand {
                command: VmmCommand::Capabilities,
                connection: None,
            }]),
            paused: false,
            nonce: booted.nonce,
            plan: None,
            facts: None,
            interfaces: booted.interfaces,
            parent: Some(parent),
            recorded: false,
            page,
            deadline,
            ended: None,
            progress: None,
        })
    }
}

fn try_boot(config: &mut MonitorConfig, parent: &Fd) -> Result<Booted> {
    event::name_process(c"hull-vm");
    let _ = process::setsid();
    let signals = block_signals()?;
    // Each exec and each connection needs descriptors.
    ids::raise_open_files().on("raise", "the limit of open files")?;
    if let Some(id_maps) = &config.id_maps {
        id_maps.become_root(parent.0)?;
    }
    for tasks in std::mem::take(&mut config.tasks) {
        file::write(tasks.0, b"0").on("join", "the cgroup")?;
    }
    enter_network(&config.network)?;
    let (taps, interfaces) = connect_network(parent)?;
    // While the parent attaches an unprivileged user's network, programs of that user access this
    // process (ptrace(2), "Ptrace access mode checking"). From here on none may.
    ids::prctl(libc::PR_SET_DUMPABLE, 0, 0).on("clear", "PR_SET_DUMPABLE")?;
    // The share server replaces its stdio, and a terminal replaces this process's: duplicate it
    // before.
    let own = stdio::copy_own()?;
    let (mut stdio, ends) = match config.console.take() {
        Some(console) => Stdio::terminal(&console, terminal_size(&config.spec))?,
        None => Stdio::pipes(own)?,
    };
    let mut share = if config.shares.is_empty() {
        None
    } else {
        Some(share::start(&config.directory, &config.shares)?)
    };
    let share_socket = share
        .as_mut()
        .map(|server| std::mem::replace(&mut server.socket, Fd(-1)));
    let Started {
        qemu,
        channel,
        console,
    } = start_qemu(config, share_socket, taps)?;
    if matches!(stdio, Stdio::Pipes { .. }) {
        stdio::release_own()?;
    }
    let listener = client::listen(&config.directory)?;
    // QEMU starts meanwhile.
    let forward = if interfaces.is_empty() {
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
    streams.add_sink(stream(PROGRAM, STDOUT), stdout)?;
    stderr.map_or(Ok(()), |stderr| {
        streams.add_sink(stream(PROGRAM, STDERR), stderr)
    })?;
    stdio.start();
    let mut channel = Channel::new(channel)?;
    let nonce = nonce()?;
    channel.put(Kind::Hello, 0, &nonce);
    event::nonblocking(console.0).on("use", "the guest's console")?;
    Ok(Booted {
        qemu,
        share,
        channel,
        streams,
        stdin,
        stdio,
        signals,
        console,
        listener,
        forward,
        interfaces,
        nonce,
    })
}

fn start_qemu(
    config: &mut MonitorConfig,
    share_socket: Option<Fd>,
    taps: Vec<Tap>,
) -> Result<Started> {
    let hotplug = config.memory_max.map(|max| Hotplug {
        size: max - config.memory,
        plugged: config.plugged,
    });
    Qemu::start(VmConfig {
        id: &config.id,
        directory: &config.directory,
        program: config.options.hypervisor.as_deref(),
        accelerator: config.accelerator,
        kernel: &config.kernel,
        initramfs: &config.initramfs,
        kernel_parameters: &config.options.kernel_parameters,
        memory: config.memory,
        hotplug,
        cpus: config.cpus,
        share: share_socket,
        taps,
        id_maps: config.id_maps.as_ref(),
        disks: std::mem::take(&mut config.open_disks),
    })
}

/// The size of the config's `process.consoleSize`: rows and columns.
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

/// Has the parent attach hull's own networks and run the host's hooks, which may add interfaces,
/// and then connects all interfaces of the network namespace to tap devices.
fn connect_network(parent: &Fd) -> Result<(Vec<Tap>, Vec<Interface>)> {
    client::send(parent, &ToParent::NetworkReady, &[])?;
    let mut byte = [0_u8; 1];
    if socket::recv(parent.0, &mut byte) != Ok(1) {
        return Err(Error::new("the parent process exited"));
    }
    Ok(network::connect()?
        .into_iter()
        .map(|connected| (connected.tap, connected.interface))
        .unzip())
}

/// Makes or enters the container's network namespace on the host.
fn enter_network(network: &Network) -> Result<()> {
    match network {
        Network::New => {
            process::unshare(libc::CLONE_NEWNET as u64).on("unshare", "a network namespace")
        }
        Network::Path(path) => {
            let namespace = crate::sys::namespace::open(path)?;
            process::setns(namespace.0, libc::CLONE_NEWNET as u64)
                .on("join the network namespace", path)
        }
    }
}
