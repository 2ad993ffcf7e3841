//! Waiting for several descriptors, and the few calls that only a guest's PID 1 makes.

use super::{Sys, call};
use std::ffi::CStr;

/// ppoll(2) on any number of descriptors; the timeout is in milliseconds, none waits for ever.
/// Returns how many descriptors are ready.
///
/// # Errors
/// EINVAL: more descriptors than RLIMIT_NOFILE.
pub fn poll(fds: &mut [libc::pollfd], timeout_ms: Option<u64>) -> Sys<usize> {
    let spec = timeout_ms.map(|ms| libc::timespec {
        tv_sec: (ms / 1000) as i64,
        tv_nsec: ((ms % 1000) * 1_000_000) as i64,
    });
    let spec_ptr = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    super::retry(|| {
        // SAFETY: the slice and the timeout, where there is one, live across the call.
        unsafe {
            call!(
                libc::SYS_ppoll,
                fds.as_mut_ptr(),
                fds.len(),
                spec_ptr,
                std::ptr::null::<u8>(),
                8
            )
        }
    })
    .map(|n| n as usize)
}

/// Sets O_NONBLOCK: reads and writes of the open file answer EAGAIN in place of waiting. Every
/// descriptor of that open file has it then.
///
/// # Errors
/// EBADF.
pub fn nonblocking(raw: i32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    let flags = unsafe { call!(libc::SYS_fcntl, raw, libc::F_GETFL) }?;
    // SAFETY: numbers alone are passed.
    unsafe {
        call!(
            libc::SYS_fcntl,
            raw,
            libc::F_SETFL,
            flags | libc::c_long::from(libc::O_NONBLOCK)
        )
    }
    .map(drop)
}

/// finit_module(2) without parameters.
///
/// # Errors
/// EEXIST: the module is loaded already; ENOEXEC: it is another kernel's; EKEYREJECTED: its
/// signature is missing or wrong; and what the module's own init function returns.
pub fn load_module(file: i32) -> Sys<()> {
    // SAFETY: an empty string of parameters.
    unsafe { call!(libc::SYS_finit_module, file, c"".as_ptr(), 0) }.map(drop)
}

/// reboot(2), `RB_AUTOBOOT`: ends a VM whose monitor takes a reset for its end (QEMU's
/// `-no-reboot`).
///
/// # Errors
/// EPERM without CAP_SYS_BOOT.
pub fn reboot() -> Sys<()> {
    // SAFETY: the command that takes no argument; the magic numbers are those of reboot(2).
    unsafe {
        call!(
            libc::SYS_reboot,
            0xfee1_dead_u32,
            672_274_793,
            libc::RB_AUTOBOOT,
            std::ptr::null::<u8>()
        )
    }
    .map(drop)
}

/// sync(2).
pub fn sync() {
    // SAFETY: numbers alone are passed.
    let _ = unsafe { call!(libc::SYS_sync) };
}

/// clock_settime(2) of the real-time clock, in nanoseconds since 1970.
///
/// # Errors
/// EPERM without CAP_SYS_TIME.
pub fn set_clock(nanoseconds: u64) -> Sys<()> {
    let time = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    };
    // SAFETY: a pointer to the structure.
    unsafe {
        call!(
            libc::SYS_clock_settime,
            libc::CLOCK_REALTIME,
            &raw const time
        )
    }
    .map(drop)
}

/// `PR_SET_PDEATHSIG` with SIGKILL: the kernel kills this process when the thread that created it
/// exits.
///
/// # Errors
/// None that the kernel documents for a valid signal.
pub fn die_with_parent() -> Sys<()> {
    super::ids::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).map(drop)
}

/// `PR_SET_NAME`, at most 15 bytes: what ps(1) shows.
pub fn name_process(name: &CStr) {
    // SAFETY: NUL-terminated; the kernel copies at most 16 bytes.
    let _ = unsafe { call!(libc::SYS_prctl, libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Ends this process by a signal's default action, without a core file. Returns where the signal's
/// default action does not end a process.
pub fn end_by(signal: i32) {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a pointer to the structure, and no old limit.
    let _ = unsafe {
        call!(
            libc::SYS_prlimit64,
            0,
            libc::RLIMIT_CORE,
            &raw const none,
            std::ptr::null::<u8>()
        )
    };
    super::process::default_signals(1 << (signal - 1));
    super::process::unblock_signals();
    // SAFETY: numbers alone are passed.
    let _ = unsafe { call!(libc::SYS_kill, super::process::getpid(), signal) };
}
