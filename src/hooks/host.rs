//! Hooks in hull's own namespaces: the state on stdin, a bounded wait, and what the hook said in
//! the error.

use crate::spec::config::Hook;
use crate::sys::fd::Fd;
use crate::sys::process;
use crate::{Context, Error, Result};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs one hook (config.md, POSIX-platform Hooks).
///
/// # Errors
/// It cannot be run, ends with another status than 0, or outlives its timeout.
pub fn run(list: &str, index: usize, hook: &Hook, state: &Value, bundle: &Path) -> Result<()> {
    let Hook {
        path,
        args,
        env,
        timeout,
    } = hook;
    let mut command = Command::new(path);
    command
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir(bundle);
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    for variable in env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    let context = format!("error running hook #{index}: error running {list} hook #{index}");
    // What hull's caller left open is not the hook's. (The container's process has its own copy of
    // the table by now.)
    let _ = crate::sys::file::cloexec_from(3);
    let mut child = command
        .spawn()
        .map_err(|error| Error::io("run", path, &error).within(&context))?;
    feed(&mut child, state);
    let pidfd = process::pidfd_open(child.id() as i32)
        .map(Fd)
        .on("watch", path)?;
    let limit = timeout.map(|seconds| seconds.max(0) as u64 * 1000);
    let (ended, _) = process::poll2(pidfd.0, -1, limit).on("wait for", path)?;
    if !ended {
        let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
        let _ = child.wait();
        return Err(Error::new(format!(
            "{context}: {path}: still running after its timeout of {} s",
            timeout.unwrap_or(0)
        )));
    }
    let status = child.wait().on("wait for", path)?;
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    Err(Error::new(format!(
        "{context}: {how}, stdout: {}, stderr: {}",
        said(child.stdout.take()),
        said(child.stderr.take())
    )))
}

/// A hook that does not read its stdin must not stop hull: what does not fit into the pipe is left
/// out with the hook's interest.
fn feed(child: &mut Child, state: &Value) {
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(state.to_string().as_bytes());
    }
}

/// What is in the pipe now; a hook's own children may hold it open for ever.
fn said(pipe: Option<impl Read + std::os::fd::AsRawFd>) -> String {
    let Some(mut pipe) = pipe else {
        return String::new();
    };
    let mut buffer = [0_u8; 4096];
    match process::poll2(pipe.as_raw_fd(), -1, Some(0)) {
        Ok((true, _)) => {
            let count = pipe.read(&mut buffer).unwrap_or(0);
            String::from_utf8_lossy(&buffer[..count]).trim().to_owned()
        }
        _ => String::new(),
    }
}
