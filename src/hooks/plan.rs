//! Hooks, and the state document that they read.

use crate::Result;
use crate::spec::Spec;
use crate::spec::config::{Hook, Hooks};
use crate::spec::state::state_document;
use crate::step::container::{Barrier, Step};
use crate::step::draft::Draft;
use crate::step::host::{HookList, HostStep};

/// What stands where a process id of up to ten digits will be written: JSON allows the spaces.
const PLACE: &str = "\"pid\":         0";

/// The document as bytes with a gap for the process id, and where in them the gap's ten places
/// begin.
fn template(spec: &Spec, id: &str, status: &str) -> (Vec<u8>, u32) {
    // The gap stands first, where no string of the config can look like it.
    let text = state_document(spec, id, status, None).to_string();
    let bytes = format!("{{{PLACE},{}", &text[1..]).into_bytes();
    (bytes, (1 + PLACE.len() - 10) as u32)
}

fn step(draft: &Draft, hook: &Hook, status: &str) -> Step {
    let Hook {
        path,
        args,
        env,
        timeout,
    } = hook;
    let (state, pid_at) = template(draft.spec, &draft.request.id, status);
    let args = if args.is_empty() {
        vec![path.clone()]
    } else {
        args.clone()
    };
    Step::Hook {
        path: path.clone(),
        args,
        env: env.clone(),
        timeout: timeout.unwrap_or(0).max(0) as u32,
        state,
        pid_at,
    }
}

/// The hooks of create: prestart and createRuntime are host steps, createContainer container
/// steps, before the old root is left.
pub fn create(draft: &mut Draft) -> Result<()> {
    let Some(hooks) = &draft.spec.config().hooks else {
        return Ok(());
    };
    // The last two are the backend's, after start and after delete.
    let Hooks {
        prestart,
        create_runtime,
        create_container,
        start_container: _,
        poststart: _,
        poststop: _,
    } = hooks;
    if !prestart.is_empty() || !create_runtime.is_empty() {
        draft.barrier(Barrier::Hooks);
        on_host(draft, HookList::Prestart, prestart);
        on_host(draft, HookList::CreateRuntime, create_runtime);
        draft.host(HostStep::HooksDone, "[barrier]");
    }
    for (index, hook) in create_container.iter().enumerate() {
        let step = step(draft, hook, "creating");
        draft.container(step, format!("hooks.createContainer[{index}]"));
    }
    Ok(())
}

/// Hooks that hull runs in its own namespaces.
fn on_host(draft: &mut Draft, list: HookList, hooks: &[Hook]) {
    for (index, hook) in hooks.iter().enumerate() {
        let hook = hook.clone();
        draft.host(
            HostStep::Hook { list, index, hook },
            format!("hooks.{}[{index}]", list.name()),
        );
    }
}

/// The startContainer hooks, in the container after `start`.
pub fn start(draft: &mut Draft) {
    let spec = draft.spec;
    let Some(hooks) = &spec.config().hooks else {
        return;
    };
    for (index, hook) in hooks.start_container.iter().enumerate() {
        let step = step(draft, hook, "created");
        draft.container(step, format!("hooks.startContainer[{index}]"));
    }
}
