//! The administrator's defaults, a TOML file: `--config FILE`, else the environment variable
//! `HULL_CONFIG`, else `/etc/hull/config.toml` if it exists. Only commands that use a setting read
//! it: creating a container with the namespace backend costs no additional system call.
//!
//! ```toml
//! criu = "/opt/criu/sbin/criu"
//! annotations = ["io.kubernetes.cri.container-type"]
//!
//! [vm]
//! kernel = "/boot/vmlinuz-6.1.0-9-cloud-amd64"
//! memory = "1g"
//! ```

#![forbid(unsafe_code)]

pub mod values;
pub mod vm;

use crate::settings::values::{Engine, RootFrom, memory_size};
use crate::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The settings file of the host.
pub const FILE: &str = "/etc/hull/config.toml";
/// The environment variable that names another settings file.
pub const VARIABLE: &str = "HULL_CONFIG";

static NAMED: OnceLock<PathBuf> = OnceLock::new();

/// The contents of the settings file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Path of the criu program.
    pub criu: Option<PathBuf>,
    /// Annotations of bundles that may do what only the administrator decides ([`allows`]).
    pub annotations: Vec<String>,
    /// Defaults of the VM backend.
    pub vm: VmSettings,
}

/// Defaults of the VM backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct VmSettings {
    /// Path of the guest's kernel image.
    pub kernel: Option<PathBuf>,
    /// Whether QEMU uses KVM.
    pub engine: Option<Engine>,
    /// Memory at boot, in bytes; in the file a number, or a string with a unit (`"512m"`).
    #[serde(deserialize_with = "memory")]
    pub memory: Option<u64>,
    /// The size up to which `update --memory` may grow the memory, in bytes.
    #[serde(deserialize_with = "memory")]
    pub memory_max: Option<u64>,
    /// Number of virtual CPUs.
    pub cpus: Option<u32>,
    /// How long a guest may take until the container is created, in seconds.
    pub boot_timeout: Option<u64>,
    /// How long a running guest may take to answer a command, in seconds.
    pub answer_timeout: Option<u64>,
    /// Path of the QEMU program.
    pub hypervisor: Option<PathBuf>,
    /// The source of a guest's root filesystem: `share` or `image`.
    #[serde(deserialize_with = "rootfs")]
    pub rootfs: Option<RootFrom>,
}

fn rootfs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RootFrom>, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "share" => Ok(Some(RootFrom::Share)),
        "image" => Ok(Some(RootFrom::Image)),
        other => Err(D::Error::custom(format!(
            "{other:?} is neither \"share\" nor \"image\""
        ))),
    }
}

fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a number of bytes, or a text such as \"512m\"")]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    let text = match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => bytes.to_string(),
        Size::Text(text) => text,
    };
    memory_size(&text).map(Some).map_err(D::Error::custom)
}

/// Whether the administrator lets an annotation take isolation away, or name what hull runs or reads
/// on the host. Annotations come with images and from users of an engine; without this they can
/// ask for more isolation only (CVE-2026-84042 was a VM handler that did what the image named).
///
/// # Errors
/// As of [`read`].
pub fn allows(annotation: &str) -> Result<bool> {
    Ok(read()?.annotations.iter().any(|name| name == annotation))
}

/// Names the settings file (`--config`). Only the first call has an effect.
pub fn name(file: PathBuf) {
    let _ = NAMED.set(file);
}

/// Reads the settings file. [`FILE`] may be missing; a file that `--config` or [`VARIABLE`] names
/// may not.
///
/// # Errors
/// The file cannot be read; it has an unknown key, or a value of the wrong type or out of range:
/// the error names the line.
pub fn read() -> Result<Settings> {
    let variable = || {
        std::env::var_os(VARIABLE)
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
    };
    let named = NAMED.get().cloned().or_else(variable);
    let path = named.as_deref().unwrap_or(Path::new(FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Settings::default())
        }
        Err(error) => Err(Error::io("read", path.display(), &error)),
    }
}

fn parse(text: &str, path: &Path) -> Result<Settings> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            text.as_bytes()[..span.start.min(text.len())]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1
        });
        Error::new(format!(
            "read {}: line {line}: {}",
            path.display(),
            error.message().replace('\n', ", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        parse(text, Path::new("file")).unwrap_err().to_string()
    }

    #[test]
    fn all_keys_are_read() {
        let text = "criu = '/c'\n[vm]\nkernel = '/k'\nengine = 'qemu'\nmemory = '1g'\nmemory-max \
            = '4g'\ncpus = 2\nboot-timeout = 30\nanswer-timeout = 5\nhypervisor = '/q'\nrootfs = \
            'image'\n";
        let vm = VmSettings {
            kernel: Some("/k".into()),
            engine: Some(Engine::Qemu),
            memory: Some(1 << 30),
            memory_max: Some(4 << 30),
            cpus: Some(2),
            boot_timeout: Some(30),
            answer_timeout: Some(5),
            hypervisor: Some("/q".into()),
            rootfs: Some(RootFrom::Image),
        };
        assert_eq!(
            parse(text, Path::new("file")).unwrap(),
            Settings {
                criu: Some("/c".into()),
                annotations: Vec::new(),
                vm
            }
        );
        assert_eq!(
            parse("[vm]\nmemory = 134217728", Path::new("file"))
                .unwrap()
                .vm
                .memory,
            Some(128 << 20)
        );
        assert_eq!(parse("", Path::new("file")).unwrap(), Settings::default());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let unknown = said("[vm]\nmemory = '1g'\nmemroy = '1g'\n");
        assert!(
            unknown.contains("file: line 3: unknown field `memroy`"),
            "{unknown}"
        );
        let kind = said("\n[vm]\ncpus = 'two'\n");
        assert!(kind.contains("line 3: invalid type"), "{kind}");
        let size = said("[vm]\nmemory = '1x'\n");
        assert!(
            size.contains("line 2") && size.contains("not a size"),
            "{size}"
        );
        let engine = said("[vm]\nengine = 'xen'\n");
        assert!(
            engine.contains("line 2") && engine.contains("xen"),
            "{engine}"
        );
        let rootfs = said("[vm]\nrootfs = 'floppy'\n");
        assert!(
            rootfs.contains("line 2") && rootfs.contains("neither"),
            "{rootfs}"
        );
        let syntax = said("[vm\n");
        assert!(syntax.contains("line 1"), "{syntax}");
    }
}
