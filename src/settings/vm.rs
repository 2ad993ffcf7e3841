//! Whether a container runs in a VM, and with which options.

use crate::settings::values::{Engine, RootFrom};
use crate::spec::Spec;
use crate::spec::config::{Vm, VmImage};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The annotation that chooses the backend: `namespaces` or `vm`.
pub(crate) const ANNOTATION: &str = "org.hull.backend";

/// The name of hull's binary that chooses the VM backend, for container engines, whose
/// configuration names a program without options.
pub(crate) const PROGRAM_NAME: &str = "hull-vm";

/// Whether this process was started as [`PROGRAM_NAME`].
pub(crate) fn started_by_name() -> bool {
    std::env::args_os().next().is_some_and(|name| {
        std::path::Path::new(&name)
            .file_name()
            .is_some_and(|name| name == PROGRAM_NAME)
    })
}

/// Memory of a guest for which neither a size nor a memory limit is given, in bytes.
const DEFAULT_MEMORY: u64 = 512 << 20;

/// The least memory that hull gives a guest whose size follows from a memory limit, in bytes.
const LEAST_MEMORY: u64 = 256 << 20;

/// The granularity of a guest's memory, in bytes: the block size of its virtio-mem device.
const MEMORY_BLOCK: u64 = 2 << 20;

/// Memory that a guest's kernel needs in addition to the container's limit, in bytes.
const KERNEL_MEMORY: u64 = 128 << 20;

/// The options of a container's VM. An option that nobody gave is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmOptions {
    /// `--vm`, or the result of [`VmOptions::for_spec`]: the container runs in a VM.
    pub enabled: bool,
    /// hull was started as [`PROGRAM_NAME`]: the container runs in a VM unless its annotation says
    /// otherwise.
    pub by_program_name: bool,
    /// The image of the guest's kernel.
    pub kernel: Option<PathBuf>,
    /// Parameters appended to the kernel's command line.
    pub kernel_parameters: Vec<String>,
    /// Whether QEMU uses KVM.
    pub engine: Option<Engine>,
    /// Memory at boot, in bytes.
    pub memory: Option<u64>,
    /// The size up to which `update --memory` may grow the memory, in bytes.
    pub memory_max: Option<u64>,
    /// Number of virtual CPUs.
    pub cpus: Option<u32>,
    /// How long the guest may take until the container is created, in seconds.
    pub boot_timeout: Option<u64>,
    /// Path of the QEMU program.
    pub hypervisor: Option<PathBuf>,
    /// The source of the root filesystem.
    pub rootfs: Option<RootFrom>,
    /// What the caller prints before anything is made.
    pub warnings: Vec<String>,
}

impl VmOptions {
    /// The options for a bundle, or `None` if its container runs with the namespace backend.
    ///
    /// `--vm` chooses the backend; without it the annotation does; without that, the config's `vm`
    /// section or the name under which hull was started. Each option is taken from the command
    /// line, else from the `vm` section, else from the settings file.
    ///
    /// # Errors
    /// The annotation has an unknown value; the `vm` section has a property that hull does not
    /// support; the settings file cannot be read or parsed; `--vm-memory-max` is less than the
    /// memory at boot.
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
        let names_kernel = |vm: &Vm| !vm.kernel.path.is_empty();
        let default = self.by_program_name || config.vm.as_ref().is_some_and(names_kernel);
        if !(self.enabled || default || annotated == Some(true)) {
            return Ok(None);
        }
        if !self.enabled && self.less_isolated(spec, annotated)? {
            return Ok(None);
        }
        let mut options = Self {
            enabled: true,
            ..self.clone()
        };
        if annotated == Some(false) && !self.enabled {
            options.warnings.push(format!(
                "annotation {ANNOTATION}=\"namespaces\" has no effect: it asks for less isolation, \
                 and the annotations in hull's config do not name it"
            ));
        }
        if let Some(vm) = &config.vm {
            options.add_section(vm)?;
        }
        options.add_settings(&crate::settings::read()?.vm);
        options.check(spec)?;
        Ok(Some(options))
    }

    /// Whether an annotation puts a container that was to get a VM on the host's kernel, which the
    /// administrator must have allowed: the choice of the backend, or the mark of a pod's sandbox.
    /// (A sandbox only holds namespaces, which the engine joins by path: a VM for it would have no
    /// use.)
    fn less_isolated(&self, spec: &Spec, annotated: Option<bool>) -> Result<bool> {
        if annotated == Some(false) && crate::settings::allows(ANNOTATION)? {
            return Ok(true);
        }
        match sandbox_mark(spec) {
            None => Ok(false),
            Some(mark) if crate::settings::allows(mark)? => Ok(true),
            Some(mark) => Err(Error::new(format!(
                "the annotation {mark} says that this is a pod's sandbox, which would run on the \
                 host's kernel and not in a VM: if hull-vm serves pods, allow it in hull's config: \
                 annotations = [\"{mark}\"]"
            ))),
        }
    }

    /// Adds the config's `vm` section (runtime spec, config-vm.md).
    fn add_section(&mut self, vm: &Vm) -> Result<()> {
        let unsupported = |text: &str| Err(Error::new(text));
        if self.kernel.is_none() && !vm.kernel.path.is_empty() {
            self.kernel = Some(PathBuf::from(&vm.kernel.path));
        }
        if vm.kernel.initrd.is_some() {
            return unsupported("vm.kernel.initrd: hull boots the guest with its own initramfs");
        }
        if let Some(image) = vm.image.as_ref().filter(|image| !image.path.is_empty()) {
            let image = root_image(image)?;
            self.rootfs.get_or_insert(image);
        }
        self.kernel_parameters.extend(vm.kernel.parameters.clone());
        if let Some(hypervisor) = &vm.hypervisor {
            if self.hypervisor.is_none() {
                self.hypervisor = hypervisor.path.clone().map(PathBuf::from);
            }
            if !hypervisor.parameters.is_empty() {
                return unsupported(
                    "vm.hypervisor.parameters: hull writes QEMU's command line itself",
                );
            }
        }
        if let Some(hardware) = &vm.hw_config {
            self.cpus = self.cpus.or(hardware.vcpus);
            self.memory = self.memory.or(hardware.memory);
            if hardware.device_tree.is_some()
                || !hardware.dtdevs.is_empty()
                || !hardware.iomems.is_empty()
                || !hardware.irqs.is_empty()
            {
                return unsupported(
                    "vm.hwConfig: hull does not pass devices of the host through to a guest",
                );
            }
        }
        Ok(())
    }

    /// Adds the settings file's `[vm]` table.
    fn add_settings(&mut self, defaults: &crate::settings::VmSettings) {
        self.kernel = self.kernel.take().or_else(|| defaults.kernel.clone());
        self.engine = self.engine.or(defaults.engine);
        self.memory = self.memory.or(defaults.memory);
        self.memory_max = self.memory_max.or(defaults.memory_max);
        self.cpus = self.cpus.or(defaults.cpus);
        self.boot_timeout = self.boot_timeout.or(defaults.boot_timeout);
        self.hypervisor = self
            .hypervisor
            .take()
            .or_else(|| defaults.hypervisor.clone());
        self.rootfs = self.rootfs.take().or_else(|| defaults.rootfs.clone());
    }

    fn check(&self, spec: &Spec) -> Result<()> {
        let memory = self.memory(spec);
        match self.memory_max {
            Some(max) if max < memory => Err(Error::new(format!(
                "--vm-memory-max {max}: the guest boots with {memory} bytes"
            ))),
            _ => Ok(()),
        }
    }

    /// The source of the root filesystem.
    pub fn root(&self) -> RootFrom {
        self.rootfs.clone().unwrap_or_default()
    }

    /// The size up to which the guest's memory may grow, in bytes, if that is more than it boots
    /// with.
    pub fn memory_max(&self, spec: &Spec) -> Option<u64> {
        self.memory_max
            .map(|max| max.next_multiple_of(MEMORY_BLOCK))
            .filter(|max| *max > self.memory(spec))
    }

    /// The guest's memory at boot, in bytes, a multiple of 2 MiB: the size that was given, else
    /// the container's memory limit plus [`KERNEL_MEMORY`], else [`DEFAULT_MEMORY`].
    pub fn memory(&self, spec: &Spec) -> u64 {
        let bytes = self.memory.unwrap_or_else(|| {
            memory_limit(spec)
                .map_or(DEFAULT_MEMORY, |limit| limit.saturating_add(KERNEL_MEMORY))
                .max(LEAST_MEMORY)
        });
        bytes.next_multiple_of(MEMORY_BLOCK)
    }

    /// How much of the hot-pluggable memory the guest has from the beginning, in bytes: what the
    /// container's memory limit needs beyond the memory at boot.
    pub fn plugged(&self, spec: &Spec) -> u64 {
        memory_limit(spec).map_or(0, |limit| {
            memory_for(Some(limit), self.memory(spec), self.memory_max(spec)).plugged
        })
    }

    /// Number of the guest's virtual CPUs: the number that was given, else as many as the
    /// container's CPU quota can use, at most the host's CPUs.
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

/// `linux.resources.memory.limit` in bytes, if it limits anything.
fn memory_limit(spec: &Spec) -> Option<u64> {
    let linux = spec.config().linux.as_ref()?;
    let limit = linux.resources.as_ref()?.memory.as_ref()?.limit?;
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}

/// `vm.image` with its format by QEMU's name (runtime spec, config-vm.md, image).
fn root_image(image: &VmImage) -> Result<RootFrom> {
    let format = match image.format.as_str() {
        format @ ("raw" | "qcow2" | "vdi" | "vmdk") => format,
        "vhd" => "vpc",
        other => {
            return Err(Error::new(format!(
                "vm.image.format is {other:?}: raw, qcow2, vdi, vmdk and vhd are known"
            )));
        }
    };
    Ok(RootFrom::File {
        path: PathBuf::from(&image.path),
        format: format.to_owned(),
    })
}

/// The memory of a guest, in bytes, in its two parts. Its JSON form is the pair of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub(crate) struct GuestMemory {
    /// What the balloon leaves the guest of the memory that it booted with.
    pub at_boot: u64,
    /// What is plugged in by virtio-mem.
    pub plugged: u64,
}

impl From<(u64, u64)> for GuestMemory {
    fn from((at_boot, plugged): (u64, u64)) -> Self {
        Self { at_boot, plugged }
    }
}

impl From<GuestMemory> for (u64, u64) {
    fn from(memory: GuestMemory) -> Self {
        (memory.at_boot, memory.plugged)
    }
}

/// The memory of a guest that booted with `boot` bytes and may grow to `max`, for a container with
/// a memory limit: the limit plus [`KERNEL_MEMORY`], at most `max`. Without a limit it is all of
/// `max`.
pub(crate) fn memory_for(limit: Option<u64>, boot: u64, max: Option<u64>) -> GuestMemory {
    let max = max.unwrap_or(boot);
    let wanted = limit.map_or(max, |limit| {
        limit
            .saturating_add(KERNEL_MEMORY)
            .next_multiple_of(MEMORY_BLOCK)
            .min(max)
    });
    GuestMemory {
        at_boot: wanted.min(boot),
        plugged: wanted.saturating_sub(boot),
    }
}

/// The annotations by which containerd and CRI-O tell what a container of a pod is. Podman sets
/// none on its infra containers.
const CONTAINER_TYPES: [&str; 2] = [
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
];

/// The annotation that says that the container is the sandbox of a pod: it runs no program of the
/// user, and the container engine passes its namespaces by path to the pod's other containers.
fn sandbox_mark(spec: &Spec) -> Option<&'static str> {
    let annotations = &spec.config().annotations;
    let mut marks = CONTAINER_TYPES.into_iter();
    marks.find(|name| {
        let value = annotations.get(*name);
        value.is_some_and(|value| value == "sandbox")
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
    fn command_line_then_annotation_then_config_choose_the_backend() {
        let nothing = VmOptions::default();
        let named = VmOptions {
            by_program_name: true,
            ..VmOptions::default()
        };
        let enabled = VmOptions {
            enabled: true,
            ..VmOptions::default()
        };
        assert!(!chosen(&nothing, None, false) && !chosen(&nothing, Some("namespaces"), false));
        assert!(chosen(&nothing, Some("vm"), false) && chosen(&nothing, None, true));
        assert!(chosen(&named, None, false) && chosen(&named, Some("vm"), false));
        // Less isolation than was asked for is the administrator's choice.
        assert!(
            chosen(&named, Some("namespaces"), false) && chosen(&nothing, Some("namespaces"), true)
        );
        assert!(chosen(&enabled, Some("namespaces"), false));
    }

    #[test]
    fn memory_follows_the_limit() {
        let (mib, boot) = (1_u64 << 20, 320 << 20);
        let sizes = |limit, max| {
            let memory = memory_for(limit, boot, max);
            (memory.at_boot, memory.plugged)
        };
        assert_eq!(sizes(Some(64 * mib), None), (192 * mib, 0));
        assert_eq!(
            sizes(Some(300 * mib), None),
            (boot, 0),
            "at most the memory at boot"
        );
        let max = Some(1024 * mib);
        assert_eq!(sizes(Some(600 * mib), max), (boot, 408 * mib));
        assert_eq!(
            sizes(Some(600 * mib + 1), max),
            (boot, 410 * mib),
            "in blocks of 2 MiB"
        );
        assert_eq!(
            sizes(Some(1024 * mib), max),
            (boot, 704 * mib),
            "at most the maximum"
        );
        assert_eq!(sizes(None, max), (boot, 704 * mib));
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
    fn a_sandbox_is_recognised_by_its_annotation() {
        assert!(sandbox_mark(&spec_of(&json!({}))).is_none());
        for name in CONTAINER_TYPES {
            let marked =
                |word: &str| sandbox_mark(&spec_of(&json!({ "annotations": { name: word } })));
            assert_eq!(marked("sandbox"), Some(name));
            assert_eq!(marked("container"), None);
        }
    }
}
