//! `delete`: everything that create made is taken down; errors on the way are collected, and it
//! goes on.

use super::create::has_pid_namespace;
use super::{Container, Status};
use crate::error::Kind;
use crate::store::Store;
use crate::sys::process;
use crate::{Context, Error, Result};
use nix::sys::signal::Signal;
use oci_spec::runtime::LinuxNamespaceType;
use std::time::Duration;

/// Removes a container.
///
/// # Errors
/// It does not exist (unless forced), or runs; what could not be removed.
pub fn delete(store: &Store, id: &str, force: bool) -> Result<()> {
    let lock = match store.lock(id) {
        Err(error) if force && error.kind() == Kind::NoSuchContainer => return Ok(()),
        other => other?,
    };
    let container = match Container::open(store, id) {
        // A directory without a record, or with one that cannot be read: hull died before it wrote
        // it, or the disk was full.
        Err(_) if force => {
            return crate::net::release::release(&store.directory(id))
                .and_then(|()| store.remove(id));
        }
        other => other?,
    };
    if !force {
        check_ended(&container)?;
    }
    let result = container.take_down();
    drop(lock);
    result
}

/// Only a container that has stopped, or that has not been started, is deleted without force.
fn check_ended(container: &Container) -> Result<()> {
    match container.status() {
        Status::Stopped | Status::Created => Ok(()),
        status => Err(Error::of_kind(
            Kind::NotStopped,
            format!(
                "cannot delete container {} that is not stopped: {}",
                container.record.id,
                status.word()
            ),
        )),
    }
}

impl Container {
    /// Ends all processes and removes cgroup, record and scratch; then the poststop hooks run. What
    /// fails is collected.
    ///
    /// # Errors
    /// All that failed, in one sentence.
    pub fn take_down(&self) -> Result<()> {
        let mut failed: Vec<String> = Vec::new();
        crate::log::debug(|| {
            format!(
                "container {}: taking down process {}, cgroup, scratch and record",
                self.record.id, self.record.pid
            )
        });
        let mut note = |result: Result<()>| {
            if let Err(error) = result {
                failed.push(error.to_string());
            }
        };
        note(self.end_init());
        match self.group() {
            Ok(Some(mut group)) => {
                // With init the kernel ends all of its process namespace; only what is left is
                // sought. A hull that was killed while it made the container has recorded no init.
                if self.record.vm.is_some()
                    || self.record.pid <= 0
                    || !has_pid_namespace(&self.record.spec)
                    || group.remove().is_err()
                {
                    note(group.kill(Signal::SIGKILL));
                    note(group.remove());
                }
                self.leave_common_cgroup();
            }
            Ok(None) => {}
            Err(error) => note(Err(error)),
        }
        for work in self
            .record
            .layers
            .iter()
            .flat_map(crate::step::layers::Layers::work_directories)
        {
            note(crate::rootfs::teardown::remove_work(work));
        }
        if self
            .record
            .spec
            .namespace(LinuxNamespaceType::Mount)
            .is_none()
        {
            note(crate::rootfs::teardown::unmount_below(
                &self.record.spec.rootfs(),
            ));
        }
        // With a network there is more in the directory than the record.
        if !self.store.remove_bare(&self.record.id) {
            note(crate::net::release::release(&self.directory()));
            note(self.store.remove(&self.record.id));
        }
        crate::hooks::host::poststop(&self.record.spec, &self.record.id);
        if failed.is_empty() {
            Ok(())
        } else {
            Err(Error::new(format!(
                "delete container {}: {}",
                self.record.id,
                failed.join("; ")
            )))
        }
    }

    /// The cgroup that hull itself names for ad hoc containers goes with the last of them. With
    /// others in it the kernel refuses.
    fn leave_common_cgroup(&self) {
        for place in self.record.cgroup.iter().flat_map(|cgroup| &cgroup.places) {
            if place.dir == format!("{}/hull/{}", place.mount_point, self.record.id) {
                let _ = std::fs::remove_dir(format!("{}/hull", place.mount_point));
            }
        }
    }

    fn end_init(&self) -> Result<()> {
        let Ok(pidfd) = self.pidfd() else {
            return Ok(());
        };
        match process::pidfd_send_signal(pidfd.0, libc::SIGKILL) {
            Err(nix::errno::Errno::ESRCH) => return Ok(()),
            other => other.on("kill container", &self.record.id)?,
        }
        if self.record.vm.is_none()
            && let Some(group) = self.group()?
        {
            group.thaw_all()?;
        }
        crate::sys::process::wait_gone(pidfd.0, Duration::from_secs(10))
            .then_some(())
            .ok_or_else(|| Error::new("init did not end within 10 s of SIGKILL"))
    }
}
