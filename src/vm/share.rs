//! The share: virtio-fs, served by a process of hull's own over vhost-user. It lives in a mount
//! namespace whose root holds the shares and nothing else, so no link and no `..` of a guest's
//! leads out of them, and without the rights that serving files does not need.
//!
//! What must not come from a guest to the host's users is refused: device nodes, set-user-id files
//! of root's, file capabilities.

use super::translate::Share;
use crate::sys::fd::Fd;
use crate::sys::process::{self, Cloned};
use crate::sys::{event, file, ids, mount};
use crate::{Context, Error, Result};
use std::fs;
use std::os::fd::IntoRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// The share's name in the guest.
pub const TAG: &str = "hull";

/// A share server.
pub struct Server {
    /// Its process.
    pub pidfd: Fd,
    /// The connected socket, for the machine.
    pub socket: Fd,
}

/// CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID: files of all users are
/// made and changed in their names.
const KEPT: u64 = 0b1101_1111;

/// Starts a server; the caller must have one thread.
///
/// # Errors
/// A share cannot be opened; the kernel's.
pub fn start(directory: &Path, shares: &[Share]) -> Result<Server> {
    let place = directory.join("share");
    fs::create_dir(&place).on("make", place.display())?;
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
    // A socket's name may not be as long as a path: the directory is named by its descriptor.
    let held = fs::File::open(directory).on("open", directory.display())?;
    let name = format!(
        "/proc/self/fd/{}/share.sock",
        std::os::fd::AsRawFd::as_raw_fd(&held)
    );
    let listener = UnixListener::bind(&name).on("make", "the share's socket")?;
    let socket = UnixStream::connect(&name).on("connect to", "the share's socket")?;
    fs::remove_file(&name).on("remove", "the share's socket")?;
    let (told, tell) = crate::sys::fd::socket_pair()?;
    match process::clone(0, None).on("make", "the share server")? {
        Cloned::Child => {
            // The start's fifo and the maker's socket are among what the monitor holds: an end that
            // two hold never ends.
            let listening = std::os::fd::AsRawFd::as_raw_fd(&listener);
            let mut needed: Vec<i32> = trees
                .iter()
                .map(|(_, tree)| tree.0)
                .chain([listening, tell.0])
                .collect();
            file::close_all_but(3, &mut needed);
            let done = enter(&place, &trees).and_then(|roots| {
                drop(trees);
                let _ = crate::sys::socket::send(tell.0, b"ready");
                serve::serve(listener, roots)
            });
            if let Err(error) = done {
                let _ = crate::sys::socket::send(tell.0, error.to_string().as_bytes());
            }
            process::exit(1)
        }
        Cloned::Parent { pidfd, .. } => {
            drop(tell);
            let mut text = [0_u8; 1024];
            let count = crate::sys::socket::recv(told.0, &mut text).unwrap_or(0);
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

/// The server's view of its own process, opened before its root is left.
struct Roots {
    descriptors: fs::File,
    mounts: fs::File,
}

/// Into a mount namespace with the shares, and out of every right but those of files.
fn enter(place: &Path, trees: &[(&Share, Fd)]) -> Result<Roots> {
    event::die_with_parent().on("bind", "the share server to its parent")?;
    event::name_process(c"hull-share");
    // The container's stdio, which ends when the program has closed it.
    let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0)
        .map(Fd)
        .on("open", "/dev/null")?;
    (0..3)
        .try_for_each(|number| file::dup_to(null.0, number))
        .on("set", "stdio")?;
    drop(null);
    let roots = Roots {
        descriptors: fs::File::open("/proc/self/fd").on("open", "/proc/self/fd")?,
        mounts: fs::File::open("/proc/self/mountinfo").on("open", "/proc/self/mountinfo")?,
    };
    let last = crate::security::caps::last_cap()?;
    let kinds = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    process::unshare(kinds as u64).on("make", "the share server's namespaces")?;
    mount::mount(c"", c"/", c"", libc::MS_REC | libc::MS_SLAVE, c"").on("set", "propagation")?;
    let name = crate::sys::fd::c_path(place)?;
    mount::mount(
        c"tmpfs",
        &name,
        c"tmpfs",
        libc::MS_NOSUID | libc::MS_NODEV,
        c"mode=755",
    )
    .on("mount", place.display())?;
    for (share, tree) in trees {
        attach(place, share, tree)?;
    }
    file::chdir(&name).on("enter", place.display())?;
    mount::pivot_root(c".", c".").on("leave", "the root")?;
    mount::umount(c".", libc::MNT_DETACH).on("leave", "the root")?;
    file::chdir(c"/").on("enter", "/")?;
    mount::mount(
        c"",
        c"/",
        c"",
        libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV,
        c"",
    )
    .on("close", "/")?;
    drop_rights(last)?;
    Ok(roots)
}

fn attach(place: &Path, share: &Share, tree: &Fd) -> Result<()> {
    let at = place.join(&share.name);
    let kind = file::fstat(tree.0)
        .on("look at", share.path.display())?
        .st_mode
        & libc::S_IFMT;
    if kind == libc::S_IFDIR {
        fs::create_dir(&at).on("make", at.display())?;
    } else {
        fs::write(&at, b"").on("make", at.display())?;
    }
    let target = file::openat(
        libc::AT_FDCWD,
        &crate::sys::fd::c_path(&at)?,
        libc::O_PATH,
        0,
    )
    .map(Fd)
    .on("open", at.display())?;
    mount::move_mount(tree.0, target.0).on("attach", share.path.display())?;
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

fn drop_rights(last: u8) -> Result<()> {
    for number in (0..=last).filter(|number| KEPT & (1 << number) == 0) {
        let _ = ids::prctl(libc::PR_CAPBSET_DROP, u64::from(number), 0);
    }
    let held = ids::capget().on("ask for", "capabilities")?;
    let kept = held.permitted & KEPT;
    ids::capset(ids::CapSets {
        effective: kept,
        permitted: kept,
        inheritable: 0,
    })
    .on("drop", "capabilities")?;
    ids::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).on("set", "no_new_privs")?;
    // A descriptor for each file that the guest knows.
    ids::raise_open_files().on("raise", "the limit of open files")?;
    file::umask(0);
    Ok(())
}

#[cfg(not(feature = "share"))]
mod serve {
    use super::Roots;
    use crate::{Error, Result};
    use std::os::unix::net::UnixListener;

    pub fn serve(_: UnixListener, roots: Roots) -> Result<()> {
        drop((roots.descriptors, roots.mounts));
        Err(Error::new(
            "this hull was built without the feature \"share\"",
        ))
    }
}

#[cfg(feature = "share")]
mod serve;
