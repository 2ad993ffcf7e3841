//! The undo of a failed run of host steps.

use crate::cgroups::group::Group;
use crate::namespaces::spawn::Child;
use crate::sys::process;
use std::path::{Path, PathBuf};

/// What the host steps have made so far: the container's process, its cgroup, its network
/// attachments. If it is dropped before [`done`](Self::done) is called, all of that is undone: the
/// process first, because it may keep the network and the cgroup busy.
pub struct Undo {
    directory: PathBuf,
    /// The container's cgroup.
    pub group: Option<Group>,
    /// The container's process, which is a child of hull.
    pub child: Option<Child>,
    /// A host step that gives the container network devices or addresses has begun.
    pub networked: bool,
    done: bool,
}

impl Undo {
    /// Nothing is made yet for the container with this directory in the store.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            group: None,
            child: None,
            networked: false,
            done: false,
        }
    }

    /// Keeps everything that was made, and returns the process.
    pub fn done(mut self) -> Option<Child> {
        self.done = true;
        if let Some(group) = &mut self.group {
            group.commit();
        }
        self.child.take()
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(child) = &self.child {
            let _ = process::pidfd_send_signal(child.pidfd.0, libc::SIGKILL);
            let _ = process::wait(child.pidfd.0, false);
        }
        if self.networked {
            let _ = crate::net::release::release(&self.directory);
        }
        if let Some(group) = &mut self.group {
            // Processes that hooks started in the cgroup may still run.
            let _ = group.kill(nix::sys::signal::Signal::SIGKILL);
            let _ = group.remove();
        }
    }
}
