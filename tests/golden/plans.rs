//! Compares the plans of real configs on made-up hosts with the files in `plans/`.

use crate::barriers;
use crate::cases::{self, Bundle, Case};
use crate::hosts::{ALL, Host};
use crate::text;
use hull::compile::CreateOptions;
use hull::process::exec::{CgroupEntry, ExecRequest, Joins, exec};
use hull::spec::config::{Config, Process};
use hull::step::layers::{Kept, Layers, Part};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Compares plans with their files, or writes the files.
pub struct Files {
    update: bool,
    wrong: Vec<String>,
    seen: BTreeSet<String>,
}

impl Files {
    pub fn new() -> Self {
        Self {
            update: std::env::var_os("UPDATE_GOLDEN").is_some(),
            wrong: Vec::new(),
            seen: BTreeSet::new(),
        }
    }

    pub fn compare(&mut self, name: &str, is: &str) {
        let path = cases::plans().join(name);
        self.seen.insert(name.to_owned());
        let was = std::fs::read_to_string(&path).unwrap_or_default();
        if was == is {
            return;
        }
        if self.update {
            std::fs::write(&path, is).unwrap();
            return;
        }
        let line = was
            .lines()
            .zip(is.lines())
            .position(|(was, is)| was != is)
            .unwrap_or(was.lines().count().min(is.lines().count()));
        let at = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_owned();
        self.wrong.push(format!(
            "{name}, line {}:\n  file: {}\n  now:  {}",
            line + 1,
            at(&was),
            at(is)
        ));
    }

    /// Fails where there are differences. A file to which no config belongs is one.
    pub fn finish(mut self, mine: impl Fn(&str) -> bool) {
        for entry in std::fs::read_dir(cases::plans()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if mine(&name) && !self.seen.contains(&name) {
                if self.update {
                    std::fs::remove_file(&path).unwrap();
                } else {
                    self.wrong.push(format!("{name}: no config has this plan"));
                }
            }
        }
        let count = self.wrong.len();
        assert!(
            count == 0,
            "{count} plans differ from their files; UPDATE_GOLDEN=1 writes the files again\n{}",
            self.wrong.join("\n")
        );
    }
}

/// The hosts for which a config's plan has a file: those on which the engine would run it. (For the
/// others, `barriers` checks the plan.)
fn hosts(case: &Case) -> Vec<Host> {
    let config: Config = case.config(Host::RootHybrid);
    let has_user = config
        .linux
        .is_some_and(|linux| !linux.uid_mappings.is_empty());
    let is_default = case.name.contains("-spec");
    let common = [
        "containerd-run",
        "cri-pod-container",
        "docker-run",
        "podman-run",
        "buildah-run",
    ]
    .contains(&case.name.as_str());
    if is_default && has_user {
        return ALL.to_vec();
    }
    if case.name.contains("rootless") {
        return vec![Host::Nested];
    }
    match (is_default || common || has_user, has_user) {
        (_, true) => vec![Host::RootHybrid, Host::RootUnified, Host::UserHelped],
        (true, false) => vec![Host::RootHybrid, Host::RootUnified],
        _ => vec![Host::RootHybrid],
    }
}

#[test]
fn plans_of_real_configs() {
    let bundle = Bundle::new("plans");
    let mut files = Files::new();
    for case in cases::configs() {
        for host in hosts(&case) {
            let text = match case.compile(host, &bundle) {
                Ok(plan) => text::of(&plan, &bundle.0),
                Err(error) => format!("error: {error}\n"),
            };
            files.compare(&format!("{}.{}.plan", case.name, host.name()), &text);
        }
    }
    files.finish(|name| {
        let others = [".exec.plan", ".layers.plan", ".vm.plan", ".restore.plan"];
        name.ends_with(".plan") && !others.iter().any(|end| name.ends_with(end))
    });
}

/// A root filesystem of layers: that of root is one overlay on `/`; that of an ordinary user has an
/// overlay per directory, binds and links.
#[test]
fn plans_of_layered_roots() {
    let bundle = Bundle::new("layers");
    let mut files = Files::new();
    let overlay = |target: &str, lower: &str, kept| Part::Overlay {
        target: target.into(),
        lower: lower.into(),
        kept,
    };
    let kept = Kept {
        upper: "/home/ada/changes/upper".into(),
        work: "/home/ada/changes/work".into(),
    };
    let roots = Layers {
        parts: vec![overlay("/", "/", None)],
        in_user_namespace: false,
    };
    let parts = vec![
        overlay("/etc", "/etc", None),
        overlay("/home", "/home", Some(kept)),
        Part::ReadOnly {
            target: "/var".into(),
            source: "/var".into(),
        },
        Part::Link {
            target: "/bin".into(),
            text: "usr/bin".into(),
        },
    ];
    let users = Layers {
        parts,
        in_user_namespace: true,
    };
    for (name, host, layers) in [
        ("runc-spec", Host::RootHybrid, roots),
        ("runc-spec-rootless", Host::UserHelped, users),
    ] {
        let case = cases::configs()
            .into_iter()
            .find(|case| case.name == name)
            .unwrap();
        let options = CreateOptions {
            layers: Some(layers),
            ..CreateOptions::default()
        };
        let plan = case.compile_with(host, &bundle, &options).unwrap();
        files.compare(
            &format!("{name}.{}.layers.plan", host.name()),
            &text::of(&plan, &bundle.0),
        );
    }
    files.finish(|name| name.ends_with(".layers.plan"));
}

/// The errors of all pairs of config and host, in one file.
#[test]
fn refusals() {
    let bundle = Bundle::new("refusals");
    let mut files = Files::new();
    let mut text = String::new();
    for case in cases::configs() {
        for host in ALL {
            if let Err(error) = case.compile(host, &bundle) {
                let _ = writeln!(text, "{} {}: {error}", case.name, host.name());
            }
        }
    }
    files.compare("refusals.txt", &text);
    files.finish(|name| name == "refusals.txt");
}

#[test]
fn plans_of_exec() {
    let bundle = Bundle::new("exec");
    let mut files = Files::new();
    for case in cases::processes() {
        let process: Process = serde_json::from_str(&case.text).unwrap();
        let host = if case.name.contains("rootless") {
            Host::Nested
        } else {
            Host::RootHybrid
        };
        let facts = host.facts(&Config::default());
        let user = host == Host::Nested;
        let request = ExecRequest {
            joins: Joins {
                outer: if user { 0 } else { 0x2c02_0000 },
                user,
                inner: if user { 0x2c02_0000 } else { 0 },
            },
            may_set_groups: true,
            cgroups: CgroupEntry {
                v1: if user { 0 } else { 8 },
                v2: true,
            },
            keyring: Some("_ses.c1".into()),
            ..ExecRequest::default()
        };
        let plan = exec(&process, &facts, &request)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        barriers::check_sides(&plan, &case.name);
        files.compare(
            &format!("{}.{}.exec.plan", case.name, host.name()),
            &text::of(&plan, &bundle.0),
        );
    }
    files.finish(|name| name.ends_with(".exec.plan"));
}
