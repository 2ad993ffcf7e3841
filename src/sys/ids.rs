//! The attributes of a process: ids, groups, capabilities, limits, scheduling, keyrings, and the
//! names of its UTS namespace.

use super::{Sys, call};
use std::ffi::CStr;

/// hull's effective user id, asked for once: hull itself never changes it.
pub fn own_euid() -> u32 {
    static OWN: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *OWN.get_or_init(|| nix::unistd::geteuid().as_raw())
}

/// setresuid(2), of this thread alone.
///
/// # Errors
/// EPERM without CAP_SETUID; EINVAL for an id that the user namespace does not map.
pub fn setresuid(uid: u32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_setresuid, uid, uid, uid) }.map(drop)
}

/// setresgid(2), of this thread alone.
///
/// # Errors
/// EPERM without CAP_SETGID; EINVAL for an id that the user namespace does not map.
pub fn setresgid(gid: u32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_setresgid, gid, gid, gid) }.map(drop)
}

/// setgroups(2) of native 32-bit words, as a plan's encoding carries them; bytes beyond the last
/// whole word are ignored.
///
/// # Errors
/// EPERM without CAP_SETGID, or where the user namespace's `setgroups` file says `deny`.
pub fn setgroups(groups: &[u8]) -> Sys<()> {
    // SAFETY: the bytes hold that many native 32-bit words; the kernel copies from any alignment.
    unsafe { call!(libc::SYS_setgroups, groups.len() / 4, groups.as_ptr()) }.map(drop)
}

/// prctl(2) with integer arguments.
///
/// # Errors
/// EINVAL: the kernel does not know the option or an argument; EPERM.
pub fn prctl(option: i32, a: u64, b: u64) -> Sys<i64> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_prctl, option, a, b, 0, 0) }
}

/// The three sets of capset(2), as masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapSets {
    /// What the thread may use now.
    pub effective: u64,
    /// What it may make effective.
    pub permitted: u64,
    /// What survives execve of a program with inheritable file capabilities.
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

/// capset(2) of this thread.
///
/// # Errors
/// EPERM: a permitted capability that the thread does not have, an effective one outside permitted,
/// or an inheritable one outside the bounding set.
pub fn capset(sets: CapSets) -> Sys<()> {
    let header = CapHeader {
        version: CAP_VERSION_3,
        pid: 0,
    };
    let (e, p, i) = (sets.effective, sets.permitted, sets.inheritable);
    let data = [
        e as u32,
        p as u32,
        i as u32,
        (e >> 32) as u32,
        (p >> 32) as u32,
        (i >> 32) as u32,
    ];
    // SAFETY: version 3 has two data structures of three words.
    unsafe { call!(libc::SYS_capset, &raw const header, data.as_ptr()) }.map(drop)
}

/// capget(2) of this thread.
///
/// # Errors
/// None for the calling thread.
pub fn capget() -> Sys<CapSets> {
    let header = CapHeader {
        version: CAP_VERSION_3,
        pid: 0,
    };
    let mut data = [0_u32; 6];
    // SAFETY: version 3 has two data structures of three words.
    unsafe { call!(libc::SYS_capget, &raw const header, data.as_mut_ptr()) }?;
    let wide = |low: usize| u64::from(data[low]) | (u64::from(data[low + 3]) << 32);
    Ok(CapSets {
        effective: wide(0),
        permitted: wide(1),
        inheritable: wide(2),
    })
}

/// prlimit64(2) of a process (0 is the caller), in the limit's own unit.
///
/// # Errors
/// EPERM: the hard limit would be raised without CAP_SYS_RESOURCE; EINVAL; ESRCH.
pub fn prlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> Sys<()> {
    let limit = [soft, hard];
    // SAFETY: the new limit only.
    unsafe {
        call!(
            libc::SYS_prlimit64,
            pid,
            resource,
            limit.as_ptr(),
            std::ptr::null::<u8>()
        )
    }
    .map(drop)
}

/// This process's own hard limit (prlimit64(2)), in the limit's own unit; `u64::MAX` is unlimited.
///
/// # Errors
/// EINVAL: the kernel does not know the resource.
pub fn hard_limit(resource: u32) -> Sys<u64> {
    let mut limit = [0_u64; 2];
    // SAFETY: the old limit only.
    unsafe {
        call!(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<u8>(),
            limit.as_mut_ptr()
        )
    }?;
    Ok(limit[1])
}

/// Raises this process's limit of open files to the hard limit. (The usual soft limit of 1024 is
/// kept for programs that use select(2).)
///
/// # Errors
/// prlimit64(2) fails, which it does not for a value within the hard limit.
pub fn raise_open_files() -> Sys<()> {
    let hard = hard_limit(libc::RLIMIT_NOFILE)?;
    prlimit(0, libc::RLIMIT_NOFILE, hard, hard)
}

/// personality(2).
///
/// # Errors
/// EINVAL: the kernel cannot change it.
pub fn personality(persona: u64) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_personality, persona) }.map(drop)
}

/// ioprio_set(2) of this thread: the class from bit 13 on, the level below.
///
/// # Errors
/// EPERM: the real-time class without CAP_SYS_ADMIN or CAP_SYS_NICE; EINVAL.
pub fn ioprio_set(value: u32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_ioprio_set, 1, 0, value) }.map(drop)
}

/// sched_setattr(2) of this thread; `attr` is `struct sched_attr` as bytes.
///
/// # Errors
/// EPERM: a real-time policy or a lower nice value without CAP_SYS_NICE; EINVAL; EBUSY: deadlines
/// that the CPUs cannot meet.
pub fn sched_setattr(attr: &[u8]) -> Sys<()> {
    // SAFETY: the structure states its own size in its first word.
    unsafe { call!(libc::SYS_sched_setattr, 0, attr.as_ptr(), 0) }.map(drop)
}

/// sched_setaffinity(2) of a process (0 is the caller); bit n of the mask is CPU n.
///
/// # Errors
/// EINVAL: no CPU of the mask exists and is in the process's cpuset; ESRCH.
pub fn sched_setaffinity(pid: i32, mask: &[u8]) -> Sys<()> {
    // SAFETY: mask and length belong together.
    unsafe { call!(libc::SYS_sched_setaffinity, pid, mask.len(), mask.as_ptr()) }.map(drop)
}

/// set_mempolicy(2) of this thread; the mask is 64-bit words, bit n is memory node n.
///
/// # Errors
/// EINVAL: the kernel does not know the mode, or the mask does not fit it.
pub fn set_mempolicy(mode: u32, mask: &[u8]) -> Sys<()> {
    let pointer = if mask.is_empty() {
        std::ptr::null()
    } else {
        mask.as_ptr()
    };
    // SAFETY: mask and its number of bits belong together; the kernel reads whole words, and plans
    // pad to them. It reads one bit less than `maxnode` says.
    unsafe {
        call!(
            libc::SYS_set_mempolicy,
            mode,
            pointer,
            mask.len() * 8 + usize::from(!mask.is_empty())
        )
    }
    .map(drop)
}

/// keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`: makes or joins a session keyring and returns its serial
/// number.
///
/// # Errors
/// EDQUOT: the user has as many keys as it may; ENOSYS: a kernel without keyrings; EPERM.
pub fn join_session_keyring(name: &CStr) -> Sys<i64> {
    // SAFETY: NUL-terminated.
    unsafe { call!(libc::SYS_keyctl, 1, name.as_ptr()) }
}

/// keyctl(2) `KEYCTL_SETPERM`: replaces a key's permission mask.
///
/// # Errors
/// EACCES: the caller neither owns the key nor has CAP_SYS_ADMIN; ENOKEY.
pub fn keyring_permissions(serial: i64, permissions: u32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_keyctl, 5, serial, permissions) }.map(drop)
}

/// sethostname(2).
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN in the UTS namespace's user namespace; EINVAL: more than 64 bytes.
pub fn sethostname(name: &[u8]) -> Sys<()> {
    // SAFETY: pointer and length belong together.
    unsafe { call!(libc::SYS_sethostname, name.as_ptr(), name.len()) }.map(drop)
}

/// setdomainname(2).
///
/// # Errors
/// As [`sethostname`].
pub fn setdomainname(name: &[u8]) -> Sys<()> {
    // SAFETY: pointer and length belong together.
    unsafe { call!(libc::SYS_setdomainname, name.as_ptr(), name.len()) }.map(drop)
}
