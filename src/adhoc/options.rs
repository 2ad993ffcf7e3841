//! What `hull run --rootfs` was given, checked as far as possible without looking into the root
//! filesystem.

use crate::adhoc::flags::AdhocFlags;
use crate::adhoc::values::{self, Volume};
use crate::namespaces::subid::Layout;
use crate::security::caps;
use crate::{Context, Error, Result};
use std::path::PathBuf;

/// Which seccomp filter the program gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// hull's default profile.
    Default,
    /// No filter.
    Unconfined,
    /// The `linux.seccomp` section in this file.
    File(PathBuf),
}

/// The options of an ad hoc container.
#[derive(Clone, Debug)]
pub struct AdhocOptions {
    /// The directory of the root filesystem: an absolute path without symlinks.
    pub rootfs: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The container's id.
    pub id: String,
    /// The hostname.
    pub hostname: String,
    /// The directory that keeps the changes, as an absolute path.
    pub keep_changes: Option<PathBuf>,
    /// Whether changes go to the root directory itself.
    pub read_write: bool,
    /// Whether the root filesystem is read-only.
    pub read_only: bool,
    /// Whether the program gets hull's stdin.
    pub interactive: bool,
    /// Whether the program gets a terminal.
    pub tty: bool,
    /// Environment variables, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// The working directory in the container: an absolute path.
    pub workdir: String,
    /// `--user`, as it was given.
    pub user: Option<String>,
    /// `--userns`: where the maps of an ordinary user's container put the caller's ids.
    pub layout: Layout,
    /// `--group-add`, as they were given, without `keep-groups`.
    pub groups: Vec<String>,
    /// Whether the program keeps the caller's supplementary groups.
    pub keep_groups: bool,
    /// The bind mounts, in the order of the flags.
    pub volumes: Vec<Volume>,
    /// Limit of memory and swap together, in bytes.
    pub memory: Option<i64>,
    /// CPU quota, in microseconds per period of 100,000 microseconds.
    pub cpu_quota: Option<i64>,
    /// Limit of the number of processes; -1 for no limit.
    pub pids: Option<i64>,
    /// The bounding, effective and permitted capabilities, as a mask.
    pub capabilities: u64,
    /// The seccomp filter.
    pub filter: Filter,
    /// Whether a detached container is deleted when it ends.
    pub remove: bool,
}

/// The default capabilities of Docker and Podman, which images rely on.
const DEFAULT_CAPABILITIES: [&str; 14] = [
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

impl AdhocOptions {
    /// Checks the flags. `available` are the capabilities that hull can give, as a mask; `detach`
    /// is `--detach`.
    ///
    /// # Errors
    /// A flag is malformed: then what it should be. The root directory does not exist or is not
    /// readable; there is no command.
    pub fn new(
        flags: &AdhocFlags,
        command: &[String],
        available: u64,
        detach: bool,
    ) -> Result<Self> {
        let directory = flags
            .rootfs
            .as_ref()
            .ok_or_else(|| Error::new("--rootfs is missing"))?;
        let rootfs = directory
            .canonicalize()
            .on("open root filesystem", directory.display())?;
        if !rootfs.is_dir() {
            return Err(Error::new(format!(
                "root filesystem {} is not a directory",
                directory.display()
            )));
        }
        if command.first().is_none_or(String::is_empty) {
            return Err(Error::new(format!(
                "no program to run: give it after --, as in hull run --rootfs {} -- sh",
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
            hostname: hostname(flags, &id)?,
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
            layout: values::layout(flags.userns.as_deref())?,
            groups: flags
                .group_add
                .iter()
                .filter(|name| *name != KEEP_GROUPS)
                .cloned()
                .collect(),
            keep_groups: keep_groups(&flags.group_add)?,
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
            capabilities: capabilities(&flags.cap_add, &flags.cap_drop, available)?,
            filter: filter(flags.seccomp.as_deref()),
            remove: flags.rm,
        })
    }
}

/// The value of `--group-add` that keeps the caller's groups (Podman's word).
const KEEP_GROUPS: &str = "keep-groups";

fn keep_groups(names: &[String]) -> Result<bool> {
    let keep = names.iter().any(|name| name == KEEP_GROUPS);
    if keep && names.len() > 1 {
        return Err(Error::new(
            "--group-add keep-groups: the caller's groups stay as they are, so that no other group \
             can be added",
        ));
    }
    Ok(keep)
}

fn hostname(flags: &AdhocFlags, id: &str) -> Result<String> {
    match &flags.hostname {
        Some(name) => values::hostname(name).map(|()| name.clone()),
        // An id may be longer than a hostname (64 bytes), or contain other characters.
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

/// First `ALL` counts, then the dropped capabilities, then the added ones. `ALL` means all that
/// hull can give.
fn capabilities(add: &[String], drop: &[String], available: u64) -> Result<u64> {
    let last = caps::last_cap()?;
    let default = DEFAULT_CAPABILITIES
        .iter()
        .filter_map(|name| caps::from_flag(name, last))
        .fold(0, |mask, one| mask | one);
    let masks = |option: &str, names: &[String]| -> Result<(bool, u64)> {
        names.iter().try_fold((false, 0), |(all, mask), name| {
            match caps::from_flag(name, last) {
                Some(_) if name.eq_ignore_ascii_case("all") => Ok((true, mask)),
                Some(one) => Ok((all, mask | one)),
                None => Err(Error::new(format!(
                    "{option} {name:?}: no such capability; see capabilities(7)"
                ))),
            }
        })
    };
    let (add_all, added) = masks("--cap-add", add)?;
    let (drop_all, dropped) = masks("--cap-drop", drop)?;
    let begin = if add_all {
        caps::all(last) & available
    } else if drop_all {
        0
    } else {
        default & available
    };
    let missing = added & !available;
    if missing != 0 {
        return Err(Error::new(format!(
            "--cap-add {}: hull does not have this capability itself",
            caps::names(missing).join(" ")
        )));
    }
    Ok(begin & !dropped | added)
}

/// An id of twelve random hexadecimal digits.
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
    fn capabilities_begin_with_the_default_ones() {
        assert_eq!(mask(&[], &[]).count_ones(), 14);
        assert_eq!(mask(&["all"], &[]), caps::all(caps::last_cap().unwrap()));
        assert_eq!(mask(&["NET_ADMIN"], &["ALL"]), 1 << 12);
        assert_eq!(mask(&["ALL"], &["cap_sys_admin"]) & (1 << 21), 0);
        assert_eq!(mask(&[], &["CHOWN"]) & 1, 0);
        assert!(capabilities(&["FLY".into()], &[], u64::MAX).is_err());
        assert!(capabilities(&["SYS_ADMIN".into()], &[], 1).is_err());
    }

    #[test]
    fn ids_are_short_and_differ() {
        let (one, other) = (random_id().unwrap(), random_id().unwrap());
        assert_eq!(one.len(), 12);
        assert_ne!(one, other);
    }
}
