//! The configs of `configs/`, and a bundle for them.

use crate::hosts::Host;
use hull::Result;
use hull::compile::{CreateOptions, request};
use hull::plan::plan;
use hull::spec::Spec;
use hull::spec::config::Config;
use hull::step::draft::Plan;
use hull::store::Store;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A config that an engine wrote.
pub struct Case {
    /// The file's name without its end.
    pub name: String,
    /// Its text, with its seccomp profile in it.
    pub text: String,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The directory of the plans.
pub fn plans() -> PathBuf {
    directory().join("plans")
}

/// Many configs have the same seccomp profile: each profile is one file, and `linux.seccomp` of a
/// config names that file.
fn profile_name(config: &Value) -> Option<&str> {
    config.pointer("/linux/seccomp")?.as_str()
}

/// The text of a config, in which the profile stands for its name.
fn with_profile(text: String) -> String {
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let Some(name) = profile_name(&config) else {
        return text;
    };
    let profile = std::fs::read(directory().join("configs").join(name)).unwrap();
    config["linux"]["seccomp"] = serde_json::from_slice(&profile).unwrap();
    config.to_string()
}

/// The files of `configs` as they are there, by name.
fn raw_files(suffix: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(directory().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(name) = file.strip_suffix(suffix).filter(|name| !name.contains('.')) {
            cases.push(Case {
                name: name.to_owned(),
                text: std::fs::read_to_string(&path).unwrap(),
            });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!cases.is_empty(), "there are no configs");
    cases
}

/// Every captured bundle's config.
pub fn configs() -> Vec<Case> {
    let mut cases = raw_files(".json");
    for case in &mut cases {
        case.text = with_profile(std::mem::take(&mut case.text));
    }
    cases
}

/// Every captured process of an exec.
pub fn processes() -> Vec<Case> {
    raw_files(".process.json")
}

/// The directory of a bundle for one test. Dropping it removes the directory.
pub struct Bundle(pub PathBuf);

impl Bundle {
    /// A directory with an empty root file system.
    pub fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hull-golden-{test}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("rootfs")).unwrap();
        Self(path.canonicalize().unwrap())
    }

    /// The state directory, for compiled seccomp filters.
    pub fn store(&self) -> Store {
        Store::new(self.0.join("state"))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Case {
    /// The config for the bundle: with its root, and in a rootless default config with the user's
    /// id on the host in the place of that of its writer.
    pub fn config(&self, host: Host) -> Config {
        let mut config: Config = serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        if let Some(root) = &mut config.root {
            root.path = "rootfs".into();
        }
        if let Some(linux) = config
            .linux
            .as_mut()
            .filter(|_| self.name.contains("spec-rootless"))
        {
            for mapping in linux
                .uid_mappings
                .iter_mut()
                .chain(&mut linux.gid_mappings)
                .filter(|mapping| mapping.container_id == 0)
            {
                mapping.host_id = host.id();
            }
        }
        config
    }

    /// The plan for a host.
    pub fn compile(&self, host: Host, bundle: &Bundle) -> Result<Plan> {
        self.compile_with(host, bundle, &CreateOptions::default())
    }

    /// The plan for a host, with options of the command.
    pub fn compile_with(
        &self,
        host: Host,
        bundle: &Bundle,
        options: &CreateOptions,
    ) -> Result<Plan> {
        let spec = Spec::check(self.config(host), bundle.0.clone())?;
        let facts = host.facts(spec.config());
        let request = request(&bundle.store(), &spec, &facts, "c1", options)?;
        plan(&spec, &facts, &request)
    }
}

#[test]
fn each_seccomp_profile_is_one_file_that_a_config_names() {
    let mut named = BTreeSet::new();
    for case in raw_files(".json") {
        let config: Value = serde_json::from_str(&case.text).unwrap();
        if let Some(profile) = config.pointer("/linux/seccomp") {
            let name = profile.as_str().unwrap_or_else(|| {
                panic!(
                    "{}.json has a profile of its own; put it into configs/seccomp",
                    case.name
                )
            });
            named.insert(name.to_owned());
        }
    }
    let mut contents = BTreeSet::new();
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(directory().join("configs/seccomp")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        files.insert(format!("seccomp/{file}"));
        let profile: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert!(
            contents.insert(profile.to_string()),
            "{file}: another file has the same profile"
        );
    }
    assert_eq!(files, named);
}
