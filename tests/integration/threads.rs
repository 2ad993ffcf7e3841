//! hull has one thread whenever it clones, unshares or joins namespaces: a second one would stay in
//! the old namespaces, or its lock would stay locked in the clone. strace shows the threads.

use crate::support::{Bundle, fixture, runtime};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::process::{Command, Stdio};

tests![
    one_thread_when_a_container_is_made,
    one_thread_when_namespaces_are_joined,
    one_thread_when_a_process_is_added,
    one_thread_with_hooks_and_limits,
    two_threads_would_be_seen,
];

/// What a trace shows.
#[derive(Debug, Default, PartialEq)]
struct Trace {
    /// The number of calls of clone, unshare and setns by hull itself.
    calls: usize,
    /// Those calls that one of several threads made.
    by_several: Vec<String>,
}

/// A process is hull's until it executes another program; the first process, which may execute a
/// sealed copy of hull, always is. A thread counts from its clone to the next execve of its
/// process, even when it has exited.
fn read(trace: &str) -> Trace {
    let mut found = Trace::default();
    let mut others = HashSet::new();
    let mut threads: HashMap<&str, usize> = HashMap::new();
    let first = trace.split(' ').next().unwrap_or_default();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else {
            continue;
        };
        let (name, arguments) = call.trim_start().split_once('(').unwrap_or_default();
        if name == "execve" || name == "execveat" {
            threads.remove(pid);
            if pid != first {
                others.insert(pid);
            }
        } else if others.contains(pid) {
        } else if arguments.contains("CLONE_THREAD") {
            *threads.entry(pid).or_default() += 1;
        } else if ["clone", "clone3", "fork", "vfork", "unshare", "setns"].contains(&name) {
            found.calls += 1;
            if threads.get(pid).is_some_and(|count| *count > 0) {
                found.by_several.push(line.to_owned());
            }
        }
    }
    found
}

/// Runs a command of hull under strace; skips the test where strace is not installed.
#[track_caller]
fn traced(b: &Bundle, args: &[&str]) -> Trace {
    only_hull!("other runtimes may have threads");
    if !["/usr/bin/strace", "/usr/local/bin/strace"]
        .iter()
        .any(|path| fs::exists(path).unwrap_or(false))
    {
        skip!("strace is not installed");
    }
    let file = fixture::new_dir("trace").join("trace");
    let plain = b.runtime.command(args);
    let mut c = Command::new("strace");
    c.args([
        "-f",
        "-qq",
        "-e",
        "trace=clone,clone3,fork,vfork,unshare,setns,execve,execveat",
        "-e",
        "signal=none",
        "-o",
    ])
    .arg(&file);
    c.arg(plain.get_program())
        .args(plain.get_args())
        .stdin(Stdio::null())
        .current_dir("/");
    c.env("HULL_TEST_DIR", fixture::test_scratch());
    runtime::finish(c, runtime::LIMIT).success();
    read(&fs::read_to_string(&file).unwrap())
}

#[track_caller]
fn run(b: &Bundle) -> Trace {
    b.write();
    traced(b, &["run", "--bundle", b.dir.to_str().unwrap(), &b.id])
}

#[track_caller]
fn one_thread(trace: Trace, at_least: usize) {
    assert!(
        trace.calls >= at_least,
        "strace saw {} calls only",
        trace.calls
    );
    assert!(trace.by_several.is_empty(), "{:#?}", trace.by_several);
}

fn one_thread_when_a_container_is_made() {
    let mut b = Bundle::with_user_namespace();
    b.args(&["true"]);
    one_thread(run(&b), 1);
}

fn one_thread_when_namespaces_are_joined() {
    let first = Bundle::sleeper();
    let c = first.started();
    let mut b = Bundle::new();
    b.args(&["true"]);
    b.join("network", format!("/proc/{}/ns/net", c.pid()));
    b.join("pid", format!("/proc/{}/ns/pid", c.pid()));
    one_thread(run(&b), 3);
}

fn one_thread_when_a_process_is_added() {
    let b = Bundle::sleeper();
    let _c = b.started();
    one_thread(traced(&b, &["exec", &b.id, "true"]), 3);
}

fn one_thread_with_hooks_and_limits() {
    let mut b = Bundle::new();
    b.args(&["true"]);
    b.set("/linux/resources/pids", json!({ "limit": 50 }));
    for list in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ] {
        b.push(
            &format!("/hooks/{list}"),
            json!({ "path": "/bin/true", "timeout": 20 }),
        );
    }
    one_thread(run(&b), 2);
}

/// Tests the reader of traces itself.
fn two_threads_would_be_seen() {
    let trace = "1 execve(\"/hull\", [\"hull\"], 0x7 /* 9 vars */) = 0\n\
        1 clone3({flags=CLONE_VM|CLONE_FS|CLONE_THREAD|CLONE_SETTLS, exit_signal=0}, 88) = 2\n\
        1 clone3({flags=CLONE_PIDFD|CLONE_NEWNS, exit_signal=SIGCHLD} <unfinished ...>\n\
        3 unshare(CLONE_NEWCGROUP) = 0\n\
        3 execveat(AT_FDCWD, \"/bin/x\", [\"x\"], 0x7, 0) = 0\n\
        3 clone(child_stack=NULL, flags=CLONE_THREAD) = 4\n\
        3 setns(3, CLONE_NEWNS) = 0\n";
    let seen = read(trace);
    assert_eq!((seen.calls, seen.by_several.len()), (2, 1), "{seen:?}");
    assert_has!(seen.by_several[0], "CLONE_NEWNS");
}
