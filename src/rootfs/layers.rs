//! Plans a root file system of layers: overlays that take the changes, read-only directories, and
//! symbolic links.
//!
//! ```text
//! tmpfs (in the container's mount namespace only)
//! ├── root/         becomes the container's root; overlays are mounted on it or in it
//! └── layers/N/     upper and work directory of part N, if its changes are not kept
//! ```

use crate::step::container::{Create, Step, slot};
use crate::step::draft::Draft;
use crate::step::layers::Layers;
use crate::step::layers::Part;
use crate::{Error, Result};
use std::path::Path;

/// The mount option with which overlayfs keeps its marks in `user.*` extended attributes, which a
/// process in a user namespace may set (Linux 5.11).
const USER_MARKS: &str = "userxattr";

/// The origin of these steps in `hull plan`.
pub const FROM: &str = "[layers]";

/// A layer's path as an overlayfs option, in which a colon separates layers and a backslash escapes
/// (Documentation/filesystems/overlayfs.rst).
fn escaped(path: &Path) -> Result<String> {
    Ok(text(path)?.replace('\\', "\\\\").replace(':', "\\:"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::new(format!("path {} is not UTF-8", path.display())))
}

/// Adds the steps that mount the layers as the container's root.
///
/// # Errors
/// A path is not UTF-8.
pub fn root(draft: &mut Draft, layers: &Layers) -> Result<()> {
    draft.container(Step::Scratch {}, FROM);
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
        draft.container(step, FROM);
    }
    draft.container(Step::Gather {}, "root.path");
    for part in &layers.parts {
        match part {
            Part::Overlay { .. } => {}
            Part::Link { target, text } => draft.container(
                Step::Symlink {
                    path: target.clone(),
                    target: text.clone(),
                },
                FROM,
            ),
            Part::ReadOnly { target, source } => {
                draft.container(read_only(target, text(source)?), FROM)
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
        implied: 0,
        locked: false,
        rset: crate::sys::mount::ATTR_RDONLY,
        rclear: 0,
        propagation: 0,
    }
}
