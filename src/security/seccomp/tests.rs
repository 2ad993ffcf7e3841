//! Compiled filters, run by the interpreter on tables of calls, and by the kernel.

use super::interpreter::{Data, run};
use super::*;
use crate::sys::seccomp::{Outcome, call_behind, flags_supported};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 1 << 30;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_THREAD;

fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

fn section(value: Value) -> Seccomp {
    serde_json::from_value(value).unwrap()
}

fn made(value: Value) -> Filter {
    compile(&section(value)).unwrap()
}

fn refused(value: Value) -> String {
    compile(&section(value)).err().unwrap().to_string()
}

fn answer(filter: &Filter, arch: u32, number: libc::c_long, args: [u64; 6]) -> u32 {
    run(
        &filter.program,
        &Data {
            number: number as u32,
            arch,
            args,
        },
    )
}

fn native(filter: &Filter, number: libc::c_long, args: [u64; 6]) -> u32 {
    answer(filter, X86_64, number, args)
}

fn first(arg: u64) -> [u64; 6] {
    [arg, 0, 0, 0, 0, 0]
}

#[test]
fn every_action_returns_its_value() {
    for (action, number, expected) in [
        ("SCMP_ACT_KILL", None, KILL),
        ("SCMP_ACT_KILL_THREAD", None, KILL),
        (
            "SCMP_ACT_KILL_PROCESS",
            None,
            libc::SECCOMP_RET_KILL_PROCESS,
        ),
        ("SCMP_ACT_TRAP", None, libc::SECCOMP_RET_TRAP),
        ("SCMP_ACT_ERRNO", None, errno(libc::EPERM)),
        ("SCMP_ACT_ERRNO", Some(libc::EBADF), errno(libc::EBADF)),
        ("SCMP_ACT_ERRNO", Some(0), errno(0)),
        ("SCMP_ACT_ERRNO", Some(4094), errno(4094)),
        ("SCMP_ACT_TRACE", None, libc::SECCOMP_RET_TRACE | 1),
        (
            "SCMP_ACT_TRACE",
            Some(65535),
            libc::SECCOMP_RET_TRACE | 65535,
        ),
        ("SCMP_ACT_LOG", None, libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_NOTIFY", None, libc::SECCOMP_RET_USER_NOTIF),
    ] {
        let mut rule = json!({"names": ["getppid"], "action": action});
        if let Some(number) = number {
            rule["errnoRet"] = json!(number);
        }
        let filter = made(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
                "syscalls": [rule]}),
        );
        assert_eq!(
            native(&filter, libc::SYS_getppid, [0; 6]),
            expected,
            "{action}"
        );
        assert_eq!(native(&filter, libc::SYS_getpid, [0; 6]), ALLOW, "{action}");
        assert_eq!(filter.notify, action == "SCMP_ACT_NOTIFY");
        assert_eq!(filter.notified.is_empty(), !filter.notify);
    }
}

#[test]
fn every_default_action_but_notify() {
    for (action, expected) in [
        ("SCMP_ACT_KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS),
        ("SCMP_ACT_TRAP", libc::SECCOMP_RET_TRAP),
        ("SCMP_ACT_LOG", libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_TRACE", libc::SECCOMP_RET_TRACE | 1),
        ("SCMP_ACT_ERRNO", errno(libc::EPERM)),
    ] {
        let filter = made(json!({"defaultAction": action,
                "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ALLOW"}]}));
        assert_eq!(
            native(&filter, libc::SYS_getpid, [0; 6]),
            expected,
            "{action}"
        );
        assert_eq!(
            native(&filter, libc::SYS_getppid, [0; 6]),
            ALLOW,
            "{action}"
        );
    }
}

#[test]
fn every_operator_compares_all_64_bits() {
    let value = 0x1_0000_0005_u64;
    let (below, above, low_word) = (value - 1, value + 1, 5);
    for (op, matching, others) in [
        ("SCMP_CMP_NE", vec![below, above, low_word], vec![value]),
        ("SCMP_CMP_LT", vec![below, low_word, 0], vec![value, above]),
        ("SCMP_CMP_LE", vec![below, value, 0], vec![above, u64::MAX]),
        ("SCMP_CMP_EQ", vec![value], vec![below, above, low_word]),
        (
            "SCMP_CMP_GE",
            vec![value, above, u64::MAX],
            vec![below, low_word],
        ),
        ("SCMP_CMP_GT", vec![above, u64::MAX], vec![value, below]),
    ] {
        for index in 0..6 {
            let filter = made(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["getppid"], "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": index, "value": value, "op": op}]}]}));
            let with = |arg: u64| {
                let mut args = [0; 6];
                args[index] = arg;
                native(&filter, libc::SYS_getppid, args)
            };
            for arg in &matching {
                assert_eq!(
                    with(*arg),
                    errno(libc::EPERM),
                    "{op} arg {index} = {arg:#x}"
                );
            }
            for arg in &others {
                assert_eq!(with(*arg), ALLOW, "{op} arg {index} = {arg:#x}");
            }
        }
    }
}

#[test]
fn masked_equal_takes_the_mask_from_value_and_the_datum_from_value_two() {
    let filter = made(json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 1, "value": 0o700, "valueTwo": 0o500, "op": "SCMP_CMP_MASKED_EQ"}]}]}));
    // What runc and crun answer to chmod(1) on the same section.
    for (mode, expected) in [
        (0o500, errno(1)),
        (0o555, errno(1)),
        (0o700, ALLOW),
        (0o755, ALLOW),
        (0, ALLOW),
    ] {
        assert_eq!(
            native(&filter, libc::SYS_chmod, [0, mode, 0, 0, 0, 0]),
            expected,
            "{mode:o}"
        );
    }
}

#[test]
fn conditions_on_different_arguments_hold_together_and_on_the_same_argument_each_alone() {
    let both = made(json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["dup2"], "action": "SCMP_ACT_ERRNO", "args": [
        {"index": 0, "value": 7, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": 8, "op": "SCMP_CMP_EQ"}]}]}));
    assert_eq!(native(&both, libc::SYS_dup2, [7, 8, 0, 0, 0, 0]), errno(1));
    assert_eq!(native(&both, libc::SYS_dup2, [7, 9, 0, 0, 0, 0]), ALLOW);
    assert_eq!(native(&both, libc::SYS_dup2, [6, 8, 0, 0, 0, 0]), ALLOW);
    let either = made(json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["dup2"], "action": "SCMP_ACT_ERRNO", "args": [
        {"index": 0, "value": 7, "op": "SCMP_CMP_EQ"},
            {"index": 0, "value": 9, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": 8, "op": "SCMP_CMP_EQ"}]}]}));
    for (args, expected) in [
        ([7, 0], errno(1)),
        ([9, 0], errno(1)),
        ([0, 8], errno(1)),
        ([6, 0], ALLOW),
    ] {
        assert_eq!(
            native(&either, libc::SYS_dup2, [args[0], args[1], 0, 0, 0, 0]),
            expected,
            "{args:?}"
        );
    }
}

#[test]
fn other_architectures_have_the_rules_only_if_named() {
    let rules = json!([{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9}]);
    let alone = made(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
    let named = made(json!({"defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": rules}));
    let foreign = made(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_AARCH64"],
            "syscalls": rules}),
    );
    for filter in [&alone, &named, &foreign] {
        assert_eq!(native(filter, libc::SYS_getppid, [0; 6]), errno(9)); // native is always in
    }
    let x32 = i64::from(X32_BIT) | libc::SYS_getppid;
    for (filter, i386, x32_answer) in [
        (&alone, KILL, KILL),
        (&named, errno(9), errno(9)),
        (&foreign, KILL, KILL),
    ] {
        assert_eq!(answer(filter, I386, 64, [0; 6]), i386); // __NR_getppid of i386
        assert_eq!(native(filter, x32, [0; 6]), x32_answer);
    }
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    // Statx: 332, and 383 on i386.
    let rules = json!([{"names": ["getppid", "statx"], "action": "SCMP_ACT_ALLOW"}]);
    for default in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let filter = made(json!({"defaultAction": default,
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": rules}));
        assert_eq!(native(&filter, libc::SYS_statx, [0; 6]), ALLOW);
        assert_eq!(
            native(&filter, libc::SYS_statx + 1, [0; 6]),
            errno(libc::ENOSYS)
        );
        assert_eq!(native(&filter, 100_000, [0; 6]), errno(libc::ENOSYS));
        assert_ne!(
            native(&filter, libc::SYS_getpid, [0; 6]),
            errno(libc::ENOSYS)
        );
        assert_eq!(answer(&filter, I386, 383, [0; 6]), ALLOW);
        assert_eq!(answer(&filter, I386, 384, [0; 6]), errno(libc::ENOSYS));
        assert_eq!(
            native(&filter, i64::from(X32_BIT) | 333, [0; 6]),
            errno(libc::ENOSYS)
        );
    }
    for default in ["SCMP_ACT_LOG", "SCMP_ACT_TRACE"] {
        let filter = made(json!({"defaultAction": default, "syscalls": rules}));
        assert_ne!(
            native(&filter, 100_000, [0; 6]),
            errno(libc::ENOSYS),
            "{default}"
        );
    }
}

#[test]
fn a_tree_answers_as_a_list_does() {
    // 40 rules become a tree and 30 a list; each call has its own answer, and some have no rule.
    let names: Vec<String> = (0..80)
        .step_by(2)
        .map(|number| ScmpSyscall::from(number).get_name().unwrap())
        .collect();
    let rules = |count: usize| -> Vec<Value> {
        names[..count]
            .iter()
            .enumerate()
            .map(|(i, name)| {
                json!({"names": [name], "action": "SCMP_ACT_ERRNO",
            "errnoRet": 100 + i})
            })
            .collect()
    };
    for count in [1, 30, 33, 40] {
        let filter = made(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules(count)}));
        for number in 0..100 {
            let ruled = number % 2 == 0 && number / 2 < count;
            let expected = if ruled {
                errno(100 + number as i32 / 2)
            } else {
                ALLOW
            };
            assert_eq!(
                native(&filter, number as i64, [0; 6]),
                expected,
                "{count} rules, call {number}"
            );
        }
    }
}

#[test]
fn unknown_names_are_warned_of_and_redundant_rules_dropped() {
    let rules = json!([{"names": ["nonsense", "getppid", "x".repeat(200), "new\nline"],
        "action": "SCMP_ACT_ERRNO"}, {"names": ["getpid"], "action": "SCMP_ACT_ALLOW"}]);
    let filter = made(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
    assert_eq!(filter.warnings.len(), 3);
    assert_eq!(
        filter.warnings[0],
        "unknown seccomp syscall \"nonsense\" ignored"
    );
    assert_eq!(
        filter.warnings[2],
        "unknown seccomp syscall \"new\\nline\" ignored"
    );
    assert_eq!(native(&filter, libc::SYS_getppid, [0; 6]), errno(1));
    assert_eq!(native(&filter, libc::SYS_getpid, [0; 6]), ALLOW);
    let unknown: Vec<String> = (0..40).map(|i| format!("nonsense{i}")).collect();
    let filter = made(json!({"defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": unknown, "action": "SCMP_ACT_ALLOW"}]}));
    // 40 names and no rule: no tree.
    assert_eq!(native(&filter, libc::SYS_getpid, [0; 6]), errno(1));
}

#[test]
fn invalid_sections_are_refused_in_words() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let notify = |names: Value| {
        json!({"defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/run/agent", "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]})
    };
    for (value, words) in [
        (
            json!({"syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ALLOW"}]}),
            "defaultAction is missing",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "SCMP_ACT_NOTIFY cannot be used as default action",
        ),
        (
            notify(json!(["mkdir", "write"])),
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        (
            rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"})),
            "listenerPath is not set",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "m"}),
            "listenerMetadata is set but listenerPath is not",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_FOO"]}),
            "flag SECCOMP_FILTER_FLAG_FOO is not known",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_MIPS"]}),
            "add architecture SCMP_ARCH_MIPS",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5}),
            "defaultErrnoRet 5 is given to SCMP_ACT_ALLOW",
        ),
        (
            rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_KILL", "errnoRet": 5})),
            "errnoRet 5 is given to SCMP_ACT_KILL",
        ),
        (
            rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4095})),
            "errnoRet 4095 is above 4094",
        ),
        (
            rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536})),
            "errnoRet 65536 is above 65535",
        ),
        (
            rule(json!({"names": ["mkdir"]})),
            "the rule for mkdir has no action",
        ),
        (
            rule(json!({"names": [""], "action": "SCMP_ACT_ERRNO"})),
            "empty string is not a valid syscall",
        ),
        (
            rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]})),
            "argument index 6",
        ),
        (
            rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 1, "value": 1}]})),
            "has no op",
        ),
    ] {
        let error = refused(value.clone());
        assert!(error.contains(words), "{value}: {error}");
    }
}

#[test]
fn a_program_that_the_kernel_would_not_take_is_refused() {
    let args: Vec<Value> = (0..4200)
        .map(|value| json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"}))
        .collect();
    let error = refused(json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "args": args}]}));
    assert!(
        error.contains("instructions, and the kernel takes 4096"),
        "{error}"
    );
}

#[test]
fn flags_are_the_kernels_numbers() {
    let with = |flags: Value| made(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags}));
    let default = if flags_supported(SPEC_ALLOW) { 4 } else { 0 };
    assert_eq!(with(Value::Null).flags, default); // absent
    assert_eq!(with(json!([])).flags, 0);
    assert_eq!(with(json!(["SECCOMP_FILTER_FLAG_TSYNC"])).flags, 0);
    assert_eq!(with(json!(["SECCOMP_FILTER_FLAG_LOG"])).flags, 2);
    assert_eq!(
        with(json!([
            "SECCOMP_FILTER_FLAG_LOG",
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_TSYNC"
        ]))
        .flags,
        6
    );
    let idle = with(json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]));
    assert_eq!((idle.flags, idle.warnings.len()), (0, 1));
    let notify = made(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
    );
    assert_eq!(
        (notify.flags, notify.notified.as_slice()),
        (8 | 32, ["mkdir".to_string()].as_slice())
    );
    for (name, flag) in KNOWN_FLAGS {
        let listener = if flag == WAIT_KILLABLE_RECV {
            NEW_LISTENER
        } else {
            0
        };
        assert_eq!(
            supported_flags().contains(&name),
            flags_supported(flag | listener)
        );
    }
    assert!(!flags_supported(1 << 30));
}

#[test]
fn an_absent_filter_is_not_asked_for() {
    assert!(!is_asked(&section(
        json!({"architectures": ["SCMP_ARCH_X86_64"]})
    )));
    assert!(is_asked(&section(
        json!({"defaultAction": "SCMP_ACT_ALLOW"})
    )));
}

#[test]
fn the_kernel_takes_the_filter_and_does_what_it_says() {
    let filter = made(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 111,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": [
        {"names": ["exit_group", "getppid", "statx"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["getuid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
        {"names": ["getgid"], "action": "SCMP_ACT_TRAP"},
        {"names": ["geteuid"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["dup2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77,
            "args": [{"index": 0, "value": 0xf0, "valueTwo": 0x50, "op": "SCMP_CMP_MASKED_EQ"}]}]}),
    );
    let behind = |number, arg| call_behind(&filter.program, filter.flags, number, first(arg));
    assert!(matches!(behind(libc::SYS_getppid, 0), Outcome::Returned(_)));
    assert_eq!(
        behind(libc::SYS_getpid, 0),
        Outcome::Failed(Errno::from_raw(111))
    );
    assert_eq!(behind(libc::SYS_getuid, 0), Outcome::Returned(0));
    assert_eq!(behind(libc::SYS_getgid, 0), Outcome::Killed(Signal::SIGSYS));
    assert_eq!(
        behind(libc::SYS_geteuid, 0),
        Outcome::Killed(Signal::SIGSYS)
    );
    assert_eq!(
        behind(libc::SYS_dup2, 0x1_5f),
        Outcome::Failed(Errno::from_raw(77))
    );
    assert_eq!(
        behind(libc::SYS_dup2, 0x1_6f),
        Outcome::Failed(Errno::from_raw(111))
    );
    assert_eq!(
        behind(libc::SYS_statx + 1, 0),
        Outcome::Failed(Errno::ENOSYS)
    );
    assert_eq!(
        call_behind(&filter.program[..16], 0, libc::SYS_getppid, [0; 6]),
        Outcome::NotLoaded
    ); // without an end
}

#[test]
fn loading_a_notifying_filter_gives_a_listener() {
    let filter = made(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
    );
    // The child finds the listener as its highest descriptor: it has opened nothing else since the
    // fork.
    let listener = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    assert!(filter.flags & NEW_LISTENER != 0);
    let cloexec = (0..listener + 64).any(|fd| {
        call_behind(
            &filter.program,
            filter.flags,
            libc::SYS_fcntl,
            [fd, libc::F_GETFD as u64, 0, 0, 0, 0],
        ) == Outcome::Returned(libc::FD_CLOEXEC)
    });
    assert!(cloexec);
}
