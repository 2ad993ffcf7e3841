//! Every limit of `linux.resources`: set, read back from the kernel's file, updated, and read
//! again, on the cgroup tree that the host has. A limit that the tree or the kernel lacks is an
//! error that names the controller. And `linux.intelRdt`.

use crate::support::Bundle;
use crate::support::cgroups::{self, Version};
use crate::support::runtime::Output;
use serde_json::{Value, json};
use std::fs;

tests![
    memory,
    memory_swap,
    memory_with_swap_without_a_limit,
    memory_of_v1_alone,
    kernel_memory,
    cpu_bandwidth,
    cpu_shares,
    cpu_idle,
    cpu_sets,
    cpu_real_time,
    pids,
    block_io_throttles,
    block_io_weights,
    block_io_weight_of_a_device,
    huge_pages,
    network_class,
    network_priorities,
    rdma,
    unified,
    unified_on_v1_is_an_error,
    check_before_update,
    intel_rdt_without_the_kernels_support_is_an_error,
];

/// A file's name and the text that it must have. Of several names with `|` between them, the first
/// that exists counts.
type Expected<'a> = (&'a str, &'a str);

/// One limit, or several that depend on each other.
struct Limit<'a> {
    /// The controller, by its v1 name.
    controller: &'a str,
    /// `linux.resources` of the config.
    set: Value,
    /// The resources that `update` gets.
    then: Value,
    /// The files of v1 after each of both; none where v1 has no such limit.
    v1: Option<[&'a [Expected<'a>]; 2]>,
    /// The same for v2.
    v2: Option<[&'a [Expected<'a>]; 2]>,
}

impl Limit<'_> {
    /// Compares the limit with the kernel's files. Where the container cannot be made, the kernel
    /// must lack a file, and the error must name it.
    #[track_caller]
    fn check(&self) {
        let name = cgroups::v2_name(self.controller);
        let files = match cgroups::container_version(self.controller) {
            Some(Version::V1) => self.v1,
            Some(Version::V2) => self.v2,
            None => None,
        };
        let b = Bundle::limited(&self.set);
        let (c, out) = b.try_create(&[]);
        let Some(files) = files else {
            drop(c);
            only_hull!("runc 1.1.5 ignores many limits that it cannot set");
            let error = out.failure();
            assert!(
                error.contains(&format!("cannot set {} limit", self.controller))
                    || error.contains(&format!("cannot set {name} limit")),
                "{error}"
            );
            return;
        };
        if out.status != 0 {
            drop(c);
            return self.is_missing(out, files[0]);
        }
        b.has_files(self.controller, files[0]);
        b.runtime
            .call_with_input(
                &["update", "--resources", "-", &b.id],
                &self.then.to_string(),
            )
            .success();
        b.has_files(self.controller, files[1]);
    }

    /// Asserts that the error names a file of the limit, and that a cgroup with the controller has
    /// no such file.
    #[track_caller]
    fn is_missing(&self, out: Output, files: &[Expected]) {
        only_hull!("runc 1.1.5 has another error message");
        let error = out.failure();
        let other = Bundle::sleeper();
        let _c = other.create();
        let absent = files.iter().find(|(names, _)| {
            !names
                .split('|')
                .any(|name| other.cgroup_has(self.controller, name))
        });
        let Some((names, _)) = absent else {
            panic!("the kernel has every file, but: {error}")
        };
        assert!(
            names
                .split('|')
                .any(|name| error.contains(&format!("this kernel has no {name}"))),
            "{names}: {error}"
        );
        println!("the kernel has no {names}: {error}");
    }
}

impl Bundle {
    #[track_caller]
    fn has_files(&self, controller: &str, files: &[Expected]) {
        for (names, text) in files {
            let name = names
                .split('|')
                .find(|name| self.cgroup_has(controller, name))
                .unwrap_or(names);
            let value = self.cgroup_file(controller, name);
            // Files with a line for each device: one of the lines.
            let lines = text.contains(':')
                || text.contains("hca")
                || text.contains("oom_kill_disable")
                || text.starts_with("default ");
            let same = if lines {
                value.lines().any(|line| line == *text)
            } else {
                value == *text
            };
            assert!(same, "{name} has {value:?} and not {text:?}");
        }
    }
}

const M: u64 = 1 << 20;

fn memory() {
    Limit {
        controller: "memory",
        set: json!({ "memory": { "limit": 64 * M, "reservation": 32 * M } }),
        then: json!({ "memory": { "limit": 128 * M, "reservation": -1 } }),
        v1: Some([
            &[
                ("memory.limit_in_bytes", "67108864"),
                ("memory.soft_limit_in_bytes", "33554432"),
            ],
            &[
                ("memory.limit_in_bytes", "134217728"),
                ("memory.soft_limit_in_bytes", "9223372036854771712"),
            ],
        ]),
        v2: Some([
            &[("memory.max", "67108864"), ("memory.low", "33554432")],
            &[("memory.max", "134217728"), ("memory.low", "max")],
        ]),
    }
    .check();
}

/// v1 limits memory and swap together, v2 swap alone. The test raises and lowers the limits: on v1
/// the order of the writes depends on that.
fn memory_swap() {
    for (then, v1, v2) in [
        (128 * M, "134217728", "67108864"),
        (32 * M, "33554432", "16777216"),
    ] {
        Limit {
            controller: "memory",
            set: json!({ "memory": { "limit": 64 * M, "swap": 96 * M } }),
            then: json!({ "memory": { "limit": then, "swap": then + then / 2 } }),
            v1: Some([
                &[
                    ("memory.limit_in_bytes", "67108864"),
                    ("memory.memsw.limit_in_bytes", "100663296"),
                ],
                &[
                    ("memory.limit_in_bytes", v1),
                    (
                        "memory.memsw.limit_in_bytes",
                        &(then + then / 2).to_string(),
                    ),
                ],
            ]),
            v2: Some([
                &[("memory.max", "67108864"), ("memory.swap.max", "33554432")],
                &[("memory.max", v1), ("memory.swap.max", v2)],
            ]),
        }
        .check();
    }
}

/// v2's limit is the difference to that of memory, which is missing here.
fn memory_with_swap_without_a_limit() {
    only_hull!("runc 1.1.5 has another error message");
    if cgroups::version("memory") == Version::V1 {
        skip!("v1 counts both together");
    }
    assert_has!(
        Bundle::limited(&json!({ "memory": { "swap": 96 * M } }))
            .try_create(&[])
            .1
            .failure(),
        "swap limit without memory limit"
    );
}

fn memory_of_v1_alone() {
    Limit {
        controller: "memory",
        set: json!({ "memory": { "swappiness": 17, "disableOOMKiller": true, "useHierarchy": true } }),
        then: json!({ "memory": { "swappiness": 40 } }),
        v1: Some([&[("memory.swappiness", "17"), ("memory.oom_control", "oom_kill_disable \
            1")], &[("memory.swappiness", "40")]]),
        v2: None,
    }
    .check();
}

/// Linux 6.x has removed this limit from v1, and v2 never had it: a warning or an error, but no
/// container that silently lacks the limit.
fn kernel_memory() {
    only_hull!("runc 1.1.5 ignores it");
    let b = Bundle::limited(&json!({ "memory": { "kernel": 64 * M } }));
    let (c, out) = b.try_create(&[]);
    let text = out.stderr.to_lowercase();
    if cgroups::version("memory") == Version::V2 {
        assert_ne!(out.status, 0);
        assert_has!(
            text,
            "cannot set memory limit (linux.resources.memory.kernel)"
        );
    } else if out.status == 0 {
        // Linux 6.x accepts the value and ignores it.
        let held = b.cgroup_file("memory", "memory.kmem.limit_in_bytes");
        assert!(
            held == "67108864" || text.contains("the limit of kernel memory"),
            "{held}: {text}"
        );
    } else {
        assert_has!(text, "memory.kmem.limit_in_bytes");
    }
    drop(c);
}

fn cpu_bandwidth() {
    Limit {
        controller: "cpu",
        set: json!({ "cpu": { "quota": 50_000, "period": 200_000, "burst": 10_000 } }),
        then: json!({ "cpu": { "quota": 30_000, "period": 60_000, "burst": 20_000 } }),
        v1: Some([
            &[
                ("cpu.cfs_quota_us", "50000"),
                ("cpu.cfs_period_us", "200000"),
                ("cpu.cfs_burst_us", "10000"),
            ],
            &[
                ("cpu.cfs_quota_us", "30000"),
                ("cpu.cfs_period_us", "60000"),
                ("cpu.cfs_burst_us", "20000"),
            ],
        ]),
        v2: Some([
            &[("cpu.max", "50000 200000"), ("cpu.max.burst", "10000")],
            &[("cpu.max", "30000 60000"), ("cpu.max.burst", "20000")],
        ]),
    }
    .check();
    // An update of one of two values that v2 has in one file does not change the other.
    Limit {
        controller: "cpu",
        set: json!({ "cpu": { "quota": 50_000, "period": 200_000 } }),
        then: json!({ "cpu": { "quota": -1 } }),
        v1: Some([
            &[("cpu.cfs_quota_us", "50000")],
            &[("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "200000")],
        ]),
        v2: Some([&[("cpu.max", "50000 200000")], &[("cpu.max", "max 200000")]]),
    }
    .check();
}

/// The weights follow the curve through (2, 1), (1024, 100) and (262144, 10000), as runc's since
/// its issue 4896: 170 for 2000.
fn cpu_shares() {
    for (shares, v1, weight) in [
        (2000, "2000", "170"),
        (2, "2", "1"),
        (1024, "1024", "100"),
        (262_144, "262144", "10000"),
    ] {
        Limit {
            controller: "cpu",
            set: json!({ "cpu": { "shares": shares } }),
            then: json!({ "cpu": { "shares": 2048 } }),
            v1: Some([&[("cpu.shares", v1)], &[("cpu.shares", "2048")]]),
            v2: Some([&[("cpu.weight", weight)], &[("cpu.weight", "174")]]),
        }
        .check();
    }
}

fn cpu_idle() {
    let files: [&[Expected]; 2] = [&[("cpu.idle", "1")], &[("cpu.idle", "0")]];
    Limit {
        controller: "cpu",
        set: json!({ "cpu": { "idle": 1, "shares": 512 } }),
        then: json!({ "cpu": { "idle": 0 } }),
        v1: Some(files),
        v2: Some(files),
    }
    .check();
}

fn cpu_sets() {
    let files: [&[Expected]; 2] = [
        &[("cpuset.cpus", "0"), ("cpuset.mems", "0")],
        &[("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
    ];
    Limit {
        controller: "cpuset",
        set: json!({ "cpu": { "cpus": "0", "mems": "0" } }),
        then: json!({ "cpu": { "cpus": "0-1" } }),
        v1: Some(files),
        v2: Some(files),
    }
    .check();
}

fn cpu_real_time() {
    Limit {
        controller: "cpu",
        set: json!({ "cpu": { "realtimeRuntime": 5000, "realtimePeriod": 1_000_000 } }),
        then: json!({ "cpu": { "realtimeRuntime": 2500 } }),
        v1: Some([
            &[
                ("cpu.rt_runtime_us", "5000"),
                ("cpu.rt_period_us", "1000000"),
            ],
            &[("cpu.rt_runtime_us", "2500")],
        ]),
        v2: None,
    }
    .check();
}

fn pids() {
    for (limit, text) in [(20, "20"), (-1, "max")] {
        let files: [&[Expected]; 2] = [&[("pids.max", text)], &[("pids.max", "33")]];
        Limit {
            controller: "pids",
            set: json!({ "pids": { "limit": limit } }),
            then: json!({ "pids": { "limit": 33 } }),
            v1: Some(files),
            v2: Some(files),
        }
        .check();
    }
}

/// The number of a block device that can be throttled: not one without a disk, such as a loop
/// device.
fn disk() -> (u64, u64) {
    let disks = fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .map(|d| d.file_name().into_string().unwrap());
    let Some(name) = disks
        .filter(|n| !["loop", "ram", "zram"].iter().any(|p| n.starts_with(p)))
        .max()
    else {
        skip!("there is no disk to throttle")
    };
    let text = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn block_io_throttles() {
    let (major, minor) = disk();
    let all = |scale: u64| {
        let device = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate * scale }]);
        json!({ "blockIO": {
            "throttleReadBpsDevice": device(1_000_000), "throttleWriteBpsDevice": device(2_000_000),
            "throttleReadIOPSDevice": device(300), "throttleWriteIOPSDevice": device(400)
        } })
    };
    let text = |scale: u64| {
        [1_000_000, 2_000_000, 300, 400].map(|rate| format!("{major}:{minor} {}", rate * scale))
    };
    let (first, then) = (text(1), text(2));
    let v1 = |t: &'static [String; 4]| -> Vec<Expected<'static>> {
        ["read_bps", "write_bps", "read_iops", "write_iops"]
            .iter()
            .zip(t)
            .map(|(n, t)| (&*format!("blkio.throttle.{n}_device").leak(), t.as_str()))
            .collect()
    };
    let (first, then) = (
        v1(Box::leak(Box::new(first))),
        v1(Box::leak(Box::new(then))),
    );
    Limit {
        controller: "blkio",
        set: all(1),
        then: all(2),
        v1: Some([&first, &then]),
        v2: Some([
            &[(
                "io.max",
                &format!("{major}:{minor} rbps=1000000 wbps=2000000 riops=300 wiops=400"),
            )],
            &[(
                "io.max",
                &format!("{major}:{minor} rbps=2000000 wbps=4000000 riops=600 wiops=800"),
            )],
        ]),
    }
    .check();
}

/// The weights of the scheduler BFQ, where the kernel has it, or of `io.cost`.
fn block_io_weights() {
    let v2_default = |bfq: &'static str, cost: &'static str| {
        let other = Bundle::sleeper();
        let _c = other.create();
        if other.cgroup_dir("blkio").join("io.bfq.weight").exists() {
            bfq
        } else {
            cost
        }
    };
    let (first, then) = (
        v2_default("default 300", "default 2930"),
        v2_default("default 400", "default 3940"),
    );
    Limit {
        controller: "blkio",
        set: json!({ "blockIO": { "weight": 300 } }),
        then: json!({ "blockIO": { "weight": 400 } }),
        v1: Some([
            &[("blkio.weight|blkio.bfq.weight", "300")],
            &[("blkio.weight|blkio.bfq.weight", "400")],
        ]),
        v2: Some([
            &[("io.bfq.weight|io.weight", first)],
            &[("io.bfq.weight|io.weight", then)],
        ]),
    }
    .check();
    Limit {
        controller: "blkio",
        set: json!({ "blockIO": { "leafWeight": 300 } }),
        then: json!({}),
        v1: Some([&[("blkio.leaf_weight", "300")], &[]]),
        v2: None,
    }
    .check();
}

fn block_io_weight_of_a_device() {
    let (major, minor) = disk();
    let scheduler = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/queue/scheduler"))
        .unwrap_or_default();
    if !scheduler.contains("[bfq]") {
        skip!("no disk here has the scheduler with weights, BFQ");
    }
    let all = |weight: u32| json!({ "blockIO": { "weight": 200, "weightDevice": [{ "major": major, "minor": minor, "weight": weight }] } });
    let (first, then) = (
        format!("{major}:{minor} 300"),
        format!("{major}:{minor} 400"),
    );
    let v2: [&[Expected]; 2] = [
        &[("io.bfq.weight", "default 200"), ("io.bfq.weight", &first)],
        &[("io.bfq.weight", &then)],
    ];
    let v1: [&[Expected]; 2] = [
        &[("blkio.bfq.weight_device", &first)],
        &[("blkio.bfq.weight_device", &then)],
    ];
    Limit {
        controller: "blkio",
        set: all(300),
        then: all(400),
        v1: Some(v1),
        v2: Some(v2),
    }
    .check();
}

fn huge_pages() {
    Limit {
        controller: "hugetlb",
        set: json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 * M }] }),
        then: json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 8 * M }] }),
        v1: Some([
            &[("hugetlb.2MB.limit_in_bytes", "4194304")],
            &[("hugetlb.2MB.limit_in_bytes", "8388608")],
        ]),
        v2: Some([
            &[
                ("hugetlb.2MB.max", "4194304"),
                ("hugetlb.2MB.rsvd.max", "4194304"),
            ],
            &[
                ("hugetlb.2MB.max", "8388608"),
                ("hugetlb.2MB.rsvd.max", "8388608"),
            ],
        ]),
    }
    .check();
}

fn network_class() {
    Limit {
        controller: "net_cls",
        set: json!({ "network": { "classID": 1_048_577 } }),
        then: json!({ "network": { "classID": 1_048_578 } }),
        v1: Some([
            &[("net_cls.classid", "1048577")],
            &[("net_cls.classid", "1048578")],
        ]),
        v2: None,
    }
    .check();
}

fn network_priorities() {
    let set = |n: u32| json!({ "network": { "priorities": [{ "name": "lo", "priority": n }] } });
    let b = Bundle::limited(&set(5));
    if cgroups::hierarchy("net_prio").is_none() {
        only_hull!("runc 1.1.5 passes over it in silence");
        assert_has!(b.try_create(&[]).1.failure(), "cannot set net_prio limit");
        return;
    }
    let _c = b.started();
    let held = || {
        b.cgroup_file("net_prio", "net_prio.ifpriomap")
            .lines()
            .find_map(|l| l.strip_prefix("lo ").map(str::to_owned))
    };
    assert_eq!(held().as_deref(), Some("5"));
    b.runtime
        .call_with_input(&["update", "--resources", "-", &b.id], &set(7).to_string())
        .success();
    assert_eq!(held().as_deref(), Some("7"));
}

fn rdma() {
    let device = fs::read_dir("/sys/class/infiniband")
        .into_iter()
        .flatten()
        .flatten()
        .next();
    let device = device.map(|d| d.file_name().into_string().unwrap());
    let Some(device) = device else {
        only_hull!("runc 1.1.5 says less");
        let error = Bundle::limited(&json!({ "rdma": { "mlx5_1": { "hcaHandles": 3 } } }))
            .try_create(&[])
            .1
            .failure();
        assert_has!(
            error,
            "cannot set rdma limit (linux.resources.rdma[mlx5_1])"
        );
        return;
    };
    let line =
        |handles: u32, objects: u32| format!("{device} hca_handle={handles} hca_object={objects}");
    let files: [&[Expected]; 2] = [
        &[("rdma.max", &line(3, 10_000))],
        &[("rdma.max", &line(4, 10_000))],
    ];
    Limit {
        controller: "rdma",
        set: json!({ "rdma": { device.as_str(): { "hcaHandles": 3, "hcaObjects": 10_000 } } }),
        then: json!({ "rdma": { device.as_str(): { "hcaHandles": 4 } } }),
        v1: Some(files),
        v2: Some(files),
    }
    .check();
}

/// Any file of v2; it overrides what the other fields set in the same file.
fn unified() {
    if cgroups::version("memory") == Version::V1 {
        skip!("the controllers are v1's here");
    }
    Limit {
        controller: "memory",
        set: json!({ "memory": { "limit": 64 * M }, "unified": { "memory.high": "50331648", "memory.max": "100663296", "pids.max": "99" } }),
        then: json!({ "unified": { "memory.high": "max" } }),
        v1: None,
        v2: Some([
            &[("memory.high", "50331648"), ("memory.max", "100663296"), ("pids.max", "99")],
            &[("memory.high", "max"), ("memory.max", "100663296"), ("pids.max", "99")],
        ]),
    }
    .check();
}

fn unified_on_v1_is_an_error() {
    only_hull!("runc 1.1.5 has another error message");
    let unknown = Bundle::limited(&json!({ "unified": { "nosuch.max": "1" } }))
        .try_create(&[])
        .1
        .failure();
    assert_has!(unknown, "controller \"nosuch\" not available");
    if cgroups::version("memory") == Version::V1 {
        let error = Bundle::limited(&json!({ "unified": { "memory.high": "1048576" } }))
            .try_create(&[])
            .1
            .failure();
        assert_has!(error, "controller \"memory\" is on a cgroup v1 hierarchy");
    }
}

/// A limit below the present usage: v1 refuses it, v2 would kill processes.
fn check_before_update() {
    only_hull!("runc 1.1.5 has no such check");
    let mut b =
        Bundle::limited(&json!({ "memory": { "limit": 64 * M, "checkBeforeUpdate": true } }));
    b.args(&[
        "/bin/sh",
        "-c",
        "a=$(head -c 16000000 /dev/zero | tr '\\0' x); sleep 1000; echo ${#a}",
    ]);
    let c = b.started();
    let used = || {
        b.cgroup_value("memory", "memory.usage_in_bytes", "memory.current")
            .parse::<u64>()
            .unwrap()
    };
    crate::support::until("the memory's use", || used() > 15_000_000);
    let error = b
        .runtime
        .call_with_input(
            &["update", "--resources", "-", &b.id],
            r#"{"memory":{"limit":1048576,"checkBeforeUpdate":true}}"#,
        )
        .failure();
    assert!(
        error.contains("rejecting memory limit") || error.contains("unable to set memory limit"),
        "{error}"
    );
    assert_eq!(
        b.cgroup_value("memory", "memory.limit_in_bytes", "memory.max"),
        (64 * M).to_string()
    );
    assert_eq!(c.status(), "running");
}

fn intel_rdt_without_the_kernels_support_is_an_error() {
    if std::path::Path::new("/sys/fs/resctrl").exists() {
        skip!("resctrl is here");
    }
    only_hull!("runc 1.1.5 has another error message");
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
