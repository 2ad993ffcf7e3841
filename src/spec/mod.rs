//! The bundle's configuration: the document as it is written ([`config`]), and the validated one
//! ([`Spec`]).

#![forbid(unsafe_code)]

pub mod config;
pub(crate) mod default;
pub(crate) mod mount_options;
pub(crate) mod names;
pub(crate) mod size;
pub(crate) mod state;
pub(crate) mod validate;

use crate::error::Kind;
use crate::sys::file;
use crate::{Context, Error, Result};
use config::{Config, IdMapping, Mount, Namespace, Resources};
use oci_spec::runtime::LinuxNamespaceType;
use serde::{Deserialize, Serialize};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A validated config and its bundle's directory. Only validation makes one, so that code which has
/// a `Spec` need not check it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    bundle: PathBuf,
    config: Config,
}

/// A directory's absolute path without symbolic links, by `/proc/self/fd`: realpath(3) of the C
/// library makes a system call for each component.
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
    /// Reads and validates the `config.json` of a bundle.
    ///
    /// # Errors
    /// [`Kind::NoConfig`]: the bundle has no `config.json`; the file cannot be read, or is not JSON
    /// of the spec's form (with line and column); and as [`Spec::check`].
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

    /// Validates a config that was made in memory, for a bundle's directory.
    ///
    /// # Errors
    /// The first clause of the runtime spec that the config breaks ([`validate`]).
    pub fn check(config: Config, bundle: PathBuf) -> Result<Self> {
        validate::config(&config, &bundle)?;
        Ok(Self { bundle, config })
    }

    /// A config that was derived from a validated one, such as a guest's: its root file system need
    /// not exist on this host.
    pub(crate) fn rebuilt(config: Config, bundle: PathBuf) -> Self {
        Self { bundle, config }
    }

    /// The bundle's directory, absolute.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// The config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same with other limits (`linux.resources`). Limits are not validated here but where they
    /// become values for the cgroup's files (`cgroups::limits`).
    #[must_use]
    pub fn with_resources(&self, resources: Resources) -> Self {
        let mut spec = self.clone();
        spec.config.linux.get_or_insert_default().resources = Some(resources);
        spec
    }

    /// Whether the config asks for a new user namespace and has no id mappings.
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

    /// The same with id mappings for its user namespace.
    #[must_use]
    pub fn with_mappings(&self, uid: Vec<IdMapping>, gid: Vec<IdMapping>) -> Self {
        let mut spec = self.clone();
        let linux = spec.config.linux.get_or_insert_default();
        (linux.uid_mappings, linux.gid_mappings) = (uid, gid);
        spec
    }

    /// The same with one more mount, and an environment variable that tells the program of it. A
    /// config without a process stays as it is.
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

    /// The config's entry for a kind of namespace, if it has one.
    pub fn namespace(&self, kind: LinuxNamespaceType) -> Option<&Namespace> {
        let linux = self.config.linux.as_ref()?;
        linux
            .namespaces
            .iter()
            .find(|namespace| namespace.typ == Some(kind))
    }
}
