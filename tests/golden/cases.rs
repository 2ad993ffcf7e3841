//! The configs, and the bundle that they are checked in.

use crate::hosts::Host;
use hull::Result;
use hull::compile::{Options, request};
use hull::facts::Facts;
use hull::plan::plan;
use hull::spec::Spec;
use hull::spec::config::Config;
use hull::step::draft::Plan;
use hull::store::Store;
use std::path::{Path, PathBuf};

/// A config that an engine wrote.
pub struct Case {
    /// The file's name without its end.
    pub name: String,
    /// Its text.
    pub text: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Where the plans are kept.
pub fn plans() -> PathBuf {
    folder().join("plans")
}

fn files(ends: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(name) = file.strip_suffix(ends).filter(|name| !name.contains('.')) {
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
    files(".json")
}

/// Every captured process of an exec.
pub fn processes() -> Vec<Case> {
    files(".process.json")
}

/// A bundle's folder for one test, removed with it.
pub struct Bundle(pub PathBuf);

impl Bundle {
    /// A folder with an empty root file system.
    pub fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hull-golden-{test}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("rootfs")).unwrap();
        Self(path.canonicalize().unwrap())
    }

    /// Where compiled filters are kept meanwhile.
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
    /// The config as the bundle has it: the root is there, and an id that the writer of a rootless
    /// default config mapped as its own is the host's.
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

    /// The config compiled for a host.
    pub fn compile(&self, host: Host, bundle: &Bundle) -> Result<(Spec, Facts, Plan)> {
        self.compile_with(host, bundle, &Options::default())
    }

    /// The same with options of the command.
    pub fn compile_with(
        &self,
        host: Host,
        bundle: &Bundle,
        options: &Options,
    ) -> Result<(Spec, Facts, Plan)> {
        let spec = Spec::check(self.config(host), bundle.0.clone())?;
        let facts = host.facts(spec.config());
        let plan = plan(
            &spec,
            &facts,
            &request(&bundle.store(), &spec, &facts, "c1", options)?,
        )?;
        Ok((spec, facts, plan))
    }
}
