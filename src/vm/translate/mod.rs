//! Translation of a bundle's config into the config of the guest: directories of the host become
//! shares, block devices become disks, and what a VM cannot have is an error.

pub(crate) mod disks;
pub mod facts;
pub(crate) mod limits;
pub(crate) mod pod;

use crate::binfmt::Foreign;
use crate::settings::values::RootFrom;
use crate::spec::Spec;
use crate::spec::config::{Config, Device, Linux, Mount};
use crate::spec::mount_options::MountOptions;
use crate::stdio::notify::GUEST_DIRECTORY;
use crate::step::host::IdMap;
use crate::step::layers::{Layers, Part};
use crate::store::Store;
use crate::vm::boot::disk::Disk;
use crate::vm::channel::message::{DISKS, Disk as Purpose, Node, OVERLAY, SHARE};
use crate::{Error, Result};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

/// `linux.cgroupsPath` of the container in the guest.
const GUEST_CGROUP: &str = "/hull";

/// The name of the share that is the root filesystem.
const ROOT: &str = "root";

/// A file or directory of the host that the guest has by virtio-fs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The path on the host.
    pub path: PathBuf,
    /// The name in the root of the virtio-fs filesystem.
    pub name: String,
    /// The share includes the mounts below the path.
    pub recursive: bool,
    /// If the path is a symbolic link, the share is the link and not its target.
    pub link: bool,
    /// The guest cannot write to the share.
    pub read_only: bool,
    /// The id mapping of an idmapped mount, which the host makes.
    pub id_map: Option<IdMap>,
}

/// The network namespace of the monitor on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// A new namespace.
    New,
    /// An existing namespace, by its path.
    Path(String),
}

/// The config of the guest, and what the guest needs of the host.
pub struct Translated {
    /// The config that the guest runs.
    pub spec: Spec,
    /// The files and directories of the host that the guest has.
    pub shares: Vec<Share>,
    /// The disks of the VM.
    pub disks: Vec<Disk>,
    /// Device nodes in the guest's initial root, from which the nodes of the container are bound.
    pub nodes: Vec<Node>,
    /// A line for the guest's `binfmt_misc/register`.
    pub interpreter: Option<String>,
    /// The network namespace on the host.
    pub network: Network,
    /// The layers of the root filesystem, by their paths in the guest.
    pub layers: Option<Layers>,
}

impl Translated {
    /// Shares the interpreter for programs of another architecture and registers it in the guest.
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
/// The config has something that a VM cannot have, or a mount source or block device that does not
/// exist on the host; the error names the field.
pub fn translate(spec: &Spec, layers: Option<&Layers>) -> Result<Translated> {
    let mut config = spec.config().clone();
    let mut shares = Vec::new();
    let root = config.root.get_or_insert_default();
    let layers = match layers {
        Some(layers) => Some(translate_layers(layers, &mut shares)?),
        None => {
            let read_only = root.readonly && !needs_mount_points(spec);
            shares.push(Share {
                path: spec.rootfs(),
                name: ROOT.into(),
                recursive: true,
                link: false,
                read_only,
                id_map: None,
            });
            None
        }
    };
    root.path = format!("{SHARE}/{ROOT}");
    let disks = disks::take_devices(&mut config, spec.bundle())?;
    for (index, mount) in config.mounts.iter_mut().enumerate() {
        translate_mount(spec, mount, index, &mut shares)
            .map_err(|error| error.within(format!("mounts[{index}]")))?;
    }
    // The section describes the VM, which the monitor starts.
    config.vm = None;
    pod::replace_namespaces(&mut config)?;
    let network = translate_linux(&mut config)?;
    if let Some(hooks) = &config.hooks
        && !hooks.create_container.is_empty()
    {
        return Err(Error::new(
            "hooks.createContainer: the program is on the host and the container's namespaces are \
                in the guest: use createRuntime or startContainer",
        ));
    }
    remove_labels(&mut config);
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

/// The guest's kernel does not have the policies of the host's security modules.
fn remove_labels(config: &mut Config) {
    let labels = config.process.as_mut().map(|process| {
        (
            process.selinux_label.take(),
            process.apparmor_profile.take(),
        )
    });
    if labels.is_some_and(|(selinux, apparmor)| selinux.is_some() || apparmor.is_some()) {
        crate::log::debug(
            || "labels of the host's security modules have no meaning in the guest: not applied",
        );
    }
}

/// The node of a character device in the guest's initial root. A container binds it where mknod(2)
/// is not possible: on the share, and in a user namespace.
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

/// The layers by their paths in the guest: each is a read-only share. The guest keeps changes in
/// its memory.
fn translate_layers(layers: &Layers, shares: &mut Vec<Share>) -> Result<Layers> {
    let mut layers = layers.clone();
    for (index, part) in layers.parts.iter_mut().enumerate() {
        let (path, recursive) = match part {
            Part::Overlay { kept: Some(_), .. } => {
                return Err(Error::new(
                    "--keep-changes: a virtual machine's virtio-fs share cannot keep the changes \
                        of an overlay: bind a directory with -v",
                ));
            }
            Part::Overlay { lower, .. } => (lower, false),
            Part::ReadOnly { source, .. } => (source, true),
            Part::Link { .. } => continue,
        };
        let name = format!("l{index}");
        let in_guest = PathBuf::from(format!("{SHARE}/{name}"));
        shares.push(Share {
            path: std::mem::replace(path, in_guest),
            name,
            recursive,
            link: false,
            read_only: true,
            id_map: None,
        });
    }
    Ok(layers)
}

/// Whether the root filesystem lacks the target of a mount or the working directory, which the
/// guest then makes there.
fn needs_mount_points(spec: &Spec) -> bool {
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
        || pod::replace_shared_memory(mount, &path)
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
    let id_map = take_id_map(spec, mount, &options)?;
    let name = format!("m{index}");
    mount.source = Some(format!("{SHARE}/{name}"));
    shares.push(Share {
        path,
        name,
        recursive: options.bind == Some(true),
        link: options.copy_symlink,
        read_only: options.flags & libc::MS_RDONLY != 0,
        id_map,
    });
    Ok(())
}

/// The id mapping of a mount, which the host applies to the share instead of the guest to the
/// mount.
fn take_id_map(spec: &Spec, mount: &mut Mount, options: &MountOptions) -> Result<Option<IdMap>> {
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
    Ok(id_map)
}

/// Whether a device number belongs to a driver without hardware, which the guest's kernel has as
/// well: memory devices (1), tty and ptmx (5), pts (136), tun (10:200) and fuse (10:229)
/// (Documentation/admin-guide/devices.txt).
fn is_without_hardware(major: i64, minor: i64) -> bool {
    matches!((major, minor), (1 | 5 | 136, _) | (10, 200 | 229))
}

fn translate_linux(config: &mut Config) -> Result<Network> {
    let linux = config.linux.get_or_insert_default();
    let network = translate_namespaces(linux)?;
    if let Some(name) = linux.net_devices.keys().next() {
        return Err(Error::new(format!(
            "linux.netDevices.{name}: a network device of the host cannot cross into a virtual \
                machine"
        )));
    }
    for device in &linux.devices {
        let (major, minor) = (device.major.unwrap_or(0), device.minor.unwrap_or(0));
        if device.typ != "p" && !is_without_hardware(major, minor) {
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
    linux.cgroups_path = Some(GUEST_CGROUP.into());
    linux.resources = linux.resources.as_ref().map(limits::guest_limits);
    linux.mount_label = None;
    Ok(network)
}

/// Takes the network namespace out of the namespaces of the guest's container and checks that none
/// of the others is joined by path.
fn translate_namespaces(linux: &mut Linux) -> Result<Network> {
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
            "linux.namespaces: a virtual machine cannot have the host's network: add a network \
                namespace",
        )
    })?;
    // The container uses the guest's initial network namespace, into which the interfaces come.
    // With a user namespace it needs a network namespace that this user namespace owns: otherwise
    // it could neither bind a port below 1024 nor mount sysfs.
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
    Ok(network)
}

/// Replaces the share of the root filesystem by an image: one made of the bundle's root directory,
/// or the one that `vm.image` names. The image is read-only; the guest keeps the container's
/// changes in its memory. Without a store (for `hull plan`) no image is made.
///
/// # Errors
/// mkfs.erofs is missing or fails; the image does not exist.
pub(crate) fn root_from_image(
    translated: &mut Translated,
    from: &RootFrom,
    spec: &Spec,
    store: Option<&Store>,
) -> Result<()> {
    let (path, format) = match from {
        RootFrom::Share => return Ok(()),
        RootFrom::Image => {
            let path = store.map_or_else(
                || Ok(spec.rootfs()),
                |store| crate::vm::boot::image::find_or_make(store, &spec.rootfs()),
            )?;
            (path, "raw".to_owned())
        }
        RootFrom::File { path, format } => (path.clone(), format.clone()),
    };
    let meta = std::fs::metadata(&path)
        .map_err(|error| Error::io("open image", path.display(), &error))?;
    let device = if meta.file_type().is_block_device() {
        meta.rdev()
    } else {
        0
    };
    translated.shares.retain(|share| share.name != ROOT);
    translated.disks.push(Disk {
        path,
        device,
        read_only: true,
        format,
        purpose: Purpose::Image,
    });
    let mut config = translated.spec.config().clone();
    config.root.get_or_insert_default().path = OVERLAY.to_owned();
    translated.spec = Spec::rebuilt(config, spec.bundle().to_owned());
    Ok(())
}
