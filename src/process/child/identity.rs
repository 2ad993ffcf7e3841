//! Ids, groups, capabilities and the session keyring.

use crate::step::child::{ChildState, StepResult};
use crate::step::report::{Detail, Fault};
use crate::sys::fd::Fd;
use crate::sys::file;
use crate::sys::ids::{self, CapSets};
use nix::errno::Errno;
use std::ffi::CStr;

const PR_CAP_AMBIENT: i32 = 47;
const PR_CAP_AMBIENT_IS_SET: u64 = 1;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;

/// Whether the child holds CAP_SETGID: what refuses setgroups(2) then is its user namespace.
fn may_set_groups() -> bool {
    const CAP_SETGID: u64 = 1 << 6;
    ids::capget().is_ok_and(|held| held.effective & CAP_SETGID != 0)
}

/// Drops the capabilities of the mask from the bounding set.
pub fn bounding(drop: u64) -> StepResult {
    for capability in 0..64 {
        if drop & (1 << capability) != 0 {
            ids::prctl(libc::PR_CAPBSET_DROP, capability, 0)?;
        }
    }
    Ok(())
}

/// Sets the effective, permitted and inheritable sets, and then the ambient set.
pub fn capabilities(sets: CapSets, ambient: u64) -> StepResult {
    ids::capset(sets)?;
    // The kernel keeps the ambient set within these two sets (capabilities(7)): if they have no
    // common capability, it is empty already.
    if sets.permitted & sets.inheritable != 0 {
        ids::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    }
    for capability in 0..64 {
        if ambient & (1 << capability) != 0 {
            ids::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)?;
        }
    }
    Ok(())
}

/// Makes the permitted capabilities ambient, so that they survive the execve(2) of a fresh `hull
/// init`. In a new user namespace the user may have no id yet, and execve(2) leaves only ambient
/// capabilities to a user other than root (capabilities(7)).
///
/// # Errors
/// capget(2), capset(2) or prctl(2) fails.
pub fn keep_over_execve() -> Result<(), Errno> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let held = ids::capget()?;
    ids::capset(CapSets {
        inheritable: held.permitted,
        ..held
    })?;
    for capability in (0..64).filter(|capability| held.permitted & (1 << capability) != 0) {
        ids::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)?;
    }
    Ok(())
}

/// Reverts [`keep_over_execve`]: a child that was cloned into a user namespace has empty
/// inheritable and ambient sets.
///
/// # Errors
/// capget(2), capset(2) or prctl(2) fails.
pub fn kept_over_execve() -> Result<(), Errno> {
    const ANY: u64 = 21;
    if ids::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, ANY)? == 1 {
        ids::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
        ids::capset(CapSets {
            inheritable: 0,
            ..ids::capget()?
        })?;
    }
    Ok(())
}

/// Joins a new session keyring of this name, and permits its user to search it (`KEY_USR_SEARCH`),
/// as images of the engines expect. A kernel without keyrings is no error.
pub fn keyring(name: &CStr) -> StepResult {
    // What the kernel gives a new session keyring (all for its possessor; view, read and link for
    // its user), and search.
    const PERMISSIONS: u32 = 0x3f1b_0000;
    let serial = match ids::join_session_keyring(name) {
        Err(Errno::ENOSYS) => return Ok(()),
        other => other?,
    };
    Ok(ids::keyring_permissions(serial, PERMISSIONS)?)
}

/// Changes the owner of stdin, stdout and stderr to the user where they are pipes or sockets, as
/// runc does, so that a program may reopen `/dev/stdout`. Files and devices are the caller's own,
/// and keep their owner.
pub fn own_stdio(uid: u32) -> Result<(), Errno> {
    for descriptor in 0..3 {
        let Ok(stat) = file::fstat(descriptor) else {
            continue;
        };
        let passing = matches!(stat.st_mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFSOCK);
        if !passing || stat.st_uid == uid {
            continue;
        }
        match file::fchownat(descriptor, c"", uid, u32::MAX) {
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

impl ChildState<'_> {
    /// Changes to these ids. The groups come first, because setresuid(2) drops the privilege to
    /// change them.
    pub fn ids(uid: u32, gid: u32, groups: Option<&[u8]>, keep: bool) -> StepResult {
        if keep {
            ids::prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
        }
        if let Some(groups) = groups {
            match ids::setgroups(groups) {
                // A joined user namespace forbids it (`unshare -Ur`), and the child keeps the groups
                // of its caller, as in crun: user_namespaces(7), `/proc/PID/setgroups`.
                Err(Errno::EPERM) if groups.is_empty() && may_set_groups() => {}
                done => done.map_err(|errno| Fault::with(errno, Detail::Groups))?,
            }
        }
        ids::setresgid(gid)?;
        ids::setresuid(uid)?;
        Ok(())
    }

    /// Writes an attribute of this task, such as `attr/exec`. While a process is not dumpable, the
    /// host's root owns these files, so a child in a user namespace becomes dumpable for this
    /// write; no other process is in the container yet.
    pub fn label(&self, file: &CStr, value: &CStr) -> StepResult {
        match self.write_proc(file, value, 0) {
            Err(fault) if fault.errno == Errno::EACCES => {
                ids::prctl(libc::PR_SET_DUMPABLE, 1, 0)?;
                let done = self.write_proc(file, value, 0);
                ids::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
                done
            }
            done => done,
        }
    }
}

/// Replaces the host's null device by the container's, for those of stdin, stdout and stderr that
/// are in the mask, as runc does: criu cannot dump a file whose mount is not in the container.
pub fn own_null_device(stdio: u64) -> Result<(), Errno> {
    let Ok(null) = file::openat(
        libc::AT_FDCWD,
        c"/dev/null",
        libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NONBLOCK,
        0,
    )
    .map(Fd) else {
        // The container has no null device: the host's stays.
        return Ok(());
    };
    let stat = file::fstat(null.0)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
        return Ok(());
    }
    for descriptor in (0..3).filter(|descriptor| stdio & (1 << descriptor) != 0) {
        file::dup_to(null.0, descriptor)?;
    }
    // The step that closes descriptors closes it, or execve(2).
    null.keep();
    Ok(())
}
