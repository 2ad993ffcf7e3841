//! The freezer of one cgroup.

use super::file;
use super::place::Place;
use super::tree::Version;
use crate::{Context, Error, Result};
use nix::errno::Errno;

/// Whether all processes of a cgroup are frozen, by its own freezer or by one above.
pub(super) fn is_frozen(place: &Place) -> Result<bool> {
    let (name, yes) = match place.version {
        Version::V1 => ("freezer.state", "FROZEN"),
        Version::V2 => ("cgroup.events", "frozen 1"),
    };
    match file::read(&place.dir, name) {
        Ok(text) => Ok(text.lines().any(|line| line == yes)),
        Err(Errno::ENOENT | Errno::ENODEV) => Ok(false),
        Err(errno) => Err(Error::sys(
            "read",
            format_args!("{}/{name}", place.dir),
            errno,
        )),
    }
}

pub(super) fn set_frozen(place: &Place, frozen: bool) -> Result<()> {
    let (name, value) = match (place.version, frozen) {
        (Version::V1, true) => ("freezer.state", "FROZEN"),
        (Version::V1, false) => ("freezer.state", "THAWED"),
        (Version::V2, true) => ("cgroup.freeze", "1"),
        (Version::V2, false) => ("cgroup.freeze", "0"),
    };
    file::write(&place.dir, name, value).on(
        &format!("write {value} to"),
        format_args!("{}/{name}", place.dir),
    )
}
