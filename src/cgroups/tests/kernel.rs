//! Tests on the host's own tree. Each one makes cgroups named `/hull-test-...` and removes them,
//! also when it fails.

use super::fake::{request, resources};
use crate::cgroups::group::Group;
use crate::cgroups::plan::{Plan, plan};
use crate::cgroups::request::CgroupRequest;
use crate::cgroups::tree::{Tree, Version};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs::{read_to_string, write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A unique name of a cgroup, which is removed with this value.
pub struct Name(pub String);

impl Name {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(format!(
            "/hull-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        for hierarchy in super::here().hierarchies {
            let dir = format!("{}{}", hierarchy.mount_point, self.0);
            let _ = write(format!("{dir}/freezer.state"), "THAWED");
            for pid in crate::cgroups::directory::pids_below(&dir).unwrap_or_default() {
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            }
            let _ = crate::cgroups::directory::remove_dir(&dir);
        }
    }
}

/// The controllers that the root of the v2 tree gives to its children, restored at the end. Only
/// one of all tests on the host has it at a time.
pub struct RootControl {
    before: Option<(String, String)>,
    _alone: Option<std::fs::File>,
}

impl RootControl {
    pub fn keep() -> Self {
        let v2 = super::here()
            .hierarchies
            .into_iter()
            .find(|h| h.version == Version::V2);
        let file = v2.map(|h| format!("{}/cgroup.subtree_control", h.mount_point));
        let alone = file.as_ref().map(|f| std::fs::File::open(f).unwrap());
        alone.iter().for_each(|f| f.lock().unwrap());
        Self {
            before: file.map(|f| (read_to_string(&f).unwrap(), f)),
            _alone: alone,
        }
    }
}

impl Drop for RootControl {
    fn drop(&mut self) {
        let Some((before, file)) = &self.before else {
            return;
        };
        for controller in read_to_string(file).unwrap_or_default().split_whitespace() {
            if !before.split_whitespace().any(|c| c == controller) {
                let _ = write(file, format!("-{controller}"));
            }
        }
    }
}

/// A program that is killed at the end of the test.
pub struct Program(pub Child);

impl Program {
    pub fn new(script: &str) -> Self {
        Self(
            Command::new("sh")
                .args(["-c", script])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn planned(request: &CgroupRequest) -> Plan {
    plan(request, &super::here()).unwrap()
}

/// Whether the host has a v1 hierarchy with the controller; prints that it does not.
pub fn has_v1(controller: &str) -> bool {
    let tree = super::here();
    let has = tree
        .hierarchies
        .iter()
        .any(|h| h.version == Version::V1 && h.controllers.iter().any(|c| c == controller));
    if !has {
        eprintln!("skipped: no v1 hierarchy of {controller} is mounted here");
    }
    has && may_write()
}

pub fn may_write() -> bool {
    let may = super::here().hierarchies.iter().all(|h| h.writable);
    if !may {
        eprintln!("skipped: no right to make cgroups here");
    }
    may
}

pub fn value(group: &Group, controller: &str, file: &str) -> String {
    read_to_string(format!("{}/{file}", group.dir(controller).unwrap()))
        .unwrap()
        .trim_end()
        .to_owned()
}

#[test]
fn created_joined_found_again_and_removed() {
    if !may_write() {
        return;
    }
    let name = Name::new();
    let plan = planned(&request(Some(&name.0), None));
    let mut group = Group::create(&plan).unwrap();
    group.apply(&plan).unwrap();
    let program = Program::new("exec sleep 100");
    group.add(program.pid()).unwrap();
    group.commit();
    let record = serde_json::to_string(&group.record()).unwrap();
    drop(group);

    let mut group = Group::open(&serde_json::from_str(&record).unwrap());
    assert!(group.pids(true).unwrap().contains(&program.pid()));
    let own = read_to_string(format!("/proc/{}/cgroup", program.pid())).unwrap();
    let in_it = own.lines().filter(|line| line.ends_with(&name.0)).count();
    assert_eq!(in_it, plan.places.len(), "{own}");
    group.kill(Signal::SIGKILL).unwrap();
    group.remove().unwrap();
    assert!(group.dirs().all(|dir| !std::path::Path::new(dir).exists()));
    group.remove().unwrap();
}

#[test]
fn an_uncommitted_group_leaves_nothing_not_even_parents() {
    if !may_write() {
        return;
    }
    let name = Name::new();
    let plan = planned(&request(Some(&format!("{}/a/b", name.0)), None));
    let group = Group::create(&plan).unwrap();
    let dirs: Vec<String> = group.dirs().map(str::to_owned).collect();
    assert!(dirs.iter().all(|dir| std::path::Path::new(dir).exists()));
    drop(group);
    for dir in dirs {
        assert!(
            !std::path::Path::new(dir.trim_end_matches("/a/b")).exists(),
            "{dir}"
        );
    }
}

#[test]
fn a_child_that_writes_0_to_each_fd_is_in_every_v1_cgroup() {
    if !has_v1("memory") {
        return;
    }
    let name = Name::new();
    let plan = planned(&request(Some(&name.0), None));
    let group = Group::create(&plan).unwrap();
    let fds = group.join_fds().unwrap();
    assert_eq!(
        fds.len(),
        plan.places
            .iter()
            .filter(|p| p.version == Version::V1)
            .count()
    );
    // The shell joins as hull's child would; `exec` keeps the process.
    let paths: Vec<String> = group
        .dirs()
        .filter(|d| std::path::Path::new(&format!("{d}/tasks")).exists())
        .map(|d| format!("{d}/tasks"))
        .collect();
    let script = format!(
        "for f in {}; do echo 0 > $f; done; echo in; exec sleep 100",
        paths.join(" ")
    );
    let mut program = Program::new(&script);
    let mut answer = [0; 3];
    std::io::Read::read_exact(program.0.stdout.as_mut().unwrap(), &mut answer).unwrap();
    assert_eq!(group.pids(false).unwrap(), [program.pid()]);
    group.kill(Signal::SIGKILL).unwrap();
}

#[test]
fn limits_are_read_back_from_the_kernel() {
    if !has_v1("memory") || !has_v1("cpu") || !has_v1("pids") {
        return;
    }
    let name = Name::new();
    let r = resources(
        r#"{"memory":{"limit":67108864,"swap":134217728,"reservation":33554432,"swappiness":10,
            "disableOOMKiller":true},
        "cpu":{"shares":512,"quota":20000,"period":50000,"burst":5000,"cpus":"0","mems":"0"},
            "pids":{"limit":7}}"#,
    );
    let plan = planned(&request(Some(&name.0), Some(&r)));
    let mut group = Group::create(&plan).unwrap();
    group.apply(&plan).unwrap();
    for (controller, file, expected) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "20000"),
        ("cpu", "cpu.cfs_period_us", "50000"),
        ("cpu", "cpu.cfs_burst_us", "5000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "7"),
    ] {
        assert_eq!(value(&group, controller, file), expected, "{file}");
    }
    assert!(value(&group, "memory", "memory.oom_control").contains("oom_kill_disable 1"));
    // All values are raised, then lowered, past values that forbid the wrong order.
    for (limit, swap) in [(268_435_456u64, 536_870_912u64), (33_554_432, 33_554_432)] {
        let r = resources(&format!(
            r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#
        ));
        group
            .apply_limits(&planned(&request(Some(&name.0), Some(&r))))
            .unwrap();
        assert_eq!(
            value(&group, "memory", "memory.limit_in_bytes"),
            limit.to_string()
        );
        assert_eq!(
            value(&group, "memory", "memory.memsw.limit_in_bytes"),
            swap.to_string()
        );
    }
    for (quota, period, burst) in [
        (400_000, 100_000, 300_000),
        (2_000, 2_000, 1_000),
        (200_000, 1_000_000, 150_000),
    ] {
        let r = resources(&format!(
            r#"{{"cpu":{{"quota":{quota},"period":{period},"burst":{burst}}}}}"#
        ));
        group
            .apply_limits(&planned(&request(Some(&name.0), Some(&r))))
            .unwrap();
        assert_eq!(value(&group, "cpu", "cpu.cfs_quota_us"), quota.to_string());
        assert_eq!(value(&group, "cpu", "cpu.cfs_burst_us"), burst.to_string());
    }
}

#[test]
fn a_value_that_the_kernel_refuses_is_named() {
    if !has_v1("memory") {
        return;
    }
    let name = Name::new();
    let r = resources(r#"{"memory":{"limit":67108864,"swap":1048576}}"#);
    let plan = planned(&request(Some(&name.0), Some(&r)));
    let mut group = Group::create(&plan).unwrap();
    let error = group.apply(&plan).unwrap_err().to_string();
    let expected = format!(
        "write 1048576 to /sys/fs/cgroup/memory{}/memory.memsw.limit_in_bytes: invalid argument",
        name.0
    );
    assert!(
        error.contains("cannot set memory limit (linux.resources.memory.swap)")
            && error.contains(&expected),
        "{error}"
    );
}

#[test]
fn device_rules_act() {
    if !has_v1("devices") {
        return;
    }
    let name = Name::new();
    let r = resources(
        r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":10,"minor":228,"access":"r"}]}"#,
    );
    let mut wish = request(Some(&name.0), Some(&r));
    wish.device_rules = true;
    let plan = planned(&wish);
    let mut group = Group::create(&plan).unwrap();
    group.apply(&plan).unwrap();
    let list = value(&group, "devices", "devices.list");
    assert!(list.lines().any(|line| line == "c 10:228 r"), "{list}");
    let tasks = format!("{}/tasks", group.dir("devices").unwrap());
    // The console of the kernel's log is 1:11, in no default list.
    let script = format!(
        "echo 0 > {tasks}; echo x > /dev/null && head -c0 /dev/zero && ! head -c0 /dev/kmsg \
            2>/dev/null && echo yes"
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "yes\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_cgroup_with_processes_is_refused() {
    if !may_write() {
        return;
    }
    let name = Name::new();
    let plan = planned(&request(Some(&name.0), None));
    let group = Group::create(&plan).unwrap();
    // An empty cgroup may exist before: engines make cgroups themselves.
    drop(Group::create(&plan).unwrap());
    assert!(group.dirs().all(|dir| std::path::Path::new(dir).exists()));
    let program = Program::new("exec sleep 100");
    group.add(program.pid()).unwrap();
    let error = Group::create(&plan).unwrap_err().to_string();
    assert!(
        error.contains("container's cgroup is not empty: 1 process(es) found"),
        "{error}"
    );
    group.kill(Signal::SIGKILL).unwrap();
}

#[test]
fn frozen_thawed_and_killed_while_frozen() {
    if !may_write() {
        return;
    }
    let name = Name::new();
    let plan = planned(&request(Some(&name.0), None));
    let mut group = Group::create(&plan).unwrap();
    let mut program = Program::new("while :; do sleep 0.01; done");
    group.add(program.pid()).unwrap();
    assert!(!group.frozen().unwrap());
    group.freeze().unwrap();
    assert!(group.frozen().unwrap());
    // Another signal than SIGKILL leaves it frozen.
    group.kill(Signal::SIGTERM).unwrap();
    assert!(group.frozen().unwrap());
    assert!(program.0.try_wait().unwrap().is_none());
    group.thaw().unwrap();
    assert!(!group.frozen().unwrap());
    assert!(program.0.wait().unwrap().code().is_none());

    let mut program = Program::new("trap '' TERM; while :; do sleep 0.01; done");
    group.add(program.pid()).unwrap();
    group.freeze().unwrap();
    group.kill(Signal::SIGKILL).unwrap();
    program.0.wait().unwrap();
    group.remove().unwrap();
}

#[test]
fn a_frozen_cgroup_is_refused_and_not_waited_in() {
    if !may_write() {
        return;
    }
    let name = Name::new();
    let outer = planned(&request(Some(&name.0), None));
    let group = Group::create(&outer).unwrap();
    group.freeze().unwrap();
    for path in [name.0.clone(), format!("{}/inner", name.0)] {
        let error = Group::create(&planned(&request(Some(&path), None)))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("container's cgroup unexpectedly frozen"),
            "{error}"
        );
    }
    group.thaw().unwrap();
}

#[test]
fn a_fork_bomb_is_killed_and_sub_cgroups_are_removed() {
    if !has_v1("pids") {
        return;
    }
    let name = Name::new();
    let r = resources(r#"{"pids":{"limit":100}}"#);
    let plan = planned(&request(Some(&name.0), Some(&r)));
    let mut group = Group::create(&plan).unwrap();
    group.apply(&plan).unwrap();
    let sub = format!("{}/sub", group.dir("freezer").unwrap());
    std::fs::create_dir(&sub).unwrap();
    let mut program =
        Program::new("sleep 0.3; b() { while :; do b & sleep 0.01; done; }; b 2>/dev/null");
    group.add(program.pid()).unwrap();
    let full = || !value(&group, "pids", "pids.events").ends_with("max 0");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !full() && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pids = group.pids(true).unwrap();
    write(
        format!("{sub}/cgroup.procs"),
        pids[pids.len() - 1].to_string(),
    )
    .unwrap();
    let events = value(&group, "pids", "pids.events");
    group.kill(Signal::SIGKILL).unwrap();
    program.0.wait().unwrap();
    group.remove().unwrap();
    assert!(
        !events.ends_with("max 0"),
        "the limit never acted: {events}"
    );
}

#[test]
fn device_rules_act_on_v2_and_are_replaced() {
    let Some(v2) = super::here()
        .hierarchies
        .into_iter()
        .find(|h| h.version == Version::V2 && h.writable)
    else {
        eprintln!("skipped: no cgroup v2 is mounted, or it may not be written");
        return;
    };
    let _root = RootControl::keep();
    // Only the v2 part of the host's tree, so that the rules do not go to a v1 devices hierarchy.
    let name = Name::new();
    let tree = Tree {
        hierarchies: vec![v2],
        uid: 0,
    };
    let attempt = |rules: &str| {
        let r = resources(rules);
        let mut wish = request(Some(&name.0), Some(&r));
        wish.device_rules = true;
        let plan = plan(&wish, &tree).unwrap();
        let mut group = Group::create(&plan).unwrap();
        group.apply_devices(&plan).unwrap();
        group.commit();
        let procs = format!("{}/cgroup.procs", group.dir("devices").unwrap());
        let script = format!(
            "echo 0 > {procs}; head -c0 /dev/zero && echo zero; head -c0 /dev/kmsg && echo kmsg; \
                echo > /dev/kmsg && echo write"
        );
        let output = Command::new("sh")
            .args(["-c", &script])
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let programs = crate::sys::bpf::device_programs(group.clone_fd().unwrap())
            .unwrap()
            .len();
        (
            String::from_utf8_lossy(&output.stdout).replace('\n', " "),
            programs,
        )
    };
    assert_eq!(
        attempt(r#"{"devices":[{"allow":false}]}"#),
        ("zero ".to_owned(), 1)
    );
    assert_eq!(
        attempt(r#"{"devices":[{"allow":true,"type":"c","major":1,"access":"r"}]}"#),
        ("zero kmsg ".to_owned(), 1)
    );
    assert_eq!(
        attempt(r#"{"devices":[{"allow":false}]}"#),
        ("zero ".to_owned(), 1)
    );
}
