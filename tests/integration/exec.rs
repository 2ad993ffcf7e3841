//! `exec`: a further process in a container, its exit status, its properties and its namespaces.
//! (Its capabilities, descriptors, terminal and cgroup are tested with those subjects.)

use crate::support::backend::is_vm;
use crate::support::users::version;
use crate::support::{Bundle, fixture, harness, leaks, runtime, until};
use serde_json::json;
use std::fs;

tests![
    exec_gives_the_programs_exit_status,
    exec_gives_128_and_the_signal,
    exec_of_a_missing_program_gives_255,
    exec_of_a_created_container_works,
    exec_in_a_stopped_container_is_an_error,
    exec_detached_writes_the_pid_file,
    exec_takes_a_process_file,
    exec_takes_the_umask_of_the_process_file,
    exec_flags_change_the_process,
    exec_joins_cgroup_and_namespaces,
    exec_in_a_paused_container_needs_ignore_paused,
];

fn exec_gives_the_programs_exit_status() {
    let b = Bundle::sleeper();
    let c = b.started();
    for status in [0, 1, 77, 126, 127, 255] {
        assert_eq!(
            c.exec(&["sh", "-c", &format!("exit {status}")]).status,
            status
        );
    }
}

fn exec_gives_128_and_the_signal() {
    let b = Bundle::sleeper();
    let c = b.started();
    assert_eq!(c.exec(&["sh", "-c", "kill -KILL $$"]).status, 137);
    assert_eq!(c.exec(&["sh", "-c", "kill -TERM $$"]).status, 143);
}

fn exec_of_a_missing_program_gives_255() {
    let b = Bundle::sleeper();
    let c = b.started();
    for (program, words) in [
        ("/no/such", "no such file or directory"),
        ("nosuch", "executable file not found in $path"),
        ("/etc/passwd", "permission denied"),
    ] {
        let out = c.exec(&[program]);
        assert_eq!(out.status, 255, "{program}");
        assert_has!(out.failure(), words);
    }
}

fn exec_of_a_created_container_works() {
    let b = Bundle::sleeper();
    let c = b.create();
    assert_eq!(c.exec(&["hostname"]).success().stdout, "box\n");
    c.start();
    assert_eq!(c.status(), "running");
}

fn exec_in_a_stopped_container_is_an_error() {
    let b = Bundle::sh("true");
    let c = b.started();
    c.wait_for("stopped");
    assert_has!(
        c.exec(&["true"]).failure(),
        "cannot exec in a stopped container"
    );
}

fn exec_detached_writes_the_pid_file() {
    let b = Bundle::sleeper();
    let c = b.started();
    let file = fixture::new_dir("pid").join("pid");
    c.exec_with(
        &["--detach", "--pid-file", file.to_str().unwrap()],
        &["sleep", "999"],
    )
    .success();
    let pid: i32 = fs::read_to_string(file).unwrap().parse().unwrap();
    let runs = || {
        c.exec(&["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])
            .stdout
            .contains("sleep 999")
    };
    until("the program", runs);
    if !is_vm() {
        assert_eq!(
            runtime::text(format!("/proc/{pid}/cmdline")),
            "sleep\x00999\0"
        );
        assert!(c.processes().contains(&pid));
    }
    // In VM mode this is the process that stands for the program on the host.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    until("the program's end", || !runs());
}

fn exec_takes_a_process_file() {
    let b = Bundle::sleeper();
    let c = b.started();
    let process = json!({
        "terminal": false, "cwd": "/etc", "user": { "uid": 1000, "gid": 1000, "additionalGids": [10, 29] },
        "env": ["A=b c", "PATH=/bin"], "args": ["sh", "-c", "pwd; id -u; id -g; id -G; echo $A"]
    });
    assert_eq!(
        c.exec_process(&process).success().stdout,
        "/etc\n1000\n1000\n1000 10 29\nb c\n"
    );
}

fn exec_flags_change_the_process() {
    let b = Bundle::sleeper();
    let c = b.started();
    let flags = [
        "--cwd",
        "/tmp",
        "--env",
        "A=1",
        "--env",
        "B=2",
        "--user",
        "1000:1000",
        "--additional-gids",
        "29",
        "--cap",
        "CAP_SYS_TIME",
    ];
    let out = c
        .exec_with(
            &flags,
            &[
                "sh",
                "-c",
                "pwd; echo $A$B; id -u; id -G; grep CapBnd /proc/self/status",
            ],
        )
        .success()
        .stdout;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..4], ["/tmp", "12", "1000", "1000 29"]);
    let bounding = u64::from_str_radix(lines[4].split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert_eq!(
        bounding,
        1 << 5 | 1 << 10 | 1 << 25 | 1 << 29,
        "the container's set and CAP_SYS_TIME"
    );
}

fn exec_joins_cgroup_and_namespaces() {
    let b = Bundle::sleeper();
    let c = b.started();
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"] {
        let of_exec = c
            .exec(&["readlink", &format!("/proc/self/ns/{kind}")])
            .success()
            .stdout;
        assert_eq!(of_exec.trim(), c.namespace(kind), "{kind}");
    }
    assert_eq!(
        c.exec(&["cat", "/proc/self/cgroup"]).success().stdout,
        c.exec(&["cat", "/proc/1/cgroup"]).success().stdout
    );
}

fn exec_in_a_paused_container_needs_ignore_paused() {
    let b = Bundle::sleeper();
    let c = b.started();
    c.call(&["pause"]).success();
    assert_has!(c.exec(&["true"]).failure(), "paused");
    let file = fixture::new_dir("pid").join("pid");
    let out = c.exec_with(&["--help"], &[]);
    if !out.stdout.contains("ignore-paused") {
        c.call(&["resume"]).success();
        skip!("{} has no exec --ignore-paused", version());
    }
    // The process waits in the freezer until the container runs again.
    let mut command = b.runtime.command(&[
        "exec",
        "--ignore-paused",
        "--pid-file",
        file.to_str().unwrap(),
        &b.id,
        "sh",
        "-c",
        "exit 5",
    ]);
    let mut child = leaks::spawn(&mut command).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    c.call(&["resume"]).success();
    assert!(
        harness::wait_within(&mut child, runtime::LIMIT),
        "exec hangs after resume"
    );
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

fn exec_takes_the_umask_of_the_process_file() {
    only_hull!("runc 1.1.5 gives exec the container's umask");
    let b = Bundle::sleeper();
    let c = b.started();
    let process = json!({
        "cwd": "/", "user": { "uid": 0, "gid": 0, "umask": 0o77 }, "env": ["PATH=/bin"], "args": ["sh", "-c", "umask"]
    });
    assert_eq!(c.exec_process(&process).success().stdout, "0077\n");
}
