//! Resource control: cgroups v1, v2 and both at once (hybrid), by the cgroup file system or by
//! systemd.
//!
//! The order of the calls in a container's life:
//!
//! ```text
//!   Tree::probe ─▶ plan(&CgroupRequest, &Tree) ─▶ Group::create ─▶ apply ─▶ join ─▶ commit
//!                                                                            │
//!      v2: clone3 with CLONE_INTO_CGROUP and clone_fd()  ◀───────────────────┤
//!      v1: the child itself writes 0 to each of join_fds() ◀─────────────────┘
//!
//!      systemd: the child is created first, then Group::start(plan, pid), apply
//!
//!   Group::open(&Record) ─▶ pids, freeze, thaw, kill, stats, oom_events, update, exec_target,
//!                           remove
//! ```
//!
//! Why the child joins v1 cgroups itself, by `tasks`: a write to `cgroup.procs`, or of another
//! process's id to either file, takes the kernel's lock over every fork and exit of the host
//! (`cgroup_threadgroup_rwsem`, kernel/cgroup/cgroup.c, `cgroup_procs_write_start`), which waits
//! for an RCU grace period. Measured for nine hierarchies (Linux 6.18, 2 cores): 11 ms by
//! `cgroup.procs` from another process, 5.8 ms by the process itself, 11 ms by `tasks` from another
//! process, and 0.2 ms by `tasks` with `0` from the process itself, because one thread that moves
//! itself needs no lock.

#![forbid(unsafe_code)]

// Of the crate cgroups-rs hull uses the names of systemd's properties (`systemd/`), and not the
// part for the cgroup file system: that reads the tree again for each controller, which is slow at
// a container's start, supports v1 or v2 but not both at once, and has no device programs.

pub(crate) mod bpf;
pub mod devices;
pub(crate) mod directory;
pub(crate) mod exec;
pub(crate) mod file;
pub(crate) mod freezer;
pub(crate) mod group;
pub(crate) mod life;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod oom;
pub mod place;
pub mod plan;
pub mod request;
pub(crate) mod stats;
pub mod systemd;
pub mod tree;
pub(crate) mod update;
pub mod values;

#[cfg(test)]
pub mod tests;
