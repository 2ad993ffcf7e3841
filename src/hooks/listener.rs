//! The seccomp listener goes to its agent with the container process state (config-linux.md, The
//! Container Process State).

use crate::spec::Spec;
use crate::spec::state::state_document;
use crate::sys::socket;
use crate::{Context, Result};
use serde_json::json;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Sends the listener and the state in one message; `pid` is the filtered process, which for an
/// exec is not the container's init.
///
/// # Errors
/// The agent's socket is not there, or refuses.
pub fn send(
    spec: &Spec,
    id: &str,
    (init, pid): (i32, i32),
    listener: i32,
    path: &str,
    metadata: &str,
) -> Result<()> {
    let status = if init == pid { "creating" } else { "running" };
    let state = json!({
        "ociVersion": spec.config().oci_version,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": state_document(spec, id, status, Some(init)),
    });
    let agent = UnixStream::connect(path).on("connect to seccomp listener", path)?;
    socket::send_fd(agent.as_raw_fd(), state.to_string().as_bytes(), listener)
        .on("send the seccomp listener to", path)
}
