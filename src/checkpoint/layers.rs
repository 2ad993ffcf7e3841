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
use crate::{Context, Error, Result};
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

/// Gives a copied root a new machine-id(5), if it has one.
fn replace_machine_id(upper: &Path, lower: &Path) -> Result<()> {
    const FILE: &str = "etc/machine-id";
    let is_file = |path: PathBuf| {
        path.symlink_metadata()
            .is_ok_and(|stat| stat.is_file() && stat.len() > 1)
    };
    let (own, below) = (
        is_file(upper.join(FILE)),
        upper.join(FILE).symlink_metadata().is_err() && is_file(lower.join(FILE)),
    );
    if !own && !below {
        return Ok(());
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .on("make", "a machine id")?
        .trim()
        .replace('-', "");
    let etc = upper.join("etc");
    if !etc.exists() {
        let like = std::fs::metadata(lower.join("etc")).on("stat", lower.join("etc").display())?;
        std::fs::DirBuilder::new()
            .mode(like.mode() & 0o7777)
            .create(&etc)
            .on("make", etc.display())?;
        std::os::unix::fs::chown(&etc, Some(like.uid()), Some(like.gid()))
            .on("change the owner of", etc.display())?;
    }
    let path = upper.join(FILE);
    // A new file: the old one may have other links, or may be open in a restored process.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, format!("{id}\n")).on("write", path.display())?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444))
        .on("change the mode of", path.display())
}
