//! Disks of the machine: block devices of the host that the config names, and an image of the root
//! file system. QEMU gets them opened, so that it needs no file of the host's; the guest knows each
//! by its serial number, and gives it the path that the config says.

use crate::settings::values::RootFrom;
use crate::spec::Spec;
use crate::spec::config::{Config, Device, DeviceRule, Mount};
use crate::spec::mount_options::MountOptions;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::sys::file;
use crate::vm::channel::message::{DISKS, Disk as Purpose, OVERLAY};
use crate::vm::translate::Translated;
use crate::{Context, Error, Result};
use nix::sys::stat::{major, minor};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// Its file on the host.
    pub path: PathBuf,
    /// The device's number; 0 for an image.
    pub device: u64,
    /// The machine cannot write to it.
    pub read_only: bool,
    /// QEMU's name of its format.
    pub format: String,
    /// What the guest does with it.
    pub purpose: Purpose,
}

/// A disk that is opened.
pub struct Opened {
    /// The file.
    pub fd: Fd,
    /// What it is.
    pub disk: Disk,
}

impl Disk {
    /// Opens it, for writing only where the machine may.
    ///
    /// # Errors
    /// The kernel's; it is another device by now.
    pub fn open(&self) -> Result<Opened> {
        let flags = if self.read_only {
            libc::O_RDONLY
        } else {
            libc::O_RDWR
        };
        let name = crate::sys::fd::c_path(&self.path)?;
        let fd = file::openat(libc::AT_FDCWD, &name, flags, 0)
            .map(Fd)
            .on("open disk", self.path.display())?;
        let stat = file::fstat(fd.0).on("look at disk", self.path.display())?;
        let device = if stat.st_mode & libc::S_IFMT == libc::S_IFBLK {
            stat.st_rdev
        } else {
            0
        };
        if device != self.device {
            return Err(Error::new(format!(
                "disk {} is another file than before",
                self.path.display()
            )));
        }
        Ok(Opened {
            fd,
            disk: self.clone(),
        })
    }
}

/// QEMU's arguments for the disks: each by a descriptor set, as it opens no file itself.
pub fn arguments(disks: &[Opened]) -> Vec<String> {
    let mut args = Vec::new();
    for (index, Opened { fd, disk }) in disks.iter().enumerate() {
        let driver = if disk.device == 0 {
            "file"
        } else {
            "host_device"
        };
        let access = if disk.read_only {
            "read-only=on"
        } else {
            "read-only=off"
        };
        let set = index + 1;
        args.extend(["-add-fd".to_owned(), format!("fd={},set={set}", fd.0)]);
        args.extend(["-blockdev".to_owned(), format!("driver={driver},node-name=file{index},filename=/dev/fdset/{set},{access},auto-read-only=off")]);
        args.extend([
            "-blockdev".to_owned(),
            format!(
                "driver={},node-name=disk{index},file=file{index},{access}",
                disk.format
            ),
        ]);
        args.extend([
            "-device".to_owned(),
            format!("virtio-blk-pci,drive=disk{index},serial={}", serial(index)),
        ]);
    }
    args
}

/// What the guest finds a disk by.
pub fn serial(index: usize) -> String {
    format!("hull{index}")
}

/// Takes the block devices out of a config: each becomes a disk, and the config names the guest's
/// node of it.
///
/// # Errors
/// A device that is not there.
pub fn take_devices(config: &mut Config, bundle: &Path) -> Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for (index, mount) in config.mounts.iter_mut().enumerate() {
        take_mount(mount, bundle, &mut disks)
            .map_err(|error| error.within(format!("mounts[{index}]")))?;
    }
    let Some(linux) = &mut config.linux else {
        return Ok(disks);
    };
    let rules = linux
        .resources
        .as_mut()
        .map(|resources| &mut resources.devices);
    let mut none = Vec::new();
    let rules = rules.unwrap_or(&mut none);
    let mut nodes = Vec::new();
    let mut others = Vec::new();
    for device in std::mem::take(&mut linux.devices) {
        if device.typ == "b" {
            nodes.push(take_node(&device, rules, &mut disks)?)
        } else {
            others.push(device)
        }
    }
    linux.devices = others;
    config.mounts.extend(nodes);
    rules_of_the_guest(rules, &disks);
    Ok(disks)
}

/// The guest's node of a disk; one that is there already is not made twice, and is writable if
/// either wants it so.
fn add(
    disks: &mut Vec<Disk>,
    path: PathBuf,
    device: u64,
    read_only: bool,
    node: (u32, (u32, u32)),
) -> String {
    let known = disks.iter().position(|disk| disk.device == device);
    let index = known.unwrap_or_else(|| {
        disks.push(Disk {
            path,
            device,
            read_only,
            format: "raw".into(),
            purpose: Purpose::Node(node.0, node.1),
        });
        disks.len() - 1
    });
    disks[index].read_only &= read_only;
    format!("{DISKS}/{index}")
}

fn take_mount(mount: &mut Mount, bundle: &Path, disks: &mut Vec<Disk>) -> Result<()> {
    let Some(source) = mount
        .source
        .as_deref()
        .filter(|source| source.starts_with('/'))
    else {
        return Ok(());
    };
    let options = MountOptions::parse(&mount.options)?;
    let path = bundle.join(source);
    let Ok(meta) = std::fs::metadata(&path) else {
        return Ok(());
    };
    if options.remount || !meta.file_type().is_block_device() {
        return Ok(());
    }
    let node = (meta.mode() & 0o7777, (meta.uid(), meta.gid()));
    mount.source = Some(add(
        disks,
        path,
        meta.rdev(),
        options.flags & libc::MS_RDONLY != 0,
        node,
    ));
    Ok(())
}

/// A node of `linux.devices` becomes a bind of the guest's node.
fn take_node(device: &Device, rules: &[DeviceRule], disks: &mut Vec<Disk>) -> Result<Mount> {
    let numbers = (device.major.unwrap_or(0), device.minor.unwrap_or(0));
    let path = find(&device.path, numbers)?;
    let read_only = is_read_only(rules, numbers);
    let owner = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
    let mode = device.file_mode.unwrap_or(0o666) & 0o7777;
    let number = libc::makedev(numbers.0 as u32, numbers.1 as u32);
    let source = add(disks, path, number, read_only, (mode, owner));
    Ok(Mount {
        destination: device.path.clone(),
        typ: Some("bind".into()),
        source: Some(source),
        options: vec!["bind".into()],
        ..Mount::default()
    })
}

/// The last rule that speaks of writing to it counts; a list of rules that never allows it leaves
/// it closed, and so does the disk.
fn is_read_only(rules: &[DeviceRule], numbers: (i64, i64)) -> bool {
    let writes = |rule: &DeviceRule| {
        rule.access
            .as_deref()
            .is_none_or(|access| access.contains('w'))
    };
    !rules.is_empty()
        && !rules
            .iter()
            .rfind(|rule| speaks_of(rule, numbers) && writes(rule))
            .is_some_and(|rule| rule.allow)
}

fn speaks_of(rule: &DeviceRule, (major, minor): (i64, i64)) -> bool {
    let any = |number: Option<i64>, is: i64| number.is_none_or(|number| number < 0 || number == is);
    matches!(rule.typ.as_deref(), None | Some("a" | "b"))
        && any(rule.major, major)
        && any(rule.minor, minor)
}

/// Where the host has a block device: at the config's own path, or where its kernel says.
fn find(path: &str, (wanted_major, wanted_minor): (i64, i64)) -> Result<PathBuf> {
    let is_it = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|meta| {
            meta.file_type().is_block_device()
                && major(meta.rdev()) as i64 == wanted_major
                && minor(meta.rdev()) as i64 == wanted_minor
        })
    };
    let known = std::fs::read_to_string(format!(
        "/sys/dev/block/{wanted_major}:{wanted_minor}/uevent"
    ))
    .unwrap_or_default();
    let name = known.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let candidates = [
        Some(PathBuf::from(path)),
        name.map(|name| Path::new("/dev").join(name)),
    ];
    let found = candidates.into_iter().flatten().find(|path| is_it(path));
    found.ok_or_else(|| {
        Error::new(format!(
            "linux.devices: {path} ({wanted_major}:{wanted_minor}) \
        is a block device that this machine has not"
        ))
    })
}

/// A disk has other numbers in the guest, which has no disks but these: rules that allow one by its
/// numbers allow any.
fn rules_of_the_guest(rules: &mut [DeviceRule], disks: &[Disk]) {
    for rule in rules
        .iter_mut()
        .filter(|rule| rule.typ.as_deref() == Some("b"))
    {
        if disks
            .iter()
            .any(|disk| speaks_of(rule, (major(disk.device) as i64, minor(disk.device) as i64)))
        {
            (rule.major, rule.minor) = (None, None);
        }
    }
}

/// Takes the root file system from an image: one that is made of the bundle's, or the one that
/// `vm.image` names. It is never written to: what the container changes is in the guest's memory,
/// and goes with it. Without a store no image is made: for a plan.
///
/// # Errors
/// The image cannot be made.
pub fn root_from_image(
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
    translated.shares.retain(|share| share.name != "root");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, typ: &str, numbers: Option<(i64, i64)>, access: &str) -> DeviceRule {
        let (major, minor) = numbers.unzip();
        DeviceRule {
            allow,
            typ: Some(typ.into()),
            major,
            minor,
            access: Some(access.into()),
        }
    }

    #[test]
    fn a_disk_is_as_writable_as_the_rules_say() {
        let closed = rule(false, "a", None, "rwm");
        let own = |access| rule(true, "b", Some((7, 0)), access);
        assert!(!is_read_only(&[], (7, 0)), "no rules, no limits");
        assert!(is_read_only(std::slice::from_ref(&closed), (7, 0)));
        assert!(is_read_only(&[closed.clone(), own("r")], (7, 0)));
        assert!(!is_read_only(&[closed.clone(), own("rwm")], (7, 0)));
        assert!(
            is_read_only(&[own("rw"), closed], (7, 0)),
            "the last one counts"
        );
    }

    #[test]
    fn only_a_disks_own_rule_is_made_wide() {
        let disks = [Disk {
            path: "/dev/loop0".into(),
            device: libc::makedev(7, 0),
            read_only: true,
            format: "raw".into(),
            purpose: Purpose::Node(0o600, (0, 0)),
        }];
        let mut rules = [
            rule(true, "b", Some((7, 0)), "r"),
            rule(true, "b", Some((8, 0)), "rwm"),
            rule(true, "c", Some((7, 0)), "rwm"),
        ];
        rules_of_the_guest(&mut rules, &disks);
        assert_eq!(
            rules.each_ref().map(|rule| rule.major),
            [None, Some(8), Some(7)]
        );
    }

    #[test]
    fn qemu_gets_descriptors_and_no_paths() {
        let disk = Disk {
            path: "/secret".into(),
            device: 0,
            read_only: true,
            format: "raw".into(),
            purpose: Purpose::Image,
        };
        let args = arguments(&[Opened { fd: Fd(-1), disk }]).join(" ");
        assert!(
            !args.contains("/secret")
                && args.contains("/dev/fdset/1")
                && args.contains("read-only=on"),
            "{args}"
        );
    }
}
