//! Values for the files of cgroups: what is to be written, what a failure means, and the writing.

use super::file;
use super::place::{Place, find};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// What an unsuccessful write means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// An error.
    #[default]
    Must,
    /// Where the kernel refuses the value against the present value of the next file (EINVAL),
    /// again after it has been written: a limit that is raised must follow the swap limit, one that
    /// is lowered must come before.
    OrAfterNext,
    /// A file that the kernel does not have is passed over, since it would change nothing.
    IfPresent,
    /// Where the file is missing, this value goes to that file.
    Else {
        /// The other file.
        file: String,
        /// Its value.
        value: String,
    },
}

/// One value for one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The controller that the file belongs to (`cgroup` for the core of v2).
    pub controller: String,
    /// The file's name in the cgroup.
    pub file: String,
    /// What is written.
    pub value: String,
    /// The part of the config that asks for it.
    pub from: String,
    /// What a failure means.
    #[serde(default)]
    pub policy: Policy,
    /// v2, `memory.checkBeforeUpdate`: refused when this many bytes are in use already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless_used: Option<u64>,
}

/// Writes all values, in order.
pub(super) fn write_all(places: &[Place], writes: &[Write]) -> Result<()> {
    let mut waiting: Vec<(&Write, Errno)> = Vec::new();
    for (index, write) in writes.iter().enumerate() {
        let dir = dir_of(places, write)?;
        refuse_used(dir, write)?;
        match file::write(dir, &write.file, &write.value) {
            Ok(()) => {}
            Err(Errno::EINVAL) if write.policy == Policy::OrAfterNext => {
                waiting.push((write, Errno::EINVAL));
                continue;
            }
            Err(Errno::ENOENT) if write.policy == Policy::IfPresent => {}
            Err(errno) => or_else(dir, write, errno)?,
        }
        // What waited for a value of this file's kind is written now; what still does not fit waits
        // for the last one.
        waiting.retain(|(early, _)| file::write(dir, &early.file, &early.value).is_err());
        let last = writes
            .get(index + 1)
            .is_none_or(|next| next.controller != write.controller);
        if let Some((early, errno)) = waiting.first().filter(|_| last) {
            return Err(refused(dir, early, *errno));
        }
    }
    match waiting.first() {
        Some((early, errno)) => Err(refused(dir_of(places, early)?, early, *errno)),
        None => Ok(()),
    }
}

pub(super) fn dir_of<'a>(places: &'a [Place], write: &Write) -> Result<&'a str> {
    find(places, &write.controller)
        .map(|p| p.dir.as_str())
        .ok_or_else(|| {
            // The plan had a place; the kernel refused it when it was made.
            Error::new(format!(
                "cannot set {} limit: container could not join or create cgroup ({})",
                write.controller, write.from
            ))
        })
}

fn or_else(dir: &str, write: &Write, errno: Errno) -> Result<()> {
    match &write.policy {
        Policy::Else { file, value } if errno == Errno::ENOENT => {
            let other = Write {
                file: file.clone(),
                value: value.clone(),
                ..write.clone()
            };
            file::write(dir, file, value).map_err(|errno| refused(dir, &other, errno))
        }
        _ => Err(refused(dir, write, errno)),
    }
}

/// `memory.checkBeforeUpdate`: on v2 the kernel takes a limit below what is in use and kills until
/// it fits.
fn refuse_used(dir: &str, write: &Write) -> Result<()> {
    let Some(limit) = write.unless_used else {
        return Ok(());
    };
    let path = format!("{dir}/memory.current");
    let used = file::read(dir, "memory.current").on("read", path)?;
    match used.trim_end().parse::<u64>() {
        Ok(used) if used > limit => Err(Error::new(format!(
            "rejecting memory limit {limit}: usage {used} ({})",
            write.from
        ))),
        _ => Ok(()),
    }
}

/// The sentence for a value that the kernel does not take.
fn refused(dir: &str, write: &Write, errno: Errno) -> Error {
    let path = format!("{dir}/{}", write.file);
    let value = &write.value;
    if write.file == "memory.limit_in_bytes" && errno == Errno::EBUSY {
        let read = |name: &str| {
            file::read(dir, name)
                .unwrap_or_default()
                .trim_end()
                .to_owned()
        };
        let (usage, peak) = (
            read("memory.usage_in_bytes"),
            read("memory.max_usage_in_bytes"),
        );
        return Error::new(format!(
            "unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak}) \
                ({})",
            write.from
        ));
    }
    let why = match errno {
        Errno::ENOENT => format!(
            "cannot set {} limit ({}): this kernel has no {}",
            write.controller, write.from, write.file
        ),
        _ => format!("cannot set {} limit ({})", write.controller, write.from),
    };
    Error::sys(&format!("write {value} to"), path, errno).within(why)
}
