//! Bundles of another architecture: the container gets a binfmt_misc of its own, in which an
//! interpreter is registered.

#![forbid(unsafe_code)]

pub mod child;

use crate::binfmt::{ANNOTATION, REGISTRY};
use crate::step::container::{Create, Refused, Step};
use crate::step::draft::Draft;
use crate::step::draft::Namespaces;
use crate::{Error, Result};

/// Adds the steps that mount binfmt_misc and register the interpreter. They come before the change
/// of the root, because the kernel resolves the interpreter's path on the host. binfmt_misc stays
/// mounted, even if another mount covers it later, because its entries last only as long as it
/// does.
///
/// # Errors
/// The config or this kernel lacks what a binfmt_misc of the container's own needs.
pub fn register(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    let Some(foreign) = draft
        .facts
        .foreign
        .clone()
        .filter(|foreign| !foreign.by_host)
    else {
        return Ok(());
    };
    let missing = match () {
        () if !namespaces.user => Some(
            "a user namespace (linux.namespaces), for which an interpreter can be registered \
                without touching the host's binfmt_misc",
        ),
        () if !foreign.own_registry => {
            Some("Linux 6.7, whose user namespaces can have a binfmt_misc of their own")
        }
        () if !namespaces.mount
            || !draft.spec.config().mounts.iter().any(|mount| {
                mount.destination == "/proc" && mount.typ.as_deref() == Some("proc")
            }) =>
        {
            Some(
                "a mount namespace with a mount of proc on /proc, where the interpreter is \
                    registered",
            )
        }
        () => None,
    };
    if let Some(missing) = missing {
        let native = std::env::consts::ARCH;
        return Err(Error::new(format!(
            "{} is for {} and this host is {native}: it needs {missing}",
            foreign.program, foreign.architecture
        )));
    }
    let from = format!("annotations[{ANNOTATION}]");
    let mount = Step::Mount {
        target: REGISTRY.into(),
        fstype: "binfmt_misc".into(),
        source: "binfmt_misc".into(),
        flags: libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        data: String::new(),
        propagation: 0,
        create: Create::No,
        refused: Refused::Fail,
        follow: false,
        copy_up: false,
    };
    draft.container(mount, from.clone());
    let line = foreign.registration(&foreign.interpreter.to_string_lossy());
    draft.container(
        Step::Register {
            target: format!("{REGISTRY}/register"),
            line,
        },
        from,
    );
    Ok(())
}
