//! `linux.cgroupsPath`: the cgroup that a container's processes are in, and the mount of `cgroup`
//! in the container.

use crate::support::Bundle;
use crate::support::cgroups::{self, Version};
use serde_json::json;
use std::fs;

tests![
    container_is_in_its_cgroup_everywhere,
    exec_is_in_the_cgroup,
    relative_cgroups_path_is_below_the_callers_cgroup,
    nested_cgroups_path,
    cgroup_mount_shows_the_own_cgroup_read_only,
    cgroup_mount_in_a_cgroup_namespace,
    existing_cgroup_is_used,
    start_in_a_frozen_cgroup_does_not_hang,
];

/// The controllers that a v1 tree may have; v2 lists all but `devices` and `freezer`.
const CONTROLLERS: &[&str] = &[
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
];

fn mounted() -> impl Iterator<Item = &'static str> {
    CONTROLLERS
        .iter()
        .copied()
        .filter(|c| cgroups::hierarchy(c).is_some())
}

fn container_is_in_its_cgroup_everywhere() {
    let b = Bundle::sleeper();
    let c = b.started();
    assert!(mounted().count() >= 6);
    for controller in mounted() {
        assert_eq!(
            b.cgroup_file(controller, "cgroup.procs"),
            c.pid_in_cgroup().to_string(),
            "{controller}"
        );
    }
}

fn exec_is_in_the_cgroup() {
    let b = Bundle::sleeper();
    let c = b.started();
    let of = |who: &str| {
        c.exec(&["cat", &format!("/proc/{who}/cgroup")])
            .success()
            .stdout
    };
    assert_eq!(of("self"), of("1"));
    assert_has!(of("self"), b.cgroup_in_container());
}

fn only_cgroupfs() {
    if cgroups::by_systemd() {
        skip!("systemd does not take such a path");
    }
}

fn relative_cgroups_path_is_below_the_callers_cgroup() {
    only_cgroupfs();
    let mut b = Bundle::sleeper();
    let name = b.cgroup.trim_start_matches('/').to_owned();
    b.set("/linux/cgroupsPath", json!(name));
    let c = b.started();
    assert_has!(c.proc_file("cgroup"), &format!("/{name}\n")[..]);
}

fn nested_cgroups_path() {
    only_cgroupfs();
    let mut b = Bundle::sleeper();
    let nested = format!("{}/inner", b.cgroup);
    b.set("/linux/cgroupsPath", json!(nested));
    let c = b.started();
    let line = cgroups::by_version(
        "pids",
        format!(":pids:{nested}\n"),
        format!("0::{nested}\n"),
    );
    assert_has!(c.proc_file("cgroup"), line);
    let dir = b.cgroup_dir("pids").join("inner");
    assert!(dir.exists());
    drop(c);
    assert!(!dir.exists());
    // The runtime does not remove the parent.
    for d in crate::support::leaks::cgroups(b.cgroup.trim_start_matches('/')) {
        fs::remove_dir(d).unwrap();
    }
}

/// The mounts of v1 show the container's own cgroup. That of v2 without a cgroup namespace shows
/// the whole tree, as under runc.
fn cgroup_mount_shows_the_own_cgroup_read_only() {
    let mut b = Bundle::new();
    if cgroups::is_pure_v2() {
        let text = b.output_of(
            "cat /sys/fs/cgroup$(sed -n s/^0:://p \
            /proc/self/cgroup)/cgroup.procs; mkdir /sys/fs/cgroup/x 2>&1; true",
        );
        assert!(
            text.lines().any(|l| l == "1"),
            "the first process is in the cgroup that is shown:\n{text}"
        );
        assert_has!(text, "Read-only file system");
        return;
    }
    let text = b.output_of(
        "ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs | head -1; \
        mkdir /sys/fs/cgroup/pids/x 2>&1; mkdir /sys/fs/cgroup/x 2>&1; true",
    );
    assert_has!(text, "pids");
    assert_has!(text, "memory");
    assert!(
        text.lines().any(|l| l == "1"),
        "the first process is in the cgroup that is shown:\n{text}"
    );
    assert_has!(text, "'/sys/fs/cgroup/pids/x': Read-only file system");
    assert_eq!(text.matches("can't create").count(), 2, "{text}");
}

fn cgroup_mount_in_a_cgroup_namespace() {
    let mut b = Bundle::new();
    b.push("/linux/namespaces", json!({ "type": "cgroup" }));
    if cgroups::is_pure_v2() {
        let text = b.output_of(
            "head -1 /sys/fs/cgroup/cgroup.procs; cat /proc/self/cgroup; grep \
            -c ' - cgroup2 ' /proc/self/mountinfo; cat /sys/fs/cgroup/cgroup.controllers",
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["1", "0::/", "1"], "{text}");
        assert_has!(lines[3], "pids");
        return;
    }
    let text = b.output_of(
        "cat /sys/fs/cgroup/pids/cgroup.procs | head -1; cat /proc/self/cgroup \
        | grep pids; grep -c ' - cgroup ' /proc/self/mountinfo",
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "1");
    assert!(lines[1].ends_with(":pids:/"), "{text}");
    assert!(lines[2].parse::<u32>().unwrap() >= 8, "{text}");
}

fn existing_cgroup_is_used() {
    only_cgroupfs();
    let b = Bundle::sleeper();
    for controller in mounted() {
        fs::create_dir_all(b.cgroup_dir(controller)).unwrap();
    }
    let c = b.started();
    assert_eq!(
        b.cgroup_file("pids", "cgroup.procs"),
        c.pid_in_cgroup().to_string()
    );
}

fn start_in_a_frozen_cgroup_does_not_hang() {
    only_cgroupfs();
    let b = Bundle::sleeper();
    let dir = b.cgroup_dir("freezer");
    fs::create_dir(&dir).unwrap();
    let of_v1 = cgroups::hierarchy("freezer").is_some_and(|(version, _)| version == Version::V1);
    let (file, frozen, thawed) = if of_v1 {
        ("freezer.state", "FROZEN", "THAWED")
    } else {
        ("cgroup.freeze", "1", "0")
    };
    fs::write(dir.join(file), frozen).unwrap();
    let (c, out) = b.try_create(&[]);
    drop(c);
    fs::write(dir.join(file), thawed).ok();
    fs::remove_dir(dir).ok();
    assert_has!(out.failure(), "frozen");
}
