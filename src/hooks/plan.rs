//! Plans hooks, and the state document that they read.

use crate::Result;
use crate::spec::Spec;
use crate::spec::config::{Hook, Hooks};
use crate::spec::state::state_document;
use crate::step::container::{Barrier, Step};
use crate::step::draft::Draft;
use crate::step::host::{HookList, HostStep};

/// A placeholder of ten characters for the process id, which the child fills in. JSON permits the
/// spaces.
const PID_PLACEHOLDER: &str = "\"pid\":         0";

/// The state document with a placeholder for the process id, and the offset of the placeholder's
/// ten characters.
fn template(spec: &Spec, id: &str, status: &str) -> (Vec<u8>, u32) {
    // The placeholder is the first field, so no string of the config can be mistaken for it.
    let text = state_document(spec, id, status, None).to_string();
    let bytes = format!("{{{PID_PLACEHOLDER},{}", &text[1..]).into_bytes();
    (bytes, (1 + PID_PLACEHOLDER.len() - 10) as u32)
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

/// Adds the hooks of `create`: prestart and createRuntime are host steps; createContainer are
/// container steps, before the change of the root.
pub fn create(draft: &mut Draft) -> Result<()> {
    let Some(hooks) = &draft.spec.config().hooks else {
        return Ok(());
    };
    // `start` and `delete` run the last two.
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

/// Adds the hooks that hull runs in its own namespaces.
fn on_host(draft: &mut Draft, list: HookList, hooks: &[Hook]) {
    for (index, hook) in hooks.iter().enumerate() {
        let hook = hook.clone();
        draft.host(
            HostStep::Hook { list, index, hook },
            format!("hooks.{}[{index}]", list.name()),
        );
    }
}

/// Adds the startContainer hooks, which the child runs after its wait for `start`.
pub fn start(draft: &mut Draft) {
    let spec = draft.spec;
    let Some(hooks) = &spec.config().hooks else {
        return;
    };
    // Without an environment of its own such a hook has the process's, as in runc.
    let process = spec.config().process.as_ref();
    let env = process
        .map(|process| process.env.clone())
        .unwrap_or_default();
    for (index, hook) in hooks.start_container.iter().enumerate() {
        let mut hook = hook.clone();
        if hook.env.is_empty() {
            hook.env.clone_from(&env);
        }
        let step = step(draft, &hook, "created");
        draft.container(step, format!("hooks.startContainer[{index}]"));
    }
}
