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

/// The version of the schema of [`Record`]; a newer hull reads all older ones.
pub const VERSION: u32 = 1;

/// How far `create` has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `create` has begun. If hull was killed meanwhile, the record keeps this phase.
    Creating,
    /// `create` is complete: the status is `created`, `running`, `paused` or `stopped`, which hull
    /// reads from the kernel.
    Made,
}

/// The outcome of a container step with a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyOutcome {
    /// The index of the step among the container steps.
    pub step: u32,
    /// The field of the config that the step comes from.
    pub from: String,
    /// The name of the outcome.
    pub outcome: String,
}

/// Everything that later commands need to know of a container: what hull made, which may differ
/// from what the config asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`] of the hull that wrote it.
    pub version: u32,
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): after a reboot every container is
    /// stopped.
    pub boot_id: String,
    /// The container's id.
    pub id: String,
    /// How far `create` has come.
    pub phase: Phase,
    /// The process id of init; 0 before it is made.
    pub pid: i32,
    /// The start time of init in clock ticks since boot (proc(5), field 22 of `stat`), by which
    /// hull detects a reused process id.
    pub start_time: u64,
    /// The time of creation, in the format of RFC 3339, UTC.
    pub created: String,
    /// The user id of the user who created it.
    pub owner: u32,
    /// The config in its normalised form.
    pub spec: Spec,
    /// What the host could do when the container was created.
    pub facts: Facts,
    /// The container's cgroup; nothing before it is made.
    pub cgroup: Option<cgroups::group::Record>,
    /// The layers of the root file system, if it is not one directory.
    pub layers: Option<Layers>,
    /// The outcomes of container steps with a policy.
    pub outcomes: Vec<PolicyOutcome>,
    /// The files of stdin, stdout and stderr at creation: the targets of `/proc/self/fd/0` to `2`.
    pub stdio: Vec<String>,
    /// `--no-new-keyring` was given.
    pub no_new_keyring: bool,
    /// The VM's record, in VM mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<crate::state::VmRecord>,
}

/// What a run of host steps has made, for the record.
#[derive(Default)]
pub struct Made {
    /// The process id of init, or of a VM's monitor; 0 before the clone.
    pub pid: i32,
    /// The cgroup.
    pub cgroup: Option<cgroups::group::Record>,
    /// What the policies of the container steps decided.
    pub outcomes: Vec<PolicyOutcome>,
    /// The VM, once its guest has booted.
    pub vm: Option<VmRecord>,
}

impl Record {
    /// Takes over what was made; with a process id, the container is [`Phase::Made`].
    ///
    /// # Errors
    /// The process has exited.
    pub fn fill(&mut self, made: Made) -> Result<()> {
        let Made {
            pid,
            cgroup,
            outcomes,
            vm,
        } = made;
        (self.cgroup, self.outcomes, self.vm) = (cgroup, outcomes, vm);
        if pid > 0 {
            self.pid = pid;
            self.phase = Phase::Made;
            self.start_time = process_stat(pid)
                .map(|(_, started)| started)
                .ok_or_else(|| Error::new("the container's process is gone"))?;
        }
        Ok(())
    }

    /// Reads a container's record.
    ///
    /// # Errors
    /// `container does not exist`; the record cannot be read or parsed; a newer hull wrote it.
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

    /// Whether init exists: the same process as recorded, and no zombie.
    pub fn init_lives(&self) -> bool {
        self.pid > 0
            && matches!(process_stat(self.pid), Some((letter, started))
                if started == self.start_time && !matches!(letter, 'Z' | 'X'))
    }

    /// Replaces the record on disk.
    ///
    /// # Errors
    /// write(2) or rename(2) fails, for example because the disk is full; the old record stays
    /// then.
    pub fn write(&self, store: &Store) -> Result<()> {
        store.write(&self.id, self)
    }
}

/// The part of a container's record that only the VM backend has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmRecord {
    /// What the guest's kernel can do.
    pub facts: Facts,
    /// The release of the guest's kernel (`uname -r`).
    pub kernel: String,
    /// QEMU's accelerator: `kvm` or `tcg`.
    pub accelerator: String,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// The size in bytes to which the guest's memory may grow, if that is more.
    #[serde(default)]
    pub memory_max: Option<u64>,
    /// The number of the guest's CPUs.
    pub cpus: u32,
}

/// The path of a running container's network namespace, for `--network container:ID`.
///
/// # Errors
/// The container does not exist, or is not running.
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
