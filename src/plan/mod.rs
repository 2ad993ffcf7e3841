//! Spec and Facts are compiled into a plan: what the wall does outside, and what init does inside.
//!
//! [`plan`] is pure: no file, no system call. It reads as the order of a container's making; each
//! part is a file beside this one.

#![forbid(unsafe_code)]

mod devices;
mod exec;
mod fields;
mod foreign;
mod hooks;
mod layers;
mod mounts;
mod namespaces;
pub mod outside;
mod print;
mod process;
pub mod step;
#[cfg(test)]
pub mod tests;
pub mod wire;

pub use exec::{ExecRequest, FIRST_CGROUP, exec};
pub use hooks::state_document;
pub use layers::{FROM as LAYERS, Kept, Layers, Part};
pub use mounts::inside_path;
pub use namespaces::{kind_name, map_writer};
pub use print::{as_json, as_text};
pub use process::{mask_bytes, sets_itself};

use crate::cgroups;
use crate::facts::Facts;
use crate::security::seccomp::Filter;
use crate::spec::Spec;
use crate::{Error, Result};
use outside::{Open, OutStep};
use serde::Serialize;
use std::borrow::Cow;
use step::{Barrier, Step, StepRef, slot};
use wire::Reader;

/// A step with the part of the config that it comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Placed<S> {
    /// What is done.
    pub step: S,
    /// A path in `config.json`, or hull's own reason in brackets.
    pub from: Cow<'static, str>,
}

/// What a container's making consists of.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Carried out by the wall on the host.
    pub outside: Vec<Placed<OutStep>>,
    /// Carried out by init in the new world.
    pub inside: Vec<Placed<Step>>,
    /// What was asked and is not done, a sentence each.
    pub warnings: Vec<String>,
    /// What was asked and has no effect, a sentence each: for the log, as everyday configs ask for
    /// it.
    pub remarks: Vec<String>,
    /// How many slots the wall fills.
    pub slots: u32,
}

impl Plan {
    /// Refuses a string that the kernel would see shorter than it was checked, wherever in the
    /// config it came from.
    fn check(&self) -> Result<()> {
        let mut bytes = Vec::new();
        for placed in &self.inside {
            bytes.clear();
            placed.step.put(&mut bytes);
            if StepRef::get(&mut Reader::new(&bytes)).is_err() {
                return Err(Error::new(format!(
                    "{}: a string contains a NUL byte",
                    placed.from
                )));
            }
        }
        Ok(())
    }

    /// `inside` as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4096);
        self.inside
            .iter()
            .for_each(|placed| placed.step.put(&mut bytes));
        bytes
    }
}

/// What a plan is made from besides the Spec and the Facts: the command's own options.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The container's id.
    pub id: String,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--preserve-fds` and socket activation: how many descriptors from 3 on the program gets.
    pub preserve_fds: u32,
    /// Variables that hull adds to the program's environment.
    pub extra_env: Vec<String>,
    /// Which of hull's stdin, stdout and stderr (bits 0 to 2), the program's too, are the null
    /// device.
    pub null_stdio: u64,
    /// The networks it is put on.
    pub network: Option<crate::net::Setup>,
    /// The cgroup's plan.
    pub cgroup: Option<cgroups::Plan>,
    /// The compiled filter of `linux.seccomp`.
    pub filter: Option<Filter>,
    /// What the root file system is put together of; the config's root alone if nothing is given.
    pub layers: Option<Layers>,
    /// The program ends with the process that makes it: a machine monitor, which is nobody's
    /// container.
    pub dies_with_parent: bool,
}

/// A plan in the making.
struct Draft<'a> {
    spec: &'a Spec,
    facts: &'a Facts,
    request: &'a Request,
    plan: Plan,
    /// For each mount of the config, the slot of its opened source.
    sources: Vec<u32>,
    /// The mount option of `linux.mountLabel`, where SELinux is on.
    label: Option<String>,
}

impl Draft<'_> {
    fn outside(&mut self, step: OutStep, from: impl Into<Cow<'static, str>>) {
        self.plan.outside.push(Placed {
            step,
            from: from.into(),
        });
    }

    fn inside(&mut self, step: Step, from: impl Into<Cow<'static, str>>) {
        self.plan.inside.push(Placed {
            step,
            from: from.into(),
        });
    }

    fn warn(&mut self, warning: impl Into<String>) {
        self.plan.warnings.push(warning.into());
    }

    /// Gives a slot to what the wall opens.
    fn open(&mut self, what: Open, from: impl Into<Cow<'static, str>>) -> u32 {
        let slot = self.plan.slots;
        self.plan.slots += 1;
        self.outside(OutStep::Open { slot, what }, from);
        slot
    }

    /// Both sides meet.
    fn barrier(&mut self, kind: Barrier) {
        self.outside(OutStep::Barrier(kind), "[barrier]");
        self.inside(Step::Barrier { kind }, "[barrier]");
    }
}

/// Compiles a container's making.
///
/// # Errors
/// What the config asks and this host cannot do, naming the field.
pub fn plan(spec: &Spec, facts: &Facts, request: &Request) -> Result<Plan> {
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
    let world = namespaces::world(&draft)?;
    draft.outside(
        OutStep::Open {
            slot: slot::PROC,
            what: Open::Procfs,
        },
        "[procfs]",
    );
    draft.outside(
        OutStep::Open {
            slot: slot::START,
            what: Open::StartFifo,
        },
        "[start]",
    );
    process::console_socket(&mut draft)?;
    namespaces::cgroup(&mut draft, &world);
    namespaces::make(&mut draft, &world)?;
    namespaces::enter(&mut draft, &world)?;
    mounts::root(&mut draft, &world)?;
    mounts::mounts(&mut draft, &world)?;
    foreign::register(&mut draft, &world)?;
    devices::devices(&mut draft, &world)?;
    process::console(&mut draft)?;
    hooks::create(&mut draft)?;
    mounts::leave(&mut draft, &world)?;
    process::null_device(&mut draft, &world);
    process::attributes(&mut draft)?;
    mounts::propagation(&mut draft);
    process::identity(&mut draft, &world)?;
    process::program(&mut draft, &world)?;
    draft.plan.check()?;
    Ok(draft.plan)
}
