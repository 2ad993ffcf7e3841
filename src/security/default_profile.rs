//! hull's own filter, for `hull run --seccomp default`: the system calls that an ordinary program
//! needs, and no others. docs/seccomp.md gives the reasons by group. It is an allow list: a call
//! that no group names is refused.
//!
//! - [`ALLOWED`] calls pass.
//! - [`GUARDED`] calls pass with one of the capabilities of their row, and answer EPERM without, as
//!   the kernel itself would.
//! - [`ABSENT`] calls answer ENOSYS, as a kernel that is built without them: programs have a
//!   fallback for that answer.
//! - `clone`, `unshare`, `personality` and `socket` pass with some arguments.
//! - Everything else answers EPERM, and calls newer than all of these ENOSYS (see `seccomp`).
#![forbid(unsafe_code)]

use crate::spec::config::{Seccomp, Syscall, SyscallArg};
use oci_spec::runtime::{Arch, LinuxSeccompAction, LinuxSeccompOperator};

const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_MODULE: u64 = 1 << 16;
const SYS_RAWIO: u64 = 1 << 17;
const SYS_CHROOT: u64 = 1 << 18;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_PACCT: u64 = 1 << 20;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_BOOT: u64 = 1 << 22;
const SYS_NICE: u64 = 1 << 23;
const SYS_TIME: u64 = 1 << 25;
const SYS_TTY_CONFIG: u64 = 1 << 26;
const SYSLOG: u64 = 1 << 34;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// Calls that every program may make, one string for each subject. Names that an architecture does
/// not have are skipped there.
const ALLOWED: [&str; 11] = [
    // Open files.
    "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek close \
     close_range dup dup2 dup3 fcntl fcntl64 flock ioctl pipe pipe2 poll ppoll ppoll_time64 \
     select _newselect pselect6 pselect6_time64 sendfile sendfile64 splice tee vmsplice \
     copy_file_range readahead fadvise64 fadvise64_64 arm_fadvise64_64 fallocate fsync fdatasync \
     sync sync_file_range sync_file_range2 arm_sync_file_range syncfs ftruncate ftruncate64 \
     cachestat",
    // Names of files.
    "open openat openat2 creat access faccessat faccessat2 stat stat64 lstat lstat64 fstat \
     fstat64 fstatat64 newfstatat statx oldstat oldlstat oldfstat statfs statfs64 fstatfs \
     fstatfs64 truncate truncate64 getdents getdents64 readdir getcwd chdir fchdir rename \
     renameat renameat2 mkdir mkdirat rmdir link linkat symlink symlinkat readlink readlinkat \
     unlink unlinkat mknod mknodat chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 \
     lchown lchown32 fchownat umask utime utimes futimesat utimensat utimensat_time64 setxattr \
     lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr \
     lremovexattr fremovexattr inotify_init inotify_init1 inotify_add_watch inotify_rm_watch \
     name_to_handle_at",
    // Memory of the process itself.
    "brk mmap mmap2 munmap mremap mprotect msync mincore madvise mlock mlock2 munlock mlockall \
     munlockall remap_file_pages pkey_mprotect pkey_alloc pkey_free memfd_create memfd_secret \
     map_shadow_stack get_mempolicy set_mempolicy mbind set_mempolicy_home_node membarrier",
    // Processes and threads.
    "fork vfork execve execveat exit exit_group wait4 waitid waitpid getpid getppid gettid \
     getpgid getpgrp setpgid getsid setsid set_tid_address set_robust_list get_robust_list rseq \
     arch_prctl prctl set_thread_area get_thread_area set_tls get_tls cacheflush breakpoint \
     pidfd_open pidfd_send_signal process_madvise process_mrelease process_vm_readv \
     process_vm_writev ptrace restart_syscall uname olduname oldolduname sysinfo getcpu getrandom \
     seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    // Who the process is.
    "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 \
     getresgid getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid \
     setreuid32 setregid setregid32 setresuid setresuid32 setresgid setresgid32 setfsuid \
     setfsuid32 setfsgid setfsgid32 setgroups setgroups32 capget capset",
    // Limits, accounting of itself, scheduling of itself.
    "getrlimit ugetrlimit setrlimit prlimit64 getrusage times getpriority setpriority nice \
     ioprio_get ioprio_set sched_yield sched_getparam sched_setparam sched_getscheduler \
     sched_setscheduler sched_getattr sched_setattr sched_getaffinity sched_setaffinity \
     sched_get_priority_max sched_get_priority_min sched_rr_get_interval \
     sched_rr_get_interval_time64",
    // Signals.
    "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait \
     rt_sigtimedwait_time64 rt_sigqueueinfo rt_tgsigqueueinfo rt_sigsuspend sigaltstack sigaction \
     sigprocmask sigreturn sigpending sigsuspend signal sgetmask ssetmask kill tkill tgkill pause \
     alarm signalfd signalfd4",
    // Clocks and timers.
    "time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 \
     clock_nanosleep clock_nanosleep_time64 nanosleep adjtimex clock_adjtime clock_adjtime64 \
     getitimer setitimer timer_create timer_settime timer_settime64 timer_gettime timer_gettime64 \
     timer_getoverrun timer_delete timerfd_create timerfd_settime timerfd_settime64 \
     timerfd_gettime timerfd_gettime64",
    // Locks, events, asynchronous input and output.
    "futex futex_time64 futex_waitv futex_wake futex_wait futex_requeue epoll_create \
     epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 io_setup \
     io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64",
    // System V and POSIX messages, semaphores, shared memory: of the IPC namespace.
    "shmget shmat shmdt shmctl semget semop semtimedop semtimedop_time64 semctl msgget msgsnd \
     msgrcv msgctl ipc mq_open mq_unlink mq_timedsend mq_timedsend_time64 mq_timedreceive \
     mq_timedreceive_time64 mq_notify mq_getsetattr",
    // Sockets, once made.
    "socketpair bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt \
     shutdown send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64",
];

/// Calls that act on more than the container, and the capabilities of which one is enough for them.
const GUARDED: [(u64, &str); 15] = [
    (
        SYS_ADMIN,
        "mount umount umount2 pivot_root open_tree move_mount mount_setattr fsopen fsconfig \
         fsmount fspick setns sethostname setdomainname quotactl quotactl_fd swapon swapoff \
         fanotify_init fanotify_mark lookup_dcookie",
    ),
    (SYS_MODULE, "init_module finit_module delete_module"),
    (SYS_BOOT, "reboot kexec_load kexec_file_load"),
    (SYS_RAWIO, "iopl ioperm"),
    (SYS_TIME, "settimeofday stime clock_settime clock_settime64"),
    (SYS_PACCT, "acct"),
    (SYS_CHROOT, "chroot"),
    (SYS_TTY_CONFIG, "vhangup"),
    (SYS_NICE, "migrate_pages move_pages"),
    (SYS_PTRACE, "kcmp pidfd_getfd userfaultfd"),
    (DAC_READ_SEARCH, "open_by_handle_at"),
    (SYSLOG | SYS_ADMIN, "syslog"),
    (PERFMON | SYS_ADMIN, "perf_event_open"),
    (BPF | SYS_ADMIN, "bpf"),
    (SYS_ADMIN, "clone3"),
];

/// Calls for which the filter answers as a kernel without them.
const ABSENT: [&str; 5] = [
    "add_key request_key keyctl", // keys are not namespaced
    "io_uring_setup io_uring_enter io_uring_register", // what a ring does, no filter sees
    "modify_ldt vm86 vm86old",    // segments and modes for 16-bit programs
    "socketcall",                 // hides the family of a socket from the filter
    "uselib ustat sysfs _sysctl create_module get_kernel_syms query_module nfsservctl getpmsg \
     putpmsg afs_syscall tuxcall security vserver epoll_ctl_old epoll_wait_old bdflush break gtty \
     idle lock mpx prof profil stty ftime ulimit pciconfig_iobase pciconfig_read pciconfig_write \
     usr26 usr32", // left over from old kernels
];

/// CLONE_NEW* of linux/sched.h as clone(2) takes them.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// unshare(2) takes CLONE_NEWTIME too; in clone(2) those bits are the exit signal.
const NEWTIME: u64 = 0x80;

/// Personalities: Linux and 32-bit Linux, each also with UNAME26; and 0xffffffff, which asks for
/// the present one. The flags of other values make the memory layout predictable or data
/// executable.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET. Other families load protocol code that is
/// seldom used and seldom reviewed, or reach beyond the network namespace (AF_VSOCK).
const FAMILIES: [u64; 5] = [1, 2, 10, 16, 17];

/// The filter for a process with a bounding set; bit n of `capabilities` is capability number n.
pub fn profile(capabilities: u64) -> Seccomp {
    let mut allowed: Vec<&str> = ALLOWED
        .iter()
        .flat_map(|names| names.split_whitespace())
        .collect();
    for (opening, names) in GUARDED {
        if capabilities & opening != 0 {
            allowed.extend(names.split_whitespace());
        }
    }
    let mut absent: Vec<&str> = ABSENT
        .iter()
        .flat_map(|names| names.split_whitespace())
        .collect();
    let mut rules = Vec::new();
    if capabilities & SYS_ADMIN != 0 {
        allowed.extend(["clone", "unshare"]);
    } else {
        // clone3 takes its flags in memory, which a filter cannot read. Callers fall back to clone
        // when it answers ENOSYS.
        absent.push("clone3");
        rules.push(allow_if("clone", masked(NEW_NAMESPACES)));
        rules.push(allow_if("unshare", masked(NEW_NAMESPACES | NEWTIME)));
    }
    rules.extend(PERSONALITIES.map(|value| allow_if("personality", equal(value))));
    rules.extend(FAMILIES.map(|value| allow_if("socket", equal(value))));
    rules.push(rule(
        &allowed,
        LinuxSeccompAction::ScmpActAllow,
        None,
        vec![],
    ));
    rules.push(rule(
        &absent,
        LinuxSeccompAction::ScmpActErrno,
        Some(libc::ENOSYS as u32),
        vec![],
    ));
    Seccomp {
        default_action: Some(LinuxSeccompAction::ScmpActErrno),
        default_errno_ret: Some(libc::EPERM as u32),
        architectures: architectures(),
        syscalls: rules,
        ..Seccomp::default()
    }
}

/// The host's own architecture and its 32-bit calls. Not x32, for which no distribution builds
/// programs.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    }
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Vec<SyscallArg>,
) -> Syscall {
    Syscall {
        names: names.iter().map(ToString::to_string).collect(),
        action: Some(action),
        errno_ret,
        args,
    }
}

fn allow_if(name: &str, condition: SyscallArg) -> Syscall {
    rule(
        &[name],
        LinuxSeccompAction::ScmpActAllow,
        None,
        vec![condition],
    )
}

/// The first argument equals `value`.
fn equal(value: u64) -> SyscallArg {
    SyscallArg {
        index: 0,
        value,
        value_two: 0,
        op: Some(LinuxSeccompOperator::ScmpCmpEq),
    }
}

/// The first argument has none of these bits.
fn masked(bits: u64) -> SyscallArg {
    SyscallArg {
        index: 0,
        value: bits,
        value_two: 0,
        op: Some(LinuxSeccompOperator::ScmpCmpMaskedEq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::seccomp::interpreter::{Data, run};
    use crate::security::seccomp::{Filter, compile};
    use crate::sys::seccomp::{Outcome, call_behind};
    use libseccomp::{ScmpArch, ScmpSyscall};
    use nix::errno::Errno;
    use std::collections::BTreeMap;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;

    fn answer(filter: &Filter, number: libc::c_long, first: u64) -> u32 {
        run(
            &filter.program,
            &Data {
                number: number as u32,
                arch: X86_64,
                args: [first, 0, 0, 0, 0, 0],
            },
        )
    }

    fn names(text: &str) -> impl Iterator<Item = &str> {
        text.split_whitespace()
    }

    #[test]
    fn every_call_that_the_library_knows_is_in_one_group() {
        let mut groups: BTreeMap<String, u32> = BTreeMap::new();
        let guarded = GUARDED.iter().map(|(_, text)| text);
        for name in ALLOWED
            .iter()
            .chain(guarded)
            .chain(&ABSENT)
            .flat_map(|text| names(text))
            .chain(["clone", "unshare", "personality", "socket"])
        {
            *groups.entry(name.into()).or_default() += 1;
            assert!(ScmpSyscall::from_name(name).is_ok(), "{name} is no call");
        }
        let twice: Vec<_> = groups.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "in two groups: {twice:?}");
        for arch in [
            ScmpArch::X8664,
            ScmpArch::X86,
            ScmpArch::Aarch64,
            ScmpArch::Arm,
        ] {
            for number in 0..1000 {
                if let Ok(name) = ScmpSyscall::from(number).get_name_by_arch(arch) {
                    assert!(
                        groups.contains_key(&name),
                        "{name} of {arch:?} is in no group"
                    );
                }
            }
        }
    }

    #[test]
    fn a_capability_opens_its_calls_and_no_others() {
        for (opening, _) in GUARDED {
            for bit in (0..64).map(|bit| 1 << bit).filter(|bit| opening & bit != 0) {
                let filter = compile(&profile(bit)).unwrap();
                for (row, text) in GUARDED {
                    for name in names(text).filter(|name| *name != "clone3") {
                        let Ok(number) =
                            u32::try_from(ScmpSyscall::from_name(name).unwrap().as_raw_syscall())
                        else {
                            continue;
                        };
                        let expected = if row & bit != 0 { ALLOW } else { EPERM };
                        assert_eq!(
                            answer(&filter, number.into(), 0),
                            expected,
                            "{name} with capability bits {bit:#x}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn namespaces_need_sys_admin() {
        let without = compile(&profile(!SYS_ADMIN)).unwrap();
        let with = compile(&profile(SYS_ADMIN)).unwrap();
        let thread = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SETTLS;
        for flags in [
            libc::SIGCHLD,
            thread,
            libc::CLONE_VFORK | libc::CLONE_VM | libc::SIGCHLD,
            libc::CLONE_PARENT,
            libc::CLONE_PIDFD,
        ] {
            assert_eq!(
                answer(&without, libc::SYS_clone, flags as u64),
                ALLOW,
                "{flags:#x}"
            );
        }
        let namespaces = [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWCGROUP,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
        ];
        for flag in namespaces {
            for other in [0, libc::SIGCHLD, libc::CLONE_VM, libc::CLONE_NEWUSER] {
                let flags = u64::from((flag | other) as u32);
                for high in [0, 1 << 32, u64::MAX << 32] {
                    assert_eq!(
                        answer(&without, libc::SYS_clone, flags | high),
                        EPERM,
                        "clone {flags:#x}"
                    );
                    assert_eq!(
                        answer(&without, libc::SYS_unshare, flags | high),
                        EPERM,
                        "unshare {flags:#x}"
                    );
                }
                assert_eq!(answer(&with, libc::SYS_clone, flags), ALLOW);
                assert_eq!(answer(&with, libc::SYS_unshare, flags), ALLOW);
            }
        }
        assert_eq!(answer(&without, libc::SYS_unshare, NEWTIME), EPERM);
        assert_eq!(
            answer(&without, libc::SYS_unshare, libc::CLONE_FS as u64),
            ALLOW
        );
        assert_eq!(answer(&without, libc::SYS_clone3, 0), ENOSYS);
        assert_eq!(answer(&with, libc::SYS_clone3, 0), ALLOW);
    }

    #[test]
    fn arguments_decide_on_personalities_and_sockets() {
        let filter = compile(&profile(0)).unwrap();
        for value in [0, 8, 0x2_0000, 0xffff_ffff] {
            assert_eq!(answer(&filter, libc::SYS_personality, value), ALLOW);
        }
        for value in [0x40_0000, 0x4_0000, 0x1_0000_0000, u64::MAX] {
            assert_eq!(
                answer(&filter, libc::SYS_personality, value),
                EPERM,
                "{value:#x}"
            );
        }
        let families: Vec<u64> = (0..64)
            .filter(|family| answer(&filter, libc::SYS_socket, *family) == ALLOW)
            .collect();
        assert_eq!(families, FAMILIES);
        assert_eq!(answer(&filter, libc::SYS_socket, 0x1_0000_0001), EPERM);
    }

    #[test]
    fn the_32_bit_calls_have_the_same_rules() {
        let filter = compile(&profile(0)).unwrap();
        let i386 = |number: u32, first: u64| {
            run(
                &filter.program,
                &Data {
                    number,
                    arch: I386,
                    args: [first, 0, 0, 0, 0, 0],
                },
            )
        };
        for (number, first, expected) in [
            (3, 0, ALLOW),             // read
            (21, 0, EPERM),            // mount
            (120, 0x1000_0000, EPERM), // clone(CLONE_NEWUSER)
            (120, 0x11, ALLOW),
            (359, 2, ALLOW),  // socket(AF_INET)
            (359, 40, EPERM), // socket(AF_VSOCK)
            (102, 1, ENOSYS), // socketcall(SYS_SOCKET)
            (425, 0, ENOSYS), // io_uring_setup
            (460, 0, ENOSYS),
        ] {
            assert_eq!(
                i386(number, first),
                expected,
                "i386 call {number} ({first:#x})"
            );
        }
        // x32 is no architecture of the filter.
        assert_eq!(
            answer(&filter, 0x4000_0000, 0),
            libc::SECCOMP_RET_KILL_THREAD
        );
    }

    #[test]
    fn the_kernel_says_the_same() {
        let filter = compile(&profile(0)).unwrap();
        let behind = |number, first| {
            call_behind(
                &filter.program,
                filter.flags,
                number,
                [first, 0, 0, 0, 0, 0],
            )
        };
        assert!(matches!(behind(libc::SYS_getppid, 0), Outcome::Returned(_)));
        assert_eq!(behind(libc::SYS_umount2, 0), Outcome::Failed(Errno::EPERM));
        assert_eq!(
            behind(libc::SYS_unshare, libc::CLONE_NEWUSER as u64),
            Outcome::Failed(Errno::EPERM)
        );
        assert_eq!(
            behind(libc::SYS_unshare, libc::CLONE_FS as u64),
            Outcome::Returned(0)
        );
        assert_eq!(behind(libc::SYS_clone3, 0), Outcome::Failed(Errno::ENOSYS));
        assert_eq!(behind(libc::SYS_keyctl, 0), Outcome::Failed(Errno::ENOSYS));
        assert_eq!(behind(1000, 0), Outcome::Failed(Errno::ENOSYS));
        assert_eq!(behind(libc::SYS_socket, 40), Outcome::Failed(Errno::EPERM));
    }
}
