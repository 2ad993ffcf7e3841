//! Options of `checkpoint` and `restore`, one by one: without an option the command fails, with it
//! the state is restored.

use crate::support::checkpoint::{
    Checkpoint, Double, another, count, counter, passed, started, with_criu,
};
use crate::support::network::own_network;
use crate::support::{Bundle, Container, cgroups, fixture, harness, runtime, until};
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

tests![
    every_mode_of_cgroups_restores,
    strict_mode_refuses_an_existing_cgroup,
    file_locks_are_restored,
    an_external_socket_is_restored,
    an_lsm_profile_is_restored_or_replaced,
    lsm_mount_context_and_shell_job_reach_criu,
];

/// In each mode of criu's, the limits are those of the config, and the processes are in the
/// container's own cgroup.
fn every_mode_of_cgroups_restores() {
    for mode in ["soft", "full", "strict", "ignore"] {
        if mode == "ignore" && !runtime::drives_hull() {
            continue;
        }
        let mut b = counter();
        b.set("/linux/resources/pids", json!({ "limit": 77 }));
        let c = started(&b);
        let before = passed(&b, 1);
        let flags = ["--manage-cgroups-mode", mode];
        Checkpoint::round(&b, &flags, &flags);
        passed(&b, before);
        assert_eq!(b.cgroup_file("pids", "pids.max"), "77", "{mode}");
        assert!(
            b.cgroup_file("pids", "cgroup.procs")
                .lines()
                .any(|line| line == c.pid().to_string()),
            "{mode}"
        );
        c.call(&["delete", "--force"]).success();
        assert!(!b.cgroup_dir("pids").exists(), "{mode}");
    }
}

fn strict_mode_refuses_an_existing_cgroup() {
    only_hull!("runc 1.1.5 ignores the mode at restore");
    if cgroups::by_systemd() {
        skip!("systemd makes a new scope");
    }
    let b = counter();
    let c = started(&b);
    passed(&b, 1);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    let stopped = count(&b);
    fs::create_dir(b.cgroup_dir("pids")).unwrap();
    assert_has!(
        checkpoint
            .restore(&b, &["--manage-cgroups-mode", "strict"])
            .failure(),
        "exists, which --manage-cgroups-mode strict forbids"
    );
    assert!(
        b.cgroup_dir("pids").exists(),
        "hull removed a cgroup that it had not made"
    );
    checkpoint.restored(&b, &[]);
    passed(&b, stopped);
    drop(c);
}

fn file_locks_are_restored() {
    let mut b = with_criu(Bundle::new());
    b.args(&["/bin/probe", "--probe", "lock", "/tmp/file"]);
    let c = started(&b);
    until("the lock", || b.rootfs().join("tmp/locked").exists());
    let file = File::open(b.rootfs().join("tmp/file")).unwrap();
    let is_free = || match file.try_lock() {
        Ok(()) => file.unlock().map(|()| true).unwrap(),
        Err(fs::TryLockError::WouldBlock) => false,
        Err(error) => panic!("{error}"),
    };
    assert!(!is_free());
    let said = Checkpoint::new().dump(&b, &[]).failure();
    assert!(
        !runtime::drives_hull() || said.contains("--file-locks"),
        "{said}"
    );
    assert_eq!(c.status(), "running");
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &["--file-locks"]);
    until("the lock's end", is_free);
    checkpoint.restored(&b, &["--file-locks"]);
    assert!(!is_free(), "the restored program holds its lock");
    drop(c);
    assert!(is_free());
}

fn an_external_socket_is_restored() {
    own_network();
    let mut b = with_criu(Bundle::new());
    let directory = fixture::new_dir("sockets");
    let path = directory.to_str().unwrap();
    let socket = UnixDatagram::bind(directory.join("socket")).unwrap();
    // criu connects to the path by which the socket was bound: the container has the same path.
    b.mount(path, "bind", path, &["bind"])
        .without_namespace("network");
    b.args(&[
        "/bin/probe",
        "--probe",
        "send",
        directory.join("socket").to_str().unwrap(),
    ]);
    let c = started(&b);
    let next = || {
        let mut bytes = [0; 32];
        assert!(
            harness::readable_within(&socket, runtime::LIMIT),
            "nothing is sent"
        );
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count])
            .parse::<u64>()
            .unwrap()
    };
    next();
    let said = Checkpoint::new().dump(&b, &[]).failure();
    assert!(
        !runtime::drives_hull() || said.contains("--ext-unix-sk"),
        "{said}"
    );
    assert_eq!(c.status(), "running");
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &["--ext-unix-sk"]);
    socket.set_nonblocking(true).unwrap();
    let mut last = 0;
    let mut bytes = [0; 32];
    while let Ok(count) = socket.recv(&mut bytes) {
        last = String::from_utf8_lossy(&bytes[..count]).parse().unwrap();
    }
    socket.set_nonblocking(false).unwrap();
    checkpoint.restored(&b, &["--ext-unix-sk"]);
    assert_eq!(next(), last + 1);
}

/// Loads two AppArmor profiles of the test's own; skips the test where AppArmor is off.
fn profiles() -> [Profile; 2] {
    let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.trim() == "Y");
    if !on || !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        skip!("AppArmor is off here");
    }
    if !std::path::Path::new("/usr/sbin/apparmor_parser").exists() {
        skip!("apparmor_parser is not installed");
    }
    ["first", "second"].map(|name| {
        let profile = Profile(format!("hull-test-{}-{name}", std::process::id()));
        profile.parser("-a");
        profile
    })
}

struct Profile(String);

impl Profile {
    fn parser(&self, flag: &str) {
        let file = fixture::test_scratch().join(&self.0);
        fs::write(
            &file,
            format!(
                "profile {} flags=(attach_disconnected) {{\n  file,\n  \
            signal,\n  unix,\n  ptrace,\n  mount,\n  capability,\n  \
            network,\n}}\n",
                self.0
            ),
        )
        .unwrap();
        let mut command = Command::new("apparmor_parser");
        command.args([flag, file.to_str().unwrap()]);
        runtime::finish(command, runtime::LIMIT).success();
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("-R");
    }
}

fn an_lsm_profile_is_restored_or_replaced() {
    let [first, second] = profiles();
    let mut b = counter();
    b.set("/process/apparmorProfile", json!(first.0));
    let c = started(&b);
    let before = passed(&b, 1);
    let confined = |c: &Container| c.proc_file("attr/current").trim().to_owned();
    assert_eq!(confined(&c), format!("{} (enforce)", first.0));
    Checkpoint::round(&b, &[], &[]);
    let before = passed(&b, before);
    assert_eq!(confined(&c), format!("{} (enforce)", first.0));
    Checkpoint::round(
        &b,
        &[],
        &["--lsm-profile", &format!("apparmor:{}", second.0)],
    );
    passed(&b, before);
    assert_eq!(confined(&c), format!("{} (enforce)", second.0));
}

/// The test hosts have no SELinux policy, and no program of a container is on its caller's terminal
/// (each has a session of its own): a double of criu records the request. The options are fields 63
/// and 7 (rpc.proto).
fn lsm_mount_context_and_shell_job_reach_criu() {
    only_hull!("it tests hull's requests");
    let b = counter();
    let _c = started(&b);
    passed(&b, 1);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &["--leave-running"]);
    let mut other = another(&b);
    let double = Double::of(&mut other);
    let option = |number: u64| double.option(number);
    let context = "system_u:object_r:container_file_t:s0:c1,c2";
    checkpoint
        .restore(&other, &["--lsm-mount-context", context])
        .failure();
    assert_eq!(
        (option(63).as_deref(), option(7).as_deref()),
        (Some(context.as_bytes()), Some(&[0][..]))
    );
    checkpoint.restore(&other, &["--shell-job"]).failure();
    assert_eq!((option(63), option(7).as_deref()), (None, Some(&[1][..])));
    let mut dumping = b.clone();
    dumping.runtime.global = other.runtime.global;
    Checkpoint::new().dump(&dumping, &["--shell-job"]).failure();
    assert_eq!(option(7).as_deref(), Some(&[1][..]));
    let count = count(&b);
    passed(&b, count);
}
