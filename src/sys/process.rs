//! Processes: clone3, namespaces, pidfds, signals, execve and exit.

use super::{Sys, call, raw_fd};
use nix::errno::Errno;
use std::ffi::CStr;
use std::sync::atomic::{AtomicI32, Ordering};

/// clone3(2): the child is created in the cgroup of `cl_args.cgroup` (v2).
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// clone3(2): all signals have their default action in the child.
pub const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which of the two processes after a clone the caller is.
pub enum Cloned {
    /// The new process. Until execve it may only make plain system calls: no allocation, no lock.
    Child,
    /// The process that called clone.
    Parent {
        /// The child's process id as the caller sees it.
        pid: i32,
        /// A pidfd of the child.
        pidfd: i32,
    },
}

/// clone3(2) as fork(2) does it, with a pidfd; `flags` are `CLONE_NEW*` and the like. With
/// `cgroup`, a descriptor of a v2 cgroup's directory, the child is created in that cgroup.
///
/// # Errors
/// clone3(2) fails: EAGAIN, too many processes, also by pids.max; EPERM without CAP_SYS_ADMIN;
/// EINVAL, the kernel does not know a flag; EBUSY, EACCES or EOPNOTSUPP, the cgroup takes no
/// process.
pub fn clone(flags: u64, cgroup: Option<i32>) -> Sys<Cloned> {
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 {
            libc::SIGCHLD as u64
        } else {
            0
        },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    // SAFETY: without CLONE_VM and a stack the child goes on here on its own copy of this one.
    match unsafe { call!(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) }? {
        0 => {
            // With CLONE_FILES the table of descriptors is the parent's own.
            if flags & libc::CLONE_FILES as u64 == 0 {
                close_own();
            }
            Ok(Cloned::Child)
        }
        pid => Ok(Cloned::Parent {
            pid: raw_fd(pid),
            pidfd,
        }),
    }
}

/// The descriptors that no child of [`clone`] keeps; -1 is none.
static OWN: [AtomicI32; 4] = [const { AtomicI32::new(-1) }; 4];

/// Keeps a descriptor from the children of [`clone`] until [`share_again`]. A lock of flock(2) is
/// held as long as any copy of its descriptor is open: a child that lives on when hull was killed
/// would hold it. False beyond four at a time: the descriptor is inherited as others are.
pub fn keep_from_children(raw: i32) -> bool {
    let free = |own: &AtomicI32| {
        own.compare_exchange(-1, raw, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    };
    OWN.iter().any(free)
}

/// Undoes [`keep_from_children`], before the descriptor is closed. False in a child, where it has
/// been closed and the number may be another's.
pub fn share_again(raw: i32) -> bool {
    OWN.iter().any(|own| {
        own.compare_exchange(raw, -1, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    })
}

/// In a new child. A child of the child must not close what has these numbers then.
fn close_own() {
    for own in &OWN {
        let raw = own.swap(-1, Ordering::Relaxed);
        if raw >= 0 {
            super::file::close(raw);
        }
    }
}

/// unshare(2); `flags` are `CLONE_NEW*`.
///
/// # Errors
/// unshare(2) fails: EPERM without CAP_SYS_ADMIN; ENOSPC, a limit of namespaces; EINVAL, the kernel
/// does not have the kind.
pub fn unshare(flags: u64) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_unshare, flags) }.map(drop)
}

/// setns(2): by a namespace's descriptor, or by a pidfd with several flags.
///
/// # Errors
/// setns(2) fails: EPERM without CAP_SYS_ADMIN over the namespace; EINVAL, the descriptor is of
/// another kind; ESRCH, the process has exited.
pub fn setns(raw: i32, flags: u64) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_setns, raw, flags) }.map(drop)
}

/// setsid(2).
///
/// # Errors
/// EPERM: the process leads a process group already.
pub fn setsid() -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_setsid) }.map(drop)
}

/// Lets a command begin in a session of its own: when `spawn` returns, no hang-up of the caller's
/// terminal reaches it any more.
pub fn in_own_session(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let begin = || setsid().map_err(std::io::Error::from);
    // SAFETY: between fork and execve the closure only makes a system call and does not allocate.
    unsafe { command.pre_exec(begin) };
}

/// pidfd_open(2).
///
/// # Errors
/// ESRCH: there is no such process; EMFILE.
pub fn pidfd_open(pid: i32) -> Sys<i32> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_pidfd_open, pid, 0) }.map(raw_fd)
}

/// pidfd_send_signal(2).
///
/// # Errors
/// ESRCH: the process has exited; EPERM; EINVAL: no valid signal, or another pid namespace.
pub fn pidfd_send_signal(pidfd: i32, signal: i32) -> Sys<()> {
    // SAFETY: no siginfo.
    unsafe {
        call!(
            libc::SYS_pidfd_send_signal,
            pidfd,
            signal,
            std::ptr::null::<u8>(),
            0
        )
    }
    .map(drop)
}

/// pidfd_getfd(2): a copy of another process's descriptor.
///
/// # Errors
/// pidfd_getfd(2) fails: EPERM, the caller may not trace the process; EBADF; ESRCH, it has exited.
pub fn pidfd_getfd(pidfd: i32, raw: i32) -> Sys<i32> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_pidfd_getfd, pidfd, raw, 0) }.map(raw_fd)
}

/// Makes the caller the leader of a process group of its own (setpgid(2)).
///
/// # Errors
/// EPERM: the caller is a session leader.
pub fn setpgid() -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_setpgid, 0, 0) }.map(drop)
}

/// Kills the processes of a group (kill(2), SIGKILL).
///
/// # Errors
/// ESRCH: the group has no process.
pub fn kill_group(leader: i32) -> Sys<()> {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_kill, -leader, libc::SIGKILL) }.map(drop)
}

/// getpid(2), always by the system call: a C library may cache the id of the process before a
/// clone.
pub fn getpid() -> i32 {
    // SAFETY: numbers alone are passed.
    unsafe { call!(libc::SYS_getpid) }.map(raw_fd).unwrap_or(0)
}

/// Ends this process without any of the C library's exit machinery. Where a seccomp filter refuses
/// even that, a fault ends it: the kernel forces its signal also on a namespace's init.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: numbers alone are passed.
        let _ = unsafe { call!(libc::SYS_exit_group, status) };
        // SAFETY: as above.
        let _ = unsafe { call!(libc::SYS_exit, status) };
        fault();
    }
}

/// Executes an instruction that no processor knows, which raises SIGILL.
fn fault() {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    // SAFETY: the instruction touches neither memory nor registers.
    unsafe {
        core::arch::asm!("ud2", options(nomem, nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("udf #0", options(nomem, nostack));
    }
    #[cfg(any(target_arch = "riscv64", target_arch = "riscv32"))]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("unimp", options(nomem, nostack));
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By exit, with this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Ended {
    /// The status that a shell gives: the program's own, or 128 plus the signal's number.
    pub fn status(self) -> i32 {
        match self {
            Ended::Exited(status) => status,
            Ended::Killed(signal) => 128 + signal,
        }
    }
}

/// waitid(2) of a pidfd: waits for a child's end and reaps it. With `nohang` it does not wait, and
/// returns none where the child still runs.
///
/// # Errors
/// ECHILD: the process is not the caller's child, or has been reaped.
pub fn wait(pidfd: i32, nohang: bool) -> Sys<Option<Ended>> {
    const P_PIDFD: i32 = 3;
    let options = libc::WEXITED | if nohang { libc::WNOHANG } else { 0 };
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    super::retry(|| {
        // SAFETY: `info` has room for the kernel's siginfo_t.
        unsafe {
            call!(
                libc::SYS_waitid,
                P_PIDFD,
                pidfd,
                info.as_mut_ptr(),
                options,
                std::ptr::null::<u8>()
            )
        }
    })?;
    // SAFETY: zeroed is a valid value, and the kernel filled it if a child was found.
    let info = unsafe { info.assume_init() };
    // SAFETY: these fields are those of SIGCHLD, which waitid fills; all zero otherwise.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(if info.si_code == libc::CLD_EXITED {
        Ended::Exited(status)
    } else {
        Ended::Killed(status)
    }))
}

/// Memory for the two arrays of pointers that execve(2) takes. It is allocated before the clone,
/// since nothing may be allocated after.
pub struct Arrays {
    pointers: Vec<*const libc::c_char>,
}

impl Arrays {
    /// For this many arguments and environment variables together.
    pub fn with_room(strings: usize) -> Self {
        Self {
            pointers: vec![std::ptr::null(); strings + 2],
        }
    }

    /// execveat(2); with an empty path and `AT_EMPTY_PATH` the file that `dir` is open at is
    /// executed. Where a path serves, the call is execve(2): a seccomp filter of the container that
    /// allows that alone lets its program begin. Returns only where it failed; E2BIG where the
    /// arrays are too small.
    pub fn execveat<'a, A, E>(
        &mut self,
        dir: i32,
        path: &CStr,
        args: A,
        env: E,
        flags: i32,
    ) -> Errno
    where
        A: IntoIterator<Item = &'a CStr>,
        E: IntoIterator<Item = &'a CStr>,
    {
        let (mut next, mut count) = (0, 0);
        let mut put = |pointer| {
            next += 1;
            self.pointers
                .get_mut(next - 1)
                .map(|place| *place = pointer)
        };
        let mut whole = true;
        args.into_iter().for_each(|text| {
            count += 1;
            whole &= put(text.as_ptr()).is_some();
        });
        whole &= put(std::ptr::null()).is_some();
        env.into_iter()
            .for_each(|text| whole &= put(text.as_ptr()).is_some());
        whole &= put(std::ptr::null()).is_some();
        let Some(envp) = self.pointers.get(count + 1..).filter(|_| whole) else {
            return Errno::E2BIG;
        };
        let (argv, envp) = (self.pointers.as_ptr(), envp.as_ptr());
        let done = if dir == libc::AT_FDCWD && flags == 0 {
            // SAFETY: both arrays end in null, and the strings that they point to outlive this
            // call.
            unsafe { call!(libc::SYS_execve, path.as_ptr(), argv, envp) }
        } else {
            // SAFETY: as above.
            unsafe { call!(libc::SYS_execveat, dir, path.as_ptr(), argv, envp, flags) }
        };
        match done {
            Err(errno) => errno,
            Ok(_) => Errno::UnknownErrno,
        }
    }
}

/// Gives the signals of a mask their default action (bit 0 is signal 1).
pub fn default_signals(mask: u64) {
    #[repr(C)]
    struct Action {
        handler: usize,
        flags: u64,
        restorer: usize,
        mask: u64,
    }
    let default = Action {
        handler: libc::SIG_DFL,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    for signal in 1..=64 {
        if mask & (1 << (signal - 1)) != 0 {
            // SAFETY: the structure is the kernel's own layout, with an 8-byte mask.
            let _ = unsafe {
                call!(
                    libc::SYS_rt_sigaction,
                    signal,
                    &raw const default,
                    std::ptr::null::<u8>(),
                    8
                )
            };
        }
    }
}

/// Ignores SIGPIPE: a write to a pipe or socket without a reader fails with EPIPE then.
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is a valid disposition, and no handler of hull's is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Unblocks all signals.
pub fn unblock_signals() {
    let none = 0_u64;
    // SAFETY: an 8-byte mask.
    let _ = unsafe {
        call!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null::<u8>(),
            8
        )
    };
}

/// Whether the other end of a pipe is closed; waits for that for some milliseconds at most.
///
/// # Errors
/// EINVAL: more descriptors than RLIMIT_NOFILE.
pub fn hung_up(pipe: i32, timeout_ms: u64) -> Sys<bool> {
    let mut fds = [libc::pollfd {
        fd: pipe,
        events: 0,
        revents: 0,
    }];
    let spec = libc::timespec {
        tv_sec: (timeout_ms / 1000) as i64,
        tv_nsec: ((timeout_ms % 1000) * 1_000_000) as i64,
    };
    super::retry(|| {
        // SAFETY: the array and the timeout live across the call.
        unsafe {
            call!(
                libc::SYS_ppoll,
                fds.as_mut_ptr(),
                1,
                &raw const spec,
                std::ptr::null::<u8>(),
                8
            )
        }
    })?;
    Ok(fds[0].revents != 0)
}

/// ppoll(2) for reading of up to two descriptors (a negative number is skipped); the timeout is in
/// milliseconds, none waits for ever. Returns which are ready; a closed end or an error counts.
///
/// # Errors
/// EINVAL: more descriptors than RLIMIT_NOFILE.
pub fn poll2(first: i32, second: i32, timeout_ms: Option<u64>) -> Sys<(bool, bool)> {
    let mut fds = [
        libc::pollfd {
            fd: first,
            events: libc::POLLIN,
            revents: 0,
        },
        libc::pollfd {
            fd: second,
            events: libc::POLLIN,
            revents: 0,
        },
    ];
    let spec = timeout_ms.map(|ms| libc::timespec {
        tv_sec: (ms / 1000) as i64,
        tv_nsec: ((ms % 1000) * 1_000_000) as i64,
    });
    let spec_ptr = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    super::retry(|| {
        // SAFETY: the array and the timeout, where there is one, live across the call.
        unsafe {
            call!(
                libc::SYS_ppoll,
                fds.as_mut_ptr(),
                2,
                spec_ptr,
                std::ptr::null::<u8>(),
                8
            )
        }
    })?;
    Ok((fds[0].revents != 0, fds[1].revents != 0))
}

/// Waits until a process has exited (its pidfd becomes readable), whoever reaps it. Whether it has,
/// within the limit.
pub fn wait_gone(pidfd: i32, limit: std::time::Duration) -> bool {
    let until = std::time::Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        match poll2(pidfd, -1, Some(left.as_millis() as u64)) {
            Ok((true, _)) => return true,
            _ if left.is_zero() => return false,
            _ => {}
        }
    }
}
