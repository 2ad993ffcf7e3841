//! What PID 1 of the guest sets up before it serves the channel.

use crate::cgroups::tree::Tree;
use crate::sys::fd::{Fd, c_string};
use crate::sys::{file, mount};
use crate::vm::channel::message::{Guest, PORT};
use crate::{Context, Error, Result};
use std::fs;
use std::time::Duration;

/// The root of cgroup v2.
const CGROUP: &str = "/sys/fs/cgroup";

/// Mounts a new filesystem on a directory, which is created if it does not exist. The source has
/// the filesystem's name.
///
/// # Errors
/// mkdir(2) or mount(2) fails.
pub(super) fn mount_on(target: &str, filesystem: &str, flags: u64, data: &str) -> Result<()> {
    fs::create_dir_all(target).on("create", target)?;
    let name = c_string(filesystem)?;
    mount::mount(&name, &c_string(target)?, &name, flags, &c_string(data)?).on("mount", target)
}

/// Mounts `/proc`, `/sys`, `/dev` and the cgroup v2 hierarchy.
///
/// # Errors
/// A mount point cannot be created; mount(2) fails.
pub(super) fn mount_kernel_filesystems() -> Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
    mount_on("/proc", "proc", flags, "")?;
    mount_on("/sys", "sysfs", flags, "")?;
    mount_on("/dev", "devtmpfs", libc::MS_NOSUID, "mode=755")?;
    mount_on(CGROUP, "cgroup2", flags, "")
}

/// Moves to a tmpfs as the root: pivot_root(2), which each container needs, is not possible on the
/// initramfs.
///
/// # Errors
/// The tmpfs cannot be mounted, or the other mounts cannot be moved to it.
pub(super) fn leave_initramfs() -> Result<()> {
    mount_on("/root", "tmpfs", 0, "mode=755")?;
    for name in ["proc", "sys", "dev"] {
        let (from, to) = (format!("/{name}"), format!("/root/{name}"));
        fs::create_dir_all(&to).on("create", &to)?;
        mount::mount(
            &c_string(from.as_str())?,
            &c_string(to)?,
            c"",
            libc::MS_MOVE,
            c"",
        )
        .on("move mount", from)?;
    }
    // The modules' files stay in the initramfs, which hull reaches by the descriptor that
    // `Modules::read` has opened.
    file::chdir(c"/root").on("enter", "the new root")?;
    mount::mount(c".", c"/", c"", libc::MS_MOVE, c"").on("move mount", "/root")?;
    file::chroot(c".").on("chroot to", "the new root")?;
    file::chdir(c"/").on("enter", "the new root")?;
    fs::create_dir_all("/run/hull").on("create", "/run/hull")?;
    fs::create_dir_all("/tmp").on("create", "/tmp")
}

/// Opens the channel's virtio-console port. The driver may add it some time after its module is
/// loaded: waits up to 30 s.
///
/// # Errors
/// The VM has no such port; open(2) fails.
pub(super) fn open_channel_port() -> Result<Fd> {
    for _ in 0..3000 {
        let ports = fs::read_dir("/sys/class/virtio-ports")
            .map(|list| list.flatten().collect::<Vec<_>>())
            .unwrap_or_default();
        for port in ports {
            if fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
                let path = format!("/dev/{}", port.file_name().to_string_lossy());
                return file::openat(libc::AT_FDCWD, &c_string(path.as_str())?, libc::O_RDWR, 0)
                    .map(Fd)
                    .on("open", path);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::new(format!("the VM has no virtio port {PORT}")))
}

/// Describes the guest for the handshake, and enables all cgroup controllers for child cgroups,
/// which is possible in the root although PID 1 is in it.
///
/// # Errors
/// A file of `/proc` or of the cgroup hierarchy cannot be read or parsed.
pub(super) fn describe() -> Result<Guest> {
    let text = fs::read_to_string(format!("{CGROUP}/cgroup.controllers"))
        .on("read", "cgroup.controllers")?;
    for controller in text.split_whitespace() {
        let _ = fs::write(
            format!("{CGROUP}/cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
    let read = |path: &str| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .on("read", path)
    };
    let last = read("/proc/sys/kernel/cap_last_cap")?;
    let uptime = read("/proc/uptime")?;
    let seconds: f64 = uptime
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.0);
    Ok(Guest {
        kernel: read("/proc/sys/kernel/osrelease")?,
        last_capability: last
            .parse()
            .map_err(|_| Error::new(format!("cap_last_cap is {last:?}, not a number")))?,
        cgroups: Tree::probe(0, false)?,
        uptime: (seconds * 1e9) as u64,
    })
}
