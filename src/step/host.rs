//! Host steps: what a backend does around the child, as data. In VM mode one list of them is
//! executed on the host and another in the guest.

use crate::cgroups;
use crate::spec::config::{Hook, IdMapping, TimeOffset};
use crate::step::container::Barrier;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What hull opens to fill a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Open {
    /// The host's `/proc`, which must be a procfs.
    Procfs,
    /// A detached copy of a mount tree (open_tree(2)) with its propagation set and, if asked, with
    /// an id map.
    Tree {
        /// The path of the mount on the host.
        path: PathBuf,
        /// The copy includes the mounts below the path.
        recursive: bool,
        /// The propagation of the whole tree (`MS_*`); 0 leaves it unchanged.
        propagation: u64,
        /// The id map of an id-mapped mount.
        id_map: Option<IdMap>,
        /// If the path names a symbolic link, the copy is of the link itself (`copy-symlink`).
        link: bool,
    },
    /// A file of a namespace.
    Namespace {
        /// Its path on the host.
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
        /// Its index among them.
        index: usize,
    },
}

/// The id map of an id-mapped mount.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdMap {
    /// The mappings of user ids.
    pub uid: Vec<IdMapping>,
    /// The mappings of group ids.
    pub gid: Vec<IdMapping>,
    /// The map applies to the mounts below too (`ridmap`).
    pub recursive: bool,
}

/// An intermediate process that joins namespaces which the child could not join itself, and then
/// clones the child.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Namespaces that the stage joins before the user namespace: slot and kind (`CLONE_NEW*`). The
    /// old user namespace owns them.
    pub before: Vec<(u32, u32)>,
    /// The slot of the user namespace that it joins.
    pub user: Option<u32>,
    /// Namespaces that it joins afterwards: slot and kind. The joined user namespace owns them.
    pub after: Vec<(u32, u32)>,
    /// The offsets of a new time namespace. The stage unshares it, because the kernel allows no
    /// change of the offsets once a process is in it (time_namespaces(7)).
    pub time: Option<BTreeMap<String, TimeOffset>>,
}

/// The process that writes an id map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapWriter {
    /// hull itself.
    Direct,
    /// newuidmap(1) or newgidmap(1), at this path.
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
    /// Routes: the destination (`default`, or a prefix) and the gateway, if there is one.
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

    /// The status in the state document that these hooks read, as runc gives it to each list.
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
    /// Opens a file or the like, and fills a slot with its descriptor.
    Open {
        /// The number of the slot.
        slot: u32,
        /// What is opened.
        what: Open,
    },
    /// Makes the cgroup and sets its limits; the `tasks` files of v1 go into the slots from `first`
    /// on.
    Cgroup {
        /// The cgroup's paths and limits.
        plan: Box<cgroups::plan::Plan>,
        /// The slot of the first `tasks` file.
        first: u32,
    },
    /// hull becomes undumpable: while its child joins the container's namespaces, no process of
    /// the container may reach hull through its own `/proc` (CVE-2016-9962).
    Undumpable,
    /// Sets hull's own CPU affinity, which the child inherits (`execCPUAffinity.initial`).
    Affinity {
        /// The mask as sched_setaffinity(2) takes it.
        mask: Vec<u8>,
    },
    /// Clones the child: the container's process, a VM's monitor, or criu.
    Clone {
        /// The new namespaces (`CLONE_NEW*`).
        flags: u64,
        /// The intermediate process that clones the child, if one is needed.
        stage: Option<Stage>,
        /// The child begins in the v2 cgroup (`CLONE_INTO_CGROUP`).
        into_cgroup: bool,
    },
    /// Writes the child's oom_score_adj.
    OomScore {
        /// The score, from -1000 to 1000.
        value: i32,
        /// EACCES and EPERM are no errors, since an unprivileged hull may not lower the score:
        /// else-keep.
        lenient: bool,
    },
    /// Writes an id map of the child's user namespace.
    IdMap {
        /// True for `uid_map`, false for `gid_map`.
        uid: bool,
        /// The mappings, one line each.
        mappings: Vec<IdMapping>,
        /// The process that writes the map.
        writer: MapWriter,
        /// `deny` is written to `setgroups` first, as the kernel asks of an unprivileged user
        /// (user_namespaces(7)).
        deny_setgroups: bool,
    },
    /// Moves the child into its cgroup if it did not begin there; for an exec, into the cgroup of
    /// the container's init.
    JoinCgroup,
    /// Asks systemd to make the unit around the child, and sets its limits.
    Unit {
        /// The unit and its limits.
        plan: Box<cgroups::plan::Plan>,
    },
    /// Moves a network device of the host into the container.
    NetDevice {
        /// The device's name on the host.
        host: String,
        /// Its name in the container.
        name: String,
        /// The slot of a joined network namespace; nothing if the child has a new one.
        namespace: Option<u32>,
    },
    /// Attaches the container to networks that hull manages (`--network`).
    Network(Box<crate::net::setup::Setup>),
    /// Moves the guest's interfaces into the child's network namespace.
    Interfaces(Vec<Interface>),
    /// Synchronises with the child.
    Barrier(Barrier),
    /// Runs a hook in hull's own namespaces.
    Hook {
        /// The list that it is in.
        list: HookList,
        /// Its index in the list.
        index: usize,
        /// The hook as the config has it.
        hook: Hook,
    },
    /// Lets the child go on from [`Barrier::Hooks`].
    HooksDone,
    /// Takes the seccomp listener and sends it to its agent.
    Listener {
        /// `linux.seccomp.listenerPath`: the path of the agent's socket.
        path: String,
        /// `linux.seccomp.listenerMetadata`, which is sent with the listener.
        metadata: String,
    },
    /// Sets a resource limit of the child.
    Rlimit(crate::security::rlimits::Limit),
    /// Writes the container's record.
    Record,
    /// Hands the addresses that hull held during a restore to the container: hull stops dropping
    /// its packets and announces the addresses to the neighbours.
    AdoptNetwork,
    /// Sets the host name of a clone, whose checkpoint images have that of the original container.
    Hostname(String),
    /// Waits until the child has loaded its seccomp filter.
    Filtered,
    /// Waits until the child has executed execve(2).
    Executed,
}

impl HostStep {
    /// The step's name, as `hull plan` prints it.
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
