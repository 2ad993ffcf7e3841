//! the VM backend: the same bundle in a virtual machine of its own, where hull is the first
//! process and executes `inside`.
//!
//! ```text
//! hull create ──clone──▶ monitor: what the pid file names; in the container's cgroup and network namespace
//!                           ├─ share server: virtio-fs, in a mount namespace that holds the shares and nothing else
//!                           └─ machine monitor (QEMU), with the namespace backend: no capabilities, its own root, only its descriptors
//!                                 └ guest: hull ──▶ sessions ──▶ programs
//! ```
//! Everything dies with the monitor, and the monitor ends as the program did.

#![forbid(unsafe_code)]

pub mod backend;
pub mod boot;
pub mod channel;
pub mod client;
pub mod engine;
pub mod exec;
pub mod monitor;
pub mod network;
pub mod plan;
pub mod pod;
pub mod proxy;
pub mod rootless;
pub mod share;
pub mod stdio;
pub mod translate;
