//! Ordinary users, namespaces for containers to join, and a mount namespace of the test's own.

use super::{leaks, runtime};
use rustix::mount::{MountPropagationFlags, mount_change};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// An ordinary user that has no entry in `/etc/passwd` and no subordinate ids.
pub const ORDINARY: u32 = 12345;

/// The first id on the host of the mappings that root makes.
pub const MAPPED: u32 = 200_000;

/// Gives this test's process, and all that it starts from now on, a mount namespace of its own: its
/// mounts do not reach the host.
pub fn private_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .expect("cannot unshare the mount namespace");
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .expect("cannot make the mounts private");
}

/// A process that holds namespaces for containers to join.
pub struct Holder(Child);

impl Holder {
    /// Starts a holder with new namespaces, given as flags of `unshare`.
    pub fn new(flags: &[&str]) -> Self {
        let mut c = Command::new("unshare");
        c.args(flags)
            .args(["--", "sh", "-c", "echo; exec sleep 1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = leaks::spawn(&mut c).expect("cannot start unshare");
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte)
            .expect("unshare failed");
        Self(child)
    }

    /// A holder with further namespaces, and a user namespace that maps ids as the bundles do.
    pub fn with_user_namespace(flags: &[&str]) -> Self {
        let holder = Self::new(&[&["--user"], flags].concat());
        let map = format!("0 {MAPPED} 65536\n");
        fs::write(format!("/proc/{}/uid_map", holder.pid()), &map)
            .expect("cannot write the uid map");
        fs::write(format!("/proc/{}/gid_map", holder.pid()), &map)
            .expect("cannot write the gid map");
        holder
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The path of one of its namespaces.
    pub fn path(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.pid()))
    }

    /// The link of that namespace, such as `net:[4026531840]`.
    pub fn identity(&self, kind: &str) -> String {
        fs::read_link(self.path(kind))
            .unwrap()
            .display()
            .to_string()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
        leaks::forget(&self.0);
    }
}

/// The path of runc where it is installed.
pub fn runc() -> Option<PathBuf> {
    ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"]
        .iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
}

/// The first line of the runtime's `--version`, for the reason of a skip.
pub fn version() -> String {
    let out = runtime::finish(
        {
            let mut c = Command::new(runtime::path());
            c.arg("--version");
            c
        },
        runtime::LIMIT,
    );
    out.stdout.lines().next().unwrap_or_default().to_owned()
}
