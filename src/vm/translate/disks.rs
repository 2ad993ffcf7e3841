//! Block devices of a config become disks of the VM: `linux.devices` of type `b`, and bind mounts
//! of block devices. The config then names the guest's device nodes of these disks.

use crate::spec::config::{Config, Device, DeviceRule, Mount};
use crate::spec::mount_options::MountOptions;
use crate::vm::boot::disk::Disk;
use crate::vm::channel::message::{DISKS, Disk as Purpose};
use crate::{Error, Result};
use nix::sys::stat::{major, minor};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Takes the block devices out of a config. Each becomes a disk, and the config's mount or device
/// becomes a bind mount of the guest's node of that disk.
///
/// # Errors
/// The host has no block device with the numbers of an entry of `linux.devices`; the options of a
/// mount are invalid.
pub(super) fn take_devices(config: &mut Config, bundle: &Path) -> Result<Vec<Disk>> {
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
    translate_rules(rules, &disks);
    Ok(disks)
}

/// Adds a disk and returns the path of its node in the guest. If the device is a disk already,
/// that disk's node is used, and it is writable if either entry is.
fn add(disks: &mut Vec<Disk>, disk: Disk) -> String {
    let known = disks.iter().position(|known| known.device == disk.device);
    let index = known.unwrap_or(disks.len());
    match disks.get_mut(index) {
        Some(known) => known.read_only &= disk.read_only,
        None => disks.push(disk),
    }
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
    let disk = Disk {
        path,
        device: meta.rdev(),
        read_only: options.flags & libc::MS_RDONLY != 0,
        format: "raw".into(),
        purpose: Purpose::Node(meta.mode() & 0o7777, (meta.uid(), meta.gid())),
    };
    mount.source = Some(add(disks, disk));
    Ok(())
}

/// A block device of `linux.devices` becomes a bind mount of the guest's node.
fn take_node(device: &Device, rules: &[DeviceRule], disks: &mut Vec<Disk>) -> Result<Mount> {
    let numbers = (device.major.unwrap_or(0), device.minor.unwrap_or(0));
    let mode = device.file_mode.unwrap_or(0o666) & 0o7777;
    let owner = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
    let disk = Disk {
        path: find(&device.path, numbers)?,
        device: libc::makedev(numbers.0 as u32, numbers.1 as u32),
        read_only: is_read_only(rules, numbers),
        format: "raw".into(),
        purpose: Purpose::Node(mode, owner),
    };
    Ok(Mount {
        destination: device.path.clone(),
        typ: Some("bind".into()),
        source: Some(add(disks, disk)),
        options: vec!["bind".into()],
        ..Mount::default()
    })
}

/// Whether `linux.resources.devices` denies writing to a device: the last rule for it with access
/// `w` decides, and a device that no rule allows is denied. Without rules everything is allowed.
fn is_read_only(rules: &[DeviceRule], numbers: (i64, i64)) -> bool {
    let writes = |rule: &DeviceRule| {
        rule.access
            .as_deref()
            .is_none_or(|access| access.contains('w'))
    };
    !rules.is_empty()
        && !rules
            .iter()
            .rfind(|rule| applies_to(rule, numbers) && writes(rule))
            .is_some_and(|rule| rule.allow)
}

/// Whether a rule applies to a block device with these numbers (major, minor).
fn applies_to(rule: &DeviceRule, (major, minor): (i64, i64)) -> bool {
    let matches = |rule: Option<i64>, number| rule.is_none_or(|rule| rule < 0 || rule == number);
    matches!(rule.typ.as_deref(), None | Some("a" | "b"))
        && matches(rule.major, major)
        && matches(rule.minor, minor)
}

/// Finds the host's node of a block device: at the path of the config, or at the one that the
/// kernel names in sysfs.
fn find(path: &str, (wanted_major, wanted_minor): (i64, i64)) -> Result<PathBuf> {
    let is_it = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|meta| {
            meta.file_type().is_block_device()
                && major(meta.rdev()) as i64 == wanted_major
                && minor(meta.rdev()) as i64 == wanted_minor
        })
    };
    let uevent = std::fs::read_to_string(format!(
        "/sys/dev/block/{wanted_major}:{wanted_minor}/uevent"
    ))
    .unwrap_or_default();
    let name = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="));
    let candidates = [
        Some(PathBuf::from(path)),
        name.map(|name| Path::new("/dev").join(name)),
    ];
    let found = candidates.into_iter().flatten().find(|path| is_it(path));
    found.ok_or_else(|| {
        Error::new(format!(
            "linux.devices: {path} ({wanted_major}:{wanted_minor}) is a block device that this \
                host does not have"
        ))
    })
}

/// A disk has other device numbers in the guest than on the host. The guest has no disks but those
/// of the config, so a rule for the numbers of one of them becomes a rule for all block devices.
fn translate_rules(rules: &mut [DeviceRule], disks: &[Disk]) {
    for rule in rules
        .iter_mut()
        .filter(|rule| rule.typ.as_deref() == Some("b"))
    {
        let numbers = |disk: &Disk| (major(disk.device) as i64, minor(disk.device) as i64);
        if disks.iter().any(|disk| applies_to(rule, numbers(disk))) {
            (rule.major, rule.minor) = (None, None);
        }
    }
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
    fn the_device_rules_decide_whether_a_disk_is_writable() {
        let closed = rule(false, "a", None, "rwm");
        let own = |access| rule(true, "b", Some((7, 0)), access);
        assert!(
            !is_read_only(&[], (7, 0)),
            "without rules everything is allowed"
        );
        assert!(is_read_only(std::slice::from_ref(&closed), (7, 0)));
        assert!(is_read_only(&[closed.clone(), own("r")], (7, 0)));
        assert!(!is_read_only(&[closed.clone(), own("rwm")], (7, 0)));
        assert!(
            is_read_only(&[own("rw"), closed], (7, 0)),
            "the last rule decides"
        );
    }

    #[test]
    fn only_rules_for_a_disk_lose_their_numbers() {
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
        translate_rules(&mut rules, &disks);
        assert_eq!(
            rules.each_ref().map(|rule| rule.major),
            [None, Some(8), Some(7)]
        );
    }
}
