//! The layers of a root file system that consists of more than one directory.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The layers of a root file system, which replace the single directory of `root.path`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// The parts, in the order in which they are mounted.
    pub parts: Vec<Part>,
    /// The overlays are mounted in a user namespace, and so with the option `userxattr`.
    pub in_user_namespace: bool,
}

/// One part of the root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// An overlay. If the kernel refuses one that is not the root itself, its lower directory is
    /// bound read-only in its place: else-bind.
    Overlay {
        /// The path in the container that it is mounted on.
        target: String,
        /// The lower directory, on the host.
        lower: PathBuf,
        /// The directories that keep the changes. If nothing is given, the changes are in memory
        /// and are lost when the container ends.
        kept: Option<Kept>,
    },
    /// A read-only recursive bind of a directory of the host.
    ReadOnly {
        /// The path in the container that it is bound on.
        target: String,
        /// The path of the directory on the host.
        source: PathBuf,
    },
    /// A symbolic link.
    Link {
        /// The path of the link in the container.
        target: String,
        /// The path that the link contains.
        text: String,
    },
}

/// The directories of the host in which an overlay keeps its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The upper directory, which takes the changes.
    pub upper: PathBuf,
    /// The work directory of overlayfs: an empty directory on the same file system as `upper`.
    /// `delete` removes it.
    pub work: PathBuf,
}

impl Layers {
    /// The work directories, which `delete` removes.
    pub fn work_directories(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().filter_map(|part| match part {
            Part::Overlay {
                kept: Some(kept), ..
            } => Some(kept.work.as_path()),
            _ => None,
        })
    }

    /// The paths in the container on which overlays are mounted.
    pub fn overlays(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Overlay { target, .. } => Some(target.as_str()),
            _ => None,
        })
    }
}
