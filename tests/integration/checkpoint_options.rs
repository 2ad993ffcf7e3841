//! The options of checkpoint and restore, one by one: what fails without one, and what is there
//! again with it.

use crate::checkpoint_world::{
    Double, Saved, another, count, counter, own_network, passed, same, started, with_criu,
};
use crate::support::{Bundle, Container, cgroups, fixture, harness, runtime, until};
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

tests![
    every_mode_of_cgroups_brings_it_back,
    strict_wants_no_cgroup_there,
    file_locks_are_held_again,
    an_external_socket_is_connected_again,
    an_lsm_profile_comes_back_or_is_replaced,
    what_no_kernel_here_has_reaches_criu,
];

/// The limits are the config's again, and the processes in the container's own cgroup, whatever
/// criu does about cgroups.
fn every_mode_of_cgroups_brings_it_back() {
    for mode in ["soft", "full", "strict", "ignore"] {
        if mode == "ignore" && !runtime::drives_hull() {
            continue;
        }
        let mut b = counter();
        b.set("/linux/resources/pids", json!({ "limit": 77 }));
        let c = started(&b);
        let before = passed(&b, 1);
        let flags = ["--manage-cgroups-mode", mode];
        Saved::round(&b, &flags, &flags);
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

fn strict_wants_no_cgroup_there() {
    only_hull!("runc 1.1.5 passes over the mode at restore");
    if cgroups::by_systemd() {
        skip!("systemd makes a new scope");
    }
    let b = counter();
    let c = started(&b);
    passed(&b, 1);
    let saved = Saved::new();
    saved.dumped(&b, &[]);
    let stopped = count(&b);
    fs::create_dir(b.cgroup_dir("pids")).unwrap();
    assert_has!(
        saved
            .restore(&b, &["--manage-cgroups-mode", "strict"])
            .failure(),
        "is there already"
    );
    assert!(b.cgroup_dir("pids").exists(), "it is not hull's to remove");
    saved.restore(&b, &[]).success();
    passed(&b, stopped);
    drop(c);
}

fn file_locks_are_held_again() {
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
    let said = Saved::new().checkpoint(&b, &[]).failure();
    assert!(
        !runtime::drives_hull() || said.contains("--file-locks"),
        "{said}"
    );
    assert_eq!(c.status(), "running");
    let saved = Saved::new();
    saved.dumped(&b, &["--file-locks"]);
    until("the lock's end", is_free);
    let out = saved.restore(&b, &["--file-locks"]);
    assert!(
        out.status == 0,
        "{}\n{}",
        out.stderr,
        saved.log("restore.log")
    );
    assert!(!is_free(), "the restored program holds its lock");
    drop(c);
    assert!(is_free());
}

fn an_external_socket_is_connected_again() {
    own_network();
    let mut b = with_criu(Bundle::new());
    let folder = fixture::new_dir("sockets");
    let socket = UnixDatagram::bind(folder.join("socket")).unwrap();
    // criu connects to the name that the socket was bound by, so it is the same inside.
    b.mount(
        folder.to_str().unwrap(),
        "bind",
        folder.to_str().unwrap(),
        &["bind"],
    )
    .without_namespace("network");
    b.args(&[
        "/bin/probe",
        "--probe",
        "send",
        folder.join("socket").to_str().unwrap(),
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
    let said = Saved::new().checkpoint(&b, &[]).failure();
    assert!(
        !runtime::drives_hull() || said.contains("--ext-unix-sk"),
        "{said}"
    );
    assert_eq!(c.status(), "running");
    let saved = Saved::new();
    saved.dumped(&b, &["--ext-unix-sk"]);
    socket.set_nonblocking(true).unwrap();
    let mut last = 0;
    let mut bytes = [0; 32];
    while let Ok(count) = socket.recv(&mut bytes) {
        last = String::from_utf8_lossy(&bytes[..count]).parse().unwrap();
    }
    socket.set_nonblocking(false).unwrap();
    let out = saved.restore(&b, &["--ext-unix-sk"]);
    assert!(
        out.status == 0,
        "{}\n{}",
        out.stderr,
        saved.log("restore.log")
    );
    assert_eq!(next(), last + 1);
}

/// Loads two profiles of the test's own, and gives their names; the test is skipped where AppArmor
/// is off.
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

fn an_lsm_profile_comes_back_or_is_replaced() {
    let [first, second] = profiles();
    let mut b = counter();
    b.set("/process/apparmorProfile", json!(first.0));
    let c = started(&b);
    let before = passed(&b, 1);
    let confined = |c: &Container| c.proc_file("attr/current").trim().to_owned();
    assert_eq!(confined(&c), format!("{} (enforce)", first.0));
    Saved::round(&b, &[], &[]);
    let before = passed(&b, before);
    assert_eq!(confined(&c), format!("{} (enforce)", first.0));
    Saved::round(
        &b,
        &[],
        &["--lsm-profile", &format!("apparmor:{}", second.0)],
    );
    passed(&b, before);
    assert_eq!(confined(&c), format!("{} (enforce)", second.0));
}

/// No kernel here has SELinux with a policy, and no container's program is on its caller's terminal
/// (each begins a session of its own): that those options are told to criu is shown by a double
/// that writes the request down. Fields 63 and 7 of the options (rpc.proto).
fn what_no_kernel_here_has_reaches_criu() {
    only_hull!("the double speaks hull's side of the protocol");
    let b = counter();
    let _c = started(&b);
    passed(&b, 1);
    let saved = Saved::new();
    saved.dumped(&b, &["--leave-running"]);
    let mut other = another(&b);
    let double = Double::of(&mut other);
    let asked = |number: u64| double.option(number);
    let context = "system_u:object_r:container_file_t:s0:c1,c2";
    saved
        .restore(&other, &["--lsm-mount-context", context])
        .failure();
    assert_eq!(
        (asked(63).as_deref(), asked(7).as_deref()),
        (Some(context.as_bytes()), Some(&[0][..]))
    );
    saved.restore(&other, &["--shell-job"]).failure();
    assert_eq!((asked(63), asked(7).as_deref()), (None, Some(&[1][..])));
    let mut dumping = same(&b);
    dumping.runtime.global = other.runtime.global;
    Saved::new()
        .checkpoint(&dumping, &["--shell-job"])
        .failure();
    assert_eq!(asked(7).as_deref(), Some(&[1][..]));
    let count = count(&b);
    passed(&b, count);
}
