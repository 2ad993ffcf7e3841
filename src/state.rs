//! A container's record on disk: one writer at a time (a lock on its folder), replaced by atomic
//! rename.

#![forbid(unsafe_code)]

use crate::cgroups;
use crate::facts::Facts;
use crate::plan::Layers;
use crate::spec::Spec;
use crate::sys::file;
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

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
pub struct Decided {
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
    pub cgroup: Option<cgroups::Record>,
    /// What the root file system was put together of.
    pub layers: Option<Layers>,
    /// What the steps' policies decided.
    pub outcomes: Vec<Decided>,
    /// What stdin, stdout and stderr were: the names of `/proc/self/fd`.
    pub stdio: Vec<String>,
    /// `--no-new-keyring` was given.
    pub no_new_keyring: bool,
    /// What stands behind the second wall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<crate::vm::Record>,
}

/// The containers' folder (`--root`).
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// The lock on one container's folder; released when dropped.
pub struct Lock {
    _folder: File,
}

/// Checks an id: letters, digits and `_+-.`, no path, at most 1024 characters (as runc has it).
///
/// # Errors
/// `invalid container ID format`, and what is wrong.
pub fn check_id(id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() {
        return Err(Error::new("container id cannot be empty"));
    }
    if !id.chars().all(plain) || id == "." || id == ".." {
        return Err(Error::new(format!("invalid container ID format: {id:?}")));
    }
    if id.len() > 255 {
        return Err(Error::new(format!(
            "invalid container ID format: {} characters are too many (at most 255)",
            id.len()
        )));
    }
    Ok(())
}

impl Store {
    /// The store in a folder, which is made when something is put there.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one container.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// A folder for what can be made again, owned and entered by hull's user alone. Its name is no
    /// container's.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn cache(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(format!("@{name}"));
        if !folder.is_dir() {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(&folder)
                .on("make", folder.display())?;
        }
        Ok(folder)
    }

    /// Makes the folder of a new container and locks it.
    ///
    /// # Errors
    /// The id is in use, or not well formed; the folder cannot be made.
    pub fn make(&self, id: &str) -> Result<Lock> {
        check_id(id)?;
        let folder = self.folder(id);
        let builder = |recursive| {
            let mut builder = std::fs::DirBuilder::new();
            builder.mode(0o700).recursive(recursive);
            builder
        };
        let made = match builder(false).create(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                builder(true)
                    .create(&self.root)
                    .on("make", self.root.display())?;
                builder(false).create(&folder)
            }
            other => other,
        };
        match made {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::new(
                format!("container with given ID already exists: {id}"),
            )),
            other => other.on("make", folder.display()),
        }?;
        self.lock(id)
    }

    /// Locks a container.
    ///
    /// # Errors
    /// `container does not exist`.
    pub fn lock(&self, id: &str) -> Result<Lock> {
        check_id(id)?;
        let folder = File::open(self.folder(id)).map_err(|error| missing(id, &error))?;
        file::lock(folder.as_raw_fd()).on("lock container", id)?;
        Ok(Lock { _folder: folder })
    }

    /// Reads a container's record.
    ///
    /// # Errors
    /// `container does not exist`; a record that cannot be read.
    pub fn read(&self, id: &str) -> Result<Record> {
        check_id(id)?;
        let path = self.folder(id).join("state.json");
        let text = file::read_whole(&path).map_err(|error| missing(id, &error))?;
        let record: Record = serde_json::from_slice(&text)
            .map_err(|error| Error::new(format!("read {}: {error}", path.display())))?;
        if record.version > VERSION {
            return Err(Error::new(format!(
                "container {id} was made by a newer hull (record version {})",
                record.version
            )));
        }
        Ok(record)
    }

    /// Replaces a container's record.
    ///
    /// # Errors
    /// A full disk, and the like; the old record stands then.
    pub fn write(&self, record: &Record) -> Result<()> {
        let folder = self.folder(&record.id);
        let (temporary, path) = (folder.join("state.json.new"), folder.join("state.json"));
        let text = serde_json::to_vec(record)
            .map_err(|error| Error::new(format!("write {}: {error}", path.display())))?;
        std::fs::write(&temporary, text).on("write", temporary.display())?;
        std::fs::rename(&temporary, &path).on("replace", path.display())
    }

    /// Removes a container's folder if it holds the record alone; the record itself is gone in any
    /// case.
    pub fn remove_bare(&self, id: &str) -> bool {
        let folder = self.folder(id);
        std::fs::remove_file(folder.join("state.json")).is_ok()
            && std::fs::remove_dir(&folder).is_ok()
    }

    /// Removes a container's folder.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, id: &str) -> Result<()> {
        let folder = self.folder(id);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", folder.display(), &error))
            }
            _ => Ok(()),
        }
    }

    /// The ids of all containers, sorted; none where the store is not there.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn ids(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.on("read", self.root.display())?,
        };
        let mut ids: Vec<String> = entries
            .filter_map(std::result::Result::ok)
            .filter(|entry| entry.path().join("state.json").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }
}

fn missing(id: &str, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(format!("container does not exist: {id}")),
        _ => Error::io("open container", id, error),
    }
}

/// The kernel's boot id.
pub fn boot_id() -> String {
    let text = file::read_record(c"/proc/sys/kernel/random/boot_id").unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// Whether a program that was started a moment ago has come to its first rest or its end, or has
/// had 50 ms of processor for whatever it does first. Counted so, and not by the clock, it is the
/// same on a busy machine.
pub fn has_begun(pid: i32) -> bool {
    const ENOUGH_TICKS: u64 = 5;
    let Some(text) = std::ffi::CString::new(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|name| file::read_record(&name).ok())
    else {
        return true;
    };
    let text = String::from_utf8_lossy(&text);
    // proc(5): after the command's name in parentheses comes the state as the third field; user and
    // system time are the 14th and 15th.
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map_or("", |(_, after)| after)
        .split_whitespace()
        .collect();
    let ticks: u64 = fields
        .iter()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    !matches!(fields.first(), Some(&("R" | "D"))) || ticks >= ENOUGH_TICKS
}

/// A process's state letter and start time (proc(5), stat); none when it is gone.
pub fn process_stat(pid: i32) -> Option<(char, u64)> {
    let name = std::ffi::CString::new(format!("/proc/{pid}/stat")).ok()?;
    let text = file::read_record(&name).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The command's name stands in parentheses and may hold anything.
    let after = text.rsplit_once(')')?.1;
    let mut fields = after.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Now, in UTC as RFC 3339 with nanoseconds.
pub fn now() -> String {
    let elapsed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    timestamp(elapsed.as_secs(), elapsed.subsec_nanos())
}

/// Seconds since 1970 as RFC 3339, by the civil calendar's day count.
pub fn timestamp(seconds: u64, nanos: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_follow_the_calendar() {
        assert_eq!(timestamp(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(
            timestamp(1_798_761_599, 0),
            "2026-12-31T23:59:59.000000000Z"
        );
    }

    #[test]
    fn ids_are_names_and_not_paths() {
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
        assert!(check_id(&"x".repeat(256)).is_err());
        assert!(check_id("a-b_c+d.e1").is_ok());
    }
}
