//! Facts: what this kernel, user and cgroup tree can do. Plain data, complete before hull plans
//! anything.

#![forbid(unsafe_code)]

use crate::binfmt;
use crate::binfmt::Foreign;
use crate::cgroups::tree::Tree;
use crate::security::lsm::Lsm;
use crate::security::rlimits;
use crate::spec::Spec;
use crate::spec::config::{IdMapping, Rlimit};
use crate::sys::{file, ids, namespace, procfs, search};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which user namespace owns a namespace that the config joins by path: it decides when the child
/// joins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// hull's own user namespace, or an ancestor of it: the child joins the namespace before the
    /// user namespace.
    Outer,
    /// The user namespace that the config joins: the child joins the namespace after that one.
    Joined,
    /// The path is of the namespace that hull is in already: the child joins nothing.
    Own,
}

/// A namespace that the config joins by path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedNamespace {
    /// The kind, as its `CLONE_NEW*`.
    pub kind: u32,
    /// The path as the config has it.
    pub path: String,
    /// Which user namespace owns it.
    pub owner: Owner,
}

/// The programs that write id maps for ordinary users (newuidmap(1)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdHelpers {
    /// The path of newuidmap.
    pub uid: PathBuf,
    /// The path of newgidmap.
    pub gid: PathBuf,
}

/// What hull knows of the host when it plans one Spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// hull's effective user id.
    pub euid: u32,
    /// hull's effective group id.
    pub egid: u32,
    /// hull holds CAP_SYS_ADMIN in its user namespace.
    pub privileged: bool,
    /// hull itself is in a user namespace other than the first.
    pub in_user_namespace: bool,
    /// hull's permitted capabilities; bit n is capability number n.
    pub permitted: u64,
    /// hull's bounding set; bit n is capability number n.
    pub bounding: u64,
    /// The number of the last capability that the kernel has.
    pub last_capability: u8,
    /// Signals that hull inherited as ignored; bit 0 is signal 1.
    pub ignored_signals: u64,
    /// The mounted cgroup hierarchies.
    pub cgroups: Tree,
    /// Namespaces that the Spec joins by path.
    pub joined: Vec<JoinedNamespace>,
    /// newuidmap and newgidmap, where hull is unprivileged and the Spec maps ids.
    pub id_helpers: Option<IdHelpers>,
    /// hull's own hard limits of the resources that `process.rlimits` names, by `RLIMIT_*`, each in
    /// its own unit.
    pub hard_limits: BTreeMap<u32, u64>,
    /// AppArmor and SELinux, where the Spec asks for a label.
    pub lsm: Option<Lsm>,
    /// The kernel has `/proc/kcore`: the container's `/dev` gets the link `core` to it.
    pub kcore: bool,
    /// The program is for another architecture, and what executes it. The namespace backend looks
    /// at the program only where the bundle's annotation says so: looking costs system calls at
    /// each start.
    #[serde(default)]
    pub foreign: Option<Foreign>,
}

impl Facts {
    /// Collects the facts that this Spec's plan depends on.
    ///
    /// # Errors
    /// procfs is not mounted; a namespace of the config cannot be opened, or its path is of another
    /// file; an rlimit is not valid; the bundle's architecture has no interpreter.
    pub fn probe(spec: &Spec) -> Result<Self> {
        let status = procfs::read_record(c"/proc/self/status").on("read", "/proc/self/status")?;
        let status = String::from_utf8_lossy(&status);
        let hex = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
                .unwrap_or(0)
        };
        let permitted = hex("CapPrm:");
        let effective = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok())
                .ok_or_else(|| Error::new(format!("read /proc/self/status: no {name}")))
        };
        let (euid, egid) = (effective("Uid:")?, effective("Gid:")?);
        let privileged = permitted & (1 << 21) != 0;
        let process = spec.config().process.as_ref();
        let linux = spec.config().linux.as_ref();
        let labelled = process
            .is_some_and(|p| p.apparmor_profile.is_some() || p.selinux_label.is_some())
            || linux.is_some_and(|l| l.mount_label.is_some());
        let maps = linux.is_some_and(|linux| !linux.uid_mappings.is_empty());
        let in_user_namespace = in_user_namespace();
        Ok(Self {
            euid,
            egid,
            privileged,
            in_user_namespace,
            permitted,
            bounding: hex("CapBnd:"),
            last_capability: last_capability(hex("CapBnd:")),
            ignored_signals: hex("SigIgn:"),
            cgroups: Tree::probe(euid, in_user_namespace)?,
            joined: joined(spec)?,
            id_helpers: if maps && !privileged {
                id_helpers()
            } else {
                None
            },
            hard_limits: process
                .map(|process| hard_limits(&process.rlimits))
                .transpose()?
                .unwrap_or_default(),
            lsm: if labelled { Some(Lsm::probe()) } else { None },
            kcore: Path::new("/proc/kcore").exists(),
            foreign: if binfmt::annotated(spec).is_some() {
                binfmt::of_bundle(spec)?
            } else {
                None
            },
        })
    }

    /// The same for a Spec that maps ids: an unprivileged hull needs the helpers then.
    #[must_use]
    pub fn for_mappings(mut self) -> Self {
        if !self.privileged && self.id_helpers.is_none() {
            self.id_helpers = id_helpers();
        }
        self
    }

    /// Whether an unprivileged user can write a map without newuidmap: a single range of one id,
    /// the user's own (user_namespaces(7)).
    pub fn can_map_alone(&self, mappings: &[IdMapping], own: u32) -> bool {
        matches!(mappings, [only] if only.size == 1 && only.host_id == own)
    }
}

/// Whether hull is in a user namespace other than the initial one, which has a fixed inode number
/// (`PROC_USER_INIT_INO`, include/linux/proc_ns.h).
pub fn in_user_namespace() -> bool {
    const INITIAL: u64 = 0xEFFF_FFFD;
    std::fs::metadata("/proc/self/ns/user").map_or(true, |namespace| {
        std::os::unix::fs::MetadataExt::ino(&namespace) != INITIAL
    })
}

/// The number of the kernel's last capability: PR_CAPBSET_READ answers EINVAL to one that it does
/// not know.
fn last_capability(bounding: u64) -> u8 {
    const KNOWN: u8 = 40;
    let exists = |n: u8| ids::prctl(libc::PR_CAPBSET_READ, u64::from(n), 0).is_ok();
    if bounding & (1 << KNOWN) != 0 || exists(KNOWN) {
        (KNOWN + 1..63)
            .take_while(|&n| exists(n))
            .last()
            .unwrap_or(KNOWN)
    } else {
        (0..KNOWN).rev().find(|&n| exists(n)).unwrap_or(0)
    }
}

/// hull's own hard limits of the resources that a config limits.
fn hard_limits(rlimits: &[Rlimit]) -> Result<BTreeMap<u32, u64>> {
    let limits = rlimits::parse(rlimits)?;
    limits
        .iter()
        .map(|limit| {
            Ok((
                limit.resource,
                ids::hard_limit(limit.resource).on("read", "own resource limits")?,
            ))
        })
        .collect()
}

fn id_helpers() -> Option<IdHelpers> {
    Some(IdHelpers {
        uid: search::in_path("newuidmap")?,
        gid: search::in_path("newgidmap")?,
    })
}

/// What identifies a namespace: the device and inode of its nsfs file.
fn identity(descriptor: i32) -> Result<(u64, u64), nix::errno::Errno> {
    file::fstat(descriptor).map(|stat| (stat.st_dev, stat.st_ino))
}

fn joined(spec: &Spec) -> Result<Vec<JoinedNamespace>> {
    let Some(linux) = &spec.config().linux else {
        return Ok(Vec::new());
    };
    let with_path = |n: &&crate::spec::config::Namespace| {
        n.path.as_deref().is_some_and(|path| !path.is_empty())
    };
    let user = spec
        .namespace(LinuxNamespaceType::User)
        .filter(with_path)
        .and_then(|n| n.path.as_deref());
    let user = user
        .map(namespace::open)
        .transpose()?
        .map(|user| identity(user.0))
        .transpose()
        .on("stat", "user namespace")?;
    let mut list = Vec::new();
    for namespace in linux.namespaces.iter().filter(with_path) {
        let (Some(kind), Some(path)) = (namespace.typ, namespace.path.clone()) else {
            continue;
        };
        let opened = namespace::open(&path)?;
        let here = identity(opened.0).on("stat", &path)?;
        if file::filesystem(opened.0).on("stat", &path)? != NSFS_MAGIC {
            return Err(Error::new(format!("namespace path {path} is no namespace")));
        }
        let own = namespace::open(format!("/proc/self/ns/{}", own_name(kind)))
            .and_then(|own| identity(own.0).on("stat", "own namespace"));
        let owner = if own.is_ok_and(|own| own == here) {
            Owner::Own
        } else if kind == LinuxNamespaceType::User || user.is_none() {
            Owner::Outer
        } else {
            match namespace::owner(opened.0)
                .map(crate::sys::fd::Fd)
                .and_then(|owner| identity(owner.0))
            {
                Ok(owner) if Some(owner) == user => Owner::Joined,
                _ => Owner::Outer,
            }
        };
        list.push(JoinedNamespace {
            kind: kind as u32,
            path,
            owner,
        });
    }
    Ok(list)
}

const NSFS_MAGIC: i64 = 0x6e73_6673;

fn own_name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        // The kernel creates children in `pid_for_children`; hull never changes its own, so the two
        // are the same.
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    }
}
