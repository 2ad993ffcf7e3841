//! Who a process is: ids, groups, capabilities, and the other attributes that prctl and its kin
//! set.

use super::{Sys, call};
use std::ffi::CStr;

/// setresuid(2), of this thread alone.
///
/// # Errors
/// EPERM, EINVAL for an unmapped id.
pub fn setresuid(uid: u32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_setresuid, uid, uid, uid) }.map(drop)
}

/// setresgid(2), of this thread alone.
///
/// # Errors
/// EPERM, EINVAL for an unmapped id.
pub fn setresgid(gid: u32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_setresgid, gid, gid, gid) }.map(drop)
}

/// setgroups(2) from little-endian words as a plan carries them; bytes beyond the last whole word
/// are left out.
///
/// # Errors
/// EPERM where the user namespace denies it.
pub fn setgroups(groups: &[u8]) -> Sys<()> {
    // SAFETY: the bytes hold that many native 32-bit words; the kernel copies from any alignment.
    unsafe { call!(libc::SYS_setgroups, groups.len() / 4, groups.as_ptr()) }.map(drop)
}

/// prctl(2) with integers only.
///
/// # Errors
/// The kernel's.
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
/// EPERM.
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
/// None in practice.
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

/// seccomp(2) `SECCOMP_SET_MODE_FILTER` with a program in its native layout; the listener's
/// descriptor with that flag, else 0.
///
/// # Errors
/// EINVAL for a bad program, EACCES without privilege.
pub fn seccomp_filter(program: &[u8], flags: u32) -> Sys<i64> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const u8,
    }
    let program = Program {
        len: (program.len() / 8) as u16,
        filter: program.as_ptr(),
    };
    // SAFETY: pointer and length belong together; the kernel copies from any alignment.
    unsafe { call!(libc::SYS_seccomp, 1, flags, &raw const program) }
}

/// prlimit64(2) of another process.
///
/// # Errors
/// EPERM when raising without CAP_SYS_RESOURCE.
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

/// This process's own hard limit (prlimit64(2)); `u64::MAX` is none.
///
/// # Errors
/// EINVAL for an unknown resource.
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

/// Lets this process have as many open files as it may: the limit of select(2)'s days is a shell's,
/// and not a server's.
///
/// # Errors
/// The kernel's.
pub fn raise_open_files() -> Sys<()> {
    let hard = hard_limit(libc::RLIMIT_NOFILE)?;
    prlimit(0, libc::RLIMIT_NOFILE, hard, hard)
}

/// personality(2).
///
/// # Errors
/// The kernel's.
pub fn personality(persona: u64) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_personality, persona) }.map(drop)
}

/// ioprio_set(2) of this thread.
///
/// # Errors
/// EPERM for the real-time class.
pub fn ioprio_set(value: u32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_ioprio_set, 1, 0, value) }.map(drop)
}

/// sched_setattr(2) of this thread with the kernel's structure as bytes.
///
/// # Errors
/// EPERM, EINVAL.
pub fn sched_setattr(attr: &[u8]) -> Sys<()> {
    // SAFETY: the structure states its own size in its first word.
    unsafe { call!(libc::SYS_sched_setattr, 0, attr.as_ptr(), 0) }.map(drop)
}

/// sched_setaffinity(2).
///
/// # Errors
/// EINVAL when no CPU of the mask exists.
pub fn sched_setaffinity(pid: i32, mask: &[u8]) -> Sys<()> {
    // SAFETY: mask and length belong together.
    unsafe { call!(libc::SYS_sched_setaffinity, pid, mask.len(), mask.as_ptr()) }.map(drop)
}

/// set_mempolicy(2); the mask in 64-bit words.
///
/// # Errors
/// EINVAL.
pub fn set_mempolicy(mode: u32, mask: &[u8]) -> Sys<()> {
    let pointer = if mask.is_empty() {
        std::ptr::null()
    } else {
        mask.as_ptr()
    };
    // SAFETY: mask and its number of bits belong together; the kernel reads whole words, and plans
    // pad to them.
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

/// keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`: the keyring's serial number.
///
/// # Errors
/// EDQUOT, ENOSYS, EPERM.
pub fn join_session_keyring(name: &CStr) -> Sys<i64> {
    // SAFETY: NUL-terminated.
    unsafe { call!(libc::SYS_keyctl, 1, name.as_ptr()) }
}

/// keyctl(2) `KEYCTL_DESCRIBE` then `KEYCTL_SETPERM`: adds the owner's search right as runc does
/// (`UsrSearch` besides what is there).
///
/// # Errors
/// The kernel's.
pub fn keyring_permissions(serial: i64, permissions: u32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_keyctl, 5, serial, permissions) }.map(drop)
}

/// keyctl(2) `KEYCTL_DESCRIBE`: the length of the text.
///
/// # Errors
/// The kernel's.
pub fn keyring_describe(serial: i64, buffer: &mut [u8]) -> Sys<usize> {
    // SAFETY: the buffer and its length belong together.
    unsafe {
        call!(
            libc::SYS_keyctl,
            6,
            serial,
            buffer.as_mut_ptr(),
            buffer.len()
        )
    }
    .map(|n| n as usize)
}

/// sethostname(2).
///
/// # Errors
/// EPERM.
pub fn sethostname(name: &[u8]) -> Sys<()> {
    // SAFETY: pointer and length belong together.
    unsafe { call!(libc::SYS_sethostname, name.as_ptr(), name.len()) }.map(drop)
}

/// setdomainname(2).
///
/// # Errors
/// EPERM.
pub fn setdomainname(name: &[u8]) -> Sys<()> {
    // SAFETY: pointer and length belong together.
    unsafe { call!(libc::SYS_setdomainname, name.as_ptr(), name.len()) }.map(drop)
}
