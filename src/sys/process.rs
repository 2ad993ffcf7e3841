//! Processes: clone3, namespaces, pidfds, signals, execve and exit.

use super::{Sys, call, raw_fd};
use nix::errno::Errno;
use std::ffi::CStr;

/// clone3(2): the child is made in the cgroup whose directory is given.
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// clone3(2): all handlers are the default's in the child.
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

/// Which side of a clone the caller is on.
pub enum Cloned {
    /// The new process. It may only make plain system calls until execve.
    Child,
    /// The old one: the child's id as the caller sees it, and a pidfd.
    Parent {
        /// The child's process id.
        pid: i32,
        /// A descriptor of the child.
        pidfd: i32,
    },
}

/// clone3(2) in the manner of fork, with a pidfd; `cgroup` makes the child in that cgroup (v2).
///
/// # Errors
/// The kernel's.
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
    // Valid: without CLONE_VM and a stack the child goes on here on its own copy of this one.
    match call!(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>())? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: raw_fd(pid),
            pidfd,
        }),
    }
}

/// unshare(2).
///
/// # Errors
/// The kernel's.
pub fn unshare(flags: u64) -> Sys<()> {
    call!(libc::SYS_unshare, flags).map(drop)
}

/// setns(2): by a namespace's descriptor, or by a pidfd with several flags.
///
/// # Errors
/// The kernel's.
pub fn setns(raw: i32, flags: u64) -> Sys<()> {
    call!(libc::SYS_setns, raw, flags).map(drop)
}

/// setsid(2).
///
/// # Errors
/// EPERM when already a leader.
pub fn setsid() -> Sys<()> {
    call!(libc::SYS_setsid).map(drop)
}

/// pidfd_open(2).
///
/// # Errors
/// ESRCH.
pub fn pidfd_open(pid: i32) -> Sys<i32> {
    call!(libc::SYS_pidfd_open, pid, 0).map(raw_fd)
}

/// pidfd_send_signal(2).
///
/// # Errors
/// ESRCH, EPERM, EINVAL.
pub fn pidfd_send_signal(pidfd: i32, signal: i32) -> Sys<()> {
    // Valid: no siginfo.
    call!(
        libc::SYS_pidfd_send_signal,
        pidfd,
        signal,
        std::ptr::null::<u8>(),
        0
    )
    .map(drop)
}

/// pidfd_getfd(2): a copy of another process's descriptor.
///
/// # Errors
/// The kernel's.
pub fn pidfd_getfd(pidfd: i32, raw: i32) -> Sys<i32> {
    call!(libc::SYS_pidfd_getfd, pidfd, raw, 0).map(raw_fd)
}

/// getpid(2), asked of the kernel: the C library's copy may be another's after a clone.
pub fn getpid() -> i32 {
    call!(libc::SYS_getpid).map(raw_fd).unwrap_or(0)
}

/// Ends this process without any of the C library's exit machinery.
pub fn exit(status: i32) -> ! {
    loop {
        let _ = call!(libc::SYS_exit_group, status);
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
    /// The status a shell gives: the program's own, or 128 and the signal.
    pub fn status(self) -> i32 {
        match self {
            Ended::Exited(status) => status,
            Ended::Killed(signal) => 128 + signal,
        }
    }
}

/// waitid(2) on a pidfd; `None` with `WNOHANG` when it still runs.
///
/// # Errors
/// ECHILD when it is no child.
pub fn wait(pidfd: i32, nohang: bool) -> Sys<Option<Ended>> {
    const P_PIDFD: i32 = 3;
    let options = libc::WEXITED | if nohang { libc::WNOHANG } else { 0 };
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // Valid: the buffer has the size of the structure; no rusage.
    super::retry(|| {
        call!(
            libc::SYS_waitid,
            P_PIDFD,
            pidfd,
            info.as_mut_ptr(),
            options,
            std::ptr::null::<u8>()
        )
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

/// Room for the two arrays of pointers that execve takes. It is made before the clone, since
/// nothing may be allocated after.
pub struct Arrays {
    pointers: Vec<*const libc::c_char>,
}

impl Arrays {
    /// Room for so many arguments and variables together.
    pub fn with_room(strings: usize) -> Self {
        Self {
            pointers: vec![std::ptr::null(); strings + 2],
        }
    }

    /// execveat(2); with an empty path the descriptor itself is run. Answers only why it failed;
    /// E2BIG when the room is too small.
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
        // Valid: both arrays end in null, and the strings that they point to outlive this call.
        match call!(
            libc::SYS_execveat,
            dir,
            path.as_ptr(),
            self.pointers.as_ptr(),
            envp.as_ptr(),
            flags
        ) {
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
            // Valid: the structure is the kernel's own layout, with an 8-byte mask.
            let _ = call!(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null::<u8>(),
                8
            );
        }
    }
}

/// Ignores SIGPIPE: writing to a reader that is gone is EPIPE then.
pub fn ignore_broken_pipes() {
    // SAFETY: no handler of one's own is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Unblocks all signals.
pub fn unblock_signals() {
    let none = 0_u64;
    // Valid: an 8-byte mask.
    let _ = call!(
        libc::SYS_rt_sigprocmask,
        libc::SIG_SETMASK,
        &raw const none,
        std::ptr::null::<u8>(),
        8
    );
}

/// Whether the other side of a pipe is gone, waited for so many milliseconds.
///
/// # Errors
/// The kernel's.
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
    // Valid: one entry, a timeout, no signal mask.
    super::retry(|| {
        call!(
            libc::SYS_ppoll,
            fds.as_mut_ptr(),
            1,
            &raw const spec,
            std::ptr::null::<u8>(),
            8
        )
    })?;
    Ok(fds[0].revents != 0)
}

/// ppoll(2) for reading on up to two descriptors (a negative one is skipped); the timeout in
/// milliseconds, or none. Answers which are ready (an end or an error counts).
///
/// # Errors
/// The kernel's.
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
    // Valid: two entries, a timeout or null, no signal mask.
    super::retry(|| {
        call!(
            libc::SYS_ppoll,
            fds.as_mut_ptr(),
            2,
            spec_ptr,
            std::ptr::null::<u8>(),
            8
        )
    })?;
    Ok((fds[0].revents != 0, fds[1].revents != 0))
}

/// Waits until a process is gone (its pidfd becomes readable), whoever reaps it.
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
