//! Runs nft(8).

use super::store::Guard;
use crate::sys::search::in_path_or_sbin;
use crate::{Context, Error, Result};
use std::io::Write;
use std::process::{Command, Stdio};

/// Commits a script as one transaction, under the lock of the networks; returns what the kernel
/// notified (`--echo`).
///
/// # Errors
/// nft is not installed, or refuses the script: then the first line of its message.
pub fn apply(guard: &Guard, text: &str) -> Result<String> {
    guard.share(|| run(&["--echo", "--file", "-"], text))?
}

/// Commits a script as one transaction, in the network namespace that hull runs in.
///
/// # Errors
/// As of [`apply`].
pub fn script(text: &str) -> Result<()> {
    run(&["-f", "-"], text).map(drop)
}

/// Runs an nft command that lists something; returns its JSON.
///
/// # Errors
/// As of [`apply`]; the JSON cannot be parsed.
pub fn list(what: &[&str]) -> Result<serde_json::Value> {
    let said = run(&[&["--json", "--handle"], what].concat(), "")?;
    serde_json::from_str(&said)
        .map_err(|error| Error::new(format!("parse the output of nft: {error}")))
}

fn run(args: &[&str], input: &str) -> Result<String> {
    // cron and su give a PATH without the sbin directories, a keeper of logs has none at all.
    let program = in_path_or_sbin("nft").unwrap_or_else(|| "nft".into());
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/");
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            "hull's networks need the program nft (package nftables), which is not installed",
        ),
        _ => Error::io("run", "nft", &error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // nft closes the pipe when it refuses the script, and says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().on("run", "nft")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!(
        "nft refuses the rules: {}",
        said.lines().next().unwrap_or_default().trim()
    )))
}
