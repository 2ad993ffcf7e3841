//! `linux.sysctl`: kernel parameters of the container's namespaces.

use crate::Result;
use crate::facts::Owner;
use crate::spec::validate::{dotted, namespace_of_sysctl, sysctl_of_the_host};
use crate::step::container::Step;
use crate::step::draft::Draft;

/// Adds the steps that write the parameters. They come after the change of the root.
///
/// # Errors
/// A namespace's path in the config is that of hull's own namespace (Docker's `--network host`
/// names it so): the parameter would be the host's.
pub fn sysctl(draft: &mut Draft) -> Result<()> {
    let spec = draft.spec;
    let Some(linux) = &spec.config().linux else {
        return Ok(());
    };
    for (key, value) in &linux.sysctl {
        if let Some((kind, name)) = namespace_of_sysctl(key) {
            let mut joined = draft.facts.joined.iter();
            if joined.any(|joined| joined.kind == kind as u32 && joined.owner == Owner::Own) {
                return Err(sysctl_of_the_host(key, name));
            }
        }
        let path = format!(
            "sys/{}",
            dotted(key)
                .replace('.', "\0")
                .replace('/', ".")
                .replace('\0', "/")
        );
        draft.container(
            Step::Sysctl {
                path,
                value: value.clone(),
            },
            format!("linux.sysctl.{key}"),
        );
    }
    Ok(())
}
