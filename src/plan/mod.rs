//! Compiles Spec and Facts into a plan: the host steps for the backend, and the container steps for
//! the child.
//!
//! [`plan`] is pure: it reads no file and makes no system call. It reads as the order in which a
//! container is created; each line is the `plan.rs` of a subject.

#![forbid(unsafe_code)]

pub mod fields;
pub mod print;

use crate::Result;
use crate::facts::Facts;
use crate::spec::Spec;
use crate::step::container::slot;
use crate::step::draft::Draft;
use crate::step::draft::Plan;
use crate::step::draft::PlanRequest;
use crate::step::host::{HostStep, Open};

/// Compiles the plan that creates a container.
///
/// # Errors
/// The config asks for something that this host cannot do; the error names the field.
pub fn plan(spec: &Spec, facts: &Facts, request: &PlanRequest) -> Result<Plan> {
    let plan = Plan {
        slots: slot::FIRST_FREE,
        ..Plan::default()
    };
    let mut draft = Draft {
        spec,
        facts,
        request,
        plan,
        sources: Vec::new(),
        label: None,
    };
    fields::warn(&mut draft);
    let namespaces = crate::namespaces::plan::namespaces(&draft)?;
    draft.host(
        HostStep::Open {
            slot: slot::PROC,
            what: Open::Procfs,
        },
        "[procfs]",
    );
    draft.host(
        HostStep::Open {
            slot: slot::START,
            what: Open::StartFifo,
        },
        "[start]",
    );
    crate::process::plan::console_socket(&mut draft)?;
    crate::namespaces::plan::cgroup(&mut draft, &namespaces);
    let joins = crate::namespaces::plan::join(&mut draft, &namespaces);
    crate::rootfs::plan::open_sources(&mut draft, &namespaces)?;
    crate::namespaces::plan::make(&mut draft, &namespaces, joins)?;
    crate::namespaces::plan::enter(&mut draft, &namespaces)?;
    crate::rootfs::plan::root(&mut draft, &namespaces)?;
    crate::rootfs::plan::mounts(&mut draft, &namespaces)?;
    crate::foreign::register(&mut draft, &namespaces)?;
    crate::rootfs::devices::devices(&mut draft, &namespaces)?;
    crate::process::plan::console(&mut draft)?;
    crate::hooks::plan::create(&mut draft)?;
    crate::rootfs::plan::leave(&mut draft, &namespaces)?;
    crate::process::plan::null_device(&mut draft, &namespaces);
    crate::namespaces::sysctl::sysctl(&mut draft)?;
    crate::rootfs::protect::protect(&mut draft);
    crate::process::plan::attributes(&mut draft)?;
    crate::rootfs::plan::propagation(&mut draft);
    crate::process::plan::identity(&mut draft, &namespaces)?;
    crate::process::plan::program(&mut draft, &namespaces)?;
    draft.plan.check()?;
    Ok(draft.plan)
}
