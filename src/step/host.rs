//! Host steps: what a backend does around the child, as data. In VM mode some are the host's and
//! some the guest's; the vocabulary is one.

use crate::cgroups;
use crate::spec::config::{Hook, IdMapping, TimeOffset};
use crate::step::container::Barrier;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a slot is filled with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Open {
    /// The host's procfs, verified.
    Procfs,
    /// A detached copy of a mount tree, with a propagation, and translated by an id map.
    Tree {
        /// On the host.
        path: PathBuf,
        /// With what is mounted below.
        recursive: bool,
        /// `MS_*`, for the whole tree.
        propagation: u64,
        /// For an id-mapped mount.
        id_map: Option<IdMap>,
        /// The path's last symbolic link itself is meant.
        link: bool,
    },
    /// A namespace's file.
    Namespace {
        /// On the host.
        path: String,
    },
    /// The fifo on which the container waits for `start`.
    StartFifo,
    /// The socket that takes the terminal.
    ConsoleSocket,
    /// A pidfd of the container's init, by which an exec joins its namespaces.
    Init,
    /// The `tasks` file (v1) of one of the cgroups that an exec enters.
    CgroupTasks {
        /// Its place among them.
        index: usize,
    },
}

/// The ids of a mapped mount.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdMap {
    /// Users.
    pub uid: Vec<IdMapping>,
    /// Groups.
    pub gid: Vec<IdMapping>,
    /// The whole tree.
    pub recursive: bool,
}

/// A process between parent and child, where namespaces are joined that the child could not join
/// itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Slots and kinds of namespaces that belong to the old user namespace.
    pub before: Vec<(u32, u32)>,
    /// Slot of the user namespace.
    pub user: Option<u32>,
    /// Those that belong to the joined user namespace.
    pub after: Vec<(u32, u32)>,
    /// Offsets of a new time namespace, which is unshared here (after clone3 they are frozen).
    pub time: Option<BTreeMap<String, TimeOffset>>,
}

/// Who writes a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapWriter {
    /// hull.
    Direct,
    /// newuidmap or newgidmap.
    Helper(PathBuf),
}

/// A network interface of a guest, found by its hardware address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Six bytes in hexadecimal, joined by colons.
    pub hardware: String,
    /// Its name in the container.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// Destination (`default`, or a prefix) and gateway.
    pub routes: Vec<(String, Option<String>)>,
}

/// The hooks that hull runs in its own namespaces while it creates a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookList {
    /// `hooks.prestart`.
    Prestart,
    /// `hooks.createRuntime`.
    CreateRuntime,
}

impl HookList {
    /// The list's name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            HookList::Prestart => "prestart",
            HookList::CreateRuntime => "createRuntime",
        }
    }

    /// The status that these hooks find in the state document: what each list's hooks are known to
    /// look for.
    pub fn status(self) -> &'static str {
        match self {
            HookList::Prestart => "created",
            HookList::CreateRuntime => "creating",
        }
    }
}

/// A host step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostStep {
    /// Fills a slot.
    Open {
        /// Which.
        slot: u32,
        /// With what.
        what: Open,
    },
    /// Makes the cgroup and sets its limits; the `tasks` files of v1 go into the slots from `first`
    /// on.
    Cgroup {
        /// What is made.
        plan: Box<cgroups::plan::Plan>,
        /// The first slot.
        first: u32,
    },
    /// hull becomes undumpable: while its child joins the container's namespaces, no process of
    /// the container may reach hull through its own `/proc` (CVE-2016-9962).
    Undumpable,
    /// Sets hull's own CPU affinity, which the child inherits (`execCPUAffinity.initial`).
    Affinity {
        /// The kernel's mask.
        mask: Vec<u8>,
    },
    /// Makes the child: the container's process, a VM's monitor, or criu.
    Clone {
        /// `CLONE_NEW*`.
        flags: u64,
        /// By way of a stage.
        stage: Option<Stage>,
        /// Born in the v2 cgroup.
        into_cgroup: bool,
    },
    /// Writes the child's oom_score_adj.
    OomScore {
        /// -1000 to 1000.
        value: i32,
        /// Unprivileged, a lower value than hull's own is left out: else-keep.
        lenient: bool,
    },
    /// Writes an id map of the child's user namespace.
    IdMap {
        /// Users, or groups.
        uid: bool,
        /// The runs.
        mappings: Vec<IdMapping>,
        /// By whom.
        writer: MapWriter,
        /// Denies setgroups first, which an ordinary user must.
        deny_setgroups: bool,
    },
    /// Puts the child into its cgroup, where it was not born there; an exec into the one where the
    /// container's init is.
    JoinCgroup,
    /// Has systemd make the unit around the child, and sets its limits.
    Unit {
        /// What is made.
        plan: Box<cgroups::plan::Plan>,
    },
    /// Moves a network device of the host into the container.
    NetDevice {
        /// On the host.
        host: String,
        /// In the container.
        name: String,
        /// Slot of the network namespace, where it is joined; the child's own otherwise.
        namespace: Option<u32>,
    },
    /// Puts the container on networks of hull's.
    Network(Box<crate::net::setup::Setup>),
    /// Moves the guest's interfaces into the child's network namespace.
    Interfaces(Vec<Interface>),
    /// Meets the child.
    Barrier(Barrier),
    /// Runs a hook in hull's own namespaces.
    Hook {
        /// Which list.
        list: HookList,
        /// Its place in the list.
        index: usize,
        /// The hook.
        hook: Hook,
    },
    /// Lets the child go on from [`Barrier::Hooks`].
    HooksDone,
    /// Takes the seccomp listener and sends it to its agent.
    Listener {
        /// The agent's socket.
        path: String,
        /// Sent along.
        metadata: String,
    },
    /// Sets a resource limit of the child.
    Rlimit(crate::security::rlimits::Limit),
    /// Writes the container's record.
    Record,
    /// The addresses that hull held during a restore are the container's: its packets pass again,
    /// and neighbours learn of it.
    AdoptNetwork,
    /// Sets the host name of a restored copy, whose images have another's.
    Hostname(String),
    /// Waits until the child is past its seccomp filter.
    Filtered,
    /// Waits until the child has become its program.
    Executed,
}

impl HostStep {
    /// The kind's name, as `hull plan` prints it.
    pub fn name(&self) -> &'static str {
        match self {
            HostStep::Open { .. } => "Open",
            HostStep::Cgroup { .. } => "Cgroup",
            HostStep::Undumpable => "Undumpable",
            HostStep::Affinity { .. } => "Affinity",
            HostStep::Clone { .. } => "Clone",
            HostStep::OomScore { .. } => "OomScore",
            HostStep::IdMap { .. } => "IdMap",
            HostStep::JoinCgroup => "JoinCgroup",
            HostStep::Unit { .. } => "Unit",
            HostStep::NetDevice { .. } => "NetDevice",
            HostStep::Network(_) => "Network",
            HostStep::Interfaces(_) => "Interfaces",
            HostStep::Barrier(_) => "Barrier",
            HostStep::Hook { .. } => "Hook",
            HostStep::HooksDone => "HooksDone",
            HostStep::Listener { .. } => "Listener",
            HostStep::Rlimit(_) => "Rlimit",
            HostStep::Record => "Record",
            HostStep::AdoptNetwork => "AdoptNetwork",
            HostStep::Hostname(_) => "Hostname",
            HostStep::Filtered => "Filtered",
            HostStep::Executed => "Executed",
        }
    }
}
