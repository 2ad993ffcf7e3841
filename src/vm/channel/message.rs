//! What the host and the guest say to each other; drawn here because two processes and two kernels
//! must agree on it.
//!
//! ```text
//! host                                   guest
//! Hello(nonce)                    ────▶
//!                                 ◀────  Hello(nonce, Guest)
//! session 0: Setup                ────▶
//!                                 ◀────  Done
//! session n: Blob(steps), Spawn   ────▶
//!                                 ◀────  Ready      (the child stands before its program; an exec's runs)
//! Start                           ────▶
//!                                 ◀────  Started
//! Signal, Resize …                ────▶
//!                                 ◀────  Exited or Killed, after the last byte of its streams
//! ```

use crate::cgroups::tree::Tree;
use crate::spec::config::Resources;
use crate::step::draft::Placed;
use crate::step::host::{HostStep, Interface};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The session of the guest's agent itself.
pub const AGENT: u32 = 0;
/// The session of the container's own program.
pub const PROGRAM: u32 = 1;

/// The list in the initramfs: a line a wanted module, `name: file file …`; a name with `!` before
/// it is loaded at boot.
pub const MODULE_LIST: &str = "/modules/list";

/// The variable that the kernel makes of its command line's word.
pub const MARK: &str = "HULL_GUEST";

/// The port's name.
pub const PORT: &str = "hull.channel";

/// What a guest is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Guest {
    /// Its kernel's release.
    pub kernel: String,
    /// The kernel's last capability.
    pub last_capability: u8,
    /// Its cgroups.
    pub cgroups: Tree,
    /// Nanoseconds since its boot.
    pub uptime: u64,
}

/// What the agent needs before it can make programs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Setup {
    /// Kernel modules beyond those of the boot, by name.
    pub modules: Vec<String>,
    /// The share's tag: it is mounted on [`SHARE`].
    pub share: Option<String>,
    /// Nanoseconds since 1970.
    pub clock: u64,
    /// Network interfaces.
    pub interfaces: Vec<Interface>,
    /// What binfmt_misc is told: the interpreter of another architecture's programs.
    pub interpreter: Option<String>,
    /// Device nodes that a container's are bound from, where it may not make them on the share.
    pub nodes: Vec<Node>,
    /// The VM's disks, in the order of their serial numbers.
    pub disks: Vec<Disk>,
    /// The container has a socket to say that it is ready.
    pub notify: bool,
}

/// A device node of the guest's own root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Absolute.
    pub path: String,
    /// With its kind, as for mknod(2).
    pub mode: u32,
    /// Major and minor.
    pub numbers: (u32, u32),
    /// Its owner.
    pub owner: (u32, u32),
}

/// What a disk is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Disk {
    /// A node for the container: mode and owner.
    Node(u32, (u32, u32)),
    /// The root file system's image: mounted on [`IMAGE`], and below an overlay of memory on
    /// [`OVERLAY`].
    Image,
}

/// Where the guest has the nodes of its disks, by their numbers.
pub const DISKS: &str = "/run/hull/disks";
/// Where the guest has the root file system's image.
pub const IMAGE: &str = "/run/hull/image";
/// Where the guest has the root file system that is made of it.
pub const OVERLAY: &str = "/run/hull/overlay";

/// Where the guest has the share.
pub const SHARE: &str = "/run/hull/share";

/// A program to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// How many slots the steps use.
    pub slots: u32,
    /// The guest's host steps.
    pub steps: Vec<Placed<HostStep>>,
    /// It waits for Start; an exec runs at once.
    pub waits: bool,
    /// It has a terminal.
    pub terminal: bool,
}

/// From the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToGuest {
    /// To the agent: once.
    Setup(Setup),
    /// Makes a session.
    Spawn(Box<Task>),
    /// The program may begin.
    Start,
    /// A signal for the session's program.
    Signal(i32),
    /// To the agent: a signal for the container's program, which is answered.
    SignalProgram(i32),
    /// A signal for everything in the container.
    SignalAll(i32),
    /// The terminal's size in characters: rows, columns.
    Resize(u16, u16),
    /// To the agent: the container's counters, as `cgroups::Stats`.
    Stats,
    /// To the agent: the processes, as a list of [`Process`].
    Processes,
    /// To the agent: the signals that the container's program catches, ignores or blocks, as a
    /// mask.
    Handled,
    /// To the agent: new limits.
    Update(Box<Resources>),
    /// To the agent: nanoseconds since 1970, after a pause.
    Clock(u64),
    /// To the agent: a connection to an address of the container's own, carried by a session's
    /// streams; there is no answer but theirs.
    Connect(u32, SocketAddr),
}

/// A process of the guest's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    /// As the guest's first process names it.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// The user.
    pub uid: u32,
    /// Processor time in clock ticks of a hundredth of a second.
    pub ticks: u64,
    /// The command line.
    pub command: String,
}

/// From the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromGuest {
    /// A request to the agent has been executed.
    Done,
    /// A request is refused, in words.
    Refused(String),
    /// A request's answer.
    Value(serde_json::Value),
    /// From the agent, unasked: so many more kills for lack of memory in the container's cgroup.
    Oom(u64),
    /// From the agent, unasked, once: the container says that it is ready, in this line of
    /// sd_notify(3).
    Notify(String),
    /// `inside` stands before its program, or with an exec runs it; what its policies decided.
    Ready(Vec<u32>),
    /// The program runs; or why it, or a hook before it, failed: as with [`FromGuest::Failed`].
    Started(Option<(u32, i32, u32)>),
    /// A step of `inside` failed: its number, error number and detail, and how the child ended: a
    /// status, or a signal as a negative number.
    Failed(u32, i32, u32, Option<i32>),
    /// The program ended with a status.
    Exited(i32),
    /// The program was ended by a signal.
    Killed(i32),
}
