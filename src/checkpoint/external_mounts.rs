//! External mounts (criu(8), `--external mnt`): mounts of the container whose file systems belong
//! to the host, so that CRIU neither dumps nor creates them. They are taken from the plan by which
//! the container was created, not from the config again.

use super::mounts::Mounts;
use crate::state::PolicyOutcome;
use crate::step::container::{Protection, Refused, Step, slot};
use crate::step::draft::{Placed, Plan};
use crate::step::host::{HostStep, Open};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A mount whose file system belongs to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalMount {
    /// The mount point in the container.
    pub target: String,
    /// The identifier in the images. It is runc's: the target, or for a masked file
    /// [`MASKED_FILE_KEY`].
    pub key: String,
    /// The path on the host that is bind-mounted.
    pub source: PathBuf,
    /// The bind mount is recursive: mounts below it are external as well.
    pub recursive: bool,
}

/// The identifier of all masked files, which is runc's.
pub const MASKED_FILE_KEY: &str = "/dev/null";

/// The external mounts that a plan makes. `outcome_of` tells what a step's policy decided, by the
/// step's index; where the outcome decides whether the mount is external and is unknown, as with a
/// masked path, the mount is taken to be.
pub fn of_plan(
    plan: &Plan,
    outcome_of: &dyn Fn(usize, &Placed<Step>) -> Option<String>,
) -> Vec<ExternalMount> {
    let mut found = Vec::new();
    for (index, placed) in plan.container.iter().enumerate() {
        let mut add = |target: &str, key: &str, source: PathBuf, recursive: bool| {
            found.push(ExternalMount {
                target: target.to_owned(),
                key: key.to_owned(),
                source,
                recursive,
            });
        };
        let outcome = outcome_of(index, placed);
        let outcome = outcome.as_deref();
        match &placed.step {
            Step::Bind {
                target,
                slot: number,
                source,
                recursive,
                ..
            } => add(target, target, source_of(plan, *number, source), *recursive),
            Step::Mount { target, source, .. } if outcome == Some("bound-from-host") => {
                let source = if source.starts_with('/') {
                    source
                } else {
                    target
                };
                add(target, target, PathBuf::from(source), true);
            }
            Step::Layer { target, .. } if target != "/root/" => {
                // At restore hull mounts the overlay for CRIU: see `layers`.
                let target = target.strip_prefix("/root").unwrap_or(target);
                add(target, target, PathBuf::from(target), false);
            }
            Step::Node {
                path, bind: true, ..
            } => add(path, path, PathBuf::from(path), false),
            Step::Protect {
                target,
                how: Protection::Mask,
            } if !matches!(
                outcome,
                Some("skipped" | "masked-directory" | "masked-folder")
            ) =>
            {
                add(
                    target,
                    MASKED_FILE_KEY,
                    PathBuf::from(MASKED_FILE_KEY),
                    false,
                );
            }
            _ => {}
        }
    }
    found
}

/// The path that a host step opened into a slot, or else the path of the step itself.
fn source_of(plan: &Plan, number: u32, path: &str) -> PathBuf {
    let opened = plan.host.iter().find_map(|placed| match &placed.step {
        HostStep::Open {
            slot,
            what: Open::Tree { path, .. },
        } if number != slot::NONE && *slot == number => Some(path.clone()),
        _ => None,
    });
    opened.unwrap_or_else(|| PathBuf::from(path))
}

/// The outcomes that a record holds, for a plan that is compiled from the record again. A step is
/// found by its index and origin, or by its origin alone where another version of hull numbered the
/// steps differently.
pub fn recorded(
    outcomes: &[PolicyOutcome],
) -> impl Fn(usize, &Placed<Step>) -> Option<String> + use<'_> {
    move |index, placed| {
        let same = |decided: &&PolicyOutcome| decided.from == placed.from;
        let exact = outcomes
            .iter()
            .find(|decided| decided.step as usize == index && decided.from == placed.from);
        exact
            .or_else(|| outcomes.iter().find(same))
            .map(|decided| decided.outcome.clone())
    }
}

/// The outcomes that hull's manifest among the images holds. Another runtime's images have none;
/// then every mount that may have been bind-mounted from the host is taken to be: CRIU ignores an
/// external mount that its images do not name.
pub fn saved(
    outcomes: &[PolicyOutcome],
) -> impl Fn(usize, &Placed<Step>) -> Option<String> + use<'_> {
    let known = recorded(outcomes);
    move |index, placed| match &placed.step {
        Step::Mount {
            refused: Refused::BindHost,
            ..
        } if outcomes.is_empty() => Some("bound-from-host".to_owned()),
        _ => known(index, placed),
    }
}

/// An external mount that exists in a running container.
pub struct PresentMount {
    /// The mount point as the kernel lists it.
    pub point: String,
    /// The identifier in the images.
    pub key: String,
}

/// The external mounts that exist in a running container, those below recursive bind mounts
/// included.
///
/// # Errors
/// The path of a source is not UTF-8, so that CRIU's messages cannot carry it.
pub fn present(externals: &[ExternalMount], mounts: &Mounts) -> Result<Vec<PresentMount>> {
    let mut list: Vec<PresentMount> = Vec::new();
    let mut add = |point: &str, key: &str, source: &Path| -> Result<()> {
        if source.to_str().is_none() {
            return Err(Error::new(format!(
                "path {} is not UTF-8",
                source.display()
            )));
        }
        if !list.iter().any(|known| known.point == point) {
            list.push(PresentMount {
                point: point.to_owned(),
                key: key.to_owned(),
            });
        }
        Ok(())
    };
    let mut recursive = Vec::new();
    for external in externals {
        let Some(mounted) = mounts.at(&external.target) else {
            continue;
        };
        let is_masked = external.key == MASKED_FILE_KEY;
        if is_masked && mounted.fstype == "tmpfs" && mounts.is_directory(&external.target) {
            continue;
        }
        let key = if is_masked {
            MASKED_FILE_KEY
        } else {
            &mounted.point
        };
        add(&mounted.point, key, &external.source)?;
        if external.recursive {
            recursive.push((mounted.point.clone(), external.source.clone()));
        }
    }
    for (point, source) in recursive {
        for deeper in mounts.below(&point) {
            let rest = &deeper.point[point.trim_end_matches('/').len() + 1..];
            add(&deeper.point, &deeper.point, &source.join(rest))?;
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_file_is_external_and_a_masked_directory_is_not() {
        let step = |target: &str| Placed {
            step: Step::Protect {
                target: target.into(),
                how: Protection::Mask,
            },
            from: format!("mask {target}").into(),
        };
        let plan = Plan {
            container: vec![step("/a"), step("/b"), step("/c")],
            ..Plan::default()
        };
        let outcome = |step, outcome: &str, target| PolicyOutcome {
            step,
            from: format!("mask {target}"),
            outcome: outcome.into(),
        };
        let outcomes = [
            outcome(0, "masked-file", "/a"),
            outcome(1, "masked-directory", "/b"),
            outcome(2, "skipped", "/c"),
        ];
        let found = of_plan(&plan, &recorded(&outcomes));
        assert_eq!(
            found
                .iter()
                .map(|external| external.target.as_str())
                .collect::<Vec<_>>(),
            ["/a"]
        );
    }
}
