//! Containers with every kind of container step, made by the trapped hull.

use crate::support::{Bundle, Container};
use crate::trap::CAUGHT;
use hull::sys::process::{Cloned, Ended, clone, exit, wait};
use serde_json::json;
use std::process::{Command, ExitCode};

tests![
    the_trap_catches_an_allocation,
    default_container,
    hooks_in_the_container,
    copied_up_tmpfs,
    filter_without_no_new_privileges,
    user_namespace_with_all_of_it,
    joined_namespaces_and_a_new_time_namespace,
    program_that_is_missing,
];

/// Clones a child that allocates; its exit status.
pub fn prove() -> ExitCode {
    let pidfd = match clone(0, None).unwrap() {
        Cloned::Child => {
            std::hint::black_box(Box::new(7));
            exit(0)
        }
        Cloned::Parent { pidfd, .. } => pidfd,
    };
    match wait(pidfd, false) {
        Ok(Some(Ended::Exited(status))) => ExitCode::from(status as u8),
        other => panic!("{other:?}"),
    }
}

/// Without it, the other tests would prove nothing.
// Attack: youki issue 2144
fn the_trap_catches_an_allocation() {
    let out = Command::new(std::env::current_exe().unwrap())
        .arg("--prove")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(CAUGHT));
    assert_has!(
        String::from_utf8_lossy(&out.stderr),
        "trap: the cloned child used the allocator"
    );
}

// Attack: youki issue 2144
fn default_container() {
    let out = Bundle::sh("echo in").run().success();
    assert_eq!(out.stdout, "in\n");
}

fn hooks_in_the_container() {
    let mut b = Bundle::sh("cat /tmp/seen");
    b.writable();
    for list in ["prestart", "createRuntime", "poststart", "poststop"] {
        b.push(
            &format!("/hooks/{list}"),
            json!({ "path": "/bin/sh", "args": ["sh", "-c", "cat > /dev/null"], "timeout": 20 }),
        );
    }
    let start = json!({ "path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/seen"], "env": ["PATH=/bin"], "timeout": 20 });
    b.push(
        "/hooks/createContainer",
        json!({ "path": "/bin/sh", "args": ["sh", "-c", "cat > /dev/null"] }),
    );
    b.push("/hooks/startContainer", start);
    assert_has!(b.run().success().stdout, "\"status\":\"created\"");
}

fn copied_up_tmpfs() {
    let mut b = Bundle::sh("cat /etc/passwd; echo here > /etc/new; cat /etc/new");
    b.mount("/etc", "tmpfs", "tmpfs", &["tmpcopyup", "nosuid"]);
    let out = b.run().success().stdout;
    assert_has!(out, "ada:x:1000");
    assert_has!(out, "here");
}

/// To load the filter, init needs a capability that it drops after that.
fn filter_without_no_new_privileges() {
    let mut b = Bundle::sh("mkdir /tmp/x; grep CapEff /proc/self/status");
    b.set("/process/noNewPrivileges", json!(false));
    let rule = json!({ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 });
    b.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }),
    );
    let out = b.run().success();
    assert_has!(out.stderr, "Operation not permitted");
    assert_has!(out.stdout, "0000000020000420");
}

// Attack: youki issue 2144
fn user_namespace_with_all_of_it() {
    let mut b = Bundle::with_user_namespace();
    b.args(&[
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map; ls /dev; cat /proc/self/attr/current 2>/dev/null; true",
    ]);
    b.writable();
    b.mount("/mnt", "tmpfs", "tmpfs", &["tmpcopyup"]);
    b.mount("/etc/hosts", "bind", "/etc/hosts", &["rbind", "ro"]);
    b.set(
        "/process/user",
        json!({ "uid": 1000, "gid": 1000, "additionalGids": [29], "umask": 63 }),
    );
    b.set("/process/oomScoreAdj", json!(100));
    b.set(
        "/process/ioPriority",
        json!({ "class": "IOPRIO_CLASS_BE", "priority": 5 }),
    );
    b.set(
        "/process/scheduler",
        json!({ "policy": "SCHED_BATCH", "nice": 5 }),
    );
    b.set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }));
    b.set("/linux/personality", json!({ "domain": "LINUX" }));
    b.push("/linux/namespaces", json!({ "type": "cgroup" }));
    b.set("/domainname", json!("domain"));
    b.set("/linux/rootfsPropagation", json!("rprivate"));
    assert_has!(b.run().success().stdout, "1000");
}

/// An intermediate process joins and unshares namespaces before it clones the child.
fn joined_namespaces_and_a_new_time_namespace() {
    let first = Bundle::sleeper();
    let c: Container = first.started();
    let mut b = Bundle::sh("readlink /proc/self/ns/net; cat /proc/uptime");
    for kind in [("pid", "pid"), ("network", "net"), ("ipc", "ipc")] {
        b.join(kind.0, format!("/proc/{}/ns/{}", c.pid(), kind.1));
    }
    b.push("/linux/namespaces", json!({ "type": "time" }));
    b.set(
        "/linux/timeOffsets",
        json!({ "boottime": { "secs": 1_000_000_000, "nanosecs": 0 } }),
    );
    let out = b.run().success().stdout;
    let link = std::fs::read_link(format!("/proc/{}/ns/net", c.pid())).unwrap();
    assert_has!(out, link.to_str().unwrap());
    assert!(
        out.lines()
            .nth(1)
            .is_some_and(|line| line.len() > 10 && line.as_bytes()[0] == b'1'),
        "{out}"
    );
    let out = c
        .exec_with(
            &["--cwd", "/tmp", "--user", "1000:1000"],
            &["sh", "-c", "pwd; id -u"],
        )
        .success()
        .stdout;
    assert_eq!(out, "/tmp\n1000\n");
}

/// The child itself fails, and reports the error by its shared page.
fn program_that_is_missing() {
    let mut b = Bundle::new();
    b.args(&["/no/such/program"]);
    assert_has!(b.run().failure(), "no such file or directory");
    let sleeper = Bundle::sleeper();
    let c = sleeper.started();
    assert_has!(
        c.exec(&["/no/such/program"]).failure(),
        "no such file or directory"
    );
}
