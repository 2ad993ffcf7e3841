//! Backends execute a plan's host steps, while the child executes its container steps.
//!
//! | file | holds |
//! |---|---|
//! | `run.rs` | the one executor of host steps, and the trait that backends implement |
//! | `namespaces.rs` | the namespace backend: a child on this kernel |
//! | `barrier.rs` | hull's side of the barriers with a child |
//! | `undo.rs` | what a failed run has made, and how it is undone |
//! | `errors.rs` | a failed container step in the words that engines know |
//!
//! The VM backend is `vm/backend.rs`, its guest's half `guest/session.rs`; `checkpoint/backend.rs`
//! has criu in the place of clone.

#![forbid(unsafe_code)]

pub mod barrier;
pub mod errors;
pub mod namespaces;
pub mod run;
pub mod undo;

use crate::namespaces::spawn::Child;
use crate::step::container::{Step, slot};
use crate::step::draft::Plan;
use crate::sys::fd::Fd;
use crate::{Error, Result};
use run::Executed;

/// A container that was made and waits for `start`.
pub struct Created {
    /// Its init, or the monitor of its VM.
    pub child: Child,
    /// The fifo on which it waits.
    pub start: Fd,
    /// Its plan, for the words of a failure.
    pub plan: Plan,
}

impl Created {
    /// What the executor made, with the plan that it executed.
    ///
    /// # Errors
    /// The plan opens no fifo to wait on.
    pub fn of(done: Executed, plan: Plan) -> Result<Self> {
        let (child, start) = done.keep(slot::START);
        let start = start.ok_or_else(|| Error::new("the plan has no start"))?;
        Ok(Self { child, start, plan })
    }

    /// Waits until the started child has become its program, which may refuse to: that is said on
    /// the container's stderr.
    ///
    /// # Errors
    /// A startContainer hook failed.
    pub fn executed(&self) -> Result<()> {
        barrier::closed(&self.child);
        if errors::refused_program(&self.child).is_some() || !barrier::has_failed(&self.child) {
            Ok(())
        } else {
            Err(errors::child_error(&self.plan, &self.child))
        }
    }
}

/// For `--debug`: the steps of a child that came to its wait for start, or to its program, each
/// with what its policy decided. Their values are not told: the environment is among them.
pub fn log_container_steps(plan: &Plan, child: &Child) {
    let outcomes = std::cell::LazyCell::new(|| errors::decided(plan, child));
    let waits = |step: &Step| matches!(step, Step::WaitStart {} | Step::Exec { .. });
    let steps = plan.container.iter().enumerate();
    for (index, placed) in steps.take_while(|(_, placed)| !waits(&placed.step)) {
        crate::log::debug(|| {
            let outcome = outcomes
                .iter()
                .find(|decided| decided.step as usize == index)
                .map_or("done", |decided| &decided.outcome);
            format!(
                "container: step {index} of {}, {} {outcome}, from {}",
                plan.container.len(),
                placed.step.name(),
                placed.from
            )
        });
    }
}
