//! The VM backend: the container runs in a virtual machine of its own, with a kernel of its own, in
//! which hull is PID 1 and executes the plan's container steps.
//!
//! The terms, in this directory and in `src/guest`:
//!
//! - *VM*: the virtual machine of one container. *Host*: the system on which hull's commands run.
//!   *Guest*: the system in the VM, a Linux kernel and hull.
//! - *VMM* (virtual machine monitor): the program that runs the VM, QEMU ([`vmm`]).
//! - *Monitor*: hull's process on the host for one VM ([`monitor`]). The pid file names it; it
//!   represents the container's program to the container engine.
//! - *Proxy*: hull's process on the host for one exec ([`proxy`]), which represents the exec's
//!   program.
//! - *Share*: a file or directory of the host that the guest has by virtio-fs. *Share server*:
//!   hull's process on the host that serves all shares of a VM ([`share`]).
//! - *Channel*: the virtio-console port between monitor and guest, with its frames, messages and
//!   streams ([`channel`]). *Control socket*: the Unix socket between hull's commands and the
//!   monitor ([`channel::client`]).
//! - *Agent*: hull as PID 1 of the guest. *Session*: hull's process in the guest for one program.
//!   *Stream*: stdin, stdout or stderr of a session, on the channel.
//!
//! ```text
//! hull create
//!   └─clone─▶ monitor, in the container's cgroup and network namespace
//!               ├─ share server, in a mount namespace that has the shares only
//!               └─ QEMU, in a container of the namespace backend without capabilities
//!                    └─ guest: agent ──▶ sessions ──▶ programs
//! ```
//!
//! When the monitor ends, the kernel kills the share server and QEMU (PR_SET_PDEATHSIG). The
//! monitor ends with the exit status or signal of the container's program.

#![forbid(unsafe_code)]

pub(crate) mod backend;
pub(crate) mod boot;
pub(crate) mod channel;
pub(crate) mod client;
pub(crate) mod exec;
pub(crate) mod host_process;
pub(crate) mod monitor;
pub(crate) mod network;
pub mod plan;
pub(crate) mod proxy;
pub(crate) mod rootless;
pub(crate) mod share;
pub(crate) mod stdio;
pub mod translate;
pub(crate) mod vmm;
