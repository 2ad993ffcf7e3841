//! What hull says besides its results: to stderr, or in runc's formats to the file of `--log`.

#![forbid(unsafe_code)]

use crate::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `time="…" level=… msg="…"`.
    Text,
    /// `{"level":…,"msg":…,"time":…}`.
    Json,
}

/// Where and how to log.
#[derive(Clone, Debug)]
pub struct Target {
    /// `--log`.
    pub file: Option<PathBuf>,
    /// `--log-format`.
    pub format: Format,
    /// `--debug`.
    pub debug: bool,
}

static TARGET: OnceLock<Target> = OnceLock::new();

/// Sets the target, once. The file is closed again until there is a line: the descriptors that a
/// caller asks to be preserved are counted from 3, and none of hull's own may stand among them.
///
/// # Errors
/// The file cannot be opened: an engine that reads it would learn nothing.
pub fn open(target: Target) -> Result<()> {
    if let Some(path) = &target.file {
        append(path).on("open log", path.display())?;
    }
    let _ = TARGET.set(target);
    Ok(())
}

/// A line of level debug; worded only with `--debug`.
pub fn debug<M: AsRef<str>>(message: impl FnOnce() -> M) {
    if TARGET.get().is_some_and(|target| target.debug) {
        line("debug", message().as_ref());
    }
}

/// A warning: to stderr, or to the log file. Not into a JSON log unless debugging: Podman's monitor
/// reads that file as one object.
pub fn warn(message: &str) {
    match TARGET.get() {
        Some(target)
            if target.debug || (target.file.is_some() && target.format == Format::Text) =>
        {
            line("warning", message)
        }
        Some(target) if target.file.is_some() => {}
        // One write: lines of several hulls on one terminal are not mixed.
        _ => drop(std::io::stderr().write_all(format!("hull: warning: {message}\n").as_bytes())),
    }
}

/// A warning that no one at a terminal needs: to the log file, where warnings go there, or with
/// `--debug`.
pub fn remark(message: &str) {
    if TARGET
        .get()
        .is_some_and(|target| target.debug || target.file.is_some())
    {
        warn(message);
    }
}

/// A line of level error, to the file only: stderr gets the sentence as it is.
pub fn error(message: &str) {
    if TARGET.get().is_some_and(|target| target.file.is_some()) {
        line("error", message);
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

fn line(level: &str, message: &str) {
    let Some(target) = TARGET.get() else { return };
    let time = crate::sys::clock::now();
    // Whole seconds, as logrus writes them.
    let time = format!("{}Z", time.split('.').next().unwrap_or_default());
    let text = match target.format {
        Format::Json => format!(
            "{}\n",
            serde_json::json!({"level": level, "msg": message, "time": time})
        ),
        Format::Text => format!("time={:?} level={level} msg={message:?}\n", time),
    };
    let written = match &target.file {
        Some(path) => append(path).and_then(|mut file| file.write_all(text.as_bytes())),
        None => std::io::stderr().write_all(text.as_bytes()),
    };
    // A log that cannot be written must not stop a container.
    drop(written);
}
