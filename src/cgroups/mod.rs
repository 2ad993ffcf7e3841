//! Resource control: cgroups v1, v2 and both at once (hybrid), by the cgroup file system or by
//! systemd.
//!
//! The order of a container's life, as the room's user sees it:
//!
//! ```text
//!   Tree::probe ─▶ plan(&Request, &Tree) ─▶ Group::create ─▶ apply ─▶ join ─▶ commit, record
//!                                                                      │
//!      v2: clone3 with CLONE_INTO_CGROUP and clone_fd()  ◀─────────────┤
//!      v1: the child itself writes 0 to each of join_fds() ◀───────────┘
//!
//!      systemd: the child is there first, then Group::start(plan, pid), apply
//!
//!   Group::open(&Record) ─▶ pids, freeze, thaw, kill, stats, oom_events, update, exec_target, remove
//! ```
//!
//! Why the child joins v1 by itself, and by `tasks`: a write to `cgroup.procs`, or of another
//! process's id to either file, takes the kernel's lock over every fork and exit of the machine
//! (`cgroup_threadgroup_rwsem`, kernel/cgroup/cgroup.c, `cgroup_procs_write_start`), which waits
//! for an RCU grace period: seen here (6.18, 2 cores), nine hierarchies cost 11 ms by
//! `cgroup.procs` from outside and 5.8 ms by the process itself, 11 ms by `tasks` from outside, and
//! 0.2 ms by `tasks` with `0` from the process itself: one thread that moves itself needs no lock.

#![forbid(unsafe_code)]

// The crate cgroups-rs is used for systemd's names (`systemd/`). Its file system side is not: it
// reads the tree again for every controller, knows v1 or v2 but not both at once, and no device
// programs; the way to a container's start has no time for that.

pub mod bpf;
pub mod devices;
pub mod directory;
pub mod exec;
pub mod file;
pub mod freezer;
pub mod group;
pub mod life;
pub mod limits;
pub mod mounts;
pub mod oom;
pub mod place;
pub mod plan;
pub mod request;
pub mod stats;
pub mod systemd;
pub mod tree;
pub mod update;
pub mod values;

#[cfg(test)]
pub mod tests;
