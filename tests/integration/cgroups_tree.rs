//! The cgroup tree around a container: `exec --cgroup`, runtimes in containers, the rules of v2 on
//! inner cgroups, and trees delegated to ordinary users, also by systemd.

use crate::support::backend::is_vm;
use crate::support::cgroups::{self, Version, by_version, counter};
use crate::support::runtime::{self, Output};
use crate::support::{Bundle, fixture, leaks, spec, until, users};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

tests![
    exec_joins_the_cgroup_of_init,
    exec_into_a_sub_cgroup,
    exec_into_a_sub_cgroup_of_one_controller,
    nested_runtime_with_a_cgroup_namespace,
    nested_runtime_without_a_cgroup_namespace,
    limit_below_a_cgroup_with_processes_is_an_error,
    limit_below_a_threaded_cgroup_is_an_error,
    ordinary_user_without_rights_stays_in_the_callers_cgroup,
    ordinary_user_in_a_delegated_tree_has_limits,
    ordinary_user_by_systemd_has_limits,
    ordinary_user_by_systemd_may_not_have_what_is_not_delegated,
];

/// Moves the first process of a container into a cgroup below its own, as systemd in a container
/// does, and enables controllers for it.
fn move_down(b: &Bundle, pid: i32) {
    let dir = b.cgroup_dir("pids");
    fs::create_dir(dir.join("init")).unwrap();
    fs::write(dir.join("init/cgroup.procs"), pid.to_string()).unwrap();
    fs::write(dir.join("cgroup.subtree_control"), "+pids +memory").unwrap();
}

fn exec_joins_the_cgroup_of_init() {
    if cgroups::version("pids") == Version::V1 {
        skip!("v1 has processes in inner cgroups");
    }
    // In VM mode the tree is the guest's: there the first process moves itself.
    let down = "d=/sys/fs/cgroup/hull; mkdir $d/init && echo $$ >$d/init/cgroup.procs && echo \
        '+pids +memory' >$d/cgroup.subtree_control; echo $? >/tmp/moved";
    let mut b = Bundle::sh(&if is_vm() {
        format!("{down}; exec sleep 1000")
    } else {
        "exec sleep 1000".to_owned()
    });
    b.writable();
    if is_vm() {
        writable_tree(&mut b);
    }
    let c = b.started();
    if is_vm() {
        let moved = b.rootfs().join("tmp/moved");
        until("the move", || {
            fs::read_to_string(&moved).is_ok_and(|text| text.ends_with('\n'))
        });
        assert_eq!(fs::read_to_string(moved).unwrap(), "0\n");
    } else {
        move_down(&b, c.pid());
    }
    let of = |who: &str| {
        c.exec(&["cat", &format!("/proc/{who}/cgroup")])
            .success()
            .stdout
    };
    assert_eq!(of("self"), format!("0::{}/init\n", b.cgroup_in_container()));
    assert_eq!(of("1"), of("self"));
}

fn exec_into_a_sub_cgroup() {
    only_hull!("runc 1.1.5 has another option");
    let b = Bundle::sleeper();
    let c = b.started();
    for d in leaks::cgroups(b.cgroup.rsplit('/').next().unwrap()) {
        fs::create_dir(d.join("below")).unwrap();
        // A new cpuset of v1 is empty, and no process can enter it.
        for file in ["cpuset.cpus", "cpuset.mems"]
            .iter()
            .filter(|_| cgroups::version("cpuset") == Version::V1)
        {
            fs::read(d.join(file))
                .and_then(|value| fs::write(d.join("below").join(file), value))
                .ok();
        }
    }
    let lines = c
        .exec_with(&["--cgroup", "below"], &["cat", "/proc/self/cgroup"])
        .success()
        .stdout;
    let line = by_version(
        "pids",
        format!(":pids:{}/below\n", b.cgroup),
        format!("0::{}/below\n", b.cgroup),
    );
    assert_has!(lines, line);
    c.exec_with(&["--cgroup", "none"], &["true"]).failure();
    assert_has!(
        c.exec_with(&["--cgroup", "nosuch:below"], &["true"])
            .failure(),
        "unknown controller nosuch"
    );
}

fn exec_into_a_sub_cgroup_of_one_controller() {
    only_hull!("runc 1.1.5 has another option");
    if cgroups::version("pids") == Version::V2 {
        skip!("v2 has one tree for all");
    }
    let b = Bundle::sleeper();
    let c = b.started();
    fs::create_dir(b.cgroup_dir("pids").join("below")).unwrap();
    let lines = c
        .exec_with(&["--cgroup", "pids:below"], &["cat", "/proc/self/cgroup"])
        .success()
        .stdout;
    assert_has!(lines, &format!(":pids:{}/below\n", b.cgroup)[..]);
    assert_has!(lines, &format!(":cpu:{}\n", b.cgroup)[..]);
}

/// Lets the container write to the cgroups that it sees.
fn writable_tree(b: &mut Bundle) {
    for m in b.spec["mounts"].as_array_mut().unwrap() {
        if m["destination"] == "/sys/fs/cgroup" {
            m["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }
    }
}

/// A container in which a runtime can make containers: every capability that the suite has, a
/// writable cgroup tree, and no masked paths.
fn container_for_runtimes() -> Bundle {
    let mut b = Bundle::new();
    b.add_caps(&[
        "CAP_SYS_ADMIN",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_ADMIN",
        "CAP_SYS_CHROOT",
        "CAP_FSETID",
        "CAP_SYS_PTRACE",
    ]);
    for path in ["/linux/maskedPaths", "/linux/readonlyPaths"] {
        b.set(path, json!([]));
    }
    b.set(
        "/linux/resources",
        json!({ "devices": [{ "allow": true, "access": "rwm" }] }),
    );
    writable_tree(&mut b);
    let program = b.runtime.program.clone();
    b.mount(
        "/bin/hull",
        "bind",
        program.to_str().unwrap(),
        &["bind", "ro"],
    )
    .mount("/tmp", "tmpfs", "tmpfs", &[]);
    fs::write(b.rootfs().join("bin/hull"), "").unwrap();
    b
}

/// Runs a script in the outer container, which has an inner bundle with a limit at /mnt.
fn nested(with_namespace: bool, limit: Value, script: &str) -> (Bundle, Output) {
    let mut inner = Bundle::limited(&limit);
    inner.remove("/linux/cgroupsPath");
    inner.write();
    let mut b = container_for_runtimes();
    if with_namespace {
        b.push("/linux/namespaces", json!({ "type": "cgroup" }));
    }
    b.mount(
        "/mnt",
        "bind",
        inner.dir.to_str().unwrap(),
        &["rbind", "rw"],
    );
    let hull = "hull() { /bin/hull --root /tmp/state \"$@\"; }; set -e";
    b.args(&["/bin/sh", "-c", &format!("{hull}; {script}")]);
    let out = b.run();
    (b, out)
}

fn nested_runtime_with_a_cgroup_namespace() {
    only_hull!("the inner runtime is hull");
    let file = by_version(
        "pids",
        "/sys/fs/cgroup/pids/inner/pids.max",
        "/sys/fs/cgroup/inner/pids.max",
    );
    let script = format!(
        "hull run -d -b /mnt inner; hull exec inner cat /proc/self/cgroup; cat {file}; hull \
            delete -f inner; test ! -e {file} && echo gone"
    );
    let (_, out) = nested(true, json!({ "pids": { "limit": 77 } }), &script);
    let said = out.success().stdout;
    assert_has!(said, by_version("pids", ":pids:/inner\n", "0::/inner\n"));
    assert_has!(said, "77\ngone\n");
    if cgroups::version("memory") == Version::V1 {
        return;
    }
    // A cgroup with processes cannot delegate the memory controller: hull says so. The usual remedy
    // is to move the processes into a cgroup below.
    let limit = json!({ "memory": { "limit": 64 << 20 } });
    let (_, out) = nested(true, limit.clone(), "hull run -d -b /mnt inner");
    assert_has!(out.failure(), "this cgroup has processes of its own");
    let down = "mkdir /sys/fs/cgroup/own; for p in $(cat /sys/fs/cgroup/cgroup.procs); do echo $p \
        >/sys/fs/cgroup/own/cgroup.procs || true; done";
    let script = format!(
        "{down}; hull run -d -b /mnt inner; cat /sys/fs/cgroup/inner/memory.max; hull delete -f \
            inner"
    );
    assert_eq!(
        nested(true, limit, &script).1.success().stdout,
        format!("{}\n", 64 << 20)
    );
}

/// v1: below the outer container's own cgroup, which is all that the container sees. v2: beside it,
/// since the container sees the whole tree.
fn nested_runtime_without_a_cgroup_namespace() {
    only_hull!("the inner runtime is hull");
    if cgroups::by_systemd() {
        skip!("systemd owns the cgroups beside it");
    }
    let name = format!("hull-test-{}-inner", std::process::id());
    let script = format!(
        "hull run -d -b /mnt {name}; hull exec {name} cat /proc/self/cgroup; hull delete -f {name}"
    );
    let (b, out) = nested(false, json!({ "pids": { "limit": 77 } }), &script);
    let said = out.success().stdout;
    assert_has!(
        said,
        by_version(
            "pids",
            format!(":pids:{}/{name}\n", b.cgroup),
            format!("0::/{name}\n")
        )
    );
}

/// A v2 cgroup of the test's own.
struct Own(PathBuf);

impl Own {
    fn new(controllers: &str) -> Self {
        if !cgroups::is_pure_v2() || cgroups::by_systemd() {
            skip!("this host has no v2 tree in which the test may make cgroups");
        }
        let (_, root) = cgroups::hierarchy("memory").expect("a memory controller");
        fs::write(root.join("cgroup.subtree_control"), controllers).unwrap();
        let dir = root.join(format!("hull-test-{}-own", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, below: &str) -> String {
        format!("/{}/{below}", self.0.file_name().unwrap().display())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // The test itself may be in the cgroup.
        fs::write(self.0.parent().unwrap().join("cgroup.procs"), "0").ok();
        for d in leaks::cgroups(&self.0.file_name().unwrap().display().to_string()) {
            fs::remove_dir(d).ok();
        }
    }
}

fn limit_below_a_cgroup_with_processes_is_an_error() {
    only_hull!("runc 1.1.5 has another error message");
    let own = Own::new("+memory +pids");
    fs::write(own.0.join("cgroup.procs"), "0").unwrap();
    let mut b = Bundle::limited(&json!({ "memory": { "limit": 64 << 20 } }));
    b.set("/linux/cgroupsPath", json!(own.path("container")));
    let error = b.try_create(&[]).1.failure();
    assert_has!(
        error,
        "cannot set memory limit: this cgroup has processes of its own, and on v2 an inner cgroup \
            may not"
    );
    // Without a limit no controller is needed.
    b.remove("/linux/resources");
    drop(b.started());
}

fn limit_below_a_threaded_cgroup_is_an_error() {
    only_hull!("runc 1.1.5 has another error message");
    let own = Own::new("+memory +pids");
    fs::create_dir(own.0.join("threads")).unwrap();
    fs::write(own.0.join("threads/cgroup.type"), "threaded").unwrap();
    let mut b = Bundle::limited(&json!({ "memory": { "limit": 64 << 20 } }));
    b.set("/linux/cgroupsPath", json!(own.path("container")));
    let error = b.try_create(&[]).1.failure();
    assert!(
        error.contains("in an invalid state") || error.contains("this cgroup is threaded"),
        "{error}"
    );
}

/// An ordinary user's bundle that asks for limits.
fn ordinary(limits: Value) -> Bundle {
    let mut b = Bundle::of_ordinary_user();
    b.runtime.global.retain(|flag| flag != "--systemd-cgroup");
    b.args(&["sleep", "1000"]).set("/linux/resources", limits);
    b
}

fn ordinary_user_without_rights_stays_in_the_callers_cgroup() {
    only_hull!("runc 1.1.5 has another error message");
    if cgroups::by_systemd() {
        skip!("this test does not use systemd");
    }
    let error = ordinary(json!({ "pids": { "limit": 20 } }))
        .try_create(&[])
        .1
        .failure();
    assert_has!(error, "cannot set pids limit");
    let mut b = ordinary(json!({}));
    b.write();
    let plan = b.call(&["plan", b.dir.to_str().unwrap()]).success().stdout;
    assert!(
        plan.lines().any(|l| l.starts_with("fallback: ")
            && l.contains("the container stays in the caller's cgroup")),
        "{plan}"
    );
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let line = own
        .lines()
        .find(|l| l.contains(by_version("pids", ":pids:", "0::")))
        .unwrap();
    assert_has!(b.output_of("cat /proc/self/cgroup"), line);
}

/// A cgroup that is delegated as a service manager does it: the user owns the files that one needs
/// to make children.
fn ordinary_user_in_a_delegated_tree_has_limits() {
    let own = Own::new("+memory +pids +cpu");
    for name in [
        "",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    ] {
        std::os::unix::fs::chown(
            own.0.join(name),
            Some(users::ORDINARY),
            Some(users::ORDINARY),
        )
        .unwrap();
    }
    fs::create_dir(own.0.join("session")).unwrap();
    for name in ["", "cgroup.procs"] {
        std::os::unix::fs::chown(
            own.0.join("session").join(name),
            Some(users::ORDINARY),
            Some(users::ORDINARY),
        )
        .unwrap();
    }
    fs::write(own.0.join("session/cgroup.procs"), "0").unwrap();
    let b = ordinary(
        json!({ "pids": { "limit": 9 }, "memory": { "limit": 32 << 20 }, "cpu": { "quota": 10_000, "period": 50_000 } }),
    );
    let c = b.started();
    let dir = own.0.join(&b.id);
    assert_enforced(&b, &dir);
    until("a throttled period", || {
        c.exec(&[
            "/bin/sh",
            "-c",
            "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done",
        ])
        .success();
        counter(
            &fs::read_to_string(dir.join("cpu.stat")).unwrap(),
            "nr_throttled",
        ) > 0
    });
    drop(c);
    assert!(!dir.exists());
}

/// Asserts that the limits of pids (9) and memory (32 MiB) are set and enforced, and can be
/// updated.
fn assert_enforced(b: &Bundle, dir: &Path) {
    let read = |name: &str| {
        fs::read_to_string(dir.join(name))
            .unwrap_or_else(|e| panic!("{}/{name}: {e}", dir.display()))
    };
    assert_eq!(
        (read("pids.max"), read("memory.max")),
        ("9\n".into(), format!("{}\n", 32 << 20))
    );
    let exec = |script: &str| b.call(&["exec", &b.id, "/bin/sh", "-c", script]);
    assert_has!(
        exec("for i in 1 2 3 4 5 6 7 8 9 10; do /bin/sleep 2 & done; wait").stderr,
        "can't fork"
    );
    assert!(counter(&read("pids.events"), "max") > 0);
    exec("tail /dev/zero");
    assert!(counter(&read("memory.events"), "oom_kill") > 0);
    b.call(&["update", "--pids-limit", "30", &b.id]).success();
    assert_eq!(read("pids.max"), "30\n");
    exec("for i in 1 2 3 4 5 6 7 8 9 10; do /bin/sleep 1 & done; wait").success();
    b.call(&["pause", &b.id]).success();
    assert_eq!(read("cgroup.freeze"), "1\n");
    b.call(&["resume", &b.id]).success();
}

/// The user that has an account in the test VM.
const USER: u32 = 1000;

/// A bundle for the systemd instance of that user.
fn by_systemd_of_the_user(limits: Value) -> Bundle {
    if !cgroups::by_systemd() || !Path::new("/run/systemd/system").exists() {
        skip!("systemd is not the first process here");
    }
    let mut command = std::process::Command::new("systemctl");
    command.args(["start", "user@1000.service"]);
    runtime::finish(command, runtime::LIMIT).success();
    let mut b = Bundle::new();
    spec::make_rootless(&mut b.spec, USER, USER);
    b.runtime.user = Some(USER);
    b.runtime
        .env
        .push(("XDG_RUNTIME_DIR".into(), format!("/run/user/{USER}")));
    b.runtime.env.push((
        "DBUS_SESSION_BUS_ADDRESS".into(),
        format!("unix:path=/run/user/{USER}/bus"),
    ));
    let name = b
        .cgroup
        .rsplit('/')
        .next()
        .unwrap()
        .trim_end_matches(".scope")
        .to_owned();
    let (prefix, number) = name.rsplit_once('-').unwrap();
    b.args(&["sleep", "1000"])
        .set("/linux/resources", limits)
        .set(
            "/linux/cgroupsPath",
            json!(format!("user.slice:{prefix}:{number}")),
        );
    fixture::give_to(&b.dir, USER, USER);
    b.cgroup = format!("/user.slice/user-{USER}.slice/user@{USER}.service/user.slice/{name}.scope");
    b
}

fn ordinary_user_by_systemd_has_limits() {
    let b =
        by_systemd_of_the_user(json!({ "pids": { "limit": 9 }, "memory": { "limit": 32 << 20 } }));
    let c = b.started();
    let dir = b.cgroup_dir("pids");
    assert_has!(c.proc_file("cgroup"), &format!("0::{}\n", b.cgroup)[..]);
    assert_enforced(&b, &dir);
    drop(c);
    until("the scope's end", || !dir.exists());
}

fn ordinary_user_by_systemd_may_not_have_what_is_not_delegated() {
    let b = by_systemd_of_the_user(json!({ "cpu": { "cpus": "0" } }));
    let given = fs::read_to_string(
        "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers",
    )
    .unwrap();
    if given.contains("cpuset") {
        skip!("this systemd delegates cpuset to its users");
    }
    assert_has!(b.try_create(&[]).1.failure(), "cannot set cpuset limit");
}
