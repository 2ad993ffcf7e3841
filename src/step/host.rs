//! What the backend does on the host, as data.

use crate::cgroups;
use crate::spec::config::{Hook, IdMapping, TimeOffset};
use crate::step::container::{Barrier, slot};
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

/// A step of `outside`.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// Makes the child.
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
    /// Puts the child into its cgroup, where it was not born there.
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
    /// Meets the child.
    Barrier(Barrier),
    /// Runs a hook in hull's own namespaces.
    Hook {
        /// `prestart` or `createRuntime`.
        list: &'static str,
        /// Its place in the list.
        index: usize,
        /// The hook.
        hook: Hook,
    },
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
}

impl HostStep {
    /// The kind's name, as `hull plan` prints it.
    pub fn name(&self) -> &'static str {
        match self {
            HostStep::Open { .. } => "Open",
            HostStep::Cgroup { .. } => "Cgroup",
            HostStep::Clone { .. } => "Clone",
            HostStep::OomScore { .. } => "OomScore",
            HostStep::IdMap { .. } => "IdMap",
            HostStep::JoinCgroup => "JoinCgroup",
            HostStep::Unit { .. } => "Unit",
            HostStep::NetDevice { .. } => "NetDevice",
            HostStep::Network(_) => "Network",
            HostStep::Barrier(_) => "Barrier",
            HostStep::Hook { .. } => "Hook",
            HostStep::Listener { .. } => "Listener",
            HostStep::Rlimit(_) => "Rlimit",
            HostStep::Record => "Record",
        }
    }
}

/// How many slots a plan uses at least: those with fixed meanings.
pub const FIXED_SLOTS: u32 = slot::FIRST_FREE;
