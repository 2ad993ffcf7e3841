//! `linux.sysctl`: kernel parameters of the container's namespaces.

use crate::spec::validate::dotted;
use crate::step::container::Step;
use crate::step::draft::Draft;

/// Adds the steps that write the parameters. They come after the change of the root.
pub fn sysctl(draft: &mut Draft) {
    let spec = draft.spec;
    let Some(linux) = &spec.config().linux else {
        return;
    };
    for (key, value) in &linux.sysctl {
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
}
