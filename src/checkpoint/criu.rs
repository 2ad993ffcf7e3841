//! The CRIU program: where it is, and which version it has.

use crate::sys::search::in_path_or_sbin;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The oldest version that hull drives, 3.0: the first that answers the request for its version.
/// Versions are numbers such as 40201 for 4.2.1.
pub const MIN_VERSION: u32 = 30_000;

/// The first version that sends the notification `status-ready`, 3.15.
pub const STATUS_READY_VERSION: u32 = 31_500;

/// The first version that can be told to lock no network, 3.19.
pub const SKIP_LOCK_VERSION: u32 = 31_900;

/// Finds the CRIU program: the one that is given, that of the environment variable `HULL_CRIU`,
/// that of `criu` in the administrator's defaults ([`crate::settings`]), or the first `criu` in
/// PATH and the usual directories.
///
/// # Errors
/// The named program does not exist, or no `criu` is installed; the administrator's defaults cannot
/// be read.
pub fn find(given: Option<&Path>) -> Result<PathBuf> {
    let named = match given.map(Path::to_owned).or_else(|| {
        std::env::var_os("HULL_CRIU")
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
    }) {
        Some(path) => Some(path),
        None => crate::settings::read()?.criu,
    };
    if let Some(path) = named {
        // As in a shell, a name without a slash is looked up in PATH.
        let found = if path.components().count() == 1 {
            in_path_or_sbin(&path)
        } else {
            Some(path.clone()).filter(|path| path.is_file())
        };
        return found.ok_or_else(|| {
            Error::new(format!(
                "criu: {} is not there; name the criu program with --criu PATH",
                path.display()
            ))
        });
    }
    in_path_or_sbin("criu").ok_or_else(|| {
        Error::new(
            "criu is not installed: checkpoint and restore need it (the package criu), or --criu \
                PATH",
        )
    })
}

/// Refuses an operation to callers that are not root of the host.
///
/// # Errors
/// hull does not run as root, or runs in a user namespace: there CRIU may neither trace processes
/// nor restore what it has to.
pub fn require_root(operation: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() || crate::facts::in_user_namespace() {
        return Err(Error::new(format!(
            "{operation} needs root: criu cannot do it for an ordinary user"
        )));
    }
    Ok(())
}

/// Whether CRIU will find a configuration file of its own (criu(8), "Configuration files"), which
/// may request TLS. hull does not read them.
pub fn has_config_file() -> bool {
    let own = std::env::var_os("HOME").map(|home| Path::new(&home).join(".criu/default.conf"));
    std::env::var_os("CRIU_CONFIG_FILE").is_some()
        || own.is_some_and(|path| path.exists())
        || Path::new("/etc/criu/default.conf").exists()
}

/// A version in words: 40201 as `4.2.1`.
pub fn version_string(version: u32) -> String {
    let (major, minor, sublevel) = (version / 10_000, version / 100 % 100, version % 100);
    if sublevel == 0 {
        format!("{major}.{minor}")
    } else {
        format!("{major}.{minor}.{sublevel}")
    }
}
