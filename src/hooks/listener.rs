//! The seccomp listener goes to its agent with the container process state (config-linux.md, The
//! Container Process State).

use crate::spec::Spec;
use crate::spec::state::state_document;
use crate::sys::fd::Fd;
use crate::sys::socket;
use crate::{Context, Result};
use serde_json::json;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// A process that is past its filter, and where its listener goes.
pub struct Filtered<'a> {
    /// The container's config.
    pub spec: &'a Spec,
    /// The container's id.
    pub id: &'a str,
    /// The container's init.
    pub init: i32,
    /// The filtered process, which for an exec is another.
    pub pid: i32,
    /// The listener.
    pub listener: &'a Fd,
    /// `linux.seccomp.listenerPath`: the agent's socket.
    pub path: &'a str,
    /// `linux.seccomp.listenerMetadata`.
    pub metadata: &'a str,
}

/// Sends the listener and the state in one message.
///
/// # Errors
/// The agent's socket is not there, or refuses.
pub fn send(filtered: &Filtered) -> Result<()> {
    let Filtered {
        spec,
        id,
        init,
        pid,
        listener,
        path,
        metadata,
    } = *filtered;
    let status = if init == pid { "creating" } else { "running" };
    let state = json!({
        "ociVersion": spec.config().oci_version,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": state_document(spec, id, status, Some(init)),
    });
    let agent = UnixStream::connect(path).on("connect to seccomp listener", path)?;
    socket::send_fd(agent.as_raw_fd(), state.to_string().as_bytes(), listener.0)
        .on("send the seccomp listener to", path)
}
