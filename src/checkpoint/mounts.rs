//! The mounts of a container's mount namespace, as the kernel lists them.

use crate::sys::fd::{Fd, c_string};
use crate::sys::file::{self, RESOLVE_IN_ROOT};
use crate::sys::mountinfo;
use crate::{Context, Result};
use std::path::Path;

/// One line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug)]
pub struct Mounted {
    /// The mount's id.
    pub id: u64,
    /// The mount point, relative to the process's root.
    pub point: String,
    /// The type of the file system.
    pub fstype: String,
    /// The device of the file system, `MAJOR:MINOR`.
    pub device: String,
}

/// The mounts of a process, and its root.
pub struct Mounts {
    root: Fd,
    /// In the kernel's order.
    pub all: Vec<Mounted>,
}

impl Mounts {
    /// Reads the mounts of a process.
    ///
    /// # Errors
    /// `/proc/PID/mountinfo` or `/proc/PID/root` cannot be opened: the process has ended.
    pub fn of(pid: i32) -> Result<Self> {
        let all = mountinfo::of(pid)?;
        let root = c_string(format!("/proc/{pid}/root"))?;
        let root = file::openat(libc::AT_FDCWD, &root, libc::O_PATH | libc::O_DIRECTORY, 0)
            .map(Fd)
            .on("open", "the container's root")?;
        Ok(Self {
            root,
            all: all
                .into_iter()
                .map(|mount| Mounted {
                    id: mount.id,
                    point: mount.mount_point.to_string_lossy().into_owned(),
                    fstype: mount.fstype,
                    device: mount.device,
                })
                .collect(),
        })
    }

    /// The mount whose mount point is a path in the container; symbolic links are followed within
    /// the container's root. `None` where the path is not a mount point.
    pub fn at(&self, path: &str) -> Option<&Mounted> {
        let fd = self.open(path)?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.0)).ok()?;
        let id = mount_id(&info)?;
        let mounted = self.all.iter().find(|mounted| mounted.id == id)?;
        // The path may lie deeper in the mount: then it is not the mount point.
        let real = std::fs::read_link(format!("/proc/self/fd/{}", fd.0)).ok()?;
        (real == Path::new(&mounted.point)).then_some(mounted)
    }

    /// The mounts below a mount point.
    pub fn below(&self, point: &str) -> impl Iterator<Item = &Mounted> {
        let prefix = format!("{}/", point.trim_end_matches('/'));
        self.all
            .iter()
            .filter(move |mounted| mounted.point.starts_with(&prefix))
    }

    /// Whether a path in the container is a directory.
    pub fn is_directory(&self, path: &str) -> bool {
        self.open(path)
            .and_then(|fd| file::fstat(fd.0).ok())
            .is_some_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
    }

    fn open(&self, path: &str) -> Option<Fd> {
        let name = c_string(path).ok()?;
        file::openat2(self.root.0, &name, libc::O_PATH, 0, RESOLVE_IN_ROOT)
            .map(Fd)
            .ok()
    }
}

/// The mount's id in the text of `/proc/PID/fdinfo/FD` (proc_pid_fdinfo(5)).
pub fn mount_id(fdinfo: &str) -> Option<u64> {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))?
        .trim()
        .parse()
        .ok()
}
