//! The machine's disks and device nodes, in the guest's own root: a container's are bound from
//! there.

use crate::guest::modules::Modules;
use crate::guest::mount_on;
use crate::sys::fd::c_string;
use crate::sys::{file, mount};
use crate::vm::boot::disk::serial;
use crate::vm::channel::message::{DISKS, Disk, IMAGE, Node, OVERLAY};
use crate::{Context, Error, Result};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// File systems that an image of a root may have, and whether their modules are loaded for it.
const IMAGES: [&str; 4] = ["erofs", "squashfs", "ext4", "xfs"];
/// What an overlay keeps its changes in, below the guest's own root, which is memory.
const CHANGES: &str = "/run/hull/changes";

/// Makes device nodes where there are none.
pub fn make_nodes(nodes: &[Node]) -> Result<()> {
    for node in nodes
        .iter()
        .filter(|node| fs::symlink_metadata(&node.path).is_err())
    {
        if let Some(directory) = Path::new(&node.path).parent() {
            fs::create_dir_all(directory).on("make", directory.display())?;
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
    file::mknodat(libc::AT_FDCWD, &name, mode, libc::makedev(major, minor)).on("make", path)?;
    // The mask of the process does not count.
    fs::set_permissions(
        path,
        std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777),
    )
    .on("set the mode of", path)?;
    file::fchownat(libc::AT_FDCWD, &name, uid, gid).on("set the owner of", path)
}

/// Gives each disk its node, and mounts the image of the root.
pub fn set_up(disks: &[Disk], modules: &mut Modules) -> Result<()> {
    if disks.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(DISKS).on("make", DISKS)?;
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

/// A disk's numbers; its driver may bring it a moment later.
fn find(serial: &str) -> Result<(u32, u32)> {
    for _ in 0..1000 {
        for disk in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            if fs::read_to_string(disk.path().join("serial"))
                .is_ok_and(|text| text.trim() == serial)
            {
                let text = fs::read_to_string(disk.path().join("dev"))
                    .on("read", disk.path().join("dev").display())?;
                let (major, minor) = text
                    .trim()
                    .split_once(':')
                    .ok_or_else(|| Error::new(format!("a disk's numbers are {text:?}")))?;
                let number = |text: &str| {
                    text.parse()
                        .map_err(|_| Error::new(format!("a disk's number is {text:?}")))
                };
                return Ok((number(major)?, number(minor)?));
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::new(format!("the machine has no disk {serial}")))
}

/// The image is not written to: an overlay has what is changed.
fn mount_image(path: &str, modules: &mut Modules) -> Result<()> {
    fs::create_dir_all(IMAGE).on("make", IMAGE)?;
    let read_only = libc::MS_RDONLY;
    let mut refusals = Vec::new();
    for kind in IMAGES {
        // A journal that wants to be replayed cannot be, on a disk that is not written to.
        let options = if kind == "ext4" { c"noload" } else { c"" };
        let mounted = modules.load(kind).and_then(|()| {
            mount::mount(
                &c_string(path)?,
                &c_string(IMAGE)?,
                &c_string(kind)?,
                read_only,
                options,
            )
            .on("mount as", kind)
        });
        match mounted {
            Ok(()) => return put_overlay(modules),
            Err(error) => refusals.push(error.to_string()),
        }
    }
    Err(Error::new(format!(
        "the root's image: {}",
        refusals.join("; ")
    )))
}

fn put_overlay(modules: &mut Modules) -> Result<()> {
    for directory in ["upper", "work"] {
        fs::create_dir_all(format!("{CHANGES}/{directory}")).on("make", CHANGES)?;
    }
    // The directory of the changes becomes the root's own: it is to be as the image's.
    let meta = fs::metadata(IMAGE).on("look at", IMAGE)?;
    let upper = format!("{CHANGES}/upper");
    fs::set_permissions(&upper, meta.permissions()).on("set the mode of", &upper)?;
    use std::os::unix::fs::MetadataExt;
    std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid()))
        .on("set the owner of", &upper)?;
    modules.load("overlay")?;
    mount_on(
        OVERLAY,
        "overlay",
        0,
        &format!("lowerdir={IMAGE},upperdir={upper},workdir={CHANGES}/work"),
    )
}
