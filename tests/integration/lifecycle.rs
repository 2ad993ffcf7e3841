//! The life of a container: `create`, `start`, `state`, `kill`, `delete`, `run`, `pause` and
//! `resume`, and their exit statuses.

use crate::support::backend::is_vm;
use crate::support::users::version;
use crate::support::{Bundle, Container, cgroups, fixture, harness, leaks, runtime, until};
use serde_json::json;
use std::fs;

tests![
    run_gives_the_output,
    run_gives_the_programs_exit_status,
    run_gives_128_and_the_signal,
    run_leaves_nothing_to_delete,
    run_with_keep_leaves_a_stopped_container,
    run_detached_returns_while_the_program_runs,
    run_passes_standard_input,
    run_forwards_signals,
    create_waits_for_start,
    create_looks_the_program_up_before_start,
    start_returns_when_the_program_is_there,
    state_tells_pid_bundle_annotations_and_version,
    state_goes_from_created_over_running_to_stopped,
    start_twice_is_an_error,
    start_of_a_stopped_container_is_an_error,
    kill_by_name_and_by_number,
    kill_of_a_created_container_stops_it,
    kill_of_a_stopped_container_says_not_running,
    kill_all_reaches_every_process,
    kill_without_a_process_namespace_reaches_every_process,
    kill_of_pid_namespaces_first_process_ends_the_others,
    delete_of_a_running_container_is_an_error,
    delete_of_a_created_container_works,
    delete_force_ends_a_running_container,
    delete_force_of_a_missing_container_succeeds,
    delete_removes_state_and_cgroup,
    commands_on_a_missing_container_say_so,
    an_id_in_use_is_an_error,
    pause_freezes_and_resume_thaws,
    a_created_container_can_be_paused_and_resumed,
    pid_file_names_the_first_process,
    options_stand_before_or_after_the_id,
    relative_bundle_is_taken_from_the_working_directory,
    without_bundle_the_working_directory_is_used,
    a_program_that_ends_at_once_does_not_hang_run,
];

fn run_gives_the_output() {
    assert_eq!(Bundle::new().output_of("echo hello"), "hello");
}

fn run_gives_the_programs_exit_status() {
    for status in [0, 1, 2, 42, 126, 127, 255] {
        assert_eq!(Bundle::sh(&format!("exit {status}")).run().status, status);
    }
}

fn run_gives_128_and_the_signal() {
    // The first process of a pid namespace ignores its own signals (pid_namespaces(7)): this
    // program is in the host's pid namespace.
    for (name, number) in [("TERM", 15), ("ABRT", 6), ("KILL", 9)] {
        let mut b = Bundle::sh(&format!("kill -{name} $$"));
        b.without_namespace("pid");
        assert_eq!(b.run().status, 128 + number, "{name}");
    }
}

fn run_leaves_nothing_to_delete() {
    let b = Bundle::sh("true");
    b.run().success();
    assert!(
        b.call(&["state", &b.id])
            .failure()
            .contains("container does not exist")
    );
    assert!(!b.runtime.state.join(&b.id).exists());
}

fn run_with_keep_leaves_a_stopped_container() {
    let b = Bundle::sh("exit 3");
    if b.run_with(&["--help"]).stdout.contains("--keep") {
        assert_eq!(b.run_with(&["--keep"]).status, 3);
        assert_eq!(Container::new(&b).status(), "stopped");
    } else {
        skip!("{} has no run --keep", version());
    }
}

fn run_detached_returns_while_the_program_runs() {
    let b = Bundle::sleeper();
    b.run_with(&["--detach"]).success();
    let c = Container::new(&b);
    assert_eq!(c.status(), "running");
}

fn run_passes_standard_input() {
    let b = Bundle::sh("read line; echo got $line");
    b.write();
    let out = b.runtime.call_with_input(
        &["run", "--bundle", b.dir.to_str().unwrap(), &b.id],
        "some words\n",
    );
    assert_eq!(out.success().stdout, "got some words\n");
}

fn run_forwards_signals() {
    use rustix::process::{Pid, Signal, kill_process};
    let b = Bundle::sh("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    b.write();
    let mut command = b
        .runtime
        .command(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
    let mut child = leaks::spawn(command.stdout(std::process::Stdio::piped())).unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let in_time = harness::wait_within(&mut child, runtime::LIMIT);
    assert!(in_time, "the program did not get the signal");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

fn create_waits_for_start() {
    let b = Bundle::sh("echo ran > /dev/shm/mark; sleep 1000");
    let c = b.create();
    assert_eq!(c.status(), "created");
    assert_eq!(c.exec(&["ls", "/dev/shm"]).success().stdout, "");
    c.start();
    until("the program's mark", || {
        c.exec(&["ls", "/dev/shm"])
            .success()
            .stdout
            .contains("mark")
    });
}

fn create_looks_the_program_up_before_start() {
    let mut b = Bundle::new();
    b.args(&["/no/such/program"]);
    let error = b.try_create(&[]).1.failure();
    assert_has!(error, "no such file or directory");
    b.args(&["nosuchprogram"]);
    assert_has!(
        b.try_create(&[]).1.failure(),
        "executable file not found in $path"
    );
    b.args(&["/etc/passwd"]);
    assert_has!(b.try_create(&[]).1.failure(), "permission denied");
}

fn state_tells_pid_bundle_annotations_and_version() {
    let mut b = Bundle::sleeper();
    b.set(
        "/annotations",
        json!({ "org.example.colour": "blue", "empty": "" }),
    );
    let c = b.started();
    let s = c.state();
    assert!(s["ociVersion"].as_str().unwrap().starts_with("1."));
    assert_eq!(s["id"], b.id.as_str());
    assert_eq!(s["bundle"], b.dir.to_str().unwrap());
    assert_eq!(s["annotations"]["org.example.colour"], "blue");
    assert_eq!(c.proc_file("comm").trim(), "sleep");
    assert_eq!(s["rootfs"], b.rootfs().to_str().unwrap());
    assert!(s["created"].as_str().unwrap().contains('T'));
}

fn state_goes_from_created_over_running_to_stopped() {
    let b =
        Bundle::sh("read x < /dev/shm/wait 2>/dev/null; mkfifo /dev/shm/f; read x < /dev/shm/f");
    let c = b.create();
    assert_eq!(c.status(), "created");
    c.start();
    assert_eq!(c.status(), "running");
    until("the fifo", || c.exec(&["ls", "/dev/shm/f"]).status == 0);
    c.exec(&["sh", "-c", "echo > /dev/shm/f"]);
    c.wait_for("stopped");
    assert_eq!(c.state()["pid"], 0);
}

fn start_twice_is_an_error() {
    let b = Bundle::sleeper();
    let c = b.started();
    assert_has!(
        c.call(&["start"]).failure(),
        "cannot start an already running container"
    );
}

fn start_of_a_stopped_container_is_an_error() {
    let b = Bundle::sh("true");
    let c = b.started();
    c.wait_for("stopped");
    assert_has!(
        c.call(&["start"]).failure(),
        "cannot start a container that has stopped"
    );
}

fn kill_by_name_and_by_number() {
    for signal in ["KILL", "SIGKILL", "9", "kill"] {
        let b = Bundle::sleeper();
        let c = b.started();
        c.kill(signal).success();
        c.wait_for("stopped");
    }
    let b = Bundle::sh(
        "trap 'echo usr1 > /dev/shm/got' USR1; echo > /dev/shm/ready; while :; do sleep 0.05; done",
    );
    let c = b.started();
    until("the trap", || c.exec(&["ls", "/dev/shm/ready"]).status == 0);
    c.kill("USR1").success();
    until("the trapped signal", || {
        c.exec(&["cat", "/dev/shm/got"]).stdout.contains("usr1")
    });
    assert_has!(c.kill("NOSUCH").failure(), "signal");
}

fn kill_of_a_created_container_stops_it() {
    let b = Bundle::sleeper();
    let c = b.create();
    c.kill("KILL").success();
    c.wait_for("stopped");
}

fn kill_of_a_stopped_container_says_not_running() {
    let b = Bundle::sh("true");
    let c = b.started();
    c.wait_for("stopped");
    assert_has!(c.kill("KILL").failure(), "container not running");
}

fn kill_all_reaches_every_process() {
    let mut b = Bundle::sh("sleep 1000 & sleep 1000 & sleep 1000 & wait");
    b.without_namespace("pid");
    let c = b.started();
    until("the shell's children", || c.processes().len() == 4);
    b.call(&["kill", "--all", &b.id, "KILL"]).success();
    no_process_is_left(&b);
}

fn kill_of_pid_namespaces_first_process_ends_the_others() {
    let b = Bundle::sh("sleep 1000 & sleep 1000 & wait");
    let c = b.started();
    until("the shell's children", || c.processes().len() == 3);
    c.kill("KILL").success();
    no_process_is_left(&b);
}

/// Waits until no process is in the container's cgroup on the host, which in VM mode has the
/// processes of the VM.
fn no_process_is_left(b: &Bundle) {
    until("the end of all", || {
        // systemd removes a scope with its last process.
        runtime::text(b.cgroup_dir("pids").join("cgroup.procs")).is_empty()
    });
}

fn delete_of_a_running_container_is_an_error() {
    let b = Bundle::sleeper();
    let c = b.started();
    let error = c.call(&["delete"]).failure();
    assert_has!(error, "is not stopped");
    assert_has!(error, "running");
    assert_eq!(c.status(), "running");
}

fn delete_of_a_created_container_works() {
    let b = Bundle::sleeper();
    let c = b.create();
    c.call(&["delete"]).success();
    assert_has!(c.call(&["state"]).failure(), "does not exist");
}

fn delete_force_ends_a_running_container() {
    let b = Bundle::sh("trap '' TERM INT HUP; sleep 1000");
    let c = b.started();
    let pid = c.pid();
    c.call(&["delete", "--force"]).success();
    until("the end of the process", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    });
}

fn delete_force_of_a_missing_container_succeeds() {
    let b = Bundle::new();
    b.call(&["delete", "--force", "nobody-has-this-id"])
        .success();
}

fn delete_removes_state_and_cgroup() {
    let b = Bundle::sh("true");
    let c = b.started();
    c.wait_for("stopped");
    // systemd removes a scope with its last process.
    assert!(cgroups::by_systemd() || b.cgroup_dir("memory").exists());
    c.call(&["delete"]).success();
    assert!(!b.runtime.state.join(&b.id).exists());
    let left = leaks::cgroups(b.cgroup.rsplit('/').next().unwrap());
    assert!(left.is_empty(), "{left:?}");
    assert_has!(c.call(&["delete"]).failure(), "container does not exist");
}

fn commands_on_a_missing_container_say_so() {
    let b = Bundle::new();
    for args in [
        &["state", "none"][..],
        &["start", "none"],
        &["kill", "none", "TERM"],
        &["delete", "none"],
        &["exec", "none", "true"],
        &["pause", "none"],
        &["resume", "none"],
        &["ps", "none"],
        &["events", "--stats", "none"],
        &["update", "--memory", "1000000", "none"],
    ] {
        let out = b.call(args);
        assert_has!(out.clone().failure(), "container does not exist");
        // runc's exec ends with 255 for its own errors, every other command with 1.
        assert_eq!(
            out.status,
            if args[0] == "exec" { 255 } else { 1 },
            "{args:?}"
        );
    }
}

fn an_id_in_use_is_an_error() {
    let b = Bundle::sleeper();
    let c = b.started();
    let error = b
        .call(&["create", "--bundle", b.dir.to_str().unwrap(), &b.id])
        .failure();
    assert_has!(error, "container with given id already exists");
    assert_eq!(c.status(), "running");
}

fn pause_freezes_and_resume_thaws() {
    let mut b = Bundle::sh("while :; do echo >>/tmp/written; sleep 0.01; done");
    b.writable();
    let c = b.started();
    let file = b.rootfs().join("tmp/written");
    let written = || fs::metadata(&file).map_or(0, |about| about.len());
    until("the program", || written() > 0);
    c.call(&["pause"]).success();
    assert_eq!(c.status(), "paused");
    // The cgroup on the host does not show the state of a VM.
    let state = || {
        if is_vm() {
            String::new()
        } else {
            b.cgroup_value("freezer", "freezer.state", "cgroup.freeze")
        }
    };
    let expected = |v1, v2| {
        if is_vm() {
            ""
        } else {
            cgroups::by_version("freezer", v1, v2)
        }
    };
    assert_eq!(state(), expected("FROZEN", "1"));
    // A write that had begun may still arrive.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let before = written();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(written(), before, "a paused program writes");
    c.call(&["resume"]).success();
    assert_eq!(c.status(), "running");
    assert_eq!(state(), expected("THAWED", "0"));
    until("the program to continue", || written() > before);
    assert_has!(c.call(&["resume"]).failure(), "not paused");
}

fn a_created_container_can_be_paused_and_resumed() {
    let b = Bundle::sleeper();
    let c = b.create();
    c.call(&["pause"]).success();
    assert_eq!(c.status(), "paused");
    assert_has!(c.call(&["start"]).failure(), "paused");
    c.call(&["resume"]).success();
    assert_eq!(c.status(), "created");
    c.call(&["start"]).success();
    assert_eq!(c.status(), "running");
}

fn pid_file_names_the_first_process() {
    let b = Bundle::sleeper();
    let file = fixture::new_dir("pid").join("init.pid");
    let (c, out) = b.try_create(&["--pid-file", file.to_str().unwrap()]);
    out.success();
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(
        text,
        c.unwrap().pid().to_string(),
        "the pid alone, without a newline"
    );
}

fn options_stand_before_or_after_the_id() {
    only_hull!("runc 1.1.5 takes no option after the id");
    let b = Bundle::sleeper();
    let c = b.started();
    b.call(&["kill", &b.id, "--all", "KILL"]).success();
    c.wait_for("stopped");
    b.call(&["delete", &b.id, "--force"]).success();
    assert_has!(c.call(&["state"]).failure(), "does not exist");
}

fn relative_bundle_is_taken_from_the_working_directory() {
    let b = Bundle::sh("echo here");
    b.write();
    let mut c = b.runtime.command(&["run", "--bundle", ".", &b.id]);
    c.current_dir(&b.dir);
    assert_eq!(
        runtime::finish(c, runtime::LIMIT).success().stdout,
        "here\n"
    );
    let b = Bundle::sleeper();
    b.write();
    let mut c = b.runtime.command(&[
        "create",
        "-b",
        b.dir.file_name().unwrap().to_str().unwrap(),
        &b.id,
    ]);
    c.current_dir(b.dir.parent().unwrap());
    runtime::finish(c, runtime::LIMIT).success();
    let c = Container::new(&b);
    assert_eq!(
        c.state()["bundle"],
        b.dir.to_str().unwrap(),
        "state must have the absolute path"
    );
}

fn without_bundle_the_working_directory_is_used() {
    let b = Bundle::sh("echo here");
    b.write();
    let mut c = b.runtime.command(&["run", &b.id]);
    c.current_dir(&b.dir);
    assert_eq!(
        runtime::finish(c, runtime::LIMIT).success().stdout,
        "here\n"
    );
}

fn a_program_that_ends_at_once_does_not_hang_run() {
    for _ in 0..20 {
        let mut b = Bundle::new();
        b.args(&["/bin/true"]);
        assert_eq!(b.run().status, 0);
    }
}

/// When `start` returns, init has executed the program: a signal sent then reaches the program.
fn start_returns_when_the_program_is_there() {
    only_hull!("runc's start may return before execve");
    let mut b = Bundle::sleeper();
    // A hook between start and execve makes the time long enough.
    b.push(
        "/hooks/startContainer",
        json!({ "path": "/bin/sleep", "args": ["sleep", "0.3"] }),
    );
    for _ in 0..5 {
        let c = b.create();
        c.start();
        let program = c.program();
        assert!(program.ends_with("bin/busybox"), "{}", program.display());
    }
}

fn kill_without_a_process_namespace_reaches_every_process() {
    only_hull!("runc does so from 1.2 on");
    let mut b = Bundle::new();
    let namespaces = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    b.args(&["sh", "-c", "sleep 1000 & echo $! > /dev/shm/child; wait"]);
    let c = b.started();
    let path = format!("/proc/{}/root/dev/shm/child", c.pid());
    let child = || crate::support::runtime::text(&path).trim().to_owned();
    crate::support::until("the child is there", || !child().is_empty());
    let child = child();
    let lives = || {
        let status = crate::support::runtime::text(format!("/proc/{child}/status"));
        !status.is_empty() && !status.contains("State:\tZ")
    };
    assert!(lives());
    // Init's end alone leaves the child; the next signal is for all.
    let init = rustix::process::Pid::from_raw(c.pid()).unwrap();
    rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
    c.wait_for("stopped");
    assert!(lives());
    b.call(&["kill", &b.id, "KILL"]).success();
    crate::support::until("the child ends", || !lives());
}
