//! Kernel settings below `/proc/sys`. A key is a path, because an interface's name may contain a
//! dot.

use crate::{Context, Result};
use std::path::Path;

/// Reads a setting; an empty text where it cannot be read.
pub fn read(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/{key}"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Sets a setting that has another value.
///
/// # Errors
/// The file does not exist or is not writable; the kernel refuses the value.
pub fn write(key: &str, value: &str) -> Result<()> {
    if read(key) == value {
        return Ok(());
    }
    std::fs::write(format!("/proc/sys/{key}"), value).on("set", key.replace('/', "."))
}

/// Sets a setting of a link or a protocol, where the kernel has it.
///
/// # Errors
/// As of [`write`].
pub fn write_if_present(key: &str, value: &str) -> Result<()> {
    if Path::new("/proc/sys").join(key).exists() {
        write(key, value)
    } else {
        Ok(())
    }
}
