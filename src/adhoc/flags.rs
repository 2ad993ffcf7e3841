//! What was said on the command line, checked.

use crate::adhoc::values;
use crate::security::caps;
use crate::{Context, Error, Result};
use std::path::PathBuf;

/// The options of `hull run --rootfs`.
#[derive(clap::Args)]
#[command(next_help_heading = "Options with --rootfs")]
#[group(requires = "rootfs")]
pub struct Flags {
    /// Run COMMAND on this directory (/ is the host's own root) with no bundle: changes go to a layer
    /// that is thrown away
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Keep the changes in this directory
    #[arg(long, value_name = "DIR")]
    pub keep_changes: Option<PathBuf>,
    /// Use the directory itself: changes are made in it
    #[arg(long, conflicts_with = "keep_changes")]
    pub read_write: bool,
    /// Make the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Leave stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal, if there is one
    #[arg(short, long)]
    pub tty: bool,
    /// The container's name [default: 12 random characters]
    #[arg(long, value_name = "ID")]
    pub name: Option<String>,
    /// Variable of the environment; NAME alone passes your own value on
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Working directory [default: /]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, and group after a colon, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Show a path of the host in the container
    #[arg(short, long, value_name = "HOST:CONTAINER[:ro]")]
    pub volume: Vec<String>,
    /// Limit of memory and swap together, as 512m
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Limit of CPU time, in CPUs, as 0.5
    #[arg(long, value_name = "N")]
    pub cpus: Option<String>,
    /// Limit of the number of processes; -1 for none
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<String>,
    /// The container's host name [default: its id]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// System call filter: default, unconfined, or a file with the linux.seccomp section of a
    /// config
    #[arg(long, value_name = "FILTER")]
    pub seccomp: Option<String>,
    /// Remove the container at its end, detached too (in the foreground that is always so)
    #[arg(long)]
    pub rm: bool,
}

/// A path of the host that the container shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// On the host, absolute.
    pub source: PathBuf,
    /// In the container.
    pub target: String,
    /// Not to be written to.
    pub read_only: bool,
}

/// Which filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// hull's own.
    Default,
    /// None.
    Unconfined,
    /// That file's.
    File(PathBuf),
}

/// What a person wants, checked as far as it can be without the root file system.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The root's directory, absolute.
    pub rootfs: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The container's id.
    pub id: String,
    /// Its host name.
    pub hostname: String,
    /// Where changes are kept, absolute.
    pub keep_changes: Option<PathBuf>,
    /// Changes go to the directory itself.
    pub read_write: bool,
    /// The root is read-only.
    pub read_only: bool,
    /// stdin stays open.
    pub interactive: bool,
    /// A terminal is wanted.
    pub tty: bool,
    /// Whole variables.
    pub env: Vec<String>,
    /// Absolute.
    pub workdir: String,
    /// As it was said.
    pub user: Option<String>,
    /// In order.
    pub volumes: Vec<Volume>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Microseconds of each 100,000.
    pub cpu_quota: Option<i64>,
    /// Processes.
    pub pids: Option<i64>,
    /// The bounding set, effective and permitted, as a mask.
    pub capabilities: u64,
    /// The filter.
    pub filter: Filter,
    /// `--rm`.
    pub remove: bool,
}

/// Docker's and Podman's set, which images are written for.
const USUAL: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

impl Ask {
    /// Checks what was said. `held` are the capabilities that can be given, `detach` is `--detach`.
    ///
    /// # Errors
    /// The first option that is malformed, with what it should be.
    pub fn new(flags: &Flags, command: &[String], held: u64, detach: bool) -> Result<Self> {
        let directory = flags
            .rootfs
            .as_ref()
            .ok_or_else(|| Error::new("--rootfs is missing"))?;
        let rootfs = directory
            .canonicalize()
            .on("open root file system", directory.display())?;
        if !rootfs.is_dir() {
            return Err(Error::new(format!(
                "root file system {} is not a directory",
                directory.display()
            )));
        }
        if command.first().is_none_or(String::is_empty) {
            return Err(Error::new(format!(
                "no program to run: say it after two hyphens, as hull run --rootfs {} -- sh",
                directory.display()
            )));
        }
        let id = match &flags.name {
            Some(name) => crate::store::check_id(name).map(|()| name.clone())?,
            None => random_id()?,
        };
        let workdir = flags.workdir.clone().unwrap_or_else(|| "/".to_owned());
        if !workdir.starts_with('/') {
            return Err(Error::new(format!(
                "-w {workdir:?}: the working directory must begin with /"
            )));
        }
        Ok(Self {
            rootfs,
            command: command.to_vec(),
            hostname: host_name(flags, &id)?,
            id,
            keep_changes: flags
                .keep_changes
                .as_ref()
                .map(std::path::absolute)
                .transpose()
                .on("find", "the directory of --keep-changes")?,
            read_write: flags.read_write,
            read_only: flags.read_only,
            interactive: flags.interactive,
            tty: flags.tty
                && (detach
                    || crate::sys::socket::is_terminal(0)
                    || crate::sys::socket::is_terminal(1)),
            env: flags
                .env
                .iter()
                .filter_map(|text| values::variable(text).transpose())
                .collect::<Result<_>>()?,
            workdir,
            user: flags.user.clone(),
            volumes: flags
                .volume
                .iter()
                .map(|text| values::volume(text))
                .collect::<Result<_>>()?,
            memory: flags
                .memory
                .as_deref()
                .map(|text| values::size("--memory", text))
                .transpose()?,
            cpu_quota: flags.cpus.as_deref().map(values::cpus).transpose()?,
            pids: flags.pids_limit.as_deref().map(values::pids).transpose()?,
            capabilities: capabilities(&flags.cap_add, &flags.cap_drop, held)?,
            filter: filter(flags.seccomp.as_deref()),
            remove: flags.rm,
        })
    }
}

fn host_name(flags: &Flags, id: &str) -> Result<String> {
    match &flags.hostname {
        Some(name) => values::hostname(name).map(|()| name.clone()),
        // An id may be longer than the kernel's 64, or hold what a host's name does not.
        None => Ok(id
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c))
            .take(63)
            .collect()),
    }
}

fn filter(text: Option<&str>) -> Filter {
    match text {
        None | Some("default") => Filter::Default,
        Some("unconfined") => Filter::Unconfined,
        Some(path) => Filter::File(path.into()),
    }
}

/// First `ALL`, then what is dropped, then what is added. `ALL` is all that can be given.
fn capabilities(add: &[String], drop: &[String], held: u64) -> Result<u64> {
    let last = caps::last_cap()?;
    let usual = USUAL
        .iter()
        .filter_map(|name| caps::from_flag(name, last))
        .fold(0, |mask, one| mask | one);
    let masks = |option: &str, names: &[String]| -> Result<(bool, u64)> {
        names.iter().try_fold((false, 0), |(all, mask), name| {
            match caps::from_flag(name, last) {
                Some(_) if name.eq_ignore_ascii_case("all") => Ok((true, mask)),
                Some(one) => Ok((all, mask | one)),
                None => Err(Error::new(format!(
                    "{option} {name:?}: no such capability; \
                capabilities(7) lists them, as NET_ADMIN"
                ))),
            }
        })
    };
    let (add_all, added) = masks("--cap-add", add)?;
    let (drop_all, dropped) = masks("--cap-drop", drop)?;
    let begin = if add_all {
        caps::all(last) & held
    } else if drop_all {
        0
    } else {
        usual & held
    };
    let missing = added & !held;
    if missing != 0 {
        return Err(Error::new(format!(
            "--cap-add {}: hull does not hold it itself",
            caps::names(missing).join(" ")
        )));
    }
    Ok(begin & !dropped | added)
}

/// Twelve hexadecimal digits.
fn random_id() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0_u8; 6];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .on("read", "/dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(add: &[&str], drop: &[&str]) -> u64 {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        capabilities(&list(add), &list(drop), u64::MAX).unwrap()
    }

    #[test]
    fn capabilities_begin_with_the_usual_ones() {
        assert_eq!(mask(&[], &[]).count_ones(), 14);
        assert_eq!(mask(&["all"], &[]), caps::all(caps::last_cap().unwrap()));
        assert_eq!(mask(&["NET_ADMIN"], &["ALL"]), 1 << 12);
        assert_eq!(mask(&["ALL"], &["cap_sys_admin"]) & (1 << 21), 0);
        assert_eq!(mask(&[], &["CHOWN"]) & 1, 0);
        assert!(capabilities(&["FLY".into()], &[], u64::MAX).is_err());
        assert!(capabilities(&["SYS_ADMIN".into()], &[], 1).is_err());
    }

    #[test]
    fn ids_are_short_and_not_the_same() {
        let (one, other) = (random_id().unwrap(), random_id().unwrap());
        assert_eq!(one.len(), 12);
        assert_ne!(one, other);
    }
}
