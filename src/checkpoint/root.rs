//! The root that was put together of layers: its changes are saved with the images, and it is
//! mounted again for criu.

use super::changes::{self, View};
use super::criu::Mounting;
use super::images;
use super::inventory::{External, Mounts};
use crate::container::Container;
use crate::spec::Spec;
use crate::step::container::Step;
use crate::step::draft::Plan;
use crate::step::layers::{Kept, Layers, Part};
use crate::{Context, Error, Result};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Saves what a container changed in each of its overlays. Its processes stand still.
///
/// # Errors
/// A file that cannot be read; a full disk.
pub fn save(container: &Container, directory: &Path) -> Result<()> {
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
        changes::save(
            &View {
                merged: &merged,
                lower,
                mounts: below,
            },
            &directory.join(images::layer(index)),
        )?;
    }
    Ok(())
}

/// The layers of a container that is brought back: changes in memory, and with `fresh` all changes,
/// now lie in its own directory, and go with it.
///
/// # Errors
/// The layers are those of a user namespace.
pub fn placed(layers: &Layers, directory: &Path, fresh: bool) -> Result<Layers> {
    if layers.in_user_namespace {
        return Err(Error::new(
            "a root that was put together in a user namespace cannot be brought back",
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

/// Makes the directories of the layers, puts the saved changes there, and tells what criu is to find
/// mounted.
///
/// # Errors
/// A lower directory that is not here; a full disk.
pub fn prepare(
    plan: &Plan,
    spec: &Spec,
    layers: Option<&Layers>,
    (directory, root): (&Path, &Path),
    (images, copy): (&Path, bool),
) -> Result<Vec<Mounting>> {
    let Some(layers) = layers else {
        return Ok(vec![Mounting {
            source: spec.rootfs(),
            target: root.to_owned(),
            overlay: None,
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
        make(
            kept,
            lower,
            images,
            index,
            kept.upper.starts_with(directory) || !kept.upper.exists(),
        )?;
        if copy && target == "/" {
            another_machine(&kept.upper, lower)?;
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
        let overlay = Some(
            format!("lowerdir={lower},upperdir={upper},workdir={work}").replace(&['\n'][..], ""),
        );
        let target = if target == "/root/" {
            root.to_owned()
        } else {
            merged(directory, index)
        };
        if target != root {
            std::fs::create_dir_all(&target).on("make", target.display())?;
        }
        mounts.push(Mounting {
            source: PathBuf::new(),
            target,
            overlay,
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

fn merged(directory: &Path, index: usize) -> PathBuf {
    directory.join("merged").join(index.to_string())
}

/// The sources of overlays below the top are where [`prepare`] has criu find them.
pub fn point_at(externals: &mut [External], plan: &Plan, directory: &Path) {
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

/// `fill`: the changes come from the images.
fn make(kept: &Kept, lower: &Path, images: &Path, index: usize, fill: bool) -> Result<()> {
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
    if fill {
        std::fs::set_permissions(
            &kept.upper,
            std::fs::Permissions::from_mode(below.mode() & 0o7777),
        )
        .on("change the mode of", kept.upper.display())?;
        std::os::unix::fs::chown(&kept.upper, Some(below.uid()), Some(below.gid()))
            .on("change the owner of", kept.upper.display())?;
        changes::apply(&images.join(images::layer(index)), &kept.upper)?;
    }
    Ok(())
}

/// A copy is another machine: its machine-id(5) is a new one, where it has one.
fn another_machine(upper: &Path, lower: &Path) -> Result<()> {
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
    // A new file, for the old one may have other names, or be held open.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, format!("{id}\n")).on("write", path.display())?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444))
        .on("change the mode of", path.display())
}
