//! What of a container is not criu's to save and make: taken from the plan by which it was made,
//! not from the config again.

use crate::state::PolicyOutcome;
use crate::step::container::{Protection, Refused, Step, slot};
use crate::step::draft::{Placed, Plan};
use crate::step::host::{HostStep, Open};
use crate::sys::fd::{Fd, c_string};
use crate::sys::file::{self, RESOLVE_IN_ROOT};
use crate::sys::mountinfo;
use crate::{Context, Error, Result};
use std::path::{Path, PathBuf};

/// A mount whose file system belongs to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Where the plan mounts it, in the container.
    pub target: String,
    /// By what name it stands in the images. (runc's: the target; for a masked file the null
    /// device.)
    pub key: String,
    /// What is there, on the host.
    pub source: PathBuf,
    /// The step's origin in the config.
    pub from: String,
    /// With what is mounted below it.
    pub recursive: bool,
    /// A directory of the container's tree is covered: something must be there to be covered.
    pub directory: Option<bool>,
}

/// The external mounts of a plan. A step whose policy decides gives one if it was decided so, or if
/// that is not known.
pub fn externals(
    plan: &Plan,
    decided: &dyn Fn(usize, &Placed<Step>) -> Option<String>,
) -> Vec<External> {
    let mut found = Vec::new();
    for (index, placed) in plan.container.iter().enumerate() {
        let from = placed.from.to_string();
        let add = |target: &str, key: &str, source: PathBuf, recursive: bool| External {
            target: target.to_owned(),
            key: key.to_owned(),
            source,
            from: from.clone(),
            recursive,
            directory: None,
        };
        let outcome = decided(index, placed);
        let host = outcome.as_deref() == Some("bound-from-host");
        match &placed.step {
            Step::Bind {
                target,
                slot: number,
                source,
                recursive,
                ..
            } => {
                found.push(add(
                    target,
                    target,
                    source_of(plan, *number, source),
                    *recursive,
                ));
            }
            Step::Mount { target, source, .. } if host => {
                let source = if source.starts_with('/') {
                    source
                } else {
                    target
                };
                found.push(add(target, target, PathBuf::from(source), true));
            }
            Step::Layer { target, .. } if target != "/root/" => {
                // Brought back, it is mounted for criu first: see `root`.
                let target = target.strip_prefix("/root").unwrap_or(target);
                found.push(add(target, target, PathBuf::from(target), false));
            }
            Step::Node {
                path, bind: true, ..
            } => found.push(add(path, path, PathBuf::from(path), false)),
            Step::Protect {
                target,
                how: Protection::Mask,
            } if outcome.as_deref() != Some("skipped")
                && !matches!(
                    outcome.as_deref(),
                    Some("masked-directory" | "masked-folder")
                ) =>
            {
                found.push(External {
                    directory: Some(false),
                    ..add(target, NULL, PathBuf::from(NULL), false)
                });
            }
            _ => {}
        }
    }
    found
}

/// The key of all masked files, as runc has it.
pub const NULL: &str = "/dev/null";

fn source_of(plan: &Plan, number: u32, path: &str) -> PathBuf {
    let opened = plan.host.iter().find_map(|placed| match &placed.step {
        HostStep::Open {
            slot,
            what: Open::Tree { path, .. },
        } if number != slot::NONE && *slot == number => Some(path.clone()),
        _ => None,
    });
    opened.unwrap_or_else(|| PathBuf::from(path))
}

/// The record's outcomes, found again in a plan that was made anew: by the step's place, or by its
/// origin where another hull numbered its steps otherwise.
pub fn recorded(
    outcomes: &[PolicyOutcome],
) -> impl Fn(usize, &Placed<Step>) -> Option<String> + use<'_> {
    move |index, placed| {
        let same = |decided: &&PolicyOutcome| decided.from == placed.from;
        let exact = outcomes
            .iter()
            .find(|decided| decided.step as usize == index && decided.from == placed.from);
        exact
            .or_else(|| outcomes.iter().find(same))
            .map(|decided| decided.outcome.clone())
    }
}

/// The same of images, by what stands beside them; where that is nothing, as beside another
/// runtime's, whatever may have been bound is given: a key that no image has does no harm.
pub fn saved(
    outcomes: &[PolicyOutcome],
) -> impl Fn(usize, &Placed<Step>) -> Option<String> + use<'_> {
    let known = recorded(outcomes);
    move |index, placed| match &placed.step {
        Step::Mount {
            refused: Refused::BindHost,
            ..
        } if outcomes.is_empty() => Some("bound-from-host".to_owned()),
        _ => known(index, placed),
    }
}

/// One line of `mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug)]
pub struct Mounted {
    /// The mount's id.
    pub id: u64,
    /// Where it is, in the container.
    pub point: String,
    /// The file system's type.
    pub fstype: String,
    /// The file system's device, major and minor.
    pub device: String,
}

/// The mounts of a process, and its root.
pub struct Mounts {
    root: Fd,
    /// In the order of the kernel's list.
    pub all: Vec<Mounted>,
}

impl Mounts {
    /// Reads them.
    ///
    /// # Errors
    /// The process is gone.
    pub fn of(pid: i32) -> Result<Self> {
        let all = mountinfo::of(pid)?;
        let root = c_string(format!("/proc/{pid}/root"))?;
        let root = file::openat(libc::AT_FDCWD, &root, libc::O_PATH | libc::O_DIRECTORY, 0)
            .map(Fd)
            .on("open", "the container's root")?;
        Ok(Self {
            root,
            all: all
                .into_iter()
                .map(|mount| Mounted {
                    id: mount.id,
                    point: mount.mount_point.to_string_lossy().into_owned(),
                    fstype: mount.fstype,
                    device: mount.device,
                })
                .collect(),
        })
    }

    /// The mount that stands at a path in the container, symbolic links followed within its root;
    /// none where no mount begins there.
    pub fn at(&self, path: &str) -> Option<&Mounted> {
        let name = c_string(path).ok()?;
        let held = file::openat2(self.root.0, &name, libc::O_PATH, 0, RESOLVE_IN_ROOT)
            .map(Fd)
            .ok()?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", held.0)).ok()?;
        let id: u64 = info
            .lines()
            .find_map(|line| line.strip_prefix("mnt_id:"))?
            .trim()
            .parse()
            .ok()?;
        let mounted = self.all.iter().find(|mounted| mounted.id == id)?;
        // The path may lie deeper in the mount: then it is not its beginning.
        let real = std::fs::read_link(format!("/proc/self/fd/{}", held.0)).ok()?;
        (real == Path::new(&mounted.point)).then_some(mounted)
    }

    /// Mounts below a point.
    pub fn below(&self, point: &str) -> impl Iterator<Item = &Mounted> {
        let prefix = format!("{}/", point.trim_end_matches('/'));
        self.all
            .iter()
            .filter(move |mounted| mounted.point.starts_with(&prefix))
    }
}

/// The external mounts that are there in a running container: (mount point, key, source). What lies
/// below a recursive bind belongs to it.
///
/// # Errors
/// A source that is not UTF-8, which criu's messages cannot carry.
pub fn present(externals: &[External], mounts: &Mounts) -> Result<Vec<(String, String, String)>> {
    let mut list: Vec<(String, String, String)> = Vec::new();
    let mut put = |point: &str, key: &str, source: &Path| -> Result<()> {
        let source = source
            .to_str()
            .ok_or_else(|| Error::new(format!("path {} is not UTF-8", source.display())))?;
        if !list.iter().any(|(known, ..)| known == point) {
            list.push((point.to_owned(), key.to_owned(), source.to_owned()));
        }
        Ok(())
    };
    let mut whole = Vec::new();
    for external in externals {
        let Some(mounted) = mounts.at(&external.target) else {
            continue;
        };
        if external.key == NULL
            && mounted.fstype == "tmpfs"
            && is_directory(mounts, &external.target)
        {
            continue;
        }
        let key = if external.key == NULL {
            NULL.to_owned()
        } else {
            mounted.point.clone()
        };
        put(&mounted.point, &key, &external.source)?;
        if external.recursive {
            whole.push((mounted.point.clone(), external.source.clone()));
        }
    }
    for (point, source) in whole {
        for deeper in mounts.below(&point) {
            let rest = &deeper.point[point.trim_end_matches('/').len() + 1..];
            put(&deeper.point, &deeper.point, &source.join(rest))?;
        }
    }
    Ok(list)
}

fn is_directory(mounts: &Mounts, path: &str) -> bool {
    let Ok(name) = c_string(path) else {
        return false;
    };
    let held = file::openat2(mounts.root.0, &name, libc::O_PATH, 0, RESOLVE_IN_ROOT).map(Fd);
    held.and_then(|held| file::fstat(held.0))
        .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_file_is_external_and_a_masked_directory_is_not() {
        let step = |target: &str| Placed {
            step: Step::Protect {
                target: target.into(),
                how: Protection::Mask,
            },
            from: format!("mask {target}").into(),
        };
        let plan = Plan {
            container: vec![step("/a"), step("/b"), step("/c")],
            ..Plan::default()
        };
        let outcome = |step, outcome: &str, target| PolicyOutcome {
            step,
            from: format!("mask {target}"),
            outcome: outcome.into(),
        };
        let outcomes = [
            outcome(0, "masked-file", "/a"),
            outcome(1, "masked-directory", "/b"),
            outcome(2, "skipped", "/c"),
        ];
        let found = externals(&plan, &recorded(&outcomes));
        assert_eq!(
            found
                .iter()
                .map(|external| external.target.as_str())
                .collect::<Vec<_>>(),
            ["/a"]
        );
    }
}
