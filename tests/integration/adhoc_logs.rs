//! The logs of detached adhoc containers (`run -d --rootfs`): `logs` shows the output, whose size
//! is limited and which `delete` removes.

use crate::support::fixture::{fill_rootfs, new_dir};
use crate::support::runtime::{Output, Runtime, text, until};
use std::fs;
use std::path::PathBuf;

tests![
    output_is_kept_and_shown,
    logs_follow_ends_with_the_container,
    run_detached_does_not_hold_the_callers_pipes,
    the_container_has_no_descriptors_of_the_keeper,
    a_terminals_output_is_kept,
    the_size_of_a_log_is_limited,
    rm_removes_the_container_with_its_log,
    a_failed_start_leaves_nothing,
    containers_of_bundles_have_no_log,
    the_keeper_has_its_own_session_when_run_returns,
];

/// A runtime, and a root filesystem for its containers.
struct Adhoc {
    runtime: Runtime,
    root: PathBuf,
}

impl Adhoc {
    fn new() -> Self {
        only_hull!("runc keeps no logs");
        let root = new_dir("root");
        fill_rootfs(&root);
        Self {
            runtime: Runtime::new(new_dir("state")),
            root,
        }
    }

    fn detached(&self, id: &str, options: &[&str], script: &str) -> Output {
        let root = self.root.to_str().unwrap();
        self.runtime.call(
            &[
                &["run", "-d", "--name", id, "--rootfs", root],
                options,
                &["--", "sh", "-c", script],
            ]
            .concat(),
        )
    }

    fn stopped(&self, id: &str) {
        until("the end of the container", || {
            self.runtime.call(&["state", id]).stdout.contains("stopped")
        });
    }

    fn delete(&self, id: &str) {
        self.runtime.call(&["delete", "--force", id]).success();
        assert!(!self.runtime.state.join(id).exists());
    }
}

fn output_is_kept_and_shown() {
    let a = Adhoc::new();
    let started = a
        .detached(
            "adhoc-log",
            &[],
            "echo two >&2; sleep 0.5; echo one; echo three; printf end; exit 3",
        )
        .success();
    assert_eq!(started.stdout, "adhoc-log\n");
    a.stopped("adhoc-log");
    let shown = a.runtime.call(&["logs", "-f", "adhoc-log"]).success();
    assert_eq!(
        (shown.stdout.as_str(), shown.stderr.as_str()),
        ("one\nthree\nend", "two\n")
    );
    assert_eq!(
        a.runtime
            .call(&["logs", "--tail", "1", "adhoc-log"])
            .success()
            .stdout,
        "end"
    );
    let timed = a
        .runtime
        .call(&["logs", "-t", "adhoc-log"])
        .success()
        .stdout;
    let year = text("/proc/driver/rtc").lines().find_map(|line| {
        line.strip_prefix("rtc_date\t: ")
            .map(|date| date[..4].to_owned())
    });
    let first = timed.lines().next().unwrap();
    assert!(
        first.ends_with("Z one") && year.is_none_or(|year| first.starts_with(&year)),
        "{first}"
    );
    assert_has!(a.runtime.call(&["list"]).success().stdout, "stopped");
    for bad in ["x", "-1", "1.5"] {
        assert!(
            a.runtime
                .call(&["logs", &format!("--tail={bad}"), "adhoc-log"])
                .failure()
                .contains("number of lines")
        );
    }
    a.delete("adhoc-log");
}

fn logs_follow_ends_with_the_container() {
    let a = Adhoc::new();
    a.detached(
        "adhoc-follow",
        &[],
        "for n in 1 2 3 4; do echo line $n; sleep 0.3; done",
    )
    .success();
    let shown = a.runtime.call(&["logs", "-f", "adhoc-follow"]).success();
    assert_eq!(shown.stdout, "line 1\nline 2\nline 3\nline 4\n");
    a.delete("adhoc-follow");
}

/// `call` waits until its pipes are closed: a process that still had them would make it wait for
/// the sleep, longer than its limit.
fn run_detached_does_not_hold_the_callers_pipes() {
    let a = Adhoc::new();
    a.detached("adhoc-held", &[], "sleep 1000").success();
    let lock = text(a.runtime.state.join("adhoc-held/log.lock"));
    assert_eq!(lock, "");
    a.delete("adhoc-held");
}

fn the_container_has_no_descriptors_of_the_keeper() {
    let a = Adhoc::new();
    a.detached("adhoc-fds", &[], "ls -l /proc/self/fd; ls /proc")
        .success();
    let shown = a
        .runtime
        .call(&["logs", "-f", "adhoc-fds"])
        .success()
        .stdout;
    let descriptors: Vec<&str> = shown
        .lines()
        .skip(1)
        .take_while(|line| line.len() > 20)
        .collect();
    // 3 is the directory that ls itself has open.
    assert_eq!(descriptors.len(), 4, "{shown}");
    assert!(descriptors[3].contains(" 3"), "{shown}");
    assert!(
        descriptors[0].contains("/dev/null")
            && descriptors[1].contains("pipe:")
            && descriptors[2].contains("pipe:"),
        "{shown}"
    );
    a.delete("adhoc-fds");
}

fn a_terminals_output_is_kept() {
    let a = Adhoc::new();
    a.detached("adhoc-tty", &["-t"], "tty; echo said").success();
    assert_eq!(
        a.runtime
            .call(&["logs", "-f", "adhoc-tty"])
            .success()
            .stdout,
        "/dev/pts/0\r\nsaid\r\n"
    );
    a.delete("adhoc-tty");
}

fn the_size_of_a_log_is_limited() {
    let a = Adhoc::new();
    a.detached("adhoc-big", &[], "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -n 600000; echo last").success();
    a.stopped("adhoc-big");
    assert_eq!(
        a.runtime
            .call(&["logs", "-f", "--tail", "1", "adhoc-big"])
            .success()
            .stdout,
        "last\n"
    );
    let state = a.runtime.state.join("adhoc-big");
    let size = |name: &str| fs::metadata(state.join(name)).map_or(0, |metadata| metadata.len());
    assert!(
        size("log.1") > 0 && size("log") <= 16 << 20 && size("log.1") <= 16 << 20,
        "{} {}",
        size("log"),
        size("log.1")
    );
    a.delete("adhoc-big");
}

fn rm_removes_the_container_with_its_log() {
    let a = Adhoc::new();
    a.detached("adhoc-rm", &["--rm"], "echo gone").success();
    until("the container to be removed", || {
        !a.runtime.state.join("adhoc-rm").exists()
    });
}

fn a_failed_start_leaves_nothing() {
    let a = Adhoc::new();
    let root = a.root.to_str().unwrap();
    let out = a.runtime.call(&[
        "run",
        "-d",
        "--name",
        "adhoc-none",
        "--rootfs",
        root,
        "--",
        "no-such-program",
    ]);
    assert_eq!((out.status, out.stdout.as_str()), (127, ""));
    assert_has!(out.failure(), "executable file not found");
    assert!(!a.runtime.state.join("adhoc-none").exists());
}

fn containers_of_bundles_have_no_log() {
    let a = Adhoc::new();
    assert_has!(
        a.runtime.call(&["logs", "adhoc-nobody"]).failure(),
        "does not exist"
    );
    let bundle = crate::support::bundle::Bundle::sleeper();
    let container = bundle.started();
    assert_has!(container.call(&["logs"]).failure(), "has no log");
}

/// A terminal that hangs up when `run -d` was its command must not end the keeper.
fn the_keeper_has_its_own_session_when_run_returns() {
    let a = Adhoc::new();
    for round in 0..8 {
        let id = format!("adhoc-session-{round}");
        a.detached(&id, &[], "sleep 1000").success();
        let (pid, stat) = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| {
                entry
                    .ok()?
                    .file_name()
                    .into_string()
                    .ok()?
                    .parse::<i32>()
                    .ok()
            })
            .find_map(|pid| {
                let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
                let keeper = arguments.contains("log-keeper") && arguments.contains(&id);
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                keeper.then_some((pid, stat))
            })
            .expect("the keeper runs");
        // proc_pid_stat(5): state, ppid, pgrp, session.
        let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3);
        assert_eq!(session, Some(pid.to_string().as_str()), "{stat}");
        a.delete(&id);
    }
}
