//! `update`: new limits by flags, a file or standard input; what an error leaves, and what the
//! record keeps.

use crate::support::cgroups::{self, Version};
use crate::support::{Bundle, Container, backend, fixture};
use serde_json::{Value, json};
use std::fs;

tests![
    by_flags,
    by_a_file,
    by_standard_input,
    of_one_value_leaves_the_others,
    of_a_stopped_container,
    with_wrong_values_is_an_error,
    is_all_or_nothing_and_remembered,
    takes_sizes_with_units,
    of_memory_keeps_a_container_without_swap,
];

/// A file of a container's cgroup, in the hierarchy of v1 and in that of v2.
#[derive(Clone, Copy)]
struct File {
    /// The controller, by its v1 name.
    controller: &'static str,
    v1: &'static str,
    v2: &'static str,
}

const MEMORY: File = File {
    controller: "memory",
    v1: "memory.limit_in_bytes",
    v2: "memory.max",
};
const SWAP: File = File {
    controller: "memory",
    v1: "memory.memsw.limit_in_bytes",
    v2: "memory.swap.max",
};
const RESERVATION: File = File {
    controller: "memory",
    v1: "memory.soft_limit_in_bytes",
    v2: "memory.low",
};
const SHARES: File = File {
    controller: "cpu",
    v1: "cpu.shares",
    v2: "cpu.weight",
};
const QUOTA: File = File {
    controller: "cpu",
    v1: "cpu.cfs_quota_us",
    v2: "cpu.max",
};
const PERIOD: File = File {
    controller: "cpu",
    v1: "cpu.cfs_period_us",
    v2: "cpu.max",
};
const PIDS: File = File {
    controller: "pids",
    v1: "pids.max",
    v2: "pids.max",
};
const CPUS: File = File {
    controller: "cpuset",
    v1: "cpuset.cpus",
    v2: "cpuset.cpus",
};

/// A file, and the text that it must have on v1 and on v2.
type Expected<'a> = (File, [&'a str; 2]);

#[track_caller]
fn assert_files(b: &Bundle, files: &[Expected], after: &[&str]) {
    for (File { controller, v1, v2 }, [on_v1, on_v2]) in files {
        assert_eq!(
            b.cgroup_value(controller, v1, v2),
            cgroups::by_version(controller, *on_v1, *on_v2),
            "{v1} or {v2} after {after:?}"
        );
    }
}

#[track_caller]
fn assert_update(c: &Container, flags: &[&str], files: &[Expected]) {
    c.call(&[&["update"], flags].concat()).success();
    assert_files(c.bundle, files, flags);
}

fn by_flags() {
    let b = Bundle::limited(&json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } }));
    let c = b.started();
    let update = |flags: &[&str], files: &[Expected]| assert_update(&c, flags, files);
    update(&["--memory", "134217728"], &[(MEMORY, ["134217728"; 2])]);
    update(
        &["--memory-reservation", "33554432"],
        &[(RESERVATION, ["33554432"; 2])],
    );
    update(&["--pids-limit", "30"], &[(PIDS, ["30"; 2])]);
    update(&["--cpu-share", "200"], &[(SHARES, ["200", "29"])]);
    update(
        &["--cpu-quota", "40000", "--cpu-period", "90000"],
        &[
            (QUOTA, ["40000", "40000 90000"]),
            (PERIOD, ["90000", "40000 90000"]),
        ],
    );
    // The host chooses the CPUs of a VM.
    if !backend::is_vm() {
        update(
            &["--cpuset-cpus", "0", "--cpuset-mems", "0"],
            &[(CPUS, ["0"; 2])],
        );
    }
}

/// `run --memory` limits memory and swap together; so does `update --memory` then.
fn of_memory_keeps_a_container_without_swap() {
    let size = 64 << 20;
    let b = Bundle::limited(&json!({ "memory": { "limit": size, "swap": size } }));
    let c = b.started();
    for bytes in ["134217728", "33554432"] {
        assert_update(
            &c,
            &["--memory", bytes],
            &[(MEMORY, [bytes; 2]), (SWAP, [bytes, "0"])],
        );
    }
}

const NEW: &str = r#"{"memory":{"limit":134217728},"cpu":{"shares":300},"pids":{"limit":44}}"#;
const AFTER_NEW: &[Expected] = &[
    (MEMORY, ["134217728"; 2]),
    (SHARES, ["300", "39"]),
    (PIDS, ["44"; 2]),
];

fn by_a_file() {
    let b = Bundle::sleeper();
    let c = b.started();
    let file = fixture::new_dir("resources").join("r.json");
    fs::write(&file, NEW).unwrap();
    assert_update(&c, &["--resources", file.to_str().unwrap()], AFTER_NEW);
    fs::write(&file, "{ not json").unwrap();
    c.call(&["update", "--resources", file.to_str().unwrap()])
        .failure();
}

fn by_standard_input() {
    for flags in [
        &["update", "--resources", "-"][..],
        &["update", "--resources=-"],
    ] {
        let b = Bundle::sleeper();
        let _c = b.started();
        b.runtime
            .call_with_input(&[flags, &[&b.id]].concat(), NEW)
            .success();
        assert_files(&b, AFTER_NEW, flags);
    }
}

fn of_one_value_leaves_the_others() {
    let b = Bundle::limited(
        &json!({ "memory": { "limit": 64 << 20 }, "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 }, "pids": { "limit": 20 } }),
    );
    let c = b.started();
    let others = [
        (MEMORY, ["67108864"; 2]),
        (SHARES, ["512", "59"]),
        (QUOTA, ["50000", "50000 100000"]),
    ];
    assert_update(&c, &["--pids-limit", "30"], &others);
    if cgroups::version("devices") == Version::V1 {
        assert_has!(b.cgroup_file("devices", "devices.list"), "c 1:3 rwm");
        assert!(
            !b.cgroup_file("devices", "devices.list")
                .contains("a *:* rwm"),
            "the device rules have changed"
        );
    }
    assert_update(
        &c,
        &["--cpu-period", "200000"],
        &[(QUOTA, ["50000", "50000 200000"])],
    );
}

fn of_a_stopped_container() {
    let b = Bundle::sh("true");
    let c = b.started();
    c.wait_for("stopped");
    assert_has!(
        c.call(&["update", "--pids-limit", "30"]).failure(),
        "container not running"
    );
}

fn with_wrong_values_is_an_error() {
    let b = Bundle::sleeper();
    let c = b.started();
    c.call(&["update", "--memory", "many"]).failure();
    c.call(&["update", "--cpuset-cpus", "9999"]).failure();
    c.call(&["update", "--resources", "/no/such/file"])
        .failure();
    assert_eq!(c.status(), "running");
}

/// The next update, and an engine that restarts the container, begin with the values of the record.
fn is_all_or_nothing_and_remembered() {
    only_hull!("runc 1.1.5 leaves what it wrote before the refusal");
    let b = Bundle::limited(&json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } }));
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
        b.cgroup_value("memory", MEMORY.v1, MEMORY.v2),
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

fn takes_sizes_with_units() {
    let mut b = Bundle::limited(&json!({ "memory": { "limit": 64 << 20 } }));
    b.runtime.set_defaults("[vm]\nmemory-max = \"2g\"\n");
    let c = b.started();
    for (size, bytes) in [("96m", 96_u64 << 20), ("1g", 1 << 30), ("0.5G", 512 << 20)] {
        let bytes = bytes.to_string();
        assert_update(&c, &["--memory", size], &[(MEMORY, [&bytes; 2])]);
    }
    let none = (MEMORY, ["9223372036854771712", "max"]);
    assert_update(
        &c,
        &["--pids-limit", "-1", "--memory", "-1"],
        &[(PIDS, ["max"; 2]), none],
    );
}
