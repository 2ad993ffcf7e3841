//! `process.capabilities`: the five sets of the first process and of `exec`, after execve.

use crate::support::{Bundle, Container};
use serde_json::json;

tests![
    five_sets,
    five_sets_of_an_ordinary_id,
    inheritable_is_empty_by_default,
    inheritable_is_what_the_config_has,
    no_capabilities_at_all,
    capabilities_left_out_are_none,
    unknown_capability_is_a_warning,
    capability_that_the_host_lacks_is_a_warning,
    ambient_needs_permitted_and_inheritable,
    exec_has_the_containers_capabilities,
    exec_with_capabilities_of_its_own,
    exec_with_further_capabilities,
    exec_keeps_inheritable_empty,
    all_capabilities_in_a_user_namespace,
];

const KILL: u64 = 1 << 5;
const BIND: u64 = 1 << 10;
const CHROOT: u64 = 1 << 18;
const AUDIT: u64 = 1 << 29;

/// The sets of a status text: inheritable, permitted, effective, bounding, ambient.
fn sets(status: &str) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| {
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(&format!("{name}:")))
            .unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    })
}

const STATUS: &str = "exec cat /proc/self/status";

fn of(b: &mut Bundle) -> [u64; 5] {
    sets(&b.output_of(STATUS))
}

fn of_exec(c: &Container, flags: &[&str]) -> [u64; 5] {
    sets(
        &c.exec_with(flags, &["cat", "/proc/self/status"])
            .success()
            .stdout,
    )
}

fn five_sets() {
    let mut b = Bundle::sleeper();
    b.set("/process/capabilities", json!({
        "bounding": ["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"], "permitted": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_KILL"], "inheritable": ["CAP_NET_BIND_SERVICE"], "ambient": []
    }));
    // The execve of root adds the inheritable and bounding sets to permitted and effective, but not
    // under no_new_privs.
    b.start_and_check([BIND, KILL | BIND, KILL | BIND, KILL | BIND | CHROOT, 0]);
    b.set("/process/noNewPrivileges", json!(false));
    b.start_and_check([
        BIND,
        KILL | BIND | CHROOT,
        KILL | BIND | CHROOT,
        KILL | BIND | CHROOT,
        0,
    ]);
}

impl Bundle {
    #[track_caller]
    fn start_and_check(&self, expected: [u64; 5]) {
        let c = self.started();
        assert_eq!(sets(&c.proc_file("status")), expected);
    }
}

fn five_sets_of_an_ordinary_id() {
    let mut b = Bundle::sleeper();
    b.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    b.set("/process/capabilities", json!({
        "bounding": ["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"], "permitted": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_KILL", "CAP_NET_BIND_SERVICE"], "inheritable": ["CAP_NET_BIND_SERVICE", "CAP_KILL"],
        "ambient": ["CAP_NET_BIND_SERVICE"]
    }));
    // An ordinary id keeps only the ambient set over execve.
    b.start_and_check([KILL | BIND, BIND, BIND, KILL | BIND | CHROOT, BIND]);
}

// Attack: CVE-2022-29162
fn inheritable_is_empty_by_default() {
    let [inheritable, permitted, effective, bounding, ambient] = of(&mut Bundle::new());
    let given = KILL | BIND | AUDIT;
    assert_eq!(
        [inheritable, permitted, effective, bounding, ambient],
        [0, given, given, given, 0]
    );
}

fn inheritable_is_what_the_config_has() {
    let mut b = Bundle::new();
    b.set("/process/capabilities/inheritable", json!(["CAP_KILL"]));
    assert_eq!(of(&mut b)[0], KILL);
}

fn no_capabilities_at_all() {
    let mut b = Bundle::new();
    b.set("/process/capabilities", json!({ "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [] }));
    assert_eq!(of(&mut b), [0; 5]);
}

fn capabilities_left_out_are_none() {
    let mut b = Bundle::new();
    b.set("/process/capabilities", json!({}));
    assert_eq!(of(&mut b), [0; 5]);
}

fn unknown_capability_is_a_warning() {
    let mut b = Bundle::sh(STATUS);
    b.push("/process/capabilities/bounding", json!("CAP_NO_SUCH_THING"));
    b.push(
        "/process/capabilities/effective",
        json!("CAP_NO_SUCH_THING"),
    );
    let out = b.run().success();
    assert_has!(out.stderr, "CAP_NO_SUCH_THING");
    assert_eq!(sets(&out.stdout)[3], KILL | BIND | AUDIT);
}

/// The bounding set of some hosts lacks `CAP_SYS_RESOURCE`: hull leaves it out, with a warning.
fn capability_that_the_host_lacks_is_a_warning() {
    let own = sets(&std::fs::read_to_string("/proc/self/status").unwrap())[3];
    if own & 1 << 24 != 0 {
        skip!("this host has CAP_SYS_RESOURCE");
    }
    only_hull!("runc 1.1.5 fails where the specification asks for a warning");
    let mut b = Bundle::new();
    b.add_caps(&["CAP_SYS_RESOURCE"]);
    b.args(&["/bin/sh", "-c", STATUS]);
    let out = b.run().success();
    assert_eq!(sets(&out.stdout)[3] & (1 << 24), 0);
    assert_has!(out.stderr, "CAP_SYS_RESOURCE");
}

fn ambient_needs_permitted_and_inheritable() {
    let mut b = Bundle::new();
    b.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    b.set("/process/capabilities", json!({
        "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": [], "ambient": ["CAP_KILL"]
    }));
    assert_eq!(of(&mut b), [0, 0, 0, KILL, 0]);
}

fn exec_has_the_containers_capabilities() {
    let b = Bundle::sleeper();
    let c = b.started();
    let given = KILL | BIND | AUDIT;
    assert_eq!(of_exec(&c, &[]), [0, given, given, given, 0]);
}

fn exec_with_capabilities_of_its_own() {
    let b = Bundle::sleeper();
    let c = b.started();
    let caps = json!(["CAP_SYS_CHROOT"]);
    let process = json!({
        "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"], "args": ["cat", "/proc/self/status"],
        "capabilities": { "bounding": caps, "permitted": caps, "effective": caps }
    });
    assert_eq!(
        sets(&c.exec_process(&process).success().stdout),
        [0, CHROOT, CHROOT, CHROOT, 0]
    );
    let process = json!({ "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"], "args": ["cat", "/proc/self/status"] });
    let given = KILL | BIND | AUDIT;
    assert_eq!(
        sets(&c.exec_process(&process).success().stdout)[3],
        given,
        "without capabilities of its own, it has the container's"
    );
}

// Attack: CVE-2022-29162
fn exec_with_further_capabilities() {
    let b = Bundle::sleeper();
    let c = b.started();
    let more = KILL | BIND | AUDIT | CHROOT;
    let [_, permitted, effective, bounding, _] = of_exec(&c, &["--cap", "CAP_SYS_CHROOT"]);
    assert_eq!([permitted, effective, bounding], [more; 3]);
}

// Attack: CVE-2022-29162
fn exec_keeps_inheritable_empty() {
    only_hull!("runc 1.1.5 makes the ambient set of further capabilities inheritable");
    let b = Bundle::sleeper();
    let c = b.started();
    assert_eq!(of_exec(&c, &["--cap", "CAP_SYS_CHROOT"])[0], 0);
}

fn all_capabilities_in_a_user_namespace() {
    let mut b = Bundle::of_ordinary_user();
    b.add_caps(&["CAP_SYS_ADMIN", "CAP_CHOWN"]);
    let [inheritable, permitted, ..] = of(&mut b);
    assert_eq!(inheritable, 0);
    assert_eq!(permitted, KILL | BIND | AUDIT | 1 << 21 | 1);
}
