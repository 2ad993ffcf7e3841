//! The flags of `hull run --rootfs`, as clap parses them.

use std::path::PathBuf;

/// The flags of `hull run --rootfs`.
#[derive(clap::Args)]
#[command(next_help_heading = "Options with --rootfs")]
#[group(requires = "rootfs")]
pub struct AdhocFlags {
    /// Run COMMAND in this root filesystem, without a bundle; / is the host's own. Changes go to a
    /// temporary layer
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Keep the changes in this directory
    #[arg(long, value_name = "DIR")]
    pub keep_changes: Option<PathBuf>,
    /// Use the directory itself as the root filesystem, and change it
    #[arg(long, conflicts_with = "keep_changes")]
    pub read_write: bool,
    /// Make the root filesystem read-only
    #[arg(long)]
    pub read_only: bool,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Allocate a terminal for the program, if hull has one
    #[arg(short, long)]
    pub tty: bool,
    /// The container's id [default: 12 random hexadecimal digits]
    #[arg(long, value_name = "ID")]
    pub name: Option<String>,
    /// Set an environment variable; NAME alone takes the caller's value
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Working directory [default: /]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User and group, each by name or id
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// User namespace of an ordinary user's container: keep-id gives the caller the same ids in the
    /// container, nomap does not map them [default: the caller is the container's root]
    #[arg(long, value_name = "keep-id[:uid=N,gid=N] | nomap")]
    pub userns: Option<String>,
    /// Add a supplementary group of the container, by name or id; keep-groups keeps the caller's
    #[arg(long, value_name = "GROUP | keep-groups")]
    pub group_add: Vec<String>,
    /// Bind mount a path of the host into the container
    #[arg(short, long, value_name = "HOST:CONTAINER[:ro]")]
    pub volume: Vec<String>,
    /// Limit of memory and swap together, such as 512m
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Limit of CPU time, in CPUs, such as 0.5
    #[arg(long, value_name = "N")]
    pub cpus: Option<String>,
    /// Limit of the number of processes; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<String>,
    /// Hostname of the container [default: its id]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Seccomp filter: default, unconfined, or a file with the linux.seccomp section of a
    /// config.json
    #[arg(long, value_name = "FILTER")]
    pub seccomp: Option<String>,
    /// Delete a detached container when it ends (without --detach hull always does)
    #[arg(long)]
    pub rm: bool,
}
