//! Disks and device nodes in the guest's initial root, from which a container's are bound, and the
//! image of the root filesystem.

use crate::guest::boot::mount_on;
use crate::guest::modules::Modules;
use crate::sys::fd::c_string;
use crate::sys::{file, mount};
use crate::vm::boot::disk::serial;
use crate::vm::channel::message::{DISKS, Disk, IMAGE, Node, OVERLAY};
use crate::{Context, Error, Result};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// The filesystems that the image of a root filesystem may have, in the order in which hull tries
/// them.
const IMAGE_FILESYSTEMS: [&str; 4] = ["erofs", "squashfs", "ext4", "xfs"];
/// The directory with the overlay's `upper` and `work` directories, on the guest's initial tmpfs.
const CHANGES: &str = "/run/hull/changes";

/// Makes the device nodes that do not exist yet.
///
/// # Errors
/// mkdir(2), mknod(2), chmod(2) or chown(2) fails.
pub(super) fn make_nodes(nodes: &[Node]) -> Result<()> {
    for node in nodes
        .iter()
        .filter(|node| fs::symlink_metadata(&node.path).is_err())
    {
        if let Some(directory) = Path::new(&node.path).parent() {
            fs::create_dir_all(directory).on("create", directory.display())?;
        }
        make_node(&node.path, node.mode, node.numbers, node.owner)?;
    }
    Ok(())
}

fn make_node(
    path: &str,
    mode: u32,
    (major, minor): (u32, u32),
    (uid, gid): (u32, u32),
) -> Result<()> {
    let name = c_string(path)?;
    file::mknodat(libc::AT_FDCWD, &name, mode, libc::makedev(major, minor)).on("mknod", path)?;
    // mknod(2) applies the umask.
    fs::set_permissions(
        path,
        std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777),
    )
    .on("set the mode of", path)?;
    file::fchownat(libc::AT_FDCWD, &name, uid, gid).on("set the owner of", path)
}

/// Makes a node for each disk, and mounts the image of the root filesystem.
///
/// # Errors
/// A disk does not appear within 10 s; a node cannot be made; the image cannot be mounted.
pub(super) fn set_up(disks: &[Disk], modules: &mut Modules) -> Result<()> {
    if disks.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(DISKS).on("create", DISKS)?;
    for (index, disk) in disks.iter().enumerate() {
        let numbers = find(&serial(index))?;
        let path = format!("{DISKS}/{index}");
        match disk {
            Disk::Node(mode, owner) => make_node(&path, libc::S_IFBLK | mode, numbers, *owner)?,
            Disk::Image => {
                make_node(&path, libc::S_IFBLK | 0o600, numbers, (0, 0))?;
                mount_image(&path, modules)?;
            }
        }
    }
    Ok(())
}

/// Finds the major and minor number of the disk with this serial number. The driver may add the
/// disk some time after its module is loaded.
fn find(serial: &str) -> Result<(u32, u32)> {
    for _ in 0..1000 {
        for disk in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            if fs::read_to_string(disk.path().join("serial"))
                .is_ok_and(|text| text.trim() == serial)
            {
                let text = fs::read_to_string(disk.path().join("dev"))
                    .on("read", disk.path().join("dev").display())?;
                let (major, minor) = text.trim().split_once(':').ok_or_else(|| {
                    Error::new(format!("disk {serial}: invalid device number {text:?}"))
                })?;
                let number = |text: &str| {
                    text.parse().map_err(|_| {
                        Error::new(format!("disk {serial}: invalid device number {text:?}"))
                    })
                };
                return Ok((number(major)?, number(minor)?));
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::new(format!("the VM has no disk {serial}")))
}

/// Mounts the image read-only, with the first filesystem that accepts it, and an overlay over it.
fn mount_image(path: &str, modules: &mut Modules) -> Result<()> {
    fs::create_dir_all(IMAGE).on("create", IMAGE)?;
    let mut errors = Vec::new();
    for kind in IMAGE_FILESYSTEMS {
        // ext4 cannot replay its journal on a read-only disk.
        let options = if kind == "ext4" { c"noload" } else { c"" };
        let mounted = modules.load(kind).and_then(|()| {
            let (source, target) = (c_string(path)?, c_string(IMAGE)?);
            mount::mount(&source, &target, &c_string(kind)?, libc::MS_RDONLY, options)
                .on("mount as", kind)
        });
        match mounted {
            Ok(()) => return mount_overlay(modules),
            Err(error) => errors.push(error.to_string()),
        }
    }
    Err(Error::new(format!(
        "mount the image of the root filesystem: {}",
        errors.join("; ")
    )))
}

/// Mounts an overlay of the image with a directory on the guest's tmpfs, for the container's
/// changes.
fn mount_overlay(modules: &mut Modules) -> Result<()> {
    for directory in ["upper", "work"] {
        fs::create_dir_all(format!("{CHANGES}/{directory}")).on("create", CHANGES)?;
    }
    // The upper directory provides the mode and owner of the overlay's root.
    let meta = fs::metadata(IMAGE).on("stat", IMAGE)?;
    let upper = format!("{CHANGES}/upper");
    fs::set_permissions(&upper, meta.permissions()).on("set the mode of", &upper)?;
    std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid()))
        .on("set the owner of", &upper)?;
    modules.load("overlay")?;
    mount_on(
        OVERLAY,
        "overlay",
        0,
        // As in the namespace backend (`rootfs/child/layers.rs`): hard links to the image's files
        // are seen as such.
        &format!("lowerdir={IMAGE},upperdir={upper},workdir={CHANGES}/work,xino=on"),
    )
}
