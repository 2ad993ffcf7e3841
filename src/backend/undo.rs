//! What a failed run of host steps has made, and how it is undone.

use crate::cgroups::group::Group;
use crate::namespaces::spawn::Child;
use crate::sys::process;
use std::path::{Path, PathBuf};

/// What of a container is there already: its process, its cgroup, its place on hull's networks.
/// Dropped before it is [done](Self::done), all of it is undone, in the order in which one thing may
/// hold the next.
pub struct Undo {
    directory: PathBuf,
    /// Its cgroup.
    pub group: Option<Group>,
    /// Its process, which is hull's own child.
    pub child: Option<Child>,
    /// A step that gives it network devices or addresses has begun.
    pub networked: bool,
    done: bool,
}

impl Undo {
    /// Of the container in this directory, nothing is made.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            group: None,
            child: None,
            networked: false,
            done: false,
        }
    }

    /// All that was made stays. Answers the process.
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
            // Children of hooks may be there still.
            let _ = group.kill(nix::sys::signal::Signal::SIGKILL);
            let _ = group.remove();
        }
    }
}
