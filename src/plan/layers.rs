//! The root file system put together out of parts: overlays that take the changes, folders as they
//! are, links.
//!
//! ```text
//! tmpfs (in the container's mount namespace only, gone with it)
//! ├── root/         becomes the container's root; an overlay is mounted on it, or on folders in it
//! └── layers/N/     upper and work folder of part N, where the changes are not kept
//! ```

use super::Draft;
use super::step::{Create, Step, slot};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Mount option by which overlayfs keeps its marks in `user.*` attributes, which a user namespace
/// may set (Linux 5.11).
const USER_MARKS: &str = "userxattr";

/// What `hull plan` says of the steps' origin.
pub const FROM: &str = "[layers]";

/// What the root file system is put together of, in place of the folder alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// In the order in which they are put there.
    pub parts: Vec<Part>,
    /// The overlays are made in a user namespace.
    pub in_user_namespace: bool,
}

/// One part of the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// An overlay; below the root's top else-bind, read-only, where the kernel refuses it.
    Overlay {
        /// In the container.
        target: String,
        /// The folder of the host that lies below.
        lower: PathBuf,
        /// Where the changes are kept; in memory, and thrown away, if nothing is given.
        kept: Option<Kept>,
    },
    /// The host's own, with all that is mounted there, read-only.
    ReadOnly {
        /// In the container.
        target: String,
        /// On the host.
        source: PathBuf,
    },
    /// A symbolic link.
    Link {
        /// In the container.
        target: String,
        /// What it says.
        text: String,
    },
}

/// Folders of the host that an overlay works in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Takes the changes.
    pub upper: PathBuf,
    /// Overlayfs's own: empty, on the same file system, removed with the container.
    pub work: PathBuf,
}

impl Layers {
    /// The work folders that are removed with the container.
    pub fn work_folders(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().filter_map(|part| match part {
            Part::Overlay {
                kept: Some(kept), ..
            } => Some(kept.work.as_path()),
            _ => None,
        })
    }

    /// Where in the container the overlays are.
    pub fn overlays(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Overlay { target, .. } => Some(target.as_str()),
            _ => None,
        })
    }
}

/// A layer's path as an option: colons separate layers, and a backslash escapes (overlayfs of the
/// kernel's documentation).
fn escaped(path: &Path) -> Result<String> {
    Ok(text(path)?.replace('\\', "\\\\").replace(':', "\\:"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::new(format!("path {} is not UTF-8", path.display())))
}

/// The steps by which the root comes to be.
pub fn root(draft: &mut Draft, layers: &Layers) -> Result<()> {
    draft.inside(Step::Scratch {}, FROM);
    for (index, part) in layers.parts.iter().enumerate() {
        let Part::Overlay {
            target,
            lower,
            kept,
        } = part
        else {
            continue;
        };
        let own = format!("layers/{index}");
        let (upper, work) = match kept {
            Some(kept) => (escaped(&kept.upper)?, escaped(&kept.work)?),
            None => (format!("{own}/upper"), format!("{own}/work")),
        };
        let marks = if layers.in_user_namespace {
            USER_MARKS
        } else {
            ""
        };
        let step = Step::Layer {
            target: format!("/root{target}"),
            source: text(lower)?.to_owned(),
            lower: escaped(lower)?,
            upper,
            work,
            own: if kept.is_some() { String::new() } else { own },
            else_bind: target != "/",
            marks: marks.into(),
        };
        draft.inside(step, FROM);
    }
    draft.inside(Step::Gather {}, "root.path");
    for part in &layers.parts {
        match part {
            Part::Overlay { .. } => {}
            Part::Link { target, text } => draft.inside(
                Step::Symlink {
                    path: target.clone(),
                    target: text.clone(),
                },
                FROM,
            ),
            Part::ReadOnly { target, source } => {
                draft.inside(read_only(target, text(source)?), FROM)
            }
        }
    }
    Ok(())
}

fn read_only(target: &str, source: &str) -> Step {
    Step::Bind {
        target: target.to_owned(),
        slot: slot::NONE,
        source: source.to_owned(),
        recursive: true,
        create: Create::LikeSource,
        in_proc: false,
        link: false,
        set: 0,
        clear: 0,
        rset: crate::sys::mount::ATTR_RDONLY,
        rclear: 0,
        propagation: 0,
    }
}
