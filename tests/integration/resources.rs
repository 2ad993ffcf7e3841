//! Where a container's cgroup is, what it shows of itself, and `update` as a command.

use crate::support::cgroups::{self, Version};
use crate::support::{Bundle, Container, fixture};
use serde_json::{Value, json};
use std::fs;

tests![
    container_is_in_its_cgroup_everywhere,
    exec_is_in_the_cgroup,
    intel_rdt_without_the_kernels_support_is_an_error,
    relative_cgroups_path_is_below_the_own,
    nested_cgroups_path,
    cgroup_mount_shows_the_own_cgroup_read_only,
    cgroup_mount_in_a_cgroup_namespace,
    existing_cgroup_is_used,
    update_by_flags,
    update_by_a_file,
    update_by_standard_input,
    update_of_one_value_leaves_the_others,
    update_of_a_stopped_container,
    update_with_wrong_values_is_an_error,
    update_is_all_or_nothing_and_remembered,
    update_takes_sizes_as_people_write_them,
    start_in_a_frozen_cgroup_does_not_hang,
];

/// A container that sleeps, under limits.
pub fn limited(resources: Value) -> Bundle {
    let mut b = Bundle::sleeper();
    for (name, value) in resources.as_object().unwrap() {
        b.set(&format!("/linux/resources/{name}"), value.clone());
    }
    b
}

/// The controllers that a v1 tree may have; all but `devices` and `freezer` are listed by v2.
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
            c.pid_inside().to_string(),
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
    assert_has!(of("self"), b.cgroup_inside());
}

fn intel_rdt_without_the_kernels_support_is_an_error() {
    if std::path::Path::new("/sys/fs/resctrl").exists() {
        skip!("resctrl is here");
    }
    only_hull!("runc 1.1.5 knows less of it");
    let mut b = Bundle::sleeper();
    b.set(
        "/linux/intelRdt",
        json!({ "closID": "some", "l3CacheSchema": "L3:0=f" }),
    );
    let error = b.try_create(&[]).1.failure();
    assert!(
        error.contains("intelrdt") || error.contains("resctrl") || error.contains("intel rdt"),
        "{error}"
    );
}

fn only_cgroupfs() {
    if cgroups::by_systemd() {
        skip!("systemd names no cgroup so");
    }
}

fn relative_cgroups_path_is_below_the_own() {
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
    // The parent is not the runtime's to remove.
    for d in crate::support::leaks::cgroups(b.cgroup.trim_start_matches('/')) {
        fs::remove_dir(d).unwrap();
    }
}

/// v1's hierarchies show the container's own part. v2 without a cgroup namespace shows the whole
/// tree, as in runc.
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
        c.pid_inside().to_string()
    );
}

/// A file by its two names, and what it must hold in each.
type Seen<'a> = (&'a str, [&'a str; 2], [&'a str; 2]);

#[track_caller]
fn assert_seen(b: &Bundle, files: &[Seen], after: &[&str]) {
    for (controller, [v1, v2], [in_v1, in_v2]) in files {
        assert_eq!(
            b.cgroup_value(controller, v1, v2),
            cgroups::by_version(controller, *in_v1, *in_v2),
            "{v1} or {v2} after {after:?}"
        );
    }
}

#[track_caller]
fn assert_update(c: &Container, flags: &[&str], files: &[Seen]) {
    c.call(&[&["update"], flags].concat()).success();
    assert_seen(c.bundle, files, flags);
}

const LIMIT: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];
const SHARES: [&str; 2] = ["cpu.shares", "cpu.weight"];
const PIDS: [&str; 2] = ["pids.max", "pids.max"];
const QUOTA: [&str; 2] = ["cpu.cfs_quota_us", "cpu.max"];

fn update_by_flags() {
    let b = limited(json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } }));
    let c = b.started();
    assert_update(
        &c,
        &["--memory", "134217728"],
        &[("memory", LIMIT, ["134217728"; 2])],
    );
    assert_update(
        &c,
        &["--memory-reservation", "33554432"],
        &[(
            "memory",
            ["memory.soft_limit_in_bytes", "memory.low"],
            ["33554432"; 2],
        )],
    );
    assert_update(&c, &["--pids-limit", "30"], &[("pids", PIDS, ["30"; 2])]);
    assert_update(
        &c,
        &["--cpu-share", "200"],
        &[("cpu", SHARES, ["200", "29"])],
    );
    let both = [
        ("cpu", QUOTA, ["40000", "40000 90000"]),
        (
            "cpu",
            ["cpu.cfs_period_us", "cpu.max"],
            ["90000", "40000 90000"],
        ),
    ];
    assert_update(
        &c,
        &["--cpu-quota", "40000", "--cpu-period", "90000"],
        &both,
    );
    // A machine's processors are the host's to choose.
    if !crate::support::wall::is_vm() {
        assert_update(
            &c,
            &["--cpuset-cpus", "0", "--cpuset-mems", "0"],
            &[("cpuset", ["cpuset.cpus"; 2], ["0"; 2])],
        );
    }
}

const NEW: &str = r#"{"memory":{"limit":134217728},"cpu":{"shares":300},"pids":{"limit":44}}"#;
const SEEN: &[Seen] = &[
    ("memory", LIMIT, ["134217728"; 2]),
    ("cpu", SHARES, ["300", "39"]),
    ("pids", PIDS, ["44"; 2]),
];

fn update_by_a_file() {
    let b = Bundle::sleeper();
    let c = b.started();
    let file = fixture::new_dir("resources").join("r.json");
    fs::write(&file, NEW).unwrap();
    assert_update(&c, &["--resources", file.to_str().unwrap()], SEEN);
    fs::write(&file, "{ not json").unwrap();
    c.call(&["update", "--resources", file.to_str().unwrap()])
        .failure();
}

fn update_by_standard_input() {
    for flags in [
        &["update", "--resources", "-"][..],
        &["update", "--resources=-"],
    ] {
        let b = Bundle::sleeper();
        let _c = b.started();
        b.runtime
            .call_with_input(&[flags, &[&b.id]].concat(), NEW)
            .success();
        assert_seen(&b, SEEN, flags);
    }
}

fn update_of_one_value_leaves_the_others() {
    let b = limited(
        json!({ "memory": { "limit": 64 << 20 }, "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 }, "pids": { "limit": 20 } }),
    );
    let c = b.started();
    let others = [
        ("memory", LIMIT, ["67108864"; 2]),
        ("cpu", SHARES, ["512", "59"]),
        ("cpu", QUOTA, ["50000", "50000 100000"]),
    ];
    assert_update(&c, &["--pids-limit", "30"], &others);
    if cgroups::version("devices") == Version::V1 {
        assert_has!(b.cgroup_file("devices", "devices.list"), "c 1:3 rwm");
        assert!(
            !b.cgroup_file("devices", "devices.list")
                .contains("a *:* rwm"),
            "device rules stay"
        );
    }
    assert_update(
        &c,
        &["--cpu-period", "200000"],
        &[("cpu", QUOTA, ["50000", "50000 200000"])],
    );
}

fn update_of_a_stopped_container() {
    let b = Bundle::sh("true");
    let c = b.started();
    c.wait_for("stopped");
    assert_has!(
        c.call(&["update", "--pids-limit", "30"]).failure(),
        "container not running"
    );
}

fn update_with_wrong_values_is_an_error() {
    let b = Bundle::sleeper();
    let c = b.started();
    c.call(&["update", "--memory", "many"]).failure();
    c.call(&["update", "--cpuset-cpus", "9999"]).failure();
    c.call(&["update", "--resources", "/no/such/file"])
        .failure();
    assert_eq!(c.status(), "running");
}

/// The values of the record are what the next update, and a restart by an engine, begin with.
fn update_is_all_or_nothing_and_remembered() {
    only_hull!("runc 1.1.5 leaves what it wrote before the refusal");
    let b = limited(json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } }));
    let c = b.started();
    let recorded = || {
        let text = fs::read_to_string(b.runtime.state.join(&b.id).join("state.json")).unwrap();
        let record: Value = serde_json::from_str(&text).unwrap();
        record["spec"]["config"]["linux"]["resources"].clone()
    };
    let before = recorded();
    let refused = c.call(&[
        "update",
        "--memory",
        "96m",
        "--pids-limit",
        "30",
        "--cpuset-cpus",
        "9999",
    ]);
    let error = refused.failure();
    assert_has!(error, "cannot set cpuset limit");
    assert_eq!(
        b.cgroup_value("memory", LIMIT[0], LIMIT[1]),
        (64 << 20).to_string()
    );
    assert_eq!(b.cgroup_file("pids", "pids.max"), "20");
    assert_eq!(recorded(), before);
    c.call(&["update", "--pids-limit", "30"]).success();
    let after = recorded();
    assert_eq!(after["pids"]["limit"], 30);
    assert_eq!(after["memory"]["limit"], 64 << 20);
    assert_eq!(after["devices"], before["devices"]);
}

fn update_takes_sizes_as_people_write_them() {
    let mut b = limited(json!({ "memory": { "limit": 64 << 20 } }));
    crate::support::wall::with_defaults(&mut b.runtime, "memory-max = \"2g\"");
    let c = b.started();
    for (size, bytes) in [("96m", 96_u64 << 20), ("1g", 1 << 30), ("0.5G", 512 << 20)] {
        let bytes = bytes.to_string();
        assert_update(&c, &["--memory", size], &[("memory", LIMIT, [&bytes; 2])]);
    }
    let none = ("memory", LIMIT, ["9223372036854771712", "max"]);
    assert_update(
        &c,
        &["--pids-limit", "-1", "--memory", "-1"],
        &[("pids", PIDS, ["max"; 2]), none],
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
