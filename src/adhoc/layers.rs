//! What the root is put together of, on this host: one overlay, or one for each top directory where
//! the kernel takes no single one.

use crate::adhoc::flags::Ask;
use crate::step::layers::{Kept, Layers, Part};
use crate::sys::mountinfo;
use crate::{Context, Error, Result};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The root's parts, and the directories that begin as empty file systems in memory (with their modes).
#[derive(Debug, Default)]
pub struct Root {
    /// The parts; none where the directory itself is the root.
    pub layers: Option<Layers>,
    /// What is a tmpfs on the host too: `/run`, often `/tmp`.
    pub fresh: Vec<(String, u32)>,
    /// Sentences for the person.
    pub warnings: Vec<String>,
}

/// A mount of the host, below the root's directory.
struct Below {
    /// From the root's directory on, with a leading slash.
    target: String,
    source: PathBuf,
    fstype: String,
}

/// The container mounts its own here.
const OWN: [&str; 3] = ["/proc", "/sys", "/dev"];

/// File systems that hold nothing of the root's: kernel interfaces, memory, others' containers,
/// users' sessions.
const LEFT_OUT: [&str; 23] = [
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

/// Looks at the host. `locked`: the overlays are made in a user namespace, where a directory with
/// mounts below takes none (EINVAL: what is mounted there may be there to hide something).
///
/// # Errors
/// The root or the directory for changes cannot be read or made; the two overlap.
pub fn root(ask: &Ask, locked: bool) -> Result<Root> {
    let mut root = Root::default();
    if ask.read_write {
        return Ok(root);
    }
    let mounts = below(&ask.rootfs)?;
    let top = |target: &str| target.matches('/').count() == 1 && !OWN.contains(&target);
    for mount in mounts
        .iter()
        .filter(|mount| mount.fstype == "tmpfs" && top(&mount.target))
    {
        let mode = std::fs::metadata(&mount.source)
            .map_or(0o755, |metadata| metadata.permissions().mode() & 0o7777);
        root.fresh.push((mount.target.clone(), mode));
    }
    let mut parts = if locked && !mounts.is_empty() {
        split(ask, &mounts, &root.fresh)?
    } else {
        whole(ask, &mounts)
    };
    if let Some(directory) = &ask.keep_changes {
        keep(directory, &ask.id, &mut parts, &mut root.warnings)?;
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

/// One overlay on everything, and one on each file system of the host that is mounted below.
fn whole(ask: &Ask, mounts: &[Below]) -> Vec<Part> {
    let own = |target: &str| {
        OWN.iter()
            .chain(&["/run"])
            .any(|own| Path::new(target).starts_with(own))
    };
    let held = |mount: &&Below| {
        !own(&mount.target)
            && !LEFT_OUT.contains(&mount.fstype.as_str())
            && !mount.fstype.starts_with("fuse")
            && mount.source.is_dir()
    };
    let below = mounts
        .iter()
        .filter(held)
        .map(|mount| overlay(&mount.target, mount.source.clone()));
    std::iter::once(overlay("/", ask.rootfs.clone()))
        .chain(below)
        .collect()
}

/// An overlay on each top directory; those with mounts below as they are, read-only; links as links.
fn split(ask: &Ask, mounts: &[Below], fresh: &[(String, u32)]) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(&ask.rootfs)
        .on("read", ask.rootfs.display())?
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
        if OWN.contains(&target.as_str()) || fresh.iter().any(|(fresh, _)| *fresh == target) {
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

/// Gives the overlays their directories below that of `--keep-changes`.
fn keep(directory: &Path, id: &str, parts: &mut [Part], warnings: &mut Vec<String>) -> Result<()> {
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
            "--keep-changes {directory}: it is the top of a file system; give a directory in it, as \
                {directory}/changes"
        )));
    };
    let work = parent.join(format!(".hull-work-{id}"));
    let alone = parts
        .iter()
        .filter(|part| matches!(part, Part::Overlay { .. }))
        .count()
        == 1
        || !matches!(&parts[0], Part::Overlay { target, .. } if target == "/");
    for part in parts.iter_mut() {
        let Part::Overlay {
            target,
            lower,
            kept,
        } = part
        else {
            continue;
        };
        let inside = directory.starts_with(&*lower)
            && std::fs::metadata(&*lower).is_ok_and(|metadata| metadata.dev() == device);
        match (target.as_str(), inside) {
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
                "changes below {target} are not kept: the kernel takes no layer from there"
            )),
        }
    }
    Ok(())
}

fn overlapping(directory: &Path, lower: &Path) -> Error {
    Error::new(format!(
        "--keep-changes {}: it lies in {}, on the same file system, where an overlay takes no \
            layer from; give a directory elsewhere, as below /dev/shm",
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

/// Makes the directories of kept layers, each like the one it lies over.
///
/// # Errors
/// The kernel's.
pub fn make_kept(layers: &Layers) -> Result<()> {
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

/// The mounts below a directory, in the order of their mounting, the last of each place.
fn below(directory: &Path) -> Result<Vec<Below>> {
    let mut list: Vec<Below> = Vec::new();
    for mount in mountinfo::of("self")? {
        let Some(mount) = mount_below(mount, directory) else {
            continue;
        };
        list.retain(|earlier| earlier.target != mount.target);
        list.push(mount);
    }
    Ok(list)
}

fn mount_below(mount: mountinfo::Mount, directory: &Path) -> Option<Below> {
    let source = mount.mount_point;
    let rest = source
        .strip_prefix(directory)
        .ok()
        .filter(|rest| !rest.as_os_str().is_empty())?;
    Some(Below {
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
