//! A root file system that consists of layers: hull saves the changes in its overlays among the
//! images, and at restore mounts the overlays for CRIU.

use super::external_mounts::ExternalMount;
use super::images;
use super::mounts::Mounts;
use super::overlay_diff::{self, Overlay};
use super::session::{CriuMount, MountSource};
use crate::container::Container;
use crate::spec::Spec;
use crate::step::container::Step;
use crate::step::draft::Plan;
use crate::step::layers::{Kept, Layers, Part};
use crate::sys::fd::{Fd, c_path};
use crate::sys::file;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::ffi::CStr;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Saves the changes in each of the container's overlays. The container's processes must be
/// stopped.
///
/// # Errors
/// A file in an overlay cannot be read, or the disk is full.
pub fn save_changes(container: &Container, directory: &Path) -> Result<()> {
    let Some(layers) = &container.record.layers else {
        return Ok(());
    };
    let mounts = Mounts::of(container.record.pid)?;
    let root = format!("/proc/{}/root", container.record.pid);
    for (index, part) in layers.parts.iter().enumerate() {
        let Part::Overlay { target, lower, .. } = part else {
            continue;
        };
        let merged = PathBuf::from(format!("{root}/{}", target.trim_start_matches('/')));
        let prefix = target.trim_end_matches('/');
        let below = mounts
            .below(target)
            .filter_map(|mounted| mounted.point.strip_prefix(prefix))
            .map(str::to_owned)
            .collect();
        overlay_diff::save(
            &Overlay {
                merged: &merged,
                lower,
                mounts: below,
            },
            &directory.join(images::layer(index)),
        )?;
    }
    Ok(())
}

/// The layers of a restored container. Upper directories that were in memory, and with `fresh` all
/// upper directories, get a place in the container's directory `directory` and are removed with it.
///
/// # Errors
/// The overlays were mounted in a user namespace.
pub fn relocate(layers: &Layers, directory: &Path, fresh: bool) -> Result<Layers> {
    if layers.in_user_namespace {
        return Err(Error::new(
            "a root whose layers were mounted in a user namespace cannot be restored",
        ));
    }
    let directory = std::path::absolute(directory).on("find", directory.display())?;
    let mut layers = layers.clone();
    for (index, part) in layers.parts.iter_mut().enumerate() {
        let Part::Overlay { kept, .. } = part else {
            continue;
        };
        let stays = !fresh
            && kept.as_ref().is_some_and(|kept| {
                kept.upper.is_dir()
                    && !kept
                        .upper
                        .starts_with(directory.parent().unwrap_or(&directory))
            });
        if !stays {
            let own = directory.join("layers").join(index.to_string());
            *kept = Some(Kept {
                upper: own.join("upper"),
                work: own.join("work"),
            });
        }
    }
    Ok(layers)
}

/// The directories of a restore that [`prepare`] needs.
pub struct Places<'a> {
    /// The container's directory.
    pub container: &'a Path,
    /// Where the container's root is mounted for CRIU.
    pub root: &'a Path,
    /// The directory of images.
    pub images: &'a Path,
}

/// Creates the directories of the layers, unpacks the saved changes there, and returns the mounts
/// that CRIU needs. `copy` says that the container is another one than the dumped one: its root
/// gets a machine-id(5) of its own.
///
/// # Errors
/// A lower directory does not exist; saved changes cannot be unpacked; the disk is full.
pub fn prepare(
    plan: &Plan,
    spec: &Spec,
    layers: Option<&Layers>,
    places: &Places,
    copy: bool,
) -> Result<Vec<CriuMount>> {
    let Some(layers) = layers else {
        return Ok(vec![CriuMount {
            source: MountSource::Bind(spec.rootfs()),
            target: places.root.to_owned(),
        }]);
    };
    for (index, part) in layers.parts.iter().enumerate() {
        let Part::Overlay {
            target,
            lower,
            kept: Some(kept),
        } = part
        else {
            continue;
        };
        let fill = kept.upper.starts_with(places.container) || !kept.upper.exists();
        let changes = places.images.join(images::layer(index));
        make_directories(kept, lower, fill.then_some(changes.as_path()))?;
        if copy && target == "/" {
            replace_machine_id(&kept.upper, lower)?;
        }
    }
    let mut mounts = Vec::new();
    for (index, layer) in overlays(plan).enumerate() {
        let Step::Layer {
            target,
            lower,
            upper,
            work,
            ..
        } = layer
        else {
            continue;
        };
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}").replace('\n', "");
        let target = if target == "/root/" {
            places.root.to_owned()
        } else {
            merged(places.container, index)
        };
        if target != places.root {
            std::fs::create_dir_all(&target).on("make", target.display())?;
        }
        mounts.push(CriuMount {
            source: MountSource::Overlay(options),
            target,
        });
    }
    Ok(mounts)
}

fn overlays(plan: &Plan) -> impl Iterator<Item = &Step> {
    plan.container
        .iter()
        .map(|placed| &placed.step)
        .filter(|step| matches!(step, Step::Layer { .. }))
}

/// Where an overlay below the root's top is mounted for CRIU.
fn merged(directory: &Path, index: usize) -> PathBuf {
    directory.join("merged").join(index.to_string())
}

/// Sets the sources of the external mounts that are overlays below the root's top to the paths at
/// which [`prepare`] has them mounted.
pub fn set_sources(externals: &mut [ExternalMount], plan: &Plan, directory: &Path) {
    for (index, layer) in overlays(plan).enumerate() {
        let Step::Layer { target, .. } = layer else {
            continue;
        };
        let target = target.strip_prefix("/root").unwrap_or(target);
        externals
            .iter_mut()
            .filter(|external| external.target == target)
            .for_each(|external| external.source = merged(directory, index));
    }
}

/// Creates the upper and work directory of an overlay, and unpacks changes there if any are given.
fn make_directories(kept: &Kept, lower: &Path, changes: Option<&Path>) -> Result<()> {
    let below = std::fs::metadata(lower).on("open the root's lower directory", lower.display())?;
    let directory = |path: &Path| {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .on("make", path.display())
    };
    directory(&kept.work)?;
    directory(&kept.upper)?;
    if let Some(changes) = changes {
        std::fs::set_permissions(
            &kept.upper,
            std::fs::Permissions::from_mode(below.mode() & 0o7777),
        )
        .on("change the mode of", kept.upper.display())?;
        std::os::unix::fs::chown(&kept.upper, Some(below.uid()), Some(below.gid()))
            .on("change the owner of", kept.upper.display())?;
        overlay_diff::apply(changes, &kept.upper)?;
    }
    Ok(())
}

/// Gives a copied root a new machine-id(5), if it has one. The container may have put a symbolic
/// link in the place of `/etc` or of the file: every name is opened without following one.
fn replace_machine_id(upper: &Path, lower: &Path) -> Result<()> {
    const NAME: &CStr = c"machine-id";
    let shown = upper.join("etc/machine-id");
    let upper = directory_in(libc::AT_FDCWD, &c_path(upper)?)?;
    let Some(upper) = upper else { return Ok(()) };
    let below = directory_in(libc::AT_FDCWD, &c_path(lower)?)?;
    let below = below.map_or(Ok(None), |below| directory_in(below.0, c"etc"))?;
    let etc = match (directory_in(upper.0, c"etc")?, &below) {
        (Some(own), _) => own,
        (None, Some(below)) if exists(upper.0, c"etc").is_none() => {
            let like = file::fstat(below.0).on("stat", "etc")?;
            file::mkdirat(upper.0, c"etc", like.st_mode & 0o7777).on("make", "etc")?;
            file::fchownat(upper.0, c"etc", like.st_uid, like.st_gid)
                .on("change the owner of", "etc")?;
            let Some(own) = directory_in(upper.0, c"etc")? else {
                return Ok(());
            };
            own
        }
        _ => return Ok(()),
    };
    let is_id = |stat: libc::stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_size > 1;
    let own = exists(etc.0, NAME);
    let seen = own.or_else(|| below.and_then(|below| exists(below.0, NAME)));
    if !seen.is_some_and(is_id) {
        return Ok(());
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .on("make", "a machine id")?
        .trim()
        .replace('-', "");
    // A new file: the old one may have other links, or may be open in a restored process.
    match file::unlinkat(etc.0, NAME, 0) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(Error::sys("remove", shown.display(), errno)),
    }
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let made = file::openat(etc.0, NAME, flags, 0o444).on("make", shown.display())?;
    let mut made = std::fs::File::from(crate::sys::socket::owned(made));
    made.write_all(format!("{id}\n").as_bytes())
        .and_then(|()| made.set_permissions(std::fs::Permissions::from_mode(0o444)))
        .on("write", shown.display())
}

/// A directory by its name, which is no symbolic link; `None` where it is missing or no directory.
fn directory_in(parent: i32, name: &CStr) -> Result<Option<Fd>> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    match file::openat(parent, name, flags, 0) {
        Ok(held) => Ok(Some(Fd(held))),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(Error::sys("open", name.to_string_lossy(), errno)),
    }
}

/// What has a name in a directory, without following a symbolic link.
fn exists(parent: i32, name: &CStr) -> Option<libc::stat> {
    let held = file::openat(parent, name, libc::O_PATH | libc::O_NOFOLLOW, 0);
    held.map(Fd).and_then(|held| file::fstat(held.0)).ok()
}
