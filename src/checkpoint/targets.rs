//! The mount points of a root in which CRIU restores mounts: their paths as the kernel lists them,
//! and those that a new root lacks.

use super::external_mounts::ExternalMount;
use crate::step::container::Step;
use crate::step::draft::Plan;
use crate::sys::fd::{Fd, c_path, c_string};
use crate::sys::file;
use crate::sys::resolve::make_directory;
use std::path::Path;

/// A path of the container as the kernel lists it: symbolic links are followed within the root, as
/// far as the path exists.
pub fn resolved(rootfs: &Path, target: &str) -> String {
    let Some(root) = open(rootfs) else {
        return target.to_owned();
    };
    let Ok(base) = std::fs::read_link(format!("/proc/self/fd/{}", root.0)) else {
        return target.to_owned();
    };
    let (mut head, mut tail) = (target.to_owned(), String::new());
    loop {
        let name = c_string(head.as_str()).unwrap_or_default();
        if let Ok(fd) = crate::sys::resolve::lookup(root.0, &name, 0, true).map(Fd) {
            let real = std::fs::read_link(format!("/proc/self/fd/{}", fd.0)).unwrap_or_default();
            return match real.strip_prefix(&base) {
                Ok(below) if below.as_os_str().is_empty() => {
                    if tail.is_empty() {
                        "/".to_owned()
                    } else {
                        tail
                    }
                }
                Ok(below) => format!("/{}{tail}", below.display()),
                Err(_) => target.to_owned(),
            };
        }
        match head.rsplit_once('/') {
            Some((parent, last)) if !parent.is_empty() => {
                tail = format!("/{last}{tail}");
                head = parent.to_owned();
            }
            _ => return target.to_owned(),
        }
    }
}

/// Creates the mount points that a new root lacks, as create does. Those on file systems whose
/// content CRIU restores are CRIU's to create. Errors are ignored: on a root that is not writable
/// the mount points must exist, and CRIU reports those that do not.
pub fn prepare(rootfs: &Path, plan: &Plan, externals: &[ExternalMount]) {
    let Some(root) = open(rootfs) else { return };
    // Mount points so far: what is below one of them is not in the root.
    let mut covered: Vec<&str> = Vec::new();
    for placed in &plan.container {
        let (target, directory) = match &placed.step {
            Step::Mount { target, .. } => (target, true),
            Step::Bind { target, .. } => (
                target,
                externals
                    .iter()
                    .find(|external| external.target == *target)
                    .is_none_or(|external| external.source.is_dir()),
            ),
            _ => continue,
        };
        let below = |point: &&str| {
            target
                .strip_prefix(*point)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        if !covered.iter().any(below) {
            make_target(root.0, target, directory);
        }
        covered.push(target);
    }
}

fn make_target(root: i32, target: &str, directory: bool) {
    let (parent, name) = target.rsplit_once('/').unwrap_or(("", target));
    let whole = if directory { target } else { parent };
    let Ok(path) = c_string(if whole.is_empty() { "/" } else { whole }) else {
        return;
    };
    let Ok(parent_fd) = make_directory(root, &path, true).map(Fd) else {
        return;
    };
    if !directory && let Ok(name) = c_string(name) {
        let _ = file::mknodat(parent_fd.0, &name, libc::S_IFREG | 0o644, 0);
    }
}

fn open(rootfs: &Path) -> Option<Fd> {
    let name = c_path(rootfs).ok()?;
    file::openat(libc::AT_FDCWD, &name, libc::O_PATH | libc::O_DIRECTORY, 0)
        .map(Fd)
        .ok()
}
