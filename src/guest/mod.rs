//! The guest: hull as the machine's first process. It mounts what a kernel needs, loads the modules
//! of the channel, and serves it.

#![forbid(unsafe_code)]

pub mod agent;
pub mod disks;
pub mod modules;
pub mod network;
pub mod session;

use crate::cgroups::tree::Tree;
use crate::sys::fd::c_string;
use crate::sys::{event, file, mount};
use crate::vm::channel::message::Guest;
use crate::vm::channel::message::MARK;
use crate::vm::channel::message::PORT;
use crate::{Context, Error, Result};
use std::fs;
use std::time::Duration;

/// Whether this process is a guest's first: started by the kernel as the initramfs's `/init`, and
/// so marked.
pub fn is_first() -> bool {
    std::process::id() == 1
        && std::env::args_os()
            .next()
            .is_some_and(|name| name == "/init")
        && std::env::var_os(MARK).is_some()
}

/// The guest's life. What goes wrong is said on the console, and ends the machine.
pub fn main() -> ! {
    // Whoever reads a program's stdin may be gone.
    crate::sys::process::ignore_broken_pipes();
    if let Err(error) = live() {
        let _ = fs::write("/dev/kmsg", format!("<2>hull: {error}\n"));
        eprintln!("hull: guest: {error}");
    }
    event::sync();
    let _ = event::reset_machine();
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn live() -> Result<()> {
    file::umask(0o022);
    kernel_file_systems("")?;
    let mut modules = crate::guest::modules::Modules::read()?;
    modules.load_for_boot()?;
    new_root()?;
    let port = find_port()?;
    crate::guest::agent::Agent::new(port, modules)?.serve()
}

fn mount_on(target: &str, kind: &str, flags: u64, data: &str) -> Result<()> {
    fs::create_dir_all(target).on("make", target)?;
    let (kind, place) = (c_string(kind)?, c_string(target)?);
    mount::mount(&kind, &place, &kind, flags, &c_string(data)?).on("mount", target)
}

fn kernel_file_systems(root: &str) -> Result<()> {
    let safe = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
    mount_on(&format!("{root}/proc"), "proc", safe, "")?;
    mount_on(&format!("{root}/sys"), "sysfs", safe, "")?;
    mount_on(
        &format!("{root}/dev"),
        "devtmpfs",
        libc::MS_NOSUID,
        "mode=755",
    )?;
    mount_on(&format!("{root}/sys/fs/cgroup"), "cgroup2", safe, "")
}

/// A root that can be left: pivot_root(2) refuses the initramfs, and so would every container.
fn new_root() -> Result<()> {
    mount_on("/root", "tmpfs", 0, "mode=755")?;
    for name in ["proc", "sys", "dev"] {
        let (from, to) = (format!("/{name}"), format!("/root/{name}"));
        fs::create_dir_all(&to).on("make", &to)?;
        let (source, target) = (c_string(from.as_str())?, c_string(to)?);
        mount::mount(&source, &target, c"", libc::MS_MOVE, c"").on("move", from)?;
    }
    // The modules stay where they are, in the initramfs; it is reached by the descriptor that was
    // opened before.
    file::chdir(c"/root").on("enter", "the new root")?;
    mount::mount(c".", c"/", c"", libc::MS_MOVE, c"").on("move", "the new root")?;
    file::chroot(c".").on("enter", "the new root")?;
    file::chdir(c"/").on("enter", "the new root")?;
    fs::create_dir_all("/run/hull").on("make", "/run/hull")?;
    fs::create_dir_all("/tmp").on("make", "/tmp")
}

/// The channel's port, which its driver may bring a moment later.
fn find_port() -> Result<crate::sys::fd::Fd> {
    for _ in 0..3000 {
        let ports = fs::read_dir("/sys/class/virtio-ports")
            .map(|list| list.flatten().collect::<Vec<_>>())
            .unwrap_or_default();
        for port in ports {
            if fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
                let path = format!("/dev/{}", port.file_name().to_string_lossy());
                let name = c_string(path.as_str())?;
                return file::openat(libc::AT_FDCWD, &name, libc::O_RDWR, 0)
                    .map(crate::sys::fd::Fd)
                    .on("open", path);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::new(format!("the machine has no port {PORT}")))
}

/// What this machine is.
fn describe() -> Result<Guest> {
    // Controllers are given to those below: nobody but the first process lives in the root.
    let text =
        fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").on("read", "cgroup.controllers")?;
    for controller in text.split_whitespace() {
        let _ = fs::write(
            "/sys/fs/cgroup/cgroup.subtree_control",
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
            .map_err(|_| Error::new(format!("cap_last_cap is {last:?}")))?,
        cgroups: Tree::probe(0, false)?,
        uptime: (seconds * 1e9) as u64,
    })
}
