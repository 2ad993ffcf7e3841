//! A container's record on disk: one writer at a time (a lock on its directory), replaced by atomic
//! rename.

#![forbid(unsafe_code)]

use crate::cgroups;
use crate::facts::Facts;
use crate::spec::Spec;
use crate::step::layers::Layers;
use crate::store::Store;
use crate::sys::procfs::process_stat;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The schema of [`Record`]; a newer hull reads all older ones.
pub const VERSION: u32 = 1;

/// How far create has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// In the making; a record that stays so was left by a hull that died.
    Creating,
    /// Made: `created`, `running`, `paused` or `stopped`, as the kernel tells.
    Made,
}

/// What a step's policy decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyOutcome {
    /// The step's place in `inside`.
    pub step: u32,
    /// The part of the config it came from.
    pub from: String,
    /// What was done.
    pub outcome: String,
}

/// Everything that later commands need to know of a container: what was made, not what was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`] of the hull that wrote it.
    pub version: u32,
    /// The kernel's boot id: after a reboot all is stopped.
    pub boot_id: String,
    /// The container's id.
    pub id: String,
    /// How far create has come.
    pub phase: Phase,
    /// Init's process id, 0 before it is made.
    pub pid: i32,
    /// Init's start time in clock ticks since boot (proc(5), stat field 22): tells a reused id.
    pub start_time: u64,
    /// When it was made, RFC 3339, UTC.
    pub created: String,
    /// Who made it.
    pub owner: u32,
    /// The normalised config.
    pub spec: Spec,
    /// What the host could do.
    pub facts: Facts,
    /// The cgroup.
    pub cgroup: Option<cgroups::group::Record>,
    /// What the root file system was put together of.
    pub layers: Option<Layers>,
    /// What the steps' policies decided.
    pub outcomes: Vec<PolicyOutcome>,
    /// What stdin, stdout and stderr were: the names of `/proc/self/fd`.
    pub stdio: Vec<String>,
    /// `--no-new-keyring` was given.
    pub no_new_keyring: bool,
    /// What stands in VM mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<crate::state::VmRecord>,
}

impl Record {
    /// Reads a container's record.
    ///
    /// # Errors
    /// `container does not exist`; the record cannot be read; a newer hull wrote it.
    pub fn read(store: &Store, id: &str) -> Result<Self> {
        let record: Self = store.read(id)?;
        if record.version > VERSION {
            return Err(Error::new(format!(
                "container {id} was made by a newer hull (record version {})",
                record.version
            )));
        }
        Ok(record)
    }

    /// Whether init is there: the same process, in this boot, and no zombie.
    pub fn init_lives(&self) -> bool {
        self.pid > 0
            && matches!(process_stat(self.pid), Some((letter, started))
                if started == self.start_time && !matches!(letter, 'Z' | 'X'))
    }

    /// Replaces it on disk.
    ///
    /// # Errors
    /// A full disk, and the like; the old record stands then.
    pub fn write(&self, store: &Store) -> Result<()> {
        store.write(&self.id, self)
    }
}

/// What the record keeps of a container with this backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmRecord {
    /// What the guest's kernel can do.
    pub facts: Facts,
    /// The kernel's release.
    pub kernel: String,
    /// How it runs: `kvm` or `tcg`.
    pub accelerator: String,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// What it may grow to, in bytes, where that is more.
    #[serde(default)]
    pub memory_max: Option<u64>,
    /// Its processors.
    pub cpus: u32,
}

/// The path of a running container's network namespace, for `--network container:ID`.
///
/// # Errors
/// It does not exist, or does not run.
pub fn network_namespace(store: &Store, id: &str) -> Result<String> {
    let record = Record::read(store, id)?;
    if record.init_lives() {
        Ok(format!("/proc/{}/ns/net", record.pid))
    } else {
        Err(Error::new(format!(
            "--network container:{id}: container not running"
        )))
    }
}
