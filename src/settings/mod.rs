//! The administrator's defaults, a TOML file: `--config FILE`, else the environment variable
//! `HULL_CONFIG`, else `/etc/hull/config.toml` where it is there. Read by what needs it alone: a
//! container with the namespace backend costs no system call more.
//!
//! ```toml
//! criu = "/opt/criu/sbin/criu"
//!
//! [vm]
//! kernel = "/boot/vmlinuz-6.1.0-9-cloud-amd64"
//! memory = "1g"
//! ```

#![forbid(unsafe_code)]

pub mod values;
pub mod vm;

use crate::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use values::{Engine, RootFrom};

/// The file for the whole machine.
pub const FILE: &str = "/etc/hull/config.toml";
/// The variable that names another.
pub const VARIABLE: &str = "HULL_CONFIG";

static NAMED: OnceLock<PathBuf> = OnceLock::new();

/// What the file may say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The criu program.
    pub criu: Option<PathBuf>,
    /// Machines.
    pub vm: Vm,
}

/// Defaults of the VM backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Vm {
    /// The guest's kernel.
    pub kernel: Option<PathBuf>,
    /// Who runs it.
    pub engine: Option<Engine>,
    /// Memory at boot, in bytes; in the file a number, or one with k, m or g.
    #[serde(deserialize_with = "memory")]
    pub memory: Option<u64>,
    /// The memory that a guest may grow to, in bytes.
    #[serde(deserialize_with = "memory")]
    pub memory_max: Option<u64>,
    /// Processors.
    pub cpus: Option<u32>,
    /// How long a guest may take to stand before its program, in seconds.
    pub boot_timeout: Option<u64>,
    /// How long a guest may take to answer a command once it has come up, in seconds.
    pub answer_timeout: Option<u64>,
    /// The machine monitor's program.
    pub hypervisor: Option<PathBuf>,
    /// Where a guest's root file system comes from: `share` or `image`.
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
    values::memory_size(&text)
        .map(Some)
        .map_err(D::Error::custom)
}

/// `--config`: the file to read, once.
pub fn name(file: PathBuf) {
    let _ = NAMED.set(file);
}

/// Reads the file. One that nobody named may be missing.
///
/// # Errors
/// A file that was named cannot be read; an unknown key, a wrong type or value, with its line.
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
        let vm = Vm {
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
