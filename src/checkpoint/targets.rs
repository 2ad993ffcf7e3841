//! The mount points of a root that criu brings mounts back to: their names as the kernel has them,
//! and those that a fresh root lacks.

use super::inventory::External;
use crate::step::container::Step;
use crate::step::draft::Plan;
use crate::sys::fd::{Fd, c_path, c_string};
use crate::sys::file;
use crate::sys::resolve::make_directory;
use std::path::Path;

/// A path of the container as the kernel lists it: symbolic links of the root followed, as far as
/// the path is there.
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
        if let Ok(held) = crate::sys::resolve::lookup(root.0, &name, 0, true).map(Fd) {
            let real = std::fs::read_link(format!("/proc/self/fd/{}", held.0)).unwrap_or_default();
            return match real.strip_prefix(&base) {
                Ok(inside) if inside.as_os_str().is_empty() => {
                    if tail.is_empty() {
                        "/".to_owned()
                    } else {
                        tail
                    }
                }
                Ok(inside) => format!("/{}{tail}", inside.display()),
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

/// Makes the mount points that a fresh root lacks, as create does; on file systems that criu fills
/// itself it makes them too. Where the root cannot be written they must be there, and criu says so.
pub fn prepare(rootfs: &Path, plan: &Plan, externals: &[External]) {
    let Some(root) = open(rootfs) else { return };
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
    let Ok(held) = make_directory(root, &path, true).map(Fd) else {
        return;
    };
    if !directory && let Ok(name) = c_string(name) {
        let _ = file::mknodat(held.0, &name, libc::S_IFREG | 0o644, 0);
    }
}

fn open(rootfs: &Path) -> Option<Fd> {
    let name = c_path(rootfs).ok()?;
    file::openat(libc::AT_FDCWD, &name, libc::O_PATH | libc::O_DIRECTORY, 0)
        .map(Fd)
        .ok()
}
