//! The features document (features.md and features-linux.md of the runtime spec, 1.3): what this
//! program recognises, whatever the host supports. Only `supportedFlags` depends on the kernel, as
//! the spec demands.
//!
//! The document is written as JSON and not by the types of `oci-spec`, which write absent fields as
//! null and annotations in no order; a test reads it by those types and compares.

#![forbid(unsafe_code)]

use crate::security::{caps, process, seccomp};
use serde_json::{Value, json};

/// The versions of the spec whose `ociVersion` is accepted.
const OLDEST: &str = "1.0.0";
const NEWEST: &str = "1.3.0";

/// The hooks of config.md, in the order in which they run.
const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// The namespaces of config-linux.md.
const NAMESPACES: [&str; 8] = [
    "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
];

/// The seccomp actions and operators of config-linux.md.
const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// The last capability that hull has a name for: CAP_CHECKPOINT_RESTORE.
const LAST_NAMED_CAPABILITY: u8 = 40;

/// Cgroup versions, managers and controllers that `src/cgroups` executes.
const CGROUP_V1: bool = true;
const CGROUP_V2: bool = true;
const CGROUP_SYSTEMD: bool = true;
const CGROUP_SYSTEMD_USER: bool = true;
const CGROUP_RDMA: bool = true;
/// hull makes no resctrl groups (Intel RDT), and refuses a config that has `linux.intelRdt`.
const INTEL_RDT: bool = false;

/// Annotations of a config that give the container more rights; one that ends in a dot is a prefix.
const UNSAFE_ANNOTATIONS: [&str; 2] = ["org.systemd.property.", "run.oci.keep_original_groups"];

/// The features document. `mount_options` are the options that the mounts of a config may name,
/// without those of file systems.
pub fn document(mount_options: &[&str]) -> Value {
    json!({
        "ociVersionMin": OLDEST,
        "ociVersionMax": NEWEST,
        "hooks": HOOKS,
        "mountOptions": mount_options,
        "linux": linux(),
        "annotations": annotations(),
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    })
}

fn linux() -> Value {
    let names = |table: &[(&'static str, u32)]| -> Vec<&str> {
        table.iter().map(|(name, _)| *name).collect()
    };
    json!({
        "namespaces": NAMESPACES,
        "capabilities": caps::names(caps::all(LAST_NAMED_CAPABILITY)),
        "cgroup": {
            "v1": CGROUP_V1,
            "v2": CGROUP_V2,
            "systemd": CGROUP_SYSTEMD,
            "systemdUser": CGROUP_SYSTEMD_USER,
            "rdma": CGROUP_RDMA,
        },
        "seccomp": {
            "enabled": true,
            "actions": ACTIONS,
            "operators": OPERATORS,
            "archs": seccomp::known_architectures(),
            "knownFlags": names(&seccomp::KNOWN_FLAGS),
            "supportedFlags": seccomp::supported_flags(),
        },
        "apparmor": { "enabled": true },
        "selinux": { "enabled": true },
        "intelRdt": { "enabled": INTEL_RDT, "schemata": INTEL_RDT, "monitoring": INTEL_RDT },
        "memoryPolicy": { "modes": names(&process::MEMORY_MODES),
            "flags": names(&process::MEMORY_FLAGS) },
        "mountExtensions": { "idmap": { "enabled": true } },
        "netDevices": { "enabled": true },
    })
}

fn annotations() -> Value {
    let mut annotations = json!({
        "hull.version": env!("CARGO_PKG_VERSION"),
        "io.github.seccomp.libseccomp.version": seccomp::library_version(),
        // runc's annotation, which engines look for: hull has checkpoint and restore, whether or
        // not criu is installed.
        "org.opencontainers.runc.checkpoint.enabled": "true",
    });
    if let Some(commit) = option_env!("HULL_COMMIT") {
        annotations["hull.commit"] = json!(commit);
    }
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::config::{Seccomp, Syscall};
    use oci_spec::runtime::Features;

    fn strings(value: &Value) -> Vec<&str> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect()
    }

    #[test]
    fn the_types_of_the_spec_read_all_of_it() {
        let document = document(&["ro", "bind"]);
        let read: Features = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), document);
        assert!(!document.to_string().contains("null"));
    }

    #[test]
    fn what_is_named_is_recognised() {
        let document = document(&[]);
        let linux = &document["linux"];
        for action in strings(&linux["seccomp"]["actions"]) {
            assert!(
                serde_json::from_value::<Syscall>(json!({"names": ["read"], "action": action}))
                    .is_ok(),
                "{action}"
            );
        }
        for op in strings(&linux["seccomp"]["operators"]) {
            let rule = json!({"names": ["read"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": 1, "op": op}]});
            let section: Seccomp = serde_json::from_value(
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}),
            )
            .unwrap();
            assert!(seccomp::compile(&section).is_ok(), "{op}");
        }
        for name in strings(&linux["capabilities"]) {
            assert!(caps::number(name).is_some(), "{name}");
        }
        for name in strings(&linux["namespaces"]) {
            assert!(
                serde_json::from_value::<crate::spec::config::Namespace>(json!({"type": name}))
                    .is_ok(),
                "{name}"
            );
        }
        let archs = strings(&linux["seccomp"]["archs"]);
        assert!(
            archs.contains(&"SCMP_ARCH_X86_64")
                && archs.contains(&"SCMP_ARCH_X32")
                && archs.contains(&"SCMP_ARCH_AARCH64")
        );
        for arch in archs {
            assert!(
                serde_json::from_value::<Seccomp>(json!({"architectures": [arch]})).is_ok(),
                "{arch}"
            );
        }
        for flag in strings(&linux["seccomp"]["supportedFlags"]) {
            let section: Seccomp =
                serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [flag]}))
                    .unwrap();
            assert!(seccomp::compile(&section).is_ok(), "{flag}");
        }
    }
}
