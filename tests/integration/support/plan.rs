//! What tests read from the output of `hull plan`.

use super::bundle::Bundle;
use serde_json::Value;

/// The key of the steps on the host, in a plan as JSON.
pub const HOST_STEPS: &str = "host";
/// The key of the steps in the container.
pub const CONTAINER_STEPS: &str = "container";

/// The plan that hull makes for a bundle, with further flags of `plan`.
#[track_caller]
pub fn of(bundle: &Bundle, flags: &[&str]) -> Value {
    bundle.write();
    let args = [
        &["plan", "--format", "json"],
        flags,
        &[bundle.dir.to_str().unwrap()],
    ]
    .concat();
    serde_json::from_str(&bundle.call(&args).success().stdout).expect("the plan is not JSON")
}

/// The steps of a plan under one of the two keys.
#[track_caller]
pub fn steps<'a>(plan: &'a Value, key: &str) -> &'a [Value] {
    plan[key]
        .as_array()
        .unwrap_or_else(|| panic!("the plan has no {key}"))
}

/// The first step on the host with this name.
#[track_caller]
pub fn host_step<'a>(plan: &'a Value, name: &str) -> &'a Value {
    steps(plan, HOST_STEPS)
        .iter()
        .find(|step| step["step"] == name)
        .unwrap_or_else(|| panic!("the plan has no step {name}"))
}
