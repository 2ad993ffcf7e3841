//! Whether a container gets a machine, and which.

use super::values::{Engine, RootFrom};
use crate::spec::Spec;
use crate::{Error, Result};
use std::path::PathBuf;

/// The annotation that asks for this backend.
pub const ANNOTATION: &str = "org.hull.backend";

/// The name of hull's binary that asks for this backend: for engines, which name a program and no
/// options.
pub const NAME: &str = "hull-vm";

/// Whether this process was started under [`NAME`].
pub fn is_named() -> bool {
    std::env::args_os().next().is_some_and(|name| {
        std::path::Path::new(&name)
            .file_name()
            .is_some_and(|name| name == NAME)
    })
}

/// What was asked of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmOptions {
    /// This backend.
    pub on: bool,
    /// hull goes by [`NAME`]: this backend, unless the container says otherwise.
    pub named: bool,
    /// The kernel's file.
    pub kernel: Option<PathBuf>,
    /// Words for its command line.
    pub parameters: Vec<String>,
    /// Who runs it.
    pub engine: Option<Engine>,
    /// Memory at boot, in bytes.
    pub memory: Option<u64>,
    /// The memory that it may grow to, in bytes.
    pub memory_max: Option<u64>,
    /// Processors.
    pub cpus: Option<u32>,
    /// How long a guest may take to its first word, in seconds.
    pub boot_timeout: Option<u64>,
    /// The machine monitor's program.
    pub program: Option<PathBuf>,
    /// Where the root file system comes from.
    pub rootfs: Option<RootFrom>,
}

/// An image's format in QEMU's words (config-vm.md, image).
fn image_format(format: &str) -> Result<&'static str> {
    match format {
        "raw" => Ok("raw"),
        "qcow2" => Ok("qcow2"),
        "vdi" => Ok("vdi"),
        "vmdk" => Ok("vmdk"),
        "vhd" => Ok("vpc"),
        other => Err(Error::new(format!(
            "vm.image.format is {other:?}: raw, qcow2, vdi, vmdk and vhd are known"
        ))),
    }
}

/// Memory of a guest whose config says nothing, in bytes.
const MEMORY: u64 = 512 << 20;

impl VmOptions {
    /// The options of a bundle: what the command says goes before the config's `vm` section, and
    /// that before the defaults of [`crate::settings`]. The backend is chosen by the command's option,
    /// else by the annotation, else by the section or the program's name.
    ///
    /// # Errors
    /// An annotation that is none of hull's words; a section that a machine cannot have; the file
    /// of defaults.
    pub fn for_spec(&self, spec: &Spec) -> Result<Option<Self>> {
        let config = spec.config();
        let annotated = match config.annotations.get(ANNOTATION).map(String::as_str) {
            None => None,
            Some("namespaces") => Some(false),
            Some("vm") => Some(true),
            Some(other) => {
                return Err(Error::new(format!(
                    "annotation {ANNOTATION}={other:?}: the backends are \"namespaces\" and \"vm\""
                )));
            }
        };
        // A pod's sandbox only holds namespaces, for the engine to join by path: a machine for it
        // would be of no use to anybody.
        if !self.on && is_sandbox(spec) {
            return Ok(None);
        }
        let asks = |vm: &crate::spec::config::Vm| !vm.kernel.path.is_empty();
        let otherwise = self.named || config.vm.as_ref().is_some_and(asks);
        if !(self.on || annotated.unwrap_or(otherwise)) {
            return Ok(None);
        }
        let mut options = Self {
            on: true,
            ..self.clone()
        };
        if let Some(vm) = &config.vm {
            options.kernel = options.kernel.or(Some(&vm.kernel.path)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from));
            if vm.kernel.initrd.is_some() {
                return Err(Error::new(
                    "vm.kernel.initrd: the guest's first file system is hull's own",
                ));
            }
            if let Some(image) = vm.image.as_ref().filter(|image| !image.path.is_empty()) {
                let format = image_format(&image.format)?.to_owned();
                options.rootfs = options.rootfs.or(Some(RootFrom::File {
                    path: PathBuf::from(&image.path),
                    format,
                }));
            }
            options.parameters.extend(vm.kernel.parameters.clone());
            if let Some(monitor) = &vm.hypervisor {
                options.program = options.program.or(monitor.path.clone().map(PathBuf::from));
                if !monitor.parameters.is_empty() {
                    return Err(Error::new(
                        "vm.hypervisor.parameters: hull drives the monitor itself",
                    ));
                }
            }
            if let Some(hardware) = &vm.hw_config {
                options.cpus = options.cpus.or(hardware.vcpus);
                options.memory = options.memory.or(hardware.memory);
                if hardware.device_tree.is_some()
                    || !hardware.dtdevs.is_empty()
                    || !hardware.iomems.is_empty()
                    || !hardware.irqs.is_empty()
                {
                    return Err(Error::new(
                        "vm.hwConfig: devices of the host are not handed to a guest",
                    ));
                }
            }
        }
        options.fill(&crate::settings::read()?.vm);
        options.check(spec)?;
        Ok(Some(options))
    }

    /// The administrator's defaults, for what nobody has said.
    fn fill(&mut self, defaults: &crate::settings::Vm) {
        self.kernel = self.kernel.take().or_else(|| defaults.kernel.clone());
        self.engine = self.engine.or(defaults.engine);
        self.memory = self.memory.or(defaults.memory);
        self.memory_max = self.memory_max.or(defaults.memory_max);
        self.cpus = self.cpus.or(defaults.cpus);
        self.boot_timeout = self.boot_timeout.or(defaults.boot_timeout);
        self.program = self.program.take().or_else(|| defaults.hypervisor.clone());
        self.rootfs = self.rootfs.take().or_else(|| defaults.rootfs.clone());
    }

    /// A maximum below what the machine boots with is a mistake of somebody's.
    fn check(&self, spec: &Spec) -> Result<()> {
        let memory = self.memory(spec);
        match self.memory_max {
            Some(most) if most < memory => Err(Error::new(format!(
                "--vm-memory-max {most}: the guest boots with {memory} bytes"
            ))),
            _ => Ok(()),
        }
    }

    /// Where the root file system comes from.
    pub fn root(&self) -> RootFrom {
        self.rootfs.clone().unwrap_or_default()
    }

    /// What the guest's memory may grow to, in bytes, where that is more than it boots with.
    pub fn memory_max(&self, spec: &Spec) -> Option<u64> {
        self.memory_max
            .map(|most| most.next_multiple_of(2 << 20))
            .filter(|most| *most > self.memory(spec))
    }

    /// The guest's memory in bytes: what was asked, or the container's limit and room for a kernel,
    /// a multiple of 2 MiB.
    pub fn memory(&self, spec: &Spec) -> u64 {
        let limit = spec
            .config()
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref()?.memory.as_ref()?.limit);
        let by_limit = limit
            .filter(|limit| *limit > 0)
            .map(|limit| (limit as u64).saturating_add(KERNEL));
        let bytes = self
            .memory
            .unwrap_or_else(|| by_limit.unwrap_or(MEMORY).max(256 << 20));
        bytes.next_multiple_of(2 << 20)
    }

    /// How much of what the guest may grow by it has from the beginning, in bytes: what its limit
    /// needs beyond the memory at boot.
    pub fn plugged(&self, spec: &Spec) -> u64 {
        let limit = spec
            .config()
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref()?.memory.as_ref()?.limit)
            .filter(|limit| *limit > 0);
        limit.map_or(0, |limit| {
            memory_for(Some(limit as u64), self.memory(spec), self.memory_max(spec)).1
        })
    }

    /// The guest's processors: what was asked, or what the container's quota can use, at most the
    /// host's.
    pub fn cpus(&self, spec: &Spec) -> u32 {
        let host = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let cpu = spec
            .config()
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref()?.cpu.as_ref());
        let by_quota = cpu.and_then(|cpu| match (cpu.quota, cpu.period.unwrap_or(100_000)) {
            (Some(quota), period) if quota > 0 && period > 0 => {
                Some((quota as u64).div_ceil(period) as u32)
            }
            _ => None,
        });
        self.cpus
            .unwrap_or_else(|| by_quota.unwrap_or(1).clamp(1, host))
            .max(1)
    }
}

/// What a guest's kernel needs beside the container's limit, in bytes.
pub const KERNEL: u64 = 128 << 20;

/// What a machine has of memory for a container of some limit, in bytes: what the balloon leaves of
/// that at boot, and what is plugged in beside it, at most to `most`. Without a limit it is all
/// that there can be.
pub fn memory_for(limit: Option<u64>, boot: u64, most: Option<u64>) -> (u64, u64) {
    let most = most.unwrap_or(boot);
    let wanted = limit.map_or(most, |limit| {
        limit
            .saturating_add(KERNEL)
            .next_multiple_of(2 << 20)
            .min(most)
    });
    (wanted.min(boot), wanted.saturating_sub(boot))
}

/// By these annotations an engine says what a container of a pod is: containerd's and CRI-O's.
/// Podman says nothing of its infra containers.
const TYPES: [&str; 2] = [
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
];

/// Whether it is a pod's sandbox: it runs nothing of the user's, and engines hand its namespaces on
/// by path.
pub fn is_sandbox(spec: &Spec) -> bool {
    TYPES.iter().any(|name| {
        spec.config()
            .annotations
            .get(*name)
            .is_some_and(|value| value == "sandbox")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chosen(options: &VmOptions, annotation: Option<&str>, section: bool) -> bool {
        let mut config = json!({
            "ociVersion": "1.3.0", "root": { "path": "/" },
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["true"], "cwd": "/" },
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
        });
        if let Some(word) = annotation {
            config["annotations"] = json!({ ANNOTATION: word });
        }
        if section {
            config["vm"] = json!({ "kernel": { "path": "/vmlinuz" } });
        }
        let spec =
            Spec::check(serde_json::from_value(config).unwrap(), PathBuf::from("/")).unwrap();
        options.for_spec(&spec).unwrap().is_some()
    }

    #[test]
    fn the_nearest_word_chooses_the_wall() {
        let nothing = VmOptions::default();
        let named = VmOptions {
            named: true,
            ..VmOptions::default()
        };
        let asked = VmOptions {
            on: true,
            ..VmOptions::default()
        };
        assert!(!chosen(&nothing, None, false) && !chosen(&nothing, Some("namespaces"), false));
        assert!(chosen(&nothing, Some("vm"), false) && chosen(&nothing, None, true));
        assert!(chosen(&named, None, false) && chosen(&named, Some("vm"), false));
        assert!(
            !chosen(&named, Some("namespaces"), false)
                && !chosen(&nothing, Some("namespaces"), true)
        );
        assert!(chosen(&asked, Some("namespaces"), false));
    }

    #[test]
    fn memory_follows_the_limit() {
        use memory_for;
        let (mib, boot) = (1_u64 << 20, 320 << 20);
        assert_eq!(memory_for(Some(64 * mib), boot, None), (192 * mib, 0));
        assert_eq!(
            memory_for(Some(300 * mib), boot, None),
            (boot, 0),
            "not past what it booted with"
        );
        assert_eq!(
            memory_for(Some(600 * mib), boot, Some(1024 * mib)),
            (boot, 408 * mib)
        );
        assert_eq!(
            memory_for(Some(600 * mib + 1), boot, Some(1024 * mib)),
            (boot, 410 * mib),
            "by blocks of 2 MiB"
        );
        assert_eq!(
            memory_for(Some(1024 * mib), boot, Some(1024 * mib)),
            (boot, 704 * mib),
            "not past what it may grow to"
        );
        assert_eq!(memory_for(None, boot, Some(1024 * mib)), (boot, 704 * mib));
    }

    fn spec_of(changes: &serde_json::Value) -> Spec {
        let mut config = json!({
            "ociVersion": "1.0.2", "root": { "path": "/" },
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["true"], "cwd": "/" },
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
        });
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        Spec::check(serde_json::from_value(config).unwrap(), PathBuf::from("/")).unwrap()
    }

    #[test]
    fn a_sandbox_is_known_by_its_annotation() {
        assert!(!is_sandbox(&spec_of(&json!({}))));
        for name in TYPES {
            assert!(is_sandbox(&spec_of(
                &json!({ "annotations": { name: "sandbox" } })
            )));
            assert!(!is_sandbox(&spec_of(
                &json!({ "annotations": { name: "container" } })
            )));
        }
    }
}
