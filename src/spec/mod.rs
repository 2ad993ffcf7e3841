//! The bundle's configuration: what was said ([`config`]) and, validated, what it means ([`Spec`]).

#![forbid(unsafe_code)]

pub mod config;
pub mod default;
pub mod mount_options;
pub mod names;
pub mod size;
pub mod state;
pub mod validate;

use crate::error::Kind;
use crate::sys::file;
use crate::{Context, Error, Result};
use config::{Config, IdMapping, Mount, Namespace, Resources};
use oci_spec::runtime::LinuxNamespaceType;
use serde::{Deserialize, Serialize};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A config that has been checked, with the bundle's directory. It cannot be made unchecked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    bundle: PathBuf,
    config: Config,
}

/// A directory's absolute name without links, as the kernel gives it: the C library's realpath(3)
/// asks for each part of it.
fn real_path(directory: &Path) -> Result<PathBuf> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory)
        .on("open bundle", directory.display())?;
    std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
        .on("open bundle", directory.display())
}

impl Spec {
    /// Reads and checks the `config.json` of a bundle.
    ///
    /// # Errors
    /// A missing or unreadable file; wrong JSON, with line and column; every clause of the spec
    /// that the config breaks.
    pub fn load(bundle: &Path) -> Result<Self> {
        let bundle = real_path(bundle)?;
        let path = bundle.join("config.json");
        let text = file::read_whole(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::of_kind(
                Kind::NoConfig,
                format!("JSON specification file {} not found", path.display()),
            ),
            _ => Error::io("read", path.display(), &error),
        })?;
        let config: Config = serde_json::from_slice(&text).on("read", path.display())?;
        Self::check(config, bundle)
    }

    /// Checks a config that was made in memory, for the bundle's directory given.
    ///
    /// # Errors
    /// Every clause of the spec that the config breaks.
    pub fn check(config: Config, bundle: PathBuf) -> Result<Self> {
        validate::config(&config, &bundle)?;
        Ok(Self { bundle, config })
    }

    /// A config that was made from a checked one, for another place: its root file system need not
    /// be here.
    pub(crate) fn rebuilt(config: Config, bundle: PathBuf) -> Self {
        Self { bundle, config }
    }

    /// The bundle's directory, absolute.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// The config itself.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same with other limits. What a limit may be is the cgroup's to say
    /// (`cgroups::group::Group::update`).
    #[must_use]
    pub fn with_resources(&self, resources: Resources) -> Self {
        let mut spec = self.clone();
        spec.config.linux.get_or_insert_default().resources = Some(resources);
        spec
    }

    /// Whether a new user namespace is asked for and nothing is said of its ids.
    pub fn lacks_mappings(&self) -> bool {
        let new = self
            .namespace(LinuxNamespaceType::User)
            .is_some_and(|namespace| namespace.path.as_deref().unwrap_or_default().is_empty());
        new && self
            .config
            .linux
            .as_ref()
            .is_some_and(|linux| linux.uid_mappings.is_empty() && linux.gid_mappings.is_empty())
    }

    /// The same with ids for its user namespace.
    #[must_use]
    pub fn with_mappings(&self, uid: Vec<IdMapping>, gid: Vec<IdMapping>) -> Self {
        let mut spec = self.clone();
        let linux = spec.config.linux.get_or_insert_default();
        (linux.uid_mappings, linux.gid_mappings) = (uid, gid);
        spec
    }

    /// The same with one more mount, and a variable for the program that tells of it.
    #[must_use]
    pub fn with_mount(&self, mount: Mount, variable: String) -> Self {
        let mut spec = self.clone();
        if let Some(process) = &mut spec.config.process {
            process.env.push(variable);
            spec.config.mounts.push(mount);
        }
        spec
    }

    /// The root file system's directory, absolute.
    pub fn rootfs(&self) -> PathBuf {
        let path = self
            .config
            .root
            .as_ref()
            .map_or("rootfs", |root| root.path.as_str());
        self.bundle.join(path)
    }

    /// The namespace of a kind, if the config names one.
    pub fn namespace(&self, kind: LinuxNamespaceType) -> Option<&Namespace> {
        let linux = self.config.linux.as_ref()?;
        linux
            .namespaces
            .iter()
            .find(|namespace| namespace.typ == Some(kind))
    }
}
