//! The share server: a process of hull that serves the shares to the guest as one virtio-fs
//! filesystem, over vhost-user. It runs in a mount namespace whose root has the shares and nothing
//! else, so that no symbolic link or `..` of a guest leads out of them, and has only the
//! capabilities that serving files needs.
//!
//! It refuses what a guest could use to gain rights on the host: device nodes, set-user-id files
//! of root, file capabilities.

use super::translate::Share;
use crate::sys::fd::Fd;
use crate::sys::process::{self, Cloned};
use crate::sys::{event, file, ids, mount};
use crate::{Context, Error, Result};
use std::fs;
use std::os::fd::IntoRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// The tag of the virtio-fs filesystem, by which the guest mounts it.
pub(crate) const TAG: &str = "hull";

/// A running share server.
pub(crate) struct Server {
    /// The process.
    pub pidfd: Fd,
    /// The connected vhost-user socket, for QEMU.
    pub socket: Fd,
}

/// The capabilities of the share server, as a mask: CAP_CHOWN, CAP_DAC_OVERRIDE,
/// CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, CAP_SETGID and CAP_SETUID. It creates and changes
/// files on behalf of all users of the guest.
const CAPABILITIES: u64 = 0b1101_1111;

/// Starts a share server. The caller must have one thread only, since hull clones.
///
/// # Errors
/// A share's path cannot be opened; a socket cannot be created; the server cannot set up its
/// namespaces and mounts, in which case the error has the server's message.
pub(crate) fn start(directory: &Path, shares: &[Share]) -> Result<Server> {
    let root = directory.join("share");
    fs::create_dir(&root).on("create", root.display())?;
    let mut trees = Vec::new();
    for share in shares {
        trees.push((
            share,
            crate::rootfs::sources::tree(
                &share.path,
                share.recursive,
                libc::MS_SLAVE,
                share.id_map.as_ref(),
                share.link,
            )?,
        ));
    }
    // A path may be longer than a socket's address allows: name the directory by a descriptor.
    let opened = fs::File::open(directory).on("open", directory.display())?;
    let name = format!(
        "/proc/self/fd/{}/share.sock",
        std::os::fd::AsRawFd::as_raw_fd(&opened)
    );
    let listener = UnixListener::bind(&name).on("bind", "the share server's socket")?;
    let socket = UnixStream::connect(&name).on("connect to", "the share server's socket")?;
    fs::remove_file(&name).on("remove", "the share server's socket")?;
    let (ours, theirs) = crate::sys::fd::socket_pair()?;
    match process::clone(0, None).on("clone", "the share server")? {
        Cloned::Child => {
            // A copy of the monitor's start fifo or of its socket to the parent process would keep
            // the other end from seeing end of file.
            let listening = std::os::fd::AsRawFd::as_raw_fd(&listener);
            let mut needed: Vec<i32> = trees
                .iter()
                .map(|(_, tree)| tree.0)
                .chain([listening, theirs.0])
                .collect();
            file::close_all_but(3, &mut needed);
            let served = enter(&root, &trees).and_then(|files| {
                drop(trees);
                let _ = crate::sys::socket::send(theirs.0, b"ready");
                serve::serve(listener, files.descriptors, files.mountinfo)
            });
            if let Err(error) = served {
                let _ = crate::sys::socket::send(theirs.0, error.to_string().as_bytes());
            }
            process::exit(1)
        }
        Cloned::Parent { pidfd, .. } => {
            drop(theirs);
            let mut text = [0_u8; 1024];
            let count = crate::sys::socket::recv(ours.0, &mut text).unwrap_or(0);
            if &text[..count] != b"ready" {
                return Err(Error::new(format!(
                    "share server: {}",
                    String::from_utf8_lossy(&text[..count])
                )));
            }
            Ok(Server {
                pidfd: Fd(pidfd),
                socket: Fd(socket.into_raw_fd()),
            })
        }
    }
}

/// Files of the host's procfs that virtiofsd needs, which the server opens before it changes its
/// root.
struct ProcFiles {
    /// `/proc/self/fd`.
    descriptors: fs::File,
    /// `/proc/self/mountinfo`.
    mountinfo: fs::File,
}

/// In the share server: enters new namespaces whose root has the shares only, and drops all other
/// capabilities than [`CAPABILITIES`].
fn enter(root: &Path, trees: &[(&Share, Fd)]) -> Result<ProcFiles> {
    event::die_with_parent().on("set", "PR_SET_PDEATHSIG")?;
    event::name_process(c"hull-share");
    // With a copy of the container's stdio, its reader would not see end of file when the program
    // closes it.
    let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0)
        .map(Fd)
        .on("open", "/dev/null")?;
    (0..3)
        .try_for_each(|number| file::dup_to(null.0, number))
        .on("set", "stdio")?;
    drop(null);
    let files = ProcFiles {
        descriptors: fs::File::open("/proc/self/fd").on("open", "/proc/self/fd")?,
        mountinfo: fs::File::open("/proc/self/mountinfo").on("open", "/proc/self/mountinfo")?,
    };
    let last = crate::security::caps::last_cap()?;
    let kinds = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    process::unshare(kinds as u64).on("unshare", "the share server's namespaces")?;
    mount::mount(c"", c"/", c"", libc::MS_REC | libc::MS_SLAVE, c"")
        .on("set mount propagation of", "/")?;
    let name = crate::sys::fd::c_path(root)?;
    mount::mount(
        c"tmpfs",
        &name,
        c"tmpfs",
        libc::MS_NOSUID | libc::MS_NODEV,
        c"mode=755",
    )
    .on("mount tmpfs on", root.display())?;
    for (share, tree) in trees {
        attach(root, share, tree)?;
    }
    file::chdir(&name).on("enter", root.display())?;
    mount::pivot_root(c".", c".").on("pivot_root to", root.display())?;
    mount::umount(c".", libc::MNT_DETACH).on("unmount", "the old root")?;
    file::chdir(c"/").on("enter", "/")?;
    mount::mount(
        c"",
        c"/",
        c"",
        libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV,
        c"",
    )
    .on("remount read-only", "/")?;
    drop_capabilities(last)?;
    Ok(files)
}

/// Attaches the mount of a share to the server's root.
fn attach(root: &Path, share: &Share, tree: &Fd) -> Result<()> {
    let at = root.join(&share.name);
    let kind = file::fstat(tree.0)
        .on("stat", share.path.display())?
        .st_mode
        & libc::S_IFMT;
    if kind == libc::S_IFDIR {
        fs::create_dir(&at).on("create", at.display())?;
    } else {
        fs::write(&at, b"").on("create", at.display())?;
    }
    let target = file::openat(
        libc::AT_FDCWD,
        &crate::sys::fd::c_path(&at)?,
        libc::O_PATH,
        0,
    )
    .map(Fd)
    .on("open", at.display())?;
    mount::move_mount(tree.0, target.0).on("move_mount", share.path.display())?;
    if share.read_only {
        let attr = mount::MountAttr {
            set: mount::ATTR_RDONLY,
            ..mount::MountAttr::default()
        };
        let target = file::openat(
            libc::AT_FDCWD,
            &crate::sys::fd::c_path(&at)?,
            libc::O_PATH,
            0,
        )
        .map(Fd)
        .on("open", at.display())?;
        mount::mount_setattr(target.0, 0, &attr).on("make read-only", share.path.display())?;
    }
    Ok(())
}

fn drop_capabilities(last: u8) -> Result<()> {
    for number in (0..=last).filter(|number| CAPABILITIES & (1 << number) == 0) {
        let _ = ids::prctl(libc::PR_CAPBSET_DROP, u64::from(number), 0);
    }
    let current = ids::capget().on("get", "capabilities")?;
    let kept = current.permitted & CAPABILITIES;
    ids::capset(ids::CapSets {
        effective: kept,
        permitted: kept,
        inheritable: 0,
    })
    .on("drop", "capabilities")?;
    ids::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).on("set", "no_new_privs")?;
    // virtiofsd has a descriptor open for each inode that the guest has looked up.
    ids::raise_open_files().on("raise", "the limit of open files")?;
    file::umask(0);
    Ok(())
}

#[cfg(not(feature = "share"))]
mod serve {
    use crate::{Error, Result};
    use std::fs::File;
    use std::os::unix::net::UnixListener;

    pub(super) fn serve(_: UnixListener, _: File, _: File) -> Result<()> {
        Err(Error::new(
            "this hull was built without the feature \"share\"",
        ))
    }
}

#[cfg(feature = "share")]
mod serve;
