//! `linux.seccomp`: every action, operator and flag, architectures, unknown names, and the
//! listener.

use crate::support::console::{FdSocket, Received};
use crate::support::{Bundle, raw, until};
use serde_json::{Value, json};
use std::os::fd::AsFd;

tests![
    errno_is_returned,
    errno_defaults_to_eperm,
    default_errno_is_returned,
    kill_process_ends_the_program,
    kill_ends_the_program,
    trap_sends_sigsys,
    trace_without_a_tracer_is_enosys,
    log_lets_the_call_pass,
    allow_wins_where_it_is_named,
    every_operator,
    arguments_are_joined_by_and,
    one_argument_named_twice_is_joined_by_or,
    upper_halves_of_arguments_are_compared,
    unknown_names_are_passed_over,
    unknown_action_is_an_error,
    unknown_architecture_is_an_error,
    newer_calls_answer_enosys,
    filter_is_in_force_without_no_new_privileges,
    filter_reaches_exec,
    architectures_are_covered,
    flags_are_accepted,
    listener_is_sent_with_the_state,
    listener_that_is_missing_is_an_error,
    notify_without_listener_path_is_an_error,
    notify_on_the_handoffs_own_call_is_an_error,
    filter_may_forbid_what_set_up_needs,
    a_filter_without_execveat_starts_the_program,
    a_filter_that_refuses_everything_ends_the_container,
];

fn allow_all_but(rules: Value) -> Bundle {
    let mut b = Bundle::new();
    b.set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules }));
    b
}

fn on_sync(action: &str) -> Bundle {
    allow_all_but(json!([{ "names": ["sync"], "action": action }]))
}

/// The result of sync(2) in the container: the call needs no argument and no capability.
const SYNC: &str = "/bin/probe --probe syscall 162";

fn errno_is_returned() {
    let mut b = allow_all_but(
        json!([{ "names": ["sync", "chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 55 }]),
    );
    assert_eq!(b.output_of(SYNC), "errno 55");
    assert_eq!(
        b.output_of("grep Seccomp: /proc/self/status"),
        "Seccomp:\t2"
    );
}

fn errno_defaults_to_eperm() {
    assert_eq!(on_sync("SCMP_ACT_ERRNO").output_of(SYNC), "errno 1");
}

fn default_errno_is_returned() {
    let mut b = Bundle::new();
    let all_but_sync: Vec<&str> = USUAL.to_vec();
    b.set("/linux/seccomp", json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 77, "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": all_but_sync, "action": "SCMP_ACT_ALLOW" }]
    }));
    b.args(&["/bin/probe", "--probe", "syscall", "162"]);
    assert_eq!(b.run().success().stdout, "errno 77\n");
}

/// The system calls of a small static program and of its start.
const USUAL: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "clone",
    "clone3",
    "close",
    "close_range",
    "dup2",
    "epoll_ctl",
    "epoll_pwait",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fcntl",
    "fork",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getrandom",
    "getrlimit",
    "gettid",
    "getuid",
    "ioctl",
    "lseek",
    "lstat",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe2",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "recvmsg",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "seccomp",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setsid",
    "setuid",
    "sigaltstack",
    "stat",
    "statfs",
    "statx",
    "tgkill",
    "umask",
    "uname",
    "vfork",
    "wait4",
    "waitid",
    "write",
    "writev",
    "ptrace",
    "kill",
];

fn kill_process_ends_the_program() {
    // 31 is SIGSYS.
    let mut b = on_sync("SCMP_ACT_KILL_PROCESS");
    assert_eq!(b.output_of(&format!("{SYNC}; echo $?")), "159");
}

fn kill_ends_the_program() {
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD"] {
        assert_eq!(
            on_sync(action).output_of(&format!("{SYNC}; echo $?")),
            "159",
            "{action}"
        );
    }
}

fn trap_sends_sigsys() {
    assert_eq!(
        on_sync("SCMP_ACT_TRAP").output_of(&format!("{SYNC}; echo $?")),
        "159"
    );
}

fn trace_without_a_tracer_is_enosys() {
    assert_eq!(on_sync("SCMP_ACT_TRACE").output_of(SYNC), "errno 38");
}

fn log_lets_the_call_pass() {
    assert_eq!(on_sync("SCMP_ACT_LOG").output_of(SYNC), "ok 0");
}

fn allow_wins_where_it_is_named() {
    let mut b = Bundle::new();
    let mut names = USUAL.to_vec();
    names.push("sync");
    b.set("/linux/seccomp", json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }]
    }));
    b.args(&["/bin/probe", "--probe", "syscall", "162"]);
    assert_eq!(b.run().success().stdout, "ok 0\n");
}

/// Calls getpriority(2) under a rule with these arguments; the values among 0..=3 for which the
/// call was refused.
fn refused(args: Value) -> Vec<u32> {
    let mut b = allow_all_but(
        json!([{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99, "args": args }]),
    );
    // getpriority(which, who) takes two numbers and changes nothing.
    let text = b.output_of("for v in 0 1 2 3; do /bin/probe --probe syscall 140 $v 0; done");
    text.lines()
        .zip(0..)
        .filter(|(l, _)| *l == "errno 99")
        .map(|(_, v)| v)
        .collect()
}

fn every_operator() {
    let on = |op: &str, value: u64, two: u64| {
        refused(json!([{ "index": 0, "value": value, "valueTwo": two, "op": op }]))
    };
    assert_eq!(on("SCMP_CMP_EQ", 1, 0), [1]);
    assert_eq!(on("SCMP_CMP_NE", 1, 0), [0, 2, 3]);
    assert_eq!(on("SCMP_CMP_LT", 2, 0), [0, 1]);
    assert_eq!(on("SCMP_CMP_LE", 2, 0), [0, 1, 2]);
    assert_eq!(on("SCMP_CMP_GT", 2, 0), [3]);
    assert_eq!(on("SCMP_CMP_GE", 2, 0), [2, 3]);
    assert_eq!(
        on("SCMP_CMP_MASKED_EQ", 1, 1),
        [1, 3],
        "the mask is value, what must remain is valueTwo"
    );
}

fn arguments_are_joined_by_and() {
    let mut b = allow_all_but(
        json!([{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99, "args": [
        { "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }, { "index": 1, "value": 7, "op": "SCMP_CMP_EQ" }
    ] }]),
    );
    let text = b.output_of(
        "for a in '1 7' '1 0' '0 7'; do /bin/probe --probe syscall 140 $a | \
        grep -c 'errno 99'; done; true",
    );
    assert_eq!(text, "1\n0\n0");
}

/// libseccomp allows one comparison per argument in a rule; runc splits such a rule.
fn one_argument_named_twice_is_joined_by_or() {
    let args = json!([{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }, { "index": 0, "value": 3, "op": "SCMP_CMP_EQ" }]);
    assert_eq!(refused(args), [1, 3]);
}

fn upper_halves_of_arguments_are_compared() {
    let mut b = allow_all_but(
        json!([{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99, "args": [
        { "index": 1, "value": 0x1_0000_0000_u64, "op": "SCMP_CMP_EQ" }
    ] }]),
    );
    let text = b.output_of("for a in 0 4294967296; do /bin/probe --probe syscall 140 0 $a; done");
    assert_eq!(text.lines().nth(1), Some("errno 99"));
    assert_ne!(text.lines().next(), Some("errno 99"));
}

fn unknown_names_are_passed_over() {
    let mut b = allow_all_but(
        json!([{ "names": ["no_such_call", "sync"], "action": "SCMP_ACT_ERRNO", "errnoRet": 55 }]),
    );
    assert_eq!(b.output_of(SYNC), "errno 55");
}

fn unknown_action_is_an_error() {
    assert_has!(
        on_sync("SCMP_ACT_NOSUCH").run().failure(),
        "scmp_act_nosuch"
    );
}

fn unknown_architecture_is_an_error() {
    let mut b = on_sync("SCMP_ACT_ERRNO");
    b.push("/linux/seccomp/architectures", json!("SCMP_ARCH_NOSUCH"));
    assert_has!(b.run().failure(), "scmp_arch_nosuch");
}

/// A C library tries a new system call, and falls back to an old one on ENOSYS only.
fn newer_calls_answer_enosys() {
    let mut b = Bundle::new();
    b.set("/linux/seccomp", json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{ "names": USUAL, "action": "SCMP_ACT_ALLOW" }]
    }));
    for (call, answer) in [("1000", "errno 38\n"), ("162", "errno 1\n")] {
        b.args(&["/bin/probe", "--probe", "syscall", call]);
        assert_eq!(b.run().success().stdout, answer, "{call}");
    }
}

fn filter_is_in_force_without_no_new_privileges() {
    let mut b =
        allow_all_but(json!([{ "names": ["sync"], "action": "SCMP_ACT_ERRNO", "errnoRet": 55 }]));
    b.set("/process/noNewPrivileges", json!(false));
    assert_eq!(
        b.output_of(&format!("{SYNC}; grep NoNewPrivs /proc/self/status")),
        "errno 55\nNoNewPrivs:\t0"
    );
    b.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(
        b.output_of(&format!("{SYNC}; grep NoNewPrivs /proc/self/status")),
        "errno 55\nNoNewPrivs:\t0"
    );
}

fn filter_reaches_exec() {
    let mut b =
        allow_all_but(json!([{ "names": ["sync"], "action": "SCMP_ACT_ERRNO", "errnoRet": 55 }]));
    b.args(&["sleep", "1000"]);
    let c = b.started();
    assert_eq!(c.status_line("Seccomp"), "2");
    assert_eq!(
        c.exec(&["/bin/probe", "--probe", "syscall", "162"])
            .success()
            .stdout,
        "errno 55\n"
    );
}

fn architectures_are_covered() {
    let mut b = on_sync("SCMP_ACT_ERRNO");
    b.set(
        "/linux/seccomp/architectures",
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    );
    // The same rule holds for a call by the x32 number, which has bit 30 set.
    let text = b.output_of(
        "/bin/probe --probe syscall 162; /bin/probe --probe syscall $((0x40000000 + 162))",
    );
    assert_eq!(text, "errno 1\nerrno 1");
}

fn flags_are_accepted() {
    only_hull!("runc 1.1.5 takes no flags");
    for flag in [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
    ] {
        let mut b = on_sync("SCMP_ACT_ERRNO");
        b.set("/linux/seccomp/flags", json!([flag]));
        assert_eq!(b.output_of(SYNC), "errno 1", "{flag}");
    }
    let mut b = on_sync("SCMP_ACT_ERRNO");
    b.set(
        "/linux/seccomp/flags",
        json!(["SECCOMP_FILTER_FLAG_NOSUCH"]),
    );
    assert_has!(b.run().failure(), "seccomp_filter_flag_nosuch");
}

fn with_listener(socket: &FdSocket) -> Bundle {
    let mut b = on_sync("SCMP_ACT_NOTIFY");
    b.set("/linux/seccomp/listenerPath", json!(socket.path));
    b.set(
        "/linux/seccomp/listenerMetadata",
        json!("some words for the agent"),
    );
    b
}

fn listener_is_sent_with_the_state() {
    let socket = FdSocket::new();
    let mut b = with_listener(&socket);
    b.mount("/mnt", "tmpfs", "tmpfs", &[]).args(&[
        "/bin/sh",
        "-c",
        &format!("{SYNC} > /mnt/answer; sleep 1000"),
    ]);
    let c = b.create();
    let Received {
        text,
        fds,
        stream: _stream,
    } = socket.receive();
    assert_eq!(fds.len(), 1);
    let state: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["metadata"], "some words for the agent");
    assert_eq!(state["state"]["id"], b.id.as_str());
    assert_eq!(state["state"]["status"], "creating");
    assert_eq!(state["state"]["pid"], state["pid"]);
    assert_eq!(state["pid"], c.pid());
    assert_eq!(state["state"]["bundle"], b.dir.to_str().unwrap());
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."));
    c.start();
    let (number, _) = raw::answer_with_error(fds[0].as_fd(), 123).unwrap();
    assert_eq!(number, 162);
    let answer = format!("/proc/{}/root/mnt/answer", c.pid());
    until("the program's answer", || {
        crate::support::runtime::text(&answer) == "errno 123\n"
    });
    // The process of an exec has a filter of its own, whose listener is sent too.
    let mut command =
        b.runtime
            .command(&["exec", &b.id, "/bin/probe", "--probe", "syscall", "162"]);
    let mut child =
        crate::support::leaks::spawn(command.stdout(std::process::Stdio::piped())).unwrap();
    let Received {
        text,
        fds,
        stream: _stream,
    } = socket.receive();
    let state: Value = serde_json::from_slice(&text).unwrap();
    assert_ne!(state["pid"], c.pid());
    assert_eq!(state["state"]["pid"], c.pid());
    assert_eq!(raw::answer_with_error(fds[0].as_fd(), 111).unwrap().0, 162);
    assert!(crate::support::harness::wait_within(
        &mut child,
        crate::support::runtime::LIMIT
    ));
    let mut said = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(said, "errno 111\n");
}

fn listener_that_is_missing_is_an_error() {
    let mut b = on_sync("SCMP_ACT_NOTIFY");
    b.set("/linux/seccomp/listenerPath", json!("/no/such/socket"));
    assert_has!(b.run().failure(), "/no/such/socket");
}

fn notify_without_listener_path_is_an_error() {
    assert_has!(on_sync("SCMP_ACT_NOTIFY").run().failure(), "listenerpath");
}

/// Nothing answers notifications before the listener is sent: the container would hang.
fn notify_on_the_handoffs_own_call_is_an_error() {
    let socket = FdSocket::new();
    let mut b = with_listener(&socket);
    b.push(
        "/linux/seccomp/syscalls",
        json!({ "names": ["write"], "action": "SCMP_ACT_NOTIFY" }),
    );
    assert_has!(b.run().failure(), "write");
    let mut b = with_listener(&socket);
    b.set("/linux/seccomp/defaultAction", json!("SCMP_ACT_NOTIFY"));
    b.run().failure();
}

/// hull loads the filter last: the set-up of the container may use calls that the filter refuses.
fn filter_may_forbid_what_set_up_needs() {
    let names = [
        "mount",
        "umount2",
        "pivot_root",
        "unshare",
        "setns",
        "sethostname",
        "mknod",
        "mknodat",
        "open_tree",
        "move_mount",
        "bpf",
        "fsopen",
    ];
    let mut b = allow_all_but(json!([{ "names": names, "action": "SCMP_ACT_KILL_PROCESS" }]));
    assert_eq!(b.output_of("hostname"), "box");
}

fn a_filter_without_execveat_starts_the_program() {
    let mut b = allow_all_but(json!([{ "names": ["execveat"], "action": "SCMP_ACT_ERRNO" }]));
    assert_eq!(b.output_of("echo ran"), "ran");
}

fn a_filter_that_refuses_everything_ends_the_container() {
    only_hull!("runc's init waits in a loop of its own");
    for action in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"] {
        let mut b = Bundle::new();
        b.set("/linux/seccomp", json!({ "defaultAction": action }));
        b.args(&["true"]);
        let out = b.run();
        assert_ne!(out.status, 0, "{action}: {out:?}");
    }
}
