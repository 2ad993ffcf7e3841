//! `linux.resources`, read from the cgroups' own files; and `update`, which changes them.

use crate::support::{Bundle, Container, fixture};
use serde_json::{Value, json};
use std::fs;

tests![
    container_is_in_its_cgroup_everywhere,
    exec_is_in_the_cgroup,
    memory_limits,
    memory_limit_ends_the_program,
    memory_swappiness_and_oom_killer,
    cpu_shares_and_quota,
    cpu_sets,
    cpu_idle_and_burst,
    pids_limit,
    pids_limit_of_minus_one_is_none,
    block_io_throttles,
    block_io_weight,
    huge_page_limits,
    network_class_without_its_hierarchy_is_an_error,
    intel_rdt_without_the_kernels_support_is_an_error,
    unknown_controller_in_unified_is_an_error,
    relative_cgroups_path_is_below_the_own,
    nested_cgroups_path,
    cgroup_mount_shows_the_own_cgroup_read_only,
    cgroup_mount_in_a_cgroup_namespace,
    existing_cgroup_is_used,
    update_by_flags,
    update_by_a_file,
    update_by_standard_input,
    update_of_one_value_leaves_the_others,
    update_raises_memory_and_swap_together,
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

const CONTROLLERS: &[&str] = &[
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
];

fn mounted(controller: &str) -> bool {
    std::path::Path::new("/sys/fs/cgroup")
        .join(controller)
        .join("cgroup.procs")
        .exists()
}

fn container_is_in_its_cgroup_everywhere() {
    let b = Bundle::sleeper();
    let c = b.started();
    for controller in CONTROLLERS.iter().filter(|c| mounted(c)) {
        assert_eq!(
            b.cgroup_file(controller, "cgroup.procs"),
            c.pid().to_string(),
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
    assert_has!(of("self"), b.cgroup);
}

fn memory_limits() {
    let b = limited(
        json!({ "memory": { "limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20 } }),
    );
    let _c = b.started();
    assert_eq!(
        b.cgroup_file("memory", "memory.limit_in_bytes"),
        (64 << 20).to_string()
    );
    assert_eq!(
        b.cgroup_file("memory", "memory.soft_limit_in_bytes"),
        (32 << 20).to_string()
    );
    if b.cgroup_dir("memory")
        .join("memory.memsw.limit_in_bytes")
        .exists()
    {
        assert_eq!(
            b.cgroup_file("memory", "memory.memsw.limit_in_bytes"),
            (96 << 20).to_string()
        );
    }
}

fn memory_limit_ends_the_program() {
    let mut b = limited(json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } }));
    b.args(&["/bin/sh", "-c", "tail /dev/zero"]);
    assert_eq!(b.run().status, 137);
}

fn memory_swappiness_and_oom_killer() {
    let b = limited(
        json!({ "memory": { "limit": 64 << 20, "swappiness": 17, "disableOOMKiller": true } }),
    );
    let _c = b.started();
    assert_eq!(b.cgroup_file("memory", "memory.swappiness"), "17");
    assert_has!(
        b.cgroup_file("memory", "memory.oom_control"),
        "oom_kill_disable 1"
    );
}

fn cpu_shares_and_quota() {
    let b = limited(json!({ "cpu": { "shares": 512, "quota": 50_000, "period": 200_000 } }));
    let _c = b.started();
    assert_eq!(b.cgroup_file("cpu", "cpu.shares"), "512");
    assert_eq!(b.cgroup_file("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(b.cgroup_file("cpu", "cpu.cfs_period_us"), "200000");
}

fn cpu_sets() {
    let b = limited(json!({ "cpu": { "cpus": "0", "mems": "0" } }));
    let c = b.started();
    assert_eq!(b.cgroup_file("cpuset", "cpuset.cpus"), "0");
    assert_eq!(c.status_line("Cpus_allowed_list"), "0");
    assert_eq!(
        c.exec(&["grep", "Cpus_allowed_list", "/proc/self/status"])
            .success()
            .stdout,
        "Cpus_allowed_list:\t0\n"
    );
}

fn cpu_idle_and_burst() {
    only_hull!("runc 1.1.5 has neither");
    let b = limited(json!({ "cpu": { "quota": 50_000, "period": 100_000, "burst": 10_000 } }));
    let c = b.started();
    assert_eq!(b.cgroup_file("cpu", "cpu.cfs_burst_us"), "10000");
    drop(c);
    let b = limited(json!({ "cpu": { "idle": 1 } }));
    let _c = b.started();
    assert_eq!(b.cgroup_file("cpu", "cpu.idle"), "1");
}

fn pids_limit() {
    let mut b = limited(json!({ "pids": { "limit": 20 } }));
    let c = b.started();
    assert_eq!(b.cgroup_file("pids", "pids.max"), "20");
    drop(c);
    let said = {
        b.args(&["/bin/sh", "-c", "for i in $(seq 40); do sleep 1000 & done"]);
        b.run()
    };
    assert_has!(said.stderr, "can't fork");
}

fn pids_limit_of_minus_one_is_none() {
    let b = limited(json!({ "pids": { "limit": -1 } }));
    let _c = b.started();
    assert_eq!(b.cgroup_file("pids", "pids.max"), "max");
}

/// The number of the machine's first disk.
fn disk() -> (u64, u64) {
    let name = fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .map(|d| d.file_name())
        .find(|n| {
            let n = n.to_string_lossy();
            !n.starts_with("loop") && !n.starts_with("ram") && !n.starts_with("zram")
        });
    let Some(name) = name else {
        skip!("there is no disk to throttle")
    };
    let text = fs::read_to_string(format!("/sys/block/{}/dev", name.display())).unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn block_io_throttles() {
    let (major, minor) = disk();
    let device = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
    let b = limited(json!({ "blockIO": {
        "throttleReadBpsDevice": device(1_000_000), "throttleWriteBpsDevice": device(2_000_000),
        "throttleReadIOPSDevice": device(300), "throttleWriteIOPSDevice": device(400)
    } }));
    let _c = b.started();
    for (file, rate) in [
        ("read_bps", 1_000_000),
        ("write_bps", 2_000_000),
        ("read_iops", 300),
        ("write_iops", 400),
    ] {
        assert_eq!(
            b.cgroup_file("blkio", &format!("blkio.throttle.{file}_device")),
            format!("{major}:{minor} {rate}")
        );
    }
}

fn block_io_weight() {
    // Every cgroup but the root may have the file: another container tells whether the kernel was built with weights.
    let other = Bundle::sleeper();
    let weight = {
        let _c = other.started();
        ["blkio.weight", "blkio.bfq.weight"]
            .into_iter()
            .find(|f| other.cgroup_dir("blkio").join(f).exists())
    };
    let b = limited(json!({ "blockIO": { "weight": 300 } }));
    let Some(weight) = weight else {
        only_hull!("runc 1.1.5 drops the weight in silence");
        let (c, out) = b.try_create(&[]);
        drop(c);
        // The value cannot be applied, and that is no secret: which controller, and why.
        let error = out.failure();
        assert_has!(error, "cannot set blkio limit");
        assert_has!(error, "this kernel has no blkio.weight");
        return;
    };
    let c = b.started();
    assert_eq!(b.cgroup_file("blkio", weight), "300");
    assert_update(&c, &["--blkio-weight", "400"], &[("blkio", weight, "400")]);
}

fn huge_page_limits() {
    let b = limited(json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }] }));
    if mounted("hugetlb") {
        let _c = b.started();
        assert_eq!(
            b.cgroup_file("hugetlb", "hugetlb.2MB.limit_in_bytes"),
            (4 << 20).to_string()
        );
    } else {
        only_hull!("runc 1.1.5 passes over the v2 side of a hybrid tree");
        let (c, out) = b.try_create(&[]);
        if out.status == 0 {
            assert_eq!(
                b.cgroup_file("unified", "hugetlb.2MB.max"),
                (4 << 20).to_string()
            );
        } else {
            assert_has!(out.failure(), "hugetlb");
        }
        drop(c);
    }
}

fn network_class_without_its_hierarchy_is_an_error() {
    if mounted("net_cls") || mounted("net_cls,net_prio") {
        skip!("net_cls is mounted here");
    }
    only_hull!("runc 1.1.5 passes over it in silence");
    let b = limited(json!({ "network": { "classID": 1_048_577 } }));
    assert_has!(b.try_create(&[]).1.failure(), "net_cls");
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

fn unknown_controller_in_unified_is_an_error() {
    let b = limited(json!({ "unified": { "nosuch.max": "1" } }));
    b.try_create(&[]).1.failure();
}

fn relative_cgroups_path_is_below_the_own() {
    let mut b = Bundle::sleeper();
    let name = b.cgroup.trim_start_matches('/').to_owned();
    b.set("/linux/cgroupsPath", json!(name));
    let c = b.started();
    assert_has!(c.proc_file("cgroup"), &format!("/{name}\n")[..]);
}

fn nested_cgroups_path() {
    let mut b = Bundle::sleeper();
    let nested = format!("{}/inner", b.cgroup);
    b.set("/linux/cgroupsPath", json!(nested));
    let c = b.started();
    assert_has!(c.proc_file("cgroup"), &format!(":pids:{nested}\n")[..]);
    assert!(fs::exists(format!("/sys/fs/cgroup/pids{nested}")).unwrap());
    drop(c);
    assert!(!fs::exists(format!("/sys/fs/cgroup/pids{nested}")).unwrap());
    // The parent is not the runtime's to remove.
    for d in crate::support::leaks::cgroups(b.cgroup.trim_start_matches('/')) {
        fs::remove_dir(d).unwrap();
    }
}

fn cgroup_mount_shows_the_own_cgroup_read_only() {
    let mut b = Bundle::new();
    let text = b.output_of("ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs | head -1; mkdir /sys/fs/cgroup/pids/x 2>&1; mkdir /sys/fs/cgroup/x 2>&1; true");
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
    let text = b.output_of("cat /sys/fs/cgroup/pids/cgroup.procs | head -1; cat /proc/self/cgroup | grep pids; grep -c ' - cgroup ' /proc/self/mountinfo");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "1");
    assert!(lines[1].ends_with(":pids:/"), "{text}");
    assert!(lines[2].parse::<u32>().unwrap() >= 8, "{text}");
}

fn existing_cgroup_is_used() {
    let b = Bundle::sleeper();
    for controller in CONTROLLERS.iter().filter(|c| mounted(c)) {
        fs::create_dir(b.cgroup_dir(controller)).unwrap();
    }
    let c = b.started();
    assert_eq!(b.cgroup_file("pids", "cgroup.procs"), c.pid().to_string());
}

#[track_caller]
fn assert_update(c: &Container, flags: &[&str], files: &[(&str, &str, &str)]) {
    c.call(&[&["update"], flags].concat()).success();
    for (controller, file, value) in files {
        assert_eq!(
            c.bundle.cgroup_file(controller, file),
            *value,
            "{file} after {flags:?}"
        );
    }
}

fn update_by_flags() {
    let b = limited(json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } }));
    let c = b.started();
    assert_update(
        &c,
        &["--memory", "134217728"],
        &[("memory", "memory.limit_in_bytes", "134217728")],
    );
    assert_update(
        &c,
        &["--memory-reservation", "33554432"],
        &[("memory", "memory.soft_limit_in_bytes", "33554432")],
    );
    assert_update(&c, &["--pids-limit", "30"], &[("pids", "pids.max", "30")]);
    assert_update(&c, &["--cpu-share", "200"], &[("cpu", "cpu.shares", "200")]);
    assert_update(
        &c,
        &["--cpu-quota", "40000", "--cpu-period", "90000"],
        &[
            ("cpu", "cpu.cfs_quota_us", "40000"),
            ("cpu", "cpu.cfs_period_us", "90000"),
        ],
    );
    assert_update(
        &c,
        &["--cpuset-cpus", "0", "--cpuset-mems", "0"],
        &[("cpuset", "cpuset.cpus", "0")],
    );
}

const NEW: &str = r#"{"memory":{"limit":134217728},"cpu":{"shares":300},"pids":{"limit":44}}"#;
const SEEN: &[(&str, &str, &str)] = &[
    ("memory", "memory.limit_in_bytes", "134217728"),
    ("cpu", "cpu.shares", "300"),
    ("pids", "pids.max", "44"),
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
        for (controller, file, value) in SEEN {
            assert_eq!(b.cgroup_file(controller, file), *value);
        }
    }
}

fn update_of_one_value_leaves_the_others() {
    let b = limited(
        json!({ "memory": { "limit": 64 << 20 }, "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 }, "pids": { "limit": 20 } }),
    );
    let c = b.started();
    let others = [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
    ];
    assert_update(&c, &["--pids-limit", "30"], &others);
    assert_has!(b.cgroup_file("devices", "devices.list"), "c 1:3 rwm");
    assert!(
        !b.cgroup_file("devices", "devices.list")
            .contains("a *:* rwm"),
        "device rules stay"
    );
    assert_update(
        &c,
        &["--cpu-period", "200000"],
        &[
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("cpu", "cpu.cfs_period_us", "200000"),
        ],
    );
}

/// The limits of memory and of memory with swap bound each other: the order of writing depends on the direction.
fn update_raises_memory_and_swap_together() {
    let b = limited(json!({ "memory": { "limit": 64 << 20, "swap": 64 << 20 } }));
    let c = b.started();
    if !b
        .cgroup_dir("memory")
        .join("memory.memsw.limit_in_bytes")
        .exists()
    {
        skip!("this kernel does not account for swap");
    }
    for limit in ["134217728", "33554432"] {
        let both = [
            ("memory", "memory.limit_in_bytes", limit),
            ("memory", "memory.memsw.limit_in_bytes", limit),
        ];
        assert_update(&c, &["--memory", limit, "--memory-swap", limit], &both);
    }
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
    let refused = c.call(&["update", "--memory", "96m", "--pids-limit", "30", "--cpuset-cpus", "9999"]);
    let error = refused.failure();
    assert_has!(error, "cannot set cpuset limit");
    assert_eq!(b.cgroup_file("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(b.cgroup_file("pids", "pids.max"), "20");
    assert_eq!(recorded(), before);
    c.call(&["update", "--pids-limit", "30"]).success();
    let after = recorded();
    assert_eq!(after["pids"]["limit"], 30);
    assert_eq!(after["memory"]["limit"], 64 << 20);
    assert_eq!(after["devices"], before["devices"]);
}

fn update_takes_sizes_as_people_write_them() {
    let b = limited(json!({ "memory": { "limit": 64 << 20 } }));
    let c = b.started();
    for (size, bytes) in [("96m", 96 << 20), ("1g", 1 << 30), ("0.5G", 512 << 20)] {
        assert_update(&c, &["--memory", size], &[("memory", "memory.limit_in_bytes", &bytes.to_string())]);
    }
    assert_update(&c, &["--pids-limit", "-1", "--memory", "-1"], &[("pids", "pids.max", "max")]);
    let limit = b.cgroup_file("memory", "memory.limit_in_bytes");
    assert!(limit.parse::<u64>().unwrap() > 1 << 60, "{limit}");
}

fn start_in_a_frozen_cgroup_does_not_hang() {
    let b = Bundle::sleeper();
    fs::create_dir(b.cgroup_dir("freezer")).unwrap();
    fs::write(b.cgroup_dir("freezer").join("freezer.state"), "FROZEN").unwrap();
    let (c, out) = b.try_create(&[]);
    drop(c);
    fs::write(b.cgroup_dir("freezer").join("freezer.state"), "THAWED").ok();
    fs::remove_dir(b.cgroup_dir("freezer")).ok();
    assert_has!(out.failure(), "frozen");
}
