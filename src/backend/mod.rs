//! Backends execute the host steps of a plan, while the child executes its container steps.
//!
//! | file | holds |
//! |---|---|
//! | `run.rs` | the one executor of host steps, and the trait that backends implement |
//! | `namespaces.rs` | the namespace backend: the container is a child process on this kernel |
//! | `barrier.rs` | hull's side of the barriers with a child |
//! | `undo.rs` | the undo of a failed run of host steps |
//! | `errors.rs` | the error messages of failed container steps |
//!
//! The VM backend is `vm/backend.rs` on the host and `guest/session.rs` in the guest;
//! `checkpoint/backend.rs` starts criu for the step `Clone`.

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

/// A container that has been created and waits for `start`.
pub struct Created {
    /// The container's init, or the monitor of its VM.
    pub child: Child,
    /// The fifo on which the container waits for `start`.
    pub start: Fd,
    /// The plan that created it, for the error message of a later failure.
    pub plan: Plan,
}

impl Created {
    /// Combines the results of the executor with the plan that it executed.
    ///
    /// # Errors
    /// The plan has no host step that opens the fifo.
    pub fn of(done: Executed, plan: Plan) -> Result<Self> {
        let (child, start) = done.keep(slot::START);
        let start = start.ok_or_else(|| Error::new("the plan has no start"))?;
        Ok(Self { child, start, plan })
    }

    /// Waits until the started child has executed execve(2). A refused execve(2) is no error here:
    /// the child has written the reason to the container's stderr.
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

/// Logs, for `--debug`, the steps that a child has executed before its wait for `start` or
/// execve(2), each with the outcome of its policy. Their values are not logged, because the
/// environment, which may hold secrets, is one of them.
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
