//! Runs nft(8).

use super::store::Guard;
use crate::{Context, Error, Result};
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs nft on a text; answers what the kernel says it did.
///
/// # Errors
/// nft's own words.
pub fn apply(guard: &Guard, text: &str) -> Result<String> {
    guard.share(|| run(&["--echo", "--file", "-"], text))?
}

/// Gives nft a script, in hull's own network namespace.
///
/// # Errors
/// nft's own words.
pub fn script(text: &str) -> Result<()> {
    run(&["-f", "-"], text).map(drop)
}

/// Asks nft for JSON.
///
/// # Errors
/// nft's own words.
pub fn list(what: &[&str]) -> Result<serde_json::Value> {
    let said = run(&[&["--json", "--handle"], what].concat(), "")?;
    serde_json::from_str(&said).map_err(|error| Error::new(format!("read what nft lists: {error}")))
}

fn run(args: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new("nft");
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/");
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            "networks of hull's own need the program nft \
            (package nftables), which is not installed",
        ),
        _ => Error::io("run", "nft", &error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A refusal closes the pipe; nft's own words say why.
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
