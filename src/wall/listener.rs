//! The seccomp listener goes to its agent with the container process state (config-linux.md, The Container Process State).

use crate::plan::state_document;
use crate::spec::Spec;
use crate::sys::socket;
use crate::{Context, Result};
use serde_json::json;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Sends the listener and the state in one message.
///
/// # Errors
/// The agent's socket is not there, or refuses.
pub fn send(spec: &Spec, id: &str, pid: i32, listener: i32, path: &str, metadata: &str) -> Result<()> {
    let state = json!({
        "ociVersion": spec.config().oci_version,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": state_document(spec, id, "creating", Some(pid)),
    });
    let agent = UnixStream::connect(path).on("connect to seccomp listener", path)?;
    socket::send_fd(agent.as_raw_fd(), state.to_string().as_bytes(), listener).on("send the seccomp listener to", path)
}
