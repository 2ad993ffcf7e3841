//! Chooses the layers of the root filesystem on this host: one overlay, or one for each top-level
//! directory where the kernel does not accept a single one.

use crate::adhoc::options::AdhocOptions;
use crate::step::layers::{Kept, Layers, Part};
use crate::sys::mountinfo;
use crate::{Context, Error, Result};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How the root filesystem is assembled.
#[derive(Debug, Default)]
pub struct Root {
    /// The layers; `None` where the directory itself is the root filesystem.
    pub layers: Option<Layers>,
    /// The directories that are tmpfs, because they are on the host: `/run`, often `/tmp`.
    pub tmpfs: Vec<Tmpfs>,
    /// Warnings for the user, each a sentence.
    pub warnings: Vec<String>,
}

/// A directory of the container that is an empty tmpfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// The path in the container.
    pub target: String,
    /// The mode of the directory.
    pub mode: u32,
}

/// A mount of the host below the root directory.
struct HostMount {
    /// The path relative to the root directory, with a leading slash.
    target: String,
    source: PathBuf,
    fstype: String,
}

/// The container has mounts of its own here.
const CONTAINER_MOUNTS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Filesystem types that contain nothing of the root filesystem: kernel interfaces, tmpfs, the
/// roots of other containers, files of users' sessions.
const IGNORED_TYPES: [&str; 23] = [
    "proc",
    "sysfs",
    "tmpfs",
    "ramfs",
    "devtmpfs",
    "devpts",
    "cgroup",
    "cgroup2",
    "mqueue",
    "debugfs",
    "tracefs",
    "securityfs",
    "bpf",
    "pstore",
    "configfs",
    "fusectl",
    "hugetlbfs",
    "binfmt_misc",
    "autofs",
    "rpc_pipefs",
    "nsfs",
    "efivarfs",
    "overlay",
];

/// Chooses the layers by the mounts of the host. `locked` says that the overlays are created in a
/// user namespace: there the kernel refuses an overlay on a directory with mounts below it
/// (EINVAL), since these may hide something.
///
/// # Errors
/// The root directory or the mounts cannot be read; the directory of `--keep-changes` cannot be
/// made, is the top of a filesystem, or lies in the root directory on the same filesystem.
pub fn root(options: &AdhocOptions, locked: bool) -> Result<Root> {
    let mut root = Root::default();
    if options.read_write {
        return Ok(root);
    }
    let mounts = mounts_below(&options.rootfs)?;
    let top =
        |target: &str| target.matches('/').count() == 1 && !CONTAINER_MOUNTS.contains(&target);
    for mount in mounts
        .iter()
        .filter(|mount| mount.fstype == "tmpfs" && top(&mount.target))
    {
        let mode = std::fs::metadata(&mount.source)
            .map_or(0o755, |metadata| metadata.permissions().mode() & 0o7777);
        root.tmpfs.push(Tmpfs {
            target: mount.target.clone(),
            mode,
        });
    }
    let mut parts = if locked && !mounts.is_empty() {
        overlay_per_directory(options, &mounts, &root.tmpfs)?
    } else {
        one_overlay(options, &mounts)
    };
    if let Some(directory) = &options.keep_changes {
        keep_changes(directory, &options.id, &mut parts, &mut root.warnings)?;
    }
    root.layers = Some(Layers {
        parts,
        in_user_namespace: locked,
    });
    Ok(root)
}

fn overlay(target: &str, lower: PathBuf) -> Part {
    Part::Overlay {
        target: target.to_owned(),
        lower,
        kept: None,
    }
}

/// One overlay on the whole root, and one on each filesystem that the host has mounted below it.
fn one_overlay(options: &AdhocOptions, mounts: &[HostMount]) -> Vec<Part> {
    let is_own = |target: &str| {
        CONTAINER_MOUNTS
            .iter()
            .chain(&["/run"])
            .any(|own| Path::new(target).starts_with(own))
    };
    let is_part = |mount: &&HostMount| {
        !is_own(&mount.target)
            && !IGNORED_TYPES.contains(&mount.fstype.as_str())
            && !mount.fstype.starts_with("fuse")
            && mount.source.is_dir()
    };
    let below = mounts
        .iter()
        .filter(is_part)
        .map(|mount| overlay(&mount.target, mount.source.clone()));
    std::iter::once(overlay("/", options.rootfs.clone()))
        .chain(below)
        .collect()
}

/// An overlay on each top-level directory. Files, and directories with mounts below them, are bind
/// mounted read-only; symlinks are copied.
fn overlay_per_directory(
    options: &AdhocOptions,
    mounts: &[HostMount],
    tmpfs: &[Tmpfs],
) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(&options.rootfs)
        .on("read", options.rootfs.display())?
        .filter_map(std::result::Result::ok)
        .collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let (target, source) = (format!("/{name}"), entry.path());
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if CONTAINER_MOUNTS.contains(&target.as_str())
            || tmpfs.iter().any(|tmpfs| tmpfs.target == target)
        {
            continue;
        }
        let has_mounts = mounts.iter().any(|mount| {
            mount
                .target
                .strip_prefix(&target)
                .is_some_and(|rest| rest.starts_with('/'))
        });
        if kind.is_symlink() {
            let text = std::fs::read_link(&source).on("read link", source.display())?;
            parts.push(Part::Link {
                target,
                text: text.to_string_lossy().into_owned(),
            });
        } else if kind.is_dir() && !has_mounts {
            parts.push(overlay(&target, source));
        } else if kind.is_dir() || kind.is_file() {
            parts.push(Part::ReadOnly { target, source });
        }
    }
    Ok(parts)
}

/// Gives the overlays upper and work directories for `--keep-changes`.
fn keep_changes(
    directory: &Path,
    id: &str,
    parts: &mut [Part],
    warnings: &mut Vec<String>,
) -> Result<()> {
    make(directory)?;
    let directory = directory.canonicalize().on("open", directory.display())?;
    let device = std::fs::metadata(&directory)
        .on("open", directory.display())?
        .dev();
    let parent = directory
        .parent()
        .filter(|parent| std::fs::metadata(parent).is_ok_and(|metadata| metadata.dev() == device));
    let Some(parent) = parent else {
        let directory = directory.display();
        return Err(Error::new(format!(
            "--keep-changes {directory}: it is the top of a filesystem; give a directory in it, as \
             {directory}/changes"
        )));
    };
    // Others may write to the parent directory: nobody can put something there before.
    let unguessable = crate::sys::replace::unguessable();
    let work = parent.join(format!(
        "{}{id}-{unguessable:016x}",
        work_prefix(&directory)
    ));
    let alone = parts
        .iter()
        .filter(|part| matches!(part, Part::Overlay { .. }))
        .count()
        == 1
        || !matches!(&parts[0], Part::Overlay { target, .. } if target == "/");
    let whole = parts
        .iter()
        .any(|part| matches!(part, Part::Overlay { target, .. } if target == "/"));
    if !whole {
        warnings.push(
            "--keep-changes: each top-level directory has a layer of its own, so that new files and \
             directories in / itself are not kept"
                .to_owned(),
        );
    }
    for part in parts.iter_mut() {
        let Part::Overlay {
            target,
            lower,
            kept,
        } = part
        else {
            continue;
        };
        let overlaps = directory.starts_with(&*lower)
            && std::fs::metadata(&*lower).is_ok_and(|metadata| metadata.dev() == device);
        match (target.as_str(), overlaps) {
            ("/", true) => return Err(overlapping(&directory, lower)),
            ("/", false) => {
                *kept = Some(Kept {
                    upper: directory.clone(),
                    work: work.join("root"),
                })
            }
            (target, false) if alone => {
                *kept = Some(Kept {
                    upper: directory.join(&target[1..]),
                    work: work.join(&target[1..]),
                })
            }
            (target, _) => warnings.push(format!(
                "--keep-changes: changes below {target} are not kept"
            )),
        }
    }
    Ok(())
}

/// What the names of work directories for one directory of changes begin with; the container's id
/// follows.
fn work_prefix(directory: &Path) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    directory.hash(&mut hasher);
    format!(".hull-work-{:016x}-", hasher.finish())
}

/// The ids of other containers that keep their changes in the same directory, by their work
/// directories: two overlays with one upper directory are undefined (overlayfs.rst). Those of an
/// earlier boot are gone.
pub fn others_with_the_changes_of(options: &AdhocOptions) -> Vec<String> {
    let Some(directory) = options
        .keep_changes
        .as_ref()
        .and_then(|d| d.canonicalize().ok())
    else {
        return Vec::new();
    };
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split('.').next().and_then(|text| text.parse().ok());
    let since_boot = std::time::Duration::from_secs(uptime.unwrap_or(u64::MAX));
    let prefix = work_prefix(&directory);
    let siblings = directory.parent().map(std::fs::read_dir);
    let siblings = siblings.and_then(std::result::Result::ok);
    let names = siblings.into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        let age = entry.metadata().ok()?.modified().ok()?.elapsed();
        let name = entry.file_name().into_string().ok()?;
        let rest = name.strip_prefix(&prefix)?;
        let (id, _) = rest.rsplit_once('-')?;
        age.is_ok_and(|age| age < since_boot).then(|| id.to_owned())
    });
    names.collect()
}

fn overlapping(directory: &Path, lower: &Path) -> Error {
    Error::new(format!(
        "--keep-changes {}: it lies in {}, on the same filesystem, which an overlay does not \
         allow; give a directory elsewhere, for instance below /dev/shm",
        directory.display(),
        lower.display()
    ))
}

fn make(directory: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.on("make", directory.display()),
    }
}

/// Makes the upper and work directories of overlays that keep their changes. An upper directory
/// gets the mode and, by root, the owner of the directory below it.
///
/// # Errors
/// A directory cannot be made, or its mode or owner not be changed.
pub fn make_directories(layers: &Layers) -> Result<()> {
    for part in &layers.parts {
        let Part::Overlay {
            lower,
            kept: Some(kept),
            ..
        } = part
        else {
            continue;
        };
        let metadata = std::fs::metadata(lower).on("open", lower.display())?;
        if !kept.upper.exists() {
            make(&kept.upper)?;
            std::fs::set_permissions(&kept.upper, metadata.permissions())
                .on("change the mode of", kept.upper.display())?;
            if nix::unistd::geteuid().is_root() {
                std::os::unix::fs::chown(&kept.upper, Some(metadata.uid()), Some(metadata.gid()))
                    .on("change the owner of", kept.upper.display())?;
            }
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&kept.work)
            .on("make", kept.work.display())?;
    }
    Ok(())
}

/// The mounts below a directory, in the order of their mounting; of several at one place the last.
fn mounts_below(directory: &Path) -> Result<Vec<HostMount>> {
    let mut list: Vec<HostMount> = Vec::new();
    for mount in mountinfo::of("self")? {
        let Some(mount) = mount_below(mount, directory) else {
            continue;
        };
        list.retain(|earlier| earlier.target != mount.target);
        list.push(mount);
    }
    Ok(list)
}

fn mount_below(mount: mountinfo::Mount, directory: &Path) -> Option<HostMount> {
    let source = mount.mount_point;
    let rest = source
        .strip_prefix(directory)
        .ok()
        .filter(|rest| !rest.as_os_str().is_empty())?;
    Some(HostMount {
        target: format!("/{}", rest.to_str()?),
        fstype: mount.fstype,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_from_the_kernels_lines() {
        let line = b"31 23 0:28 / /srv/a\\040b/c rw,relatime shared:1 - ext4 /dev/vda rw";
        let below = |directory: &str| {
            let [mount] = mountinfo::parse(line).try_into().unwrap();
            mount_below(mount, Path::new(directory))
        };
        let mount = below("/srv").unwrap();
        assert_eq!(
            (
                mount.target.as_str(),
                mount.fstype.as_str(),
                mount.source.to_str()
            ),
            ("/a b/c", "ext4", Some("/srv/a b/c"))
        );
        assert!(below("/srv/a b/c").is_none());
        assert!(below("/sr").is_none());
    }
}
