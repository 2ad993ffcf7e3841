//! Plans `linux.readonlyPaths` and `linux.maskedPaths`.

use crate::spec::names::inside_path;
use crate::step::container::{Protection, Step};
use crate::step::draft::Draft;

/// Adds the steps that make paths read-only or mask them, after the change of the root.
pub fn protect(draft: &mut Draft) {
    let spec = draft.spec;
    let Some(linux) = &spec.config().linux else {
        return;
    };
    for (index, path) in linux.readonly_paths.iter().enumerate() {
        let target = inside_path(path);
        draft.container(
            Step::Protect {
                target,
                how: Protection::ReadOnly,
            },
            format!("linux.readonlyPaths[{index}]"),
        );
    }
    for (index, path) in linux.masked_paths.iter().enumerate() {
        let target = inside_path(path);
        draft.container(
            Step::Protect {
                target,
                how: Protection::Mask,
            },
            format!("linux.maskedPaths[{index}]"),
        );
    }
}
