//! The state of a monitor.

use super::config::MonitorConfig;
use super::forward::Forward;
use crate::Result;
use crate::facts::Facts;
use crate::step::draft::Plan;
use crate::step::host::Interface;
use crate::sys::fd::Fd;
use crate::sys::page::Page;
use crate::sys::process::Ended;
use crate::vm::channel::client::{self, ToParent};
use crate::vm::channel::message::{FromGuest, PROGRAM};
use crate::vm::channel::mux::{Channel, Streams};
use crate::vm::share;
use crate::vm::stdio::Stdio;
use crate::vm::translate::Network;
use crate::vm::vmm::qemu::Qemu;
use nix::sys::signalfd::SignalFd;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// A file in the container's directory that exists while the VM is paused.
pub(crate) const PAUSED: &str = "vm.paused";

/// How far the container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum Stage {
    /// The guest has not answered the handshake.
    Booting,
    /// The guest mounts its shares and disks and sets up its network.
    SettingUp,
    /// The guest executes the plan.
    Creating,
    /// The container waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// The program has ended.
    Ended,
}

/// A connection of one of hull's commands.
pub(super) struct Connection {
    /// The connected socket.
    pub socket: Fd,
    /// The session of the exec that the connection has started.
    pub session: Option<u32>,
    /// The command wants to hear of OOM kills.
    pub watches_oom: bool,
}

/// A command to QEMU.
#[derive(Clone, Copy)]
pub(super) enum VmmCommand {
    /// QMP's negotiation.
    Capabilities,
    /// Stop the virtual CPUs.
    Pause,
    /// Resume the virtual CPUs.
    Resume,
    /// Set the balloon, and then plug in so many bytes.
    SetBalloon {
        /// The hot-pluggable memory that the guest is to have, in bytes.
        plugged: u64,
    },
    /// Plug in or unplug memory.
    SetPlugged,
    /// Read how much memory is plugged in.
    QueryPlugged,
    /// Read how much the balloon leaves.
    QueryBalloon,
}

/// A command that QEMU has not answered yet.
pub(super) struct PendingCommand {
    /// The command.
    pub command: VmmCommand,
    /// The connection that waits for the answer.
    pub connection: Option<u64>,
}

/// How far the readers of the program's output are: what is pending in the two streams, and
/// [`Stdio::read_by_readers`].
#[derive(PartialEq, Eq)]
pub(super) struct ReaderProgress {
    /// Bytes that are pending for stdout and stderr.
    pub pending: [usize; 2],
    /// Bytes that were read.
    pub read: u64,
}

/// A monitor.
pub(super) struct Monitor {
    /// Its configuration.
    pub config: MonitorConfig,
    /// How far the container is.
    pub stage: Stage,
    /// The VMM.
    pub qemu: Qemu,
    /// The share server, unless the guest has no shares.
    pub share: Option<share::Server>,
    /// The channel to the guest.
    pub channel: Channel,
    /// The streams on the channel.
    pub streams: Streams,
    /// hull's end of the program's stdin, until the guest has a session for the program.
    pub stdin: Option<Fd>,
    /// The container's stdio or terminal.
    pub stdio: Stdio,
    /// The signals that this process gets.
    pub signals: SignalFd,
    /// The guest's serial console.
    pub console: Fd,
    /// The last bytes from the console.
    pub console_tail: VecDeque<u8>,
    /// The control socket.
    pub listener: Fd,
    /// Connections from the network namespace on the host into the guest.
    pub forward: Option<Forward>,
    /// The connections of hull's commands, by number.
    pub connections: BTreeMap<u64, Connection>,
    /// The number of the next connection.
    pub next_connection: u64,
    /// The guest's sessions of execs: the connection of each.
    pub sessions: BTreeMap<u32, u64>,
    /// The number of the last session.
    pub last_session: u32,
    /// For each request that the guest's agent has not answered yet, the connection that waits for
    /// the answer.
    pub pending_guest: VecDeque<Option<u64>>,
    /// The commands that QEMU has not answered yet.
    pub pending_vmm: VecDeque<PendingCommand>,
    /// The VM is paused.
    pub paused: bool,
    /// The nonce of the handshake.
    pub nonce: [u8; 16],
    /// The plan that the guest executes, after the handshake.
    pub plan: Option<Plan>,
    /// What the guest's kernel can do, after the handshake.
    pub facts: Option<Facts>,
    /// The guest's network interfaces.
    pub interfaces: Vec<Interface>,
    /// The socket to the process that creates the container.
    pub parent: Option<Fd>,
    /// The parent has written the container's record: from here on the container outlives it.
    pub recorded: bool,
    /// Shared memory in which the parent looks for a failed step after `start`.
    pub page: Page,
    /// When the boot, or the wait for readers after the program's end, times out.
    pub deadline: Instant,
    /// How the program ended.
    pub ended: Option<Ended>,
    /// The readers' progress at the last look, after the program has ended.
    pub progress: Option<ReaderProgress>,
}

impl Monitor {
    /// A number for a new session.
    pub fn next_session(&mut self) -> u32 {
        self.last_session = self.last_session.max(PROGRAM) + 1;
        self.last_session
    }

    /// Reports to the parent, unless it is gone.
    pub fn report(&self, report: &ToParent) -> Result<()> {
        self.parent
            .as_ref()
            .map_or(Ok(()), |parent| client::send(parent, report, &[]))
    }

    /// Sends a message to a command. The monitor does not wait for a command that does not read:
    /// its connection is closed.
    pub fn answer(&mut self, number: u64, answer: &FromGuest) {
        let failed = match self.connections.get(&number) {
            Some(connection) => client::send_nonblocking(&connection.socket, answer).is_err(),
            None => false,
        };
        if failed {
            self.connections.remove(&number);
        }
    }

    /// Kills QEMU and the share server and waits for them, so that nothing of the VM is left when
    /// this process ends. Returns what QEMU wrote to stdout and stderr.
    pub fn end_vm(&mut self) -> String {
        let output = self.qemu.kill();
        if let Some(share) = self.share.take() {
            let _ = crate::sys::process::pidfd_send_signal(share.pidfd.0, libc::SIGKILL);
            let _ = crate::sys::process::wait(share.pidfd.0, false);
        }
        // A network namespace that the config names outlives the container.
        if matches!(self.config.network, Network::Path(_)) {
            crate::vm::network::disconnect();
            if let Some(forward) = self.forward.take() {
                forward.close();
            }
        }
        output
    }
}
