//! The plans of VMs (the host's half and the guest's) and of restores, with their host steps.

use crate::barriers;
use crate::cases::{self, Bundle, Case};
use crate::hosts::Host;
use crate::plans::Files;
use crate::text;
use hull::checkpoint::plan as restore;
use hull::plan::plan;
use hull::spec::Spec;
use hull::spec::config::Config;
use hull::step::container::Barrier;
use hull::step::draft::{Placed, Plan, PlanRequest};
use hull::step::host::HostStep;
use hull::vm;

/// Configs whose mounts name no file of the host on which the test runs.
const CONFIGS: [&str; 2] = ["crun-spec", "runc-spec"];

fn chosen() -> Vec<Case> {
    let mut cases = cases::configs();
    cases.retain(|case| CONFIGS.contains(&case.name.as_str()));
    assert!(!cases.is_empty(), "no config of {CONFIGS:?} is there");
    cases
}

fn barriers(steps: &[Placed<HostStep>]) -> Vec<Barrier> {
    let barrier = |placed: &Placed<HostStep>| match placed.step {
        HostStep::Barrier(kind) => Some(kind),
        _ => None,
    };
    steps.iter().filter_map(barrier).collect()
}

/// The config with a hook of each kind that runs on the host.
fn with_hooks(case: &Case) -> Config {
    let mut config = case.config(Host::RootHybrid);
    let hooks = serde_json::json!({
        "prestart": [{ "path": "/bin/prestart" }],
        "createRuntime": [{ "path": "/bin/create-runtime" }],
    });
    config.hooks = Some(serde_json::from_value(hooks).unwrap());
    config
}

fn spec(config: Config, bundle: &Bundle) -> Spec {
    Spec::check(config, bundle.0.clone()).unwrap()
}

#[test]
fn plans_of_vms() {
    let bundle = Bundle::new("vms");
    let mut files = Files::new();
    for case in chosen() {
        let create = case.compile(Host::RootHybrid, &bundle).unwrap();
        let cgroup = create.host.iter().find_map(|placed| match &placed.step {
            HostStep::Cgroup { plan, .. } => Some((**plan).clone()),
            _ => None,
        });
        let spec = spec(with_hooks(&case), &bundle);
        let (host, _) = vm::plan::host(vm::plan::HostRequest {
            spec: &spec,
            cgroup: cgroup.unwrap(),
            own: None,
            network: None,
        });
        let met = [Barrier::Hooks, Barrier::Ready, Barrier::Recorded];
        assert_eq!(barriers(&host), met, "{}", case.name);
        let guest = guest(&spec);
        let both = text::of_host(&host, &bundle.0) + &text::of_guest(&guest, &bundle.0);
        files.compare(&format!("{}.vm.plan", case.name), &both);
    }
    files.finish(|name| name.ends_with(".vm.plan"));
}

/// The guest's plan for a config.
fn guest(spec: &Spec) -> Plan {
    let translated = vm::translate::translate(spec, None).unwrap();
    let facts = vm::translate::facts::guest_facts(&translated.spec, None);
    let request = PlanRequest {
        id: "c1".into(),
        ..PlanRequest::default()
    };
    let plan = plan(&translated.spec, &facts, &request).unwrap();
    let steps = vm::plan::guest(&plan, &[]).unwrap().steps;
    let guest = Plan {
        host: steps,
        ..plan
    };
    barriers::check_sides(&guest, "the guest");
    guest
}

#[test]
fn plans_of_restores() {
    let bundle = Bundle::new("restores");
    let mut files = Files::new();
    for case in chosen() {
        let facts = Host::RootHybrid.facts(&case.config(Host::RootHybrid));
        let case_with_hooks = Case {
            name: case.name.clone(),
            text: serde_json::to_string(&with_hooks(&case)).unwrap(),
        };
        let plan = case_with_hooks.compile(Host::RootHybrid, &bundle).unwrap();
        let (steps, _) = restore::restore(&restore::RestoreRequest {
            plan: &plan,
            facts: &facts,
            network: None,
            hostname: Some("copy"),
        });
        let met = [Barrier::Hooks, Barrier::Ready, Barrier::Recorded];
        assert_eq!(barriers(&steps), met, "{}", case.name);
        let text = text::of_host(&steps, &bundle.0);
        files.compare(&format!("{}.restore.plan", case.name), &text);
    }
    files.finish(|name| name.ends_with(".restore.plan"));
}
