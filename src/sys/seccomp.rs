//! seccomp(2).

use nix::errno::Errno;
use std::os::fd::RawFd;

/// `SECCOMP_SET_MODE_FILTER` of linux/seccomp.h.
const SET_MODE_FILTER: libc::c_ulong = 1;
/// Bytes of one `struct sock_filter`.
pub const INSTRUCTION_SIZE: usize = 8;
/// `BPF_MAXINSNS` of linux/bpf_common.h: the most instructions that the kernel takes.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Whether this kernel knows all of the `SECCOMP_FILTER_FLAG_*` in `flags`: it checks the flags
/// before it reads the program, which is null here.
pub fn flags_supported(flags: u32) -> bool {
    // SAFETY: the kernel does not dereference a null program; it answers EFAULT after it has
    // accepted the flags.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            std::ptr::null::<u8>(),
        )
    };
    result == -1 && Errno::last() == Errno::EFAULT
}

/// Loads a filter for the calling thread; `program` is an array of `struct sock_filter` in native
/// layout. Returns the listener's descriptor with `SECCOMP_FILTER_FLAG_NEW_LISTENER` (the kernel
/// makes it close-on-exec), else 0.
///
/// Makes one system call and allocates nothing, so it may be called between clone and execve.
///
/// # Errors
/// EINVAL: the program is not valid, or the kernel does not know the flags or their combination;
/// EACCES: neither CAP_SYS_ADMIN nor no_new_privs; EBUSY: the thread has a listener already;
/// ENOMEM: all filters together exceed 32768 instructions.
pub fn set_filter(program: &[u8], flags: u32) -> nix::Result<RawFd> {
    let count = program.len() / INSTRUCTION_SIZE;
    if !program.len().is_multiple_of(INSTRUCTION_SIZE) || count == 0 || count > MAX_INSTRUCTIONS {
        return Err(Errno::EINVAL);
    }
    // The kernel copies the program byte by byte, so the pointer needs no alignment.
    let filter = libc::sock_fprog {
        len: count as libc::c_ushort,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `filter` and the `count` instructions behind it live across the call; the kernel only
    // reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            &raw const filter,
        )
    };
    Errno::result(result).map(|fd| fd as RawFd)
}

/// What became of one system call behind a filter.
#[cfg(test)]
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The call returned this (the lowest 7 bits).
    Returned(i32),
    /// The call failed.
    Failed(Errno),
    /// The filter killed the process.
    Killed(nix::sys::signal::Signal),
    /// The filter did not load.
    NotLoaded,
}

/// Makes one system call in a child that has loaded the filter. The filter must let `exit_group`
/// through.
#[cfg(test)]
pub(crate) fn call_behind(
    program: &[u8],
    flags: u32,
    number: libc::c_long,
    args: [u64; 6],
) -> Outcome {
    use nix::sys::wait::{WaitStatus, waitpid};
    const FAILED: i32 = 128;
    // SAFETY: until it ends, the child makes system calls only: no lock, no allocation, no
    // unwinding.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            // SAFETY: prctl with plain numbers. No core file for a killed child, and ordinary users
            // may load filters.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
            // SAFETY: as above.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            if set_filter(program, flags).is_err() {
                // SAFETY: ends the child at once.
                unsafe { libc::syscall(libc::SYS_exit_group, 255) };
            }
            // SAFETY: tests pass calls that touch no memory of this process, or pointers that fail
            // with EFAULT.
            let result = unsafe {
                libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5])
            };
            let code = if result == -1 {
                FAILED + Errno::last_raw().min(126)
            } else {
                (result & 0x7f) as i32
            };
            loop {
                // SAFETY: ends the child at once.
                unsafe { libc::syscall(libc::SYS_exit_group, code) };
            }
        }
        nix::unistd::ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, 255) => Outcome::NotLoaded,
            WaitStatus::Exited(_, code) if code >= FAILED => {
                Outcome::Failed(Errno::from_raw(code - FAILED))
            }
            WaitStatus::Exited(_, code) => Outcome::Returned(code),
            WaitStatus::Signaled(_, signal, _) => Outcome::Killed(signal),
            status => panic!("{status:?}"),
        },
    }
}
