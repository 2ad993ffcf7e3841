//! From the bundle's config to the guest's: what is the host's becomes a share, and what cannot
//! cross is an error.

use super::pod;
use crate::binfmt::Foreign;
use crate::cgroups::tree::{Hierarchy, Tree, Version};
use crate::facts::Facts;
use crate::spec::Spec;
use crate::spec::config::{Config, Device, Linux, Mount, Resources};
use crate::spec::mount_options::MountOptions;
use crate::stdio::notify::GUEST_DIRECTORY;
use crate::step::host::IdMap;
use crate::step::layers::{Layers, Part};
use crate::vm::boot::disk;
use crate::vm::boot::disk::Disk;
use crate::vm::channel::message::{DISKS, Node, SHARE};
use crate::{Error, Result};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

/// The container's cgroup in the guest.
const GUEST_CGROUP: &str = "/hull";
/// What a machine monitor needs beside the guest's memory, in bytes: measured 150 MB under
/// emulation, its code buffer included.
const OVERHEAD: u64 = 320 << 20;

/// Tasks of the monitor, the share server and QEMU, beside the limit of the guest's own, which the
/// guest keeps.
const TASKS: i64 = 512;

/// A part of the host that the guest sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// On the host.
    pub path: PathBuf,
    /// Its name in the share.
    pub name: String,
    /// With what is mounted below.
    pub recursive: bool,
    /// The path's last symbolic link itself is meant.
    pub link: bool,
    /// Nothing of it may change.
    pub read_only: bool,
    /// Its ids are translated.
    pub id_map: Option<IdMap>,
}

/// Where a container's network is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// A namespace of its own.
    New,
    /// One that is given.
    Path(String),
}

/// A config for the guest, and what it needs of the host.
pub struct Translated {
    /// What the guest executes.
    pub spec: Spec,
    /// What it sees.
    pub shares: Vec<Share>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Device nodes of the guest's own root, from which a container's are bound.
    pub nodes: Vec<Node>,
    /// What the guest's binfmt_misc is told.
    pub interpreter: Option<String>,
    /// The host's part of the network.
    pub network: Network,
    /// What the root is put together of, in the guest.
    pub layers: Option<Layers>,
}

impl Translated {
    /// Shares the interpreter of another architecture's programs, which is registered in the guest.
    pub fn add_interpreter(&mut self, foreign: Option<Foreign>) {
        let Some(foreign) = foreign.filter(|foreign| foreign.interpreter.is_absolute()) else {
            return;
        };
        self.interpreter = Some(foreign.registration(&format!("{SHARE}/interpreter")));
        self.shares.push(Share {
            path: foreign.interpreter,
            name: "interpreter".into(),
            recursive: false,
            link: false,
            read_only: true,
            id_map: None,
        });
    }
}

/// Translates a config.
///
/// # Errors
/// What cannot cross, naming the field.
pub fn translate(spec: &Spec, layers: Option<&Layers>) -> Result<Translated> {
    let mut config = spec.config().clone();
    let mut shares = Vec::new();
    let root = config.root.get_or_insert_default();
    let layers = match layers {
        Some(layers) => Some(translate_layers(layers, &mut shares)?),
        None => {
            let read_only = root.readonly && !makes_targets(spec);
            shares.push(Share {
                path: spec.rootfs(),
                name: "root".into(),
                recursive: true,
                link: false,
                read_only,
                id_map: None,
            });
            None
        }
    };
    root.path = format!("{SHARE}/root");
    let disks = disk::take_devices(&mut config, spec.bundle())?;
    for (index, mount) in config.mounts.iter_mut().enumerate() {
        translate_mount(spec, mount, index, &mut shares)
            .map_err(|error| error.within(format!("mounts[{index}]")))?;
    }
    // What the section says is the machine's, and done.
    config.vm = None;
    pod::own(&mut config)?;
    let network = translate_linux(&mut config)?;
    if let Some(hooks) = &config.hooks
        && !hooks.create_container.is_empty()
    {
        return Err(Error::new(
            "hooks.createContainer: the program is the host's and the namespaces are the guest's: \
                use createRuntime or startContainer",
        ));
    }
    let labels = config.process.as_mut().map(|process| {
        (
            process.selinux_label.take(),
            process.apparmor_profile.take(),
        )
    });
    if labels.is_some_and(|(selinux, apparmor)| selinux.is_some() || apparmor.is_some()) {
        crate::log::debug(
            || "labels of the host's security modules mean nothing to the guest's kernel: left out",
        );
    }
    let nodes = config
        .linux
        .iter()
        .flat_map(|linux| &linux.devices)
        .filter_map(node)
        .collect();
    Ok(Translated {
        spec: Spec::rebuilt(config, spec.bundle().to_owned()),
        shares,
        disks,
        nodes,
        network,
        layers,
        interpreter: None,
    })
}

/// The guest's own node of a device: where the container may not make one (on the share, in a user
/// namespace), it is bound.
fn node(device: &Device) -> Option<Node> {
    if device.typ == "p" {
        return None;
    }
    let number = |value: Option<i64>| u32::try_from(value.unwrap_or(0)).ok();
    Some(Node {
        path: crate::spec::names::inside_path(&device.path),
        mode: libc::S_IFCHR | device.file_mode.unwrap_or(0o666) & 0o7777,
        numbers: (number(device.major)?, number(device.minor)?),
        owner: (device.uid.unwrap_or(0), device.gid.unwrap_or(0)),
    })
}

/// Layers as the guest sees them: each a share that nothing is written to. What is written stays in
/// the guest's memory.
fn translate_layers(layers: &Layers, shares: &mut Vec<Share>) -> Result<Layers> {
    let mut layers = layers.clone();
    for (index, part) in layers.parts.iter_mut().enumerate() {
        let (path, recursive) = match part {
            Part::Overlay { kept: Some(_), .. } => {
                return Err(Error::new(
                    "changes that are kept (--keep-changes) cannot be made through a machine's \
                        share: bind a directory with -v",
                ));
            }
            Part::Overlay { lower, .. } => (lower, false),
            Part::ReadOnly { source, .. } => (source, true),
            Part::Link { .. } => continue,
        };
        let name = format!("l{index}");
        let of_guest = PathBuf::from(format!("{SHARE}/{name}"));
        shares.push(Share {
            path: std::mem::replace(path, of_guest),
            name,
            recursive,
            link: false,
            read_only: true,
            id_map: None,
        });
    }
    Ok(layers)
}

/// Whether a mount's target is missing in the root file system and would have to be made there.
fn makes_targets(spec: &Spec) -> bool {
    let root = spec.rootfs();
    let missing =
        |path: &str| std::fs::symlink_metadata(root.join(path.trim_start_matches('/'))).is_err();
    let config = spec.config();
    let cwd = config.process.as_ref().map(|process| process.cwd.as_str());
    ["/dev", "/proc", "/sys"]
        .iter()
        .copied()
        .chain(config.mounts.iter().map(|mount| mount.destination.as_str()))
        .chain(cwd)
        .any(missing)
}

fn translate_mount(
    spec: &Spec,
    mount: &mut Mount,
    index: usize,
    shares: &mut Vec<Share>,
) -> Result<()> {
    let options = MountOptions::parse(&mount.options)?;
    if mount.typ.as_deref() == Some("overlay") {
        return Err(Error::new(
            "an overlay's options name directories of the host, which cannot cross into a virtual \
                machine: share them, or use an image",
        ));
    }
    if options.remount || !(options.bind.is_some() || mount.typ.as_deref() == Some("bind")) {
        return Ok(());
    }
    let path = spec
        .bundle()
        .join(mount.source.as_deref().unwrap_or_default());
    if path.starts_with(DISKS)
        || path.as_os_str() == GUEST_DIRECTORY
        || pod::own_shared_memory(mount, &path)
    {
        return Ok(());
    }
    let kind = std::fs::metadata(&path)
        .map_err(|error| Error::io("open mount source", path.display(), &error))?
        .file_type();
    let what = match () {
        () if kind.is_char_device() => Some("a character device"),
        () if kind.is_socket() => Some("a socket"),
        () if kind.is_fifo() => Some("a fifo"),
        () => None,
    };
    if let Some(what) = what {
        return Err(Error::new(format!(
            "{} is {what} of the host, which cannot cross into a virtual machine",
            path.display()
        )));
    }
    let recursive = options.id_map == Some(true);
    let linux = spec.config().linux.clone().unwrap_or_default();
    let id_map = match (mount.uid_mappings.is_empty(), options.id_map) {
        (false, _) => Some(IdMap {
            uid: mount.uid_mappings.clone(),
            gid: mount.gid_mappings.clone(),
            recursive,
        }),
        (true, Some(_)) if !linux.uid_mappings.is_empty() => Some(IdMap {
            uid: linux.uid_mappings,
            gid: linux.gid_mappings,
            recursive,
        }),
        (true, Some(_)) => {
            return Err(Error::new(
                "idmap needs mappings, or a user namespace that has them",
            ));
        }
        (true, None) => None,
    };
    mount.uid_mappings.clear();
    mount.gid_mappings.clear();
    mount
        .options
        .retain(|option| option != "idmap" && option != "ridmap");
    let name = format!("m{index}");
    mount.source = Some(format!("{SHARE}/{name}"));
    let read_only = options.flags & libc::MS_RDONLY != 0;
    shares.push(Share {
        path,
        name,
        recursive: options.bind == Some(true),
        link: options.copy_symlink,
        read_only,
        id_map,
    });
    Ok(())
}

/// Numbers of devices that are the kernel's own and not a machine's: memory devices, terminals, tun
/// and fuse.
fn is_virtual(major: i64, minor: i64) -> bool {
    matches!((major, minor), (1 | 5 | 136, _) | (10, 200 | 229))
}

fn translate_linux(config: &mut Config) -> Result<Network> {
    let linux = config.linux.get_or_insert_default();
    let mut network = None;
    for namespace in &linux.namespaces {
        let path = namespace.path.clone().filter(|path| !path.is_empty());
        match (namespace.typ, path) {
            (Some(Kind::Network), Some(path)) => network = Some(Network::Path(path)),
            (Some(Kind::Network), None) => network = Some(Network::New),
            (Some(kind), Some(path)) => {
                let kind = crate::spec::names::kind_name(kind as u32);
                return Err(Error::new(format!(
                    "linux.namespaces: the {kind} namespace {path} is the host's, which cannot \
                        cross into a virtual machine"
                )));
            }
            (_, None) | (None, _) => {}
        }
    }
    let network = network.ok_or_else(|| {
        Error::new(
            "linux.namespaces: a virtual machine cannot \
        have the host's network: add a network namespace",
        )
    })?;
    // The guest's own network is the container's: interfaces come into it from the host's side. A
    // container with a user namespace has one that this owns, or it could neither listen on a low
    // port nor mount sysfs.
    let user = linux
        .namespaces
        .iter()
        .any(|namespace| namespace.typ == Some(Kind::User));
    linux
        .namespaces
        .retain(|namespace| user || namespace.typ != Some(Kind::Network));
    linux
        .namespaces
        .iter_mut()
        .filter(|namespace| namespace.typ == Some(Kind::Network))
        .for_each(|namespace| namespace.path = None);
    if let Some(name) = linux.net_devices.keys().next() {
        return Err(Error::new(format!(
            "linux.netDevices.{name}: a network device of the host cannot cross into a virtual \
                machine"
        )));
    }
    for device in &linux.devices {
        let numbers = (device.major.unwrap_or(0), device.minor.unwrap_or(0));
        if device.typ != "p" && !is_virtual(numbers.0, numbers.1) {
            let (major, minor) = numbers;
            return Err(Error::new(format!(
                "linux.devices: {} ({major}:{minor}) is a device of the host, which cannot cross \
                    into a virtual machine",
                device.path
            )));
        }
    }
    if let Some(seccomp) = &linux.seccomp
        && seccomp
            .listener_path
            .as_deref()
            .is_some_and(|path| !path.is_empty())
    {
        return Err(Error::new(
            "linux.seccomp.listenerPath: a listener of the guest's kernel cannot cross to the host",
        ));
    }
    guest_limits(linux);
    linux.mount_label = None;
    Ok(network)
}

/// The guest's cgroup: v2, its own name. What is the host's to limit (block devices by their
/// numbers, network classes, cpusets by the host's numbers) is limited there.
fn guest_limits(linux: &mut Linux) {
    linux.cgroups_path = Some(GUEST_CGROUP.into());
    linux.resources = linux.resources.as_ref().map(guests_part);
}

/// Whether a file of `unified` holds numbers that mean something on the host alone: its disks, its
/// processors, its RDMA devices. They are the host's to set, as `blockIO`, `cpus` and `rdma` are.
fn names_hosts(file: &str) -> bool {
    file.split_once('.')
        .is_some_and(|(controller, _)| ["io", "cpuset", "rdma"].contains(&controller))
}

/// The limits that the guest's kernel applies; those that no v2 tree has are refused there.
pub fn guests_part(resources: &Resources) -> Resources {
    let mut resources = resources.clone();
    resources.block_io = None;
    resources.network = None;
    resources.rdma.clear();
    resources.unified.retain(|file, _| !names_hosts(file));
    if let Some(cpu) = &mut resources.cpu {
        (cpu.cpus, cpu.mems) = (None, None);
        (cpu.realtime_period, cpu.realtime_runtime) = (None, None);
    }
    if let Some(memory) = &mut resources.memory {
        // How readily the guest's memory is swapped, the host's kernel decides.
        memory.swappiness = None;
    }
    resources
}

/// What is set in the host's cgroup of a machine and limits nothing of the container's, in words.
/// The class and the priority of a packet are those of the socket that it was sent from
/// (`sk_alloc`, net/core/sock.c): a tap's packets have lost theirs, or come from the guest's.
pub fn without_effect(resources: &Resources) -> Vec<String> {
    let network = resources.network.as_ref().is_some_and(|network| {
        network.class_id.is_some_and(|class| class != 0) || !network.priorities.is_empty()
    });
    let real_time = resources
        .cpu
        .as_ref()
        .is_some_and(|cpu| cpu.realtime_runtime.is_some() || cpu.realtime_period.is_some());
    [
        (
            network,
            "linux.resources.network: what a virtual machine sends comes from its own \
            kernel: the host's classes and priorities do not reach it",
        ),
        (
            real_time,
            "linux.resources.cpu: real-time programs of a virtual machine are its own \
            kernel's: realtimeRuntime and realtimePeriod do not reach them",
        ),
    ]
    .into_iter()
    .filter(|(is_set, _)| *is_set)
    .map(|(_, words)| words.to_owned())
    .collect()
}

/// The host's limits of a machine: the guest's memory and the measured overhead, room for the tasks
/// of its monitor, and what only the host can limit.
pub fn host_limits(resources: Option<&Resources>, guest_memory: u64) -> Resources {
    let mut resources = resources.cloned().unwrap_or_default();
    resources.devices.clear();
    resources.unified.retain(|file, _| names_hosts(file));
    // The guest's huge pages are none of the host's.
    resources.hugepage_limits.clear();
    if let Some(memory) = &mut resources.memory {
        if memory.limit.is_some_and(|limit| limit > 0) {
            memory.limit = Some(host_memory(guest_memory));
        }
        (
            memory.swap,
            memory.reservation,
            memory.kernel,
            memory.kernel_tcp,
            memory.disable_oom_killer,
        ) = (None, None, None, None, None);
        memory.check_before_update = None;
    }
    if let Some(pids) = &mut resources.pids {
        pids.limit = pids
            .limit
            .map(|limit| if limit > 0 { limit.max(TASKS) } else { limit });
    }
    resources
}

/// The host's limit for a machine of so much memory, in bytes.
pub fn host_memory(guest_memory: u64) -> i64 {
    i64::try_from(guest_memory.saturating_add(OVERHEAD)).unwrap_or(i64::MAX)
}

/// What a guest's kernel can do: known for certain once it has said so; before, what every kernel
/// of these years can.
pub fn facts(spec: &Spec, guest: Option<(u8, &Tree)>) -> Facts {
    let names = [
        "cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc",
    ]
    .map(str::to_owned)
    .to_vec();
    let assumed = Tree {
        hierarchies: vec![Hierarchy {
            version: Version::V2,
            mount_point: "/sys/fs/cgroup".into(),
            root: "/".into(),
            controllers: names.clone(),
            near_controllers: names,
            own: "/".into(),
            writable: true,
        }],
        uid: 0,
    };
    let (last_capability, cgroups) =
        guest.map_or((40, assumed), |(last, tree)| (last, tree.clone()));
    let all = crate::security::caps::all(last_capability);
    let limits =
        spec.config().process.iter().flat_map(|process| {
            crate::security::rlimits::parse(&process.rlimits).unwrap_or_default()
        });
    Facts {
        euid: 0,
        egid: 0,
        privileged: true,
        in_user_namespace: false,
        permitted: all,
        bounding: all,
        last_capability,
        // The guest's first process ignores it, and its programs must not.
        ignored_signals: 1 << (libc::SIGPIPE - 1),
        cgroups,
        joined: Vec::new(),
        id_helpers: None,
        // The session sets limits that the child may not.
        hard_limits: limits
            .map(|limit| (limit.resource, 0))
            .collect::<BTreeMap<_, _>>(),
        lsm: None,
        kcore: true,
        // The guest runs it without knowing.
        foreign: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_unified_tree_are_set_where_their_numbers_mean_something() {
        let asked = r#"{"unified":{"io.max":"8:0 rbps=1","cpuset.cpus":"1","rdma.max":"mlx5_0 hca_handle=2","memory.high":"5","cpu.idle":"1","pids.max":"9"}}"#;
        let asked: Resources = serde_json::from_str(asked).unwrap();
        let files = |resources: Resources| resources.unified.into_keys().collect::<Vec<_>>();
        assert_eq!(
            files(host_limits(Some(&asked), 1 << 30)),
            ["cpuset.cpus", "io.max", "rdma.max"]
        );
        assert_eq!(
            files(guests_part(&asked)),
            ["cpu.idle", "memory.high", "pids.max"]
        );
    }
}
