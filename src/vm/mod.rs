//! The second wall: the same bundle in a virtual machine of its own, where hull is the first
//! process and carries out `inside`.
//!
//! ```text
//! hull create ──clone──▶ monitor: what the pid file names; in the container's cgroup and network namespace
//!                           ├─ share server: virtio-fs, in a mount namespace that holds the shares and nothing else
//!                           └─ machine monitor (QEMU), behind the first wall: no capabilities, its own root, only its descriptors
//!                                 └ guest: hull ──▶ sessions ──▶ programs
//! ```
//! Everything dies with the monitor, and the monitor ends as the program did.

#![forbid(unsafe_code)]

pub mod channel;
pub mod choice;
pub mod client;
pub mod disk;
pub mod engine;
pub mod frame;
pub mod guest;
pub mod image;
pub mod initramfs;
pub mod kernel;
pub mod message;
pub mod monitor;
pub mod network;
pub mod own;
pub mod pod;
pub mod probe;
pub mod proxy;
pub mod qemu;
pub mod qmp;
pub mod share;
pub mod stdio;
pub mod task;
pub mod translate;
pub mod vmlinux;

pub use choice::{Engine, Options, is_named};

use crate::facts::Facts;
use serde::{Deserialize, Serialize};

/// What the record keeps of a container behind this wall.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
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
