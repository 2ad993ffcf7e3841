//! hull's log: lines on stderr, or in runc's formats in the file of `--log`.

#![forbid(unsafe_code)]

use crate::error::Escaped;
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

/// Where to log and how: the options of the command line.
#[derive(Clone, Debug)]
pub struct Target {
    /// `--log`: the file; none is stderr.
    pub file: Option<PathBuf>,
    /// `--log-format`: the form of a line.
    pub format: Format,
    /// `--debug`: lines of level debug are written too.
    pub debug: bool,
}

static TARGET: OnceLock<Target> = OnceLock::new();

/// Sets the target, once. The file is opened to see that it can be, and closed until there is a
/// line to write: `--preserve-fds` counts the caller's descriptors from 3, and none of hull's own
/// may be among them.
///
/// # Errors
/// open(2) of the file fails: an engine that reads it would learn nothing.
pub fn open(target: Target) -> Result<()> {
    if let Some(path) = &target.file {
        append(path).on("open log", path.display())?;
    }
    let _ = TARGET.set(target);
    Ok(())
}

/// Logs a line of level debug, which is composed only with `--debug`.
pub fn debug<M: AsRef<str>>(message: impl FnOnce() -> M) {
    if TARGET.get().is_some_and(|target| target.debug) {
        line("debug", message().as_ref());
    }
}

/// Logs a warning to stderr, or to the log file. Without `--debug` a log in JSON gets none:
/// Podman's monitor reads that file as one object, the error.
pub fn warn(message: &str) {
    match TARGET.get() {
        Some(target)
            if target.debug || (target.file.is_some() && target.format == Format::Text) =>
        {
            line("warning", message)
        }
        Some(target) if target.file.is_some() => {}
        // One write(2), so that lines of several processes on one terminal are not mixed.
        _ => {
            let text = format!("hull: warning: {}\n", Escaped(message));
            drop(std::io::stderr().write_all(text.as_bytes()));
        }
    }
}

/// Logs a warning that a user at a terminal does not need: only to a log file, or with `--debug`.
pub fn remark(message: &str) {
    if TARGET
        .get()
        .is_some_and(|target| target.debug || target.file.is_some())
    {
        warn(message);
    }
}

/// Logs a line of level error, to the log file only: the command line prints the error itself to
/// stderr.
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
