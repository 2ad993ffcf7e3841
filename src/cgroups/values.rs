//! Values for the files of cgroups: what hull writes, and what it does where the kernel refuses
//! one.

use super::file;
use super::place::{Place, find};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// What hull does where the kernel refuses a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// It fails.
    #[default]
    Must,
    /// Where the kernel answers EINVAL, because the value does not fit the present value of the
    /// next file, hull writes it again after the next one: a memory limit that is raised must
    /// follow the swap limit, one that is lowered must come before.
    OrAfterNext,
    /// It skips a file that the kernel does not have, where the value would have no effect.
    IfPresent,
    /// Where the file is missing, it writes another value to another file.
    Else {
        /// The other file's name.
        file: String,
        /// The value for it.
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
    /// The value.
    pub value: String,
    /// The field of the config that asks for it, for errors.
    pub from: String,
    /// What hull does where the kernel refuses it.
    #[serde(default)]
    pub policy: Policy,
    /// v2, `memory.checkBeforeUpdate`: hull refuses to write it when more bytes than this are in
    /// use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless_used: Option<u64>,
}

/// Writes all values, in their order.
///
/// # Errors
/// The kernel refuses a value: the error names the file, the value and the field of the config.
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
        // The values that wait for this one are written now. Those that still do not fit wait for
        // the next one of their controller.
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
            // The plan has a cgroup for the controller, and the kernel refused to make it.
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

/// `memory.checkBeforeUpdate`: on v2 the kernel accepts a limit below what is in use, and kills
/// processes until it fits.
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

/// The error for a value that the kernel refuses.
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
