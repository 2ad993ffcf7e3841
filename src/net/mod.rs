//! Networks: host devices that move into a container.

#![forbid(unsafe_code)]

use crate::{Error, Result};

/// Moves a network device of the host into a process's network namespace, under a new name.
///
/// # Errors
/// hull's networks come with `net`.
pub fn move_device(host: &str, name: &str, _pid: i32) -> Result<()> {
    Err(Error::new(format!("move network device {host} as {name}: not carried out yet")))
}
