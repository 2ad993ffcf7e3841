//! What a root filesystem is put together of, where it is not one directory.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What the root file system is put together of, in place of the directory alone.
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
        /// The directory of the host that lies below.
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

/// Directories of the host that an overlay works in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Takes the changes.
    pub upper: PathBuf,
    /// Overlayfs's own: empty, on the same file system, removed with the container.
    pub work: PathBuf,
}

impl Layers {
    /// The work directories that are removed with the container.
    pub fn work_directories(&self) -> impl Iterator<Item = &Path> {
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
