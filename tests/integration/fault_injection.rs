//! SIGKILL, a full disk and an old kernel at any point: strace(1) lets a system call of hull's
//! fail, or kills hull before it. Each call of each kind has a run of its own, until a run makes
//! fewer calls than that and succeeds.

use crate::support::{Bundle, leaks, runtime, until};
use std::path::PathBuf;
use std::process::{Command, Stdio};

tests![
    create_killed_before_any_call_leaves_nothing,
    run_killed_before_any_call_leaves_nothing,
    start_killed_before_any_call_leaves_nothing,
    delete_killed_before_any_call_leaves_nothing,
    init_killed_before_any_step_is_an_error,
    full_disk_at_any_write,
    full_disk_at_any_new_file,
    kernels_without_newer_calls,
];

/// Runs a command of the runtime under strace with an injection; `follow` includes the processes of
/// the container.
fn injected(b: &Bundle, inject: &str, follow: bool, args: &[&str]) -> runtime::Output {
    let hull = b.runtime.command(args);
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", &format!("inject={inject}")]);
    if follow {
        command.arg("-f");
    }
    command.arg(hull.get_program()).args(hull.get_args());
    command.stdin(Stdio::null()).current_dir("/").envs(
        hull.get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    runtime::finish(command, runtime::LIMIT)
}

fn needs_strace() {
    only_hull!("other runtimes make other system calls");
    if !leaks::succeeds(Command::new("strace").arg("-V").stdout(Stdio::null())) {
        skip!("strace is not installed");
    }
}

/// Asserts that after `delete --force` no record, no cgroup and no process is left.
fn nothing_is_left(b: &Bundle, when: &str) {
    let out = b.call(&["delete", "--force", &b.id]);
    assert_eq!(out.status, 0, "{when}: {out:?}");
    assert!(
        !b.runtime.state.join(&b.id).exists(),
        "{when}: the record is left"
    );
    until(&format!("{when}: no process and no cgroup is left"), || {
        leaks::reap_orphans();
        leaks::children().is_empty() && cgroups(b).is_empty()
    });
}

fn cgroups(b: &Bundle) -> Vec<PathBuf> {
    leaks::cgroups(b.cgroup.trim_start_matches('/'))
}

/// The system calls by which hull changes anything else. (strace counts each kind by itself.)
const CHANGES: &str = "openat close write mkdir rmdir rename unlink unlinkat mknodat clone3 \
    sendto recvfrom ppoll waitid flock fsopen fsmount execveat pidfd_send_signal";

/// Runs a command again and again, and kills it before each of those calls in turn; the number of
/// kills. `prepare` makes what the command needs.
fn killed_at_each(b: &Bundle, args: &[&str], prepare: impl Fn()) -> usize {
    let mut killed = 0;
    for call in CHANGES.split(' ') {
        for number in 1.. {
            prepare();
            let status =
                injected(b, &format!("{call}:signal=KILL:when={number}"), false, args).status;
            nothing_is_left(b, &format!("{args:?} killed before {call} number {number}"));
            assert!(
                [0, 137].contains(&status),
                "{call} number {number}: status {status}"
            );
            if status == 0 {
                break;
            }
            killed += 1;
        }
    }
    killed
}

// Attack: death at any point
fn create_killed_before_any_call_leaves_nothing() {
    needs_strace();
    let b = Bundle::sleeper();
    b.write();
    let killed = killed_at_each(
        &b,
        &["create", "--bundle", b.dir.to_str().unwrap(), &b.id],
        || (),
    );
    assert!(killed > 60, "only {killed} kills");
}

// Attack: death at any point
fn run_killed_before_any_call_leaves_nothing() {
    needs_strace();
    let mut b = Bundle::with_user_namespace();
    b.args(&["true"]);
    b.write();
    let killed = killed_at_each(
        &b,
        &["run", "--bundle", b.dir.to_str().unwrap(), &b.id],
        || (),
    );
    assert!(killed > 80, "only {killed} kills");
}

// Attack: death at any point
fn start_killed_before_any_call_leaves_nothing() {
    needs_strace();
    let b = Bundle::sleeper();
    b.write();
    let killed = killed_at_each(&b, &["start", &b.id], || {
        drop(
            b.call(&["create", "--bundle", b.dir.to_str().unwrap(), &b.id])
                .success(),
        )
    });
    assert!(killed > 8, "only {killed} kills");
}

// Attack: death at any point
fn delete_killed_before_any_call_leaves_nothing() {
    needs_strace();
    let b = Bundle::sleeper();
    b.write();
    let killed = killed_at_each(&b, &["delete", "--force", &b.id], || {
        drop(
            b.call(&[
                "run",
                "--detach",
                "--bundle",
                b.dir.to_str().unwrap(),
                &b.id,
            ])
            .success(),
        )
    });
    assert!(killed > 15, "only {killed} kills");
}

/// The container's init is killed at each of its steps: hull reports an error and removes what it
/// had made.
// Attack: death at any point
fn init_killed_before_any_step_is_an_error() {
    needs_strace();
    let mut b = Bundle::new();
    b.args(&["true"]);
    b.write();
    for call in [
        "setsid",
        "keyctl",
        "sethostname",
        "mount",
        "move_mount",
        "mkdirat",
        "symlinkat",
        "pivot_root",
        "umount2",
        "setgroups",
        "setresgid",
        "setresuid",
        "capset",
        "faccessat2",
    ] {
        for number in 1..100 {
            let out = injected(
                &b,
                &format!("{call}:signal=KILL:when={number}"),
                true,
                &["run", "--bundle", b.dir.to_str().unwrap(), &b.id],
            );
            let when = format!("init killed before {call} number {number}");
            assert!(
                cgroups(&b).is_empty() && !b.runtime.state.join(&b.id).exists(),
                "{when}: something is left: {out:?}"
            );
            if out.status == 0 || out.status == 137 {
                // No such call any more; or strace killed the program, whose status this is.
                assert!(number > 1, "{call} is never made");
                break;
            }
            assert_eq!(out.status, 1, "{when}: {out:?}");
            assert_has!(out.failure(), "it was killed");
        }
    }
}

/// Lets each call of a kind in `run` fail with ENOSPC: either it does not matter, or it is the
/// error; the number of errors.
fn full_at_each(b: &Bundle, call: &str) -> u32 {
    let mut refused = 0;
    for number in 1..200 {
        let out = injected(
            b,
            &format!("{call}:error=ENOSPC:when={number}"),
            false,
            &["run", "--bundle", b.dir.to_str().unwrap(), &b.id],
        );
        let when = format!("{call} number {number}");
        assert!(cgroups(b).is_empty(), "{when}: a cgroup is left: {out:?}");
        if out.status == 0 {
            assert_eq!(out.stdout, "ran\n", "{when}");
            if number > 60 {
                return refused;
            }
            continue;
        }
        assert_eq!(out.status, 1, "{when}: {out:?}");
        let said = out.failure();
        assert_has!(said, "no space left on device");
        assert!(
            !b.runtime.state.join(&b.id).exists(),
            "{when}: the record is left: {said}"
        );
        refused += 1;
    }
    refused
}

// Attack: a full disk
fn full_disk_at_any_write() {
    needs_strace();
    let b = Bundle::sh("echo ran");
    b.write();
    let refused = full_at_each(&b, "write");
    // The record twice, the fifo, and the files of the limits.
    assert!(refused >= 5, "only {refused} writes mattered");
}

// Attack: a full disk
fn full_disk_at_any_new_file() {
    needs_strace();
    let b = Bundle::sh("echo ran");
    b.write();
    for call in ["mkdir", "mknodat", "rename"] {
        assert!(full_at_each(&b, call) >= 1, "{call} did not matter");
    }
}

/// On a kernel without a system call, `run` works or its error says what is missing.
// Attack: old kernels
fn kernels_without_newer_calls() {
    needs_strace();
    let b = Bundle::sh("echo ran");
    b.write();
    let run = |calls: &str| {
        injected(
            &b,
            &format!("{calls}:error=ENOSYS"),
            true,
            &["run", "--bundle", b.dir.to_str().unwrap(), &b.id],
        )
    };
    for call in [
        "close_range",
        "fsopen",
        "fsmount",
        "keyctl",
        "memfd_create",
        "statx",
    ] {
        let out = run(call);
        assert_eq!(
            (out.status, out.stdout.as_str()),
            (0, "ran\n"),
            "without {call}: {out:?}"
        );
        nothing_is_left(&b, call);
    }
    // Without memfd_create and fsopen, hull cannot protect its own binary.
    for call in [
        "memfd_create,fsopen",
        "clone3",
        "openat2",
        "mount_setattr",
        "open_tree",
        "move_mount",
        "faccessat2",
        "execveat",
    ] {
        let out = run(call);
        assert_eq!(out.status, 1, "without {call}: {out:?}");
        assert_has!(out.failure(), "function not implemented");
        nothing_is_left(&b, call);
    }
    // Calls that `kill` needs.
    for call in ["pidfd_open", "pidfd_send_signal"] {
        b.call(&["create", "--bundle", b.dir.to_str().unwrap(), &b.id])
            .success();
        let out = injected(
            &b,
            &format!("{call}:error=ENOSYS"),
            false,
            &["kill", &b.id, "KILL"],
        );
        assert_has!(out.failure(), "function not implemented");
        nothing_is_left(&b, call);
    }
}
