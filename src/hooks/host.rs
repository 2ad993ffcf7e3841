//! Runs hooks in hull's own namespaces: the state document on stdin, a wait with a timeout, and the
//! hook's output in the error.

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
/// The hook cannot be executed, exits with a status other than 0, or runs longer than its timeout.
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
    // The hook inherits no descriptors that hull's caller left open. (The container's process has a
    // copy of the descriptor table by now.)
    let _ = crate::sys::file::cloexec_from(3);
    let mut child = command
        .spawn()
        .map_err(|error| Error::io("run", path, &error).within(&context))?;
    write_state(&mut child, state);
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
        output(child.stdout.take()),
        output(child.stderr.take())
    )))
}

/// Writes the state document to the hook's stdin. A hook that closes its stdin without reading it
/// is no error.
fn write_state(child: &mut Child, state: &Value) {
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(state.to_string().as_bytes());
    }
}

/// Reads what is in the pipe, and does not wait for its end: children of the hook may keep it open.
fn output(pipe: Option<impl Read + std::os::fd::AsRawFd>) -> String {
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
