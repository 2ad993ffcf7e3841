//! Sends the seccomp listener to its agent, with the container process state (config-linux.md, The
//! Container Process State).

use crate::spec::Spec;
use crate::spec::state::state_document;
use crate::sys::fd::Fd;
use crate::sys::socket;
use crate::{Context, Result};
use serde_json::json;
use std::os::fd::AsRawFd;

/// A process that has loaded its seccomp filter, and the agent of its listener.
pub struct Filtered<'a> {
    /// The container's config.
    pub spec: &'a Spec,
    /// The container's id.
    pub id: &'a str,
    /// The process id of the container's init.
    pub init: i32,
    /// The process id of the filtered process; for an exec it is not init.
    pub pid: i32,
    /// The listener's descriptor (seccomp_unotify(2)).
    pub listener: &'a Fd,
    /// `linux.seccomp.listenerPath`: the agent's socket.
    pub path: &'a str,
    /// `linux.seccomp.listenerMetadata`.
    pub metadata: &'a str,
}

/// Sends the listener and the state in one message.
///
/// # Errors
/// connect(2) to the agent's socket fails; sendmsg(2) fails.
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
    let agent =
        crate::sys::socket::connect(path.as_ref()).on("connect to seccomp listener", path)?;
    socket::send_fd(agent.as_raw_fd(), state.to_string().as_bytes(), listener.0)
        .on("send the seccomp listener to", path)
}
