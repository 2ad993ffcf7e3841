//! `hooks`: when each of the six kinds runs, in which namespaces, with which state on its standard
//! input, and what its failure causes.

use crate::support::backend::is_vm;
use crate::support::{Bundle, Container, fixture, runtime, until};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

tests![
    hooks_run_in_order,
    poststart_runs_in_start_after_the_program_has_begun,
    hooks_of_one_kind_run_in_the_order_given,
    hook_whose_child_holds_its_output_does_not_hang,
    state_on_standard_input,
    status_in_each_hook,
    hooks_get_args_and_env_and_nothing_else,
    hooks_run_in_the_right_namespaces,
    create_container_hooks_see_the_mounts,
    hook_pid_has_the_new_network_namespace,
    prestart_failure_stops_create,
    create_runtime_failure_stops_create,
    create_container_failure_stops_create,
    start_container_failure_stops_start,
    poststart_failure,
    poststop_failure_does_not_stop_delete,
    poststop_runs_the_rest_after_a_failure,
    hook_that_is_missing_is_an_error,
    hook_that_hangs_is_ended,
    hook_output_is_in_the_error,
    output_of_hooks_in_the_container_is_in_the_error,
    hooks_may_write_more_than_a_pipe_holds,
    the_timeout_counts_while_a_big_state_is_written,
    children_of_a_hook_that_is_ended_are_ended,
    create_container_hooks_begin_in_the_root,
    start_container_hooks_have_the_environment_of_the_process,
    poststop_runs_after_a_failed_create,
    relative_hook_path_is_an_error,
    hooks_run_without_a_terminal_of_the_program,
    hooks_can_call_state,
];

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// The kinds that the backend supports: the VM backend refuses createContainer hooks.
fn kinds() -> Vec<&'static str> {
    KINDS
        .into_iter()
        .filter(|kind| !(is_vm() && *kind == "createContainer"))
        .collect()
}

/// A directory that hooks write to; the container has it at the same path.
fn notes(b: &mut Bundle) -> PathBuf {
    let dir = fixture::new_dir("notes");
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    b.mount(
        dir.to_str().unwrap(),
        "bind",
        dir.to_str().unwrap(),
        &["bind", "rw"],
    );
    dir
}

fn hook(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] })
}

fn add(b: &mut Bundle, kind: &str, script: &str) {
    b.push(&format!("/hooks/{kind}"), hook(script));
}

fn hooks_run_in_order() {
    let mut b = Bundle::new();
    let dir = notes(&mut b);
    let log = format!("{}/log", dir.display());
    for kind in kinds().into_iter().filter(|kind| *kind != "poststart") {
        add(&mut b, kind, &format!("echo {kind} >> {log}"));
    }
    b.args(&["/bin/sh", "-c", &format!("echo program >> {log}")]);
    let c = b.create();
    let read = || fs::read_to_string(&log).unwrap();
    let before = if is_vm() {
        "prestart\ncreateRuntime\n"
    } else {
        "prestart\ncreateRuntime\ncreateContainer\n"
    };
    assert_eq!(read(), before);
    c.start();
    c.wait_for("stopped");
    assert_eq!(read(), format!("{before}startContainer\nprogram\n"));
    c.call(&["delete"]).success();
    assert!(read().ends_with("program\npoststop\n"), "{}", read());
}

fn poststart_runs_in_start_after_the_program_has_begun() {
    only_hull!("runc 1.1.5 runs poststart hooks in create");
    let mut b = Bundle::sleeper();
    let dir = notes(&mut b);
    let script = format!(
        "sed -E 's/.*\"pid\": *([0-9]+).*/\\1/' > {0}/pid; tr '\\0' ' ' < /proc/$(cat \
            {0}/pid)/cmdline > {0}/program",
        dir.display()
    );
    add(&mut b, "poststart", &script);
    let c = b.create();
    assert!(!dir.join("pid").exists(), "not in create");
    c.start();
    assert_eq!(
        fs::read_to_string(dir.join("program")).unwrap(),
        "sleep 1000 ",
        "start waits for the hook"
    );
}

fn hooks_of_one_kind_run_in_the_order_given() {
    let mut b = Bundle::new();
    let dir = notes(&mut b);
    for kind in kinds() {
        for n in 1..4 {
            add(
                &mut b,
                kind,
                &format!("echo {n} >> {}/{kind}", dir.display()),
            );
        }
    }
    b.args(&["true"]);
    b.run().success();
    for kind in kinds() {
        assert_eq!(
            fs::read_to_string(dir.join(kind)).unwrap(),
            "1\n2\n3\n",
            "{kind}"
        );
    }
}

/// The state that each hook got on its standard input, and the container's pid.
fn states(b: &mut Bundle) -> (Vec<Value>, i64) {
    let dir = notes(b);
    for kind in kinds() {
        add(b, kind, &format!("cat > {}/{kind}", dir.display()));
    }
    b.args(&["sleep", "1000"])
        .set("/annotations", json!({ "colour": "blue" }));
    let c = b.started();
    let pid = i64::from(c.pid());
    c.kill("KILL").success();
    c.wait_for("stopped");
    c.call(&["delete"]).success();
    let read = |kind| {
        let text = fs::read_to_string(dir.join(kind)).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{kind}: {e}: {text}"))
    };
    (kinds().into_iter().map(read).collect(), pid)
}

fn state_on_standard_input() {
    let mut b = Bundle::new();
    let (states, pid) = states(&mut b);
    for (kind, state) in kinds().into_iter().zip(&states) {
        assert_eq!(state["id"], b.id.as_str(), "{kind}");
        assert_eq!(state["bundle"], b.dir.to_str().unwrap(), "{kind}");
        assert_eq!(state["annotations"]["colour"], "blue", "{kind}");
        assert!(
            state["ociVersion"].as_str().unwrap().starts_with("1."),
            "{kind}"
        );
        match kind {
            // In the pid namespace of the container the first process has pid 1.
            "createContainer" | "startContainer" => {
                assert!(state["pid"] == 1 || state["pid"] == pid, "{kind} {state}")
            }
            "poststop" => assert!(state.get("pid").is_none_or(|p| p == 0), "{state}"),
            _ => assert_eq!(state["pid"], pid, "{kind}"),
        }
    }
}

fn status_in_each_hook() {
    let (states, _) = states(&mut Bundle::new());
    let status = |wanted: &str| {
        let at = kinds().iter().position(|kind| *kind == wanted);
        at.map(|at| states[at]["status"].as_str().unwrap())
    };
    assert!(
        matches!(status("prestart"), Some("creating" | "created")),
        "{states:?}"
    );
    assert_eq!(status("createRuntime"), Some("creating"));
    assert!(
        is_vm() || status("createContainer") == Some("creating"),
        "{states:?}"
    );
    assert_eq!(status("startContainer"), Some("created"));
    assert_eq!(status("poststop"), Some("stopped"));
    only_hull!("runc 1.1.5 runs poststart hooks in create");
    assert_eq!(status("poststart"), Some("running"));
}

fn hooks_get_args_and_env_and_nothing_else() {
    let mut b = Bundle::new();
    b.runtime
        .env
        .push(("SECRET_OF_THE_HOST".into(), "1".into()));
    let dir = notes(&mut b);
    let script = format!(
        "(tr '\\0' '\\n' < /proc/$$/environ; echo $0 $1; ls /proc/$$/fd) > {}/seen",
        dir.display()
    );
    b.push("/hooks/createRuntime", json!({ "path": "/bin/sh", "args": ["other-name", "-c", script, "zero", "one"], "env": ["A=1", "B=2"] }));
    b.args(&["true"]);
    b.run().success();
    let seen = fs::read_to_string(dir.join("seen")).unwrap();
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[..3], ["A=1", "B=2", "zero one"]);
    assert!(lines[3..].starts_with(&["0", "1"]), "{seen}");
    assert!(
        lines[3..]
            .iter()
            .all(|fd| ["0", "1", "2", "10"].contains(fd)),
        "no descriptor of the runtime's: {seen}"
    );
}

fn hooks_run_in_the_right_namespaces() {
    let mut b = Bundle::new();
    let dir = notes(&mut b);
    for kind in kinds() {
        add(
            &mut b,
            kind,
            &format!(
                "(readlink /proc/self/ns/net; readlink /proc/self/ns/mnt) > {}/{kind}",
                dir.display()
            ),
        );
    }
    b.args(&["sleep", "1000"]);
    let c = b.started();
    let own = |kind: &str| {
        fs::read_link(format!("/proc/self/ns/{kind}"))
            .unwrap()
            .display()
            .to_string()
    };
    let lines = |of: &dyn Fn(&str) -> String| format!("{}\n{}\n", of("net"), of("mnt"));
    let (host, container) = (lines(&own), lines(&|kind| c.namespace(kind)));
    drop(c);
    for kind in kinds() {
        let expected = if ["createContainer", "startContainer"].contains(&kind) {
            &container
        } else {
            &host
        };
        assert_eq!(
            &fs::read_to_string(dir.join(kind)).unwrap(),
            expected,
            "{kind}"
        );
    }
}

/// createContainer hooks run after the mounts and before pivot_root: they see the bundle at its
/// path on the host, and the mounts in it.
fn create_container_hooks_see_the_mounts() {
    let mut b = Bundle::new();
    let dir = notes(&mut b);
    add(
        &mut b,
        "createContainer",
        &format!(
            "(grep -c 'rootfs/proc ' /proc/self/mountinfo; cat /etc/hostname) > {}/seen",
            dir.display()
        ),
    );
    b.args(&["true"]);
    b.run().success();
    let seen = fs::read_to_string(dir.join("seen")).unwrap();
    let host = fs::read_to_string("/etc/hostname").unwrap_or_default();
    assert_eq!(seen, format!("1\n{host}"));
}

/// Docker and Podman set the network up by way of this pid.
fn hook_pid_has_the_new_network_namespace() {
    let mut b = Bundle::new();
    let dir = notes(&mut b);
    let script = format!(
        "pid=$(sed -E 's/.*\"pid\": *([0-9]+).*/\\1/' | tr -d '\\n'); readlink /proc/$pid/ns/net \
            > {0}/net; nsenter --net=/proc/$pid/ns/net ip link add hook0 mtu 1234 type veth peer \
            name hook1 2> {0}/err",
        dir.display()
    );
    add(&mut b, "prestart", &script);
    let text = b.output_of("cat /sys/class/net/hook0/mtu; readlink /proc/self/ns/net");
    // A VM gets the interfaces of the namespace on the host; its processes are in the guest's.
    let net = if is_vm() {
        text.lines().last().unwrap().to_owned()
    } else {
        fs::read_to_string(dir.join("net"))
            .unwrap()
            .trim_end()
            .to_owned()
    };
    assert_eq!(
        text,
        format!("1234\n{net}"),
        "{}",
        fs::read_to_string(dir.join("err")).unwrap()
    );
}

#[track_caller]
fn create_fails(kind: &str) {
    let mut b = Bundle::sleeper();
    add(&mut b, kind, "echo some words >&2; exit 3");
    let error = b.try_create(&[]).1.failure();
    assert_has!(error, "hook");
    assert_has!(error, "exit status 3");
    assert_has!(b.call(&["state", &b.id]).failure(), "does not exist");
    assert!(!b.cgroup_dir("memory").exists(), "the cgroup is left");
}

fn prestart_failure_stops_create() {
    create_fails("prestart");
}

fn create_runtime_failure_stops_create() {
    create_fails("createRuntime");
}

fn create_container_failure_stops_create() {
    create_fails("createContainer");
}

fn start_container_failure_stops_start() {
    let mut b = Bundle::new();
    let dir = notes(&mut b);
    add(&mut b, "startContainer", "exit 3");
    b.args(&["touch", dir.join("ran").to_str().unwrap()]);
    let c = b.create();
    let out = c.call(&["start"]);
    if runtime::drives_hull() {
        // runc 1.1.5 does not wait for it.
        assert_has!(
            out.failure(),
            "error running startcontainer hook #0: /bin/sh: exit status 3"
        );
    }
    c.wait_for("stopped");
    assert!(!dir.join("ran").exists(), "the program has run");
}

/// By the specification since 1.2, it is an error and stops the container.
fn poststart_failure() {
    only_hull!("runc 1.1.5 runs poststart hooks in create");
    let mut b = Bundle::sleeper();
    add(&mut b, "poststart", "exit 3");
    let c = b.create();
    assert_has!(c.call(&["start"]).failure(), "hook");
    c.wait_for("stopped");
}

fn poststop_failure_does_not_stop_delete() {
    let mut b = Bundle::sleeper();
    add(&mut b, "poststop", "exit 3");
    let c = b.started();
    c.kill("KILL").success();
    c.wait_for("stopped");
    let out = c.call(&["delete"]);
    assert_has!(c.call(&["state"]).failure(), "does not exist");
    assert!(!b.cgroup_dir("memory").exists(), "the cgroup is left");
    only_hull!("runc 1.1.5 does not report it");
    assert_has!(out.stderr, "hook");
}

fn poststop_runs_the_rest_after_a_failure() {
    only_hull!("runc 1.1.5 stops at the first that fails");
    let mut b = Bundle::new();
    let dir = notes(&mut b);
    add(&mut b, "poststop", "exit 3");
    add(
        &mut b,
        "poststop",
        &format!("touch {}/second", dir.display()),
    );
    b.args(&["true"]);
    let c = b.started();
    c.wait_for("stopped");
    c.call(&["delete"]);
    assert!(dir.join("second").exists());
}

fn hook_that_is_missing_is_an_error() {
    let mut b = Bundle::sleeper();
    b.push("/hooks/createRuntime", json!({ "path": "/no/such/hook" }));
    let error = b.try_create(&[]).1.failure();
    assert_has!(error, "/no/such/hook");
    assert_has!(error, "no such file or directory");
}

fn hook_that_hangs_is_ended() {
    let mut b = Bundle::sleeper();
    let mut h = hook("exec sleep 1000");
    h["timeout"] = json!(1);
    b.push("/hooks/createRuntime", h);
    let error = b.try_create(&[]).1.failure();
    assert!(
        error.contains("timeout") || error.contains("timed out") || error.contains("ran past"),
        "{error}"
    );
    assert_has!(b.call(&["state", &b.id]).failure(), "does not exist");
}

fn hook_whose_child_holds_its_output_does_not_hang() {
    only_hull!("runc 1.1.5 waits for the child");
    let mut b = Bundle::new();
    let dir = notes(&mut b);
    add(
        &mut b,
        "createRuntime",
        &format!("sleep 1000 & echo $! > {}/pid", dir.display()),
    );
    assert_eq!(b.output_of("echo program"), "program");
    let pid: i32 = fs::read_to_string(dir.join("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .ok();
    // Waits until its new parent has reaped it: the harness looks for left processes next.
    for _ in 0..200 {
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn hook_output_is_in_the_error() {
    let mut b = Bundle::sleeper();
    add(
        &mut b,
        "createRuntime",
        "echo some words of explanation >&2; exit 1",
    );
    assert_has!(b.try_create(&[]).1.failure(), "some words of explanation");
}

fn relative_hook_path_is_an_error() {
    only_hull!("runc 1.1.5 looks it up in the working directory");
    let mut b = Bundle::sleeper();
    b.push("/hooks/createRuntime", json!({ "path": "bin/true" }));
    assert_has!(b.try_create(&[]).1.failure(), "bin/true");
}

fn hooks_run_without_a_terminal_of_the_program() {
    let mut b = Bundle::new();
    let dir = notes(&mut b);
    add(
        &mut b,
        "createRuntime",
        &format!(
            "cat > /dev/null; echo words of the hook; readlink /proc/self/fd/0 > {}/stdin",
            dir.display()
        ),
    );
    assert_eq!(
        b.output_of("echo program"),
        "program",
        "the hook's output is not the program's"
    );
    assert_has!(fs::read_to_string(dir.join("stdin")).unwrap(), "pipe:");
}

/// Hooks of engines call `state`: hull must not hold the lock of the state meanwhile.
fn hooks_can_call_state() {
    let mut b = Bundle::sleeper();
    let dir = notes(&mut b);
    let call = format!(
        "{} --root {}",
        b.runtime.program.display(),
        b.runtime.state.display()
    );
    let script = format!("{call} state {} > {}/state", b.id, dir.display());
    add(&mut b, "poststart", &script);
    let c: Container = b.create();
    c.start();
    until("the hook", || {
        crate::support::runtime::text(dir.join("state")).contains("\"status\"")
    });
}

fn output_of_hooks_in_the_container_is_in_the_error() {
    only_hull!("runc 1.1.5 names neither the list nor the index");
    if is_vm() {
        skip!("the VM backend refuses these hooks");
    }
    for kind in ["createContainer", "startContainer"] {
        let mut b = Bundle::new();
        add(&mut b, kind, "true");
        add(&mut b, kind, "echo to stdout; echo to stderr >&2; exit 3");
        b.args(&["true"]);
        let error = b.run().failure();
        let list = format!("running {} hook #1", kind.to_lowercase());
        for words in [list.as_str(), "to stdout", "to stderr", "3"] {
            assert_has!(error, words);
        }
    }
}

fn hooks_may_write_more_than_a_pipe_holds() {
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        let mut b = Bundle::new();
        add(
            &mut b,
            kind,
            "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2",
        );
        b.args(&["true"]);
        b.run().success();
    }
}

fn the_timeout_counts_while_a_big_state_is_written() {
    let mut b = Bundle::new();
    b.spec["annotations"] = json!({ "big": "x".repeat(200_000) });
    b.spec["hooks"] = json!({ "createRuntime": [
        { "path": "/bin/sleep", "args": ["sleep", "50"], "timeout": 1 },
    ] });
    b.args(&["true"]);
    let begin = std::time::Instant::now();
    assert_has!(b.run().failure(), "timeout");
    assert!(begin.elapsed().as_secs() < 20);
}

fn children_of_a_hook_that_is_ended_are_ended() {
    only_hull!("runc ends the hook alone");
    let mut b = Bundle::new();
    let file = b.dir.join("child");
    let script = format!("sleep 300 & echo $! > {}; wait", file.display());
    b.spec["hooks"] = json!({ "createRuntime": [
        { "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1 },
    ] });
    b.args(&["true"]);
    assert_has!(b.run().failure(), "timeout");
    let pid = fs::read_to_string(file).unwrap();
    let status = PathBuf::from(format!("/proc/{}/status", pid.trim()));
    until("the hook's child ends", || {
        fs::read_to_string(&status).map_or(true, |text| text.contains("State:\tZ"))
    });
}

fn create_container_hooks_begin_in_the_root() {
    if is_vm() {
        skip!("the VM backend refuses these hooks");
    }
    let mut b = Bundle::new();
    fs::write(b.rootfs().join("marker"), "").unwrap();
    add(
        &mut b,
        "createContainer",
        "test -e marker || { pwd; ls; exit 1; }",
    );
    b.args(&["true"]);
    b.run().success();
}

fn start_container_hooks_have_the_environment_of_the_process() {
    if is_vm() {
        skip!("the VM backend refuses these hooks");
    }
    let mut b = Bundle::new();
    b.push("/process/env", json!("GREETING=hello"));
    let script = r#"test "$GREETING" = hello"#;
    b.spec["hooks"] = json!({ "startContainer": [
        { "path": "/bin/sh", "args": ["sh", "-c", script] },
    ] });
    b.args(&["true"]);
    b.run().success();
}

fn poststop_runs_after_a_failed_create() {
    let fail = |kind: &str| {
        let mut b = Bundle::new();
        let file = b.dir.join("stopped");
        b.args(&["true"]);
        match kind {
            "program" => drop(b.args(&["/no/such/program"])),
            _ => add(&mut b, kind, "exit 1"),
        }
        add(&mut b, "poststop", &format!("cat > {}", file.display()));
        let (container, out) = b.try_create(&[]);
        assert!(container.is_none(), "{kind}");
        out.failure();
        let state = fs::read_to_string(&file).unwrap_or_else(|_| panic!("{kind}: no poststop"));
        let state: Value = serde_json::from_str(&state).unwrap();
        assert_eq!(state["status"], "stopped", "{kind}");
    };
    fail("createRuntime");
    fail("program");
    if !is_vm() {
        fail("createContainer");
    }
}
