use super::fake::{hybrid, request, resources, v1, v2};
use crate::cgroups::limits::cpu::weight;
use crate::cgroups::place::{IfDenied, clean};
use crate::cgroups::plan::{Plan, plan};
use crate::cgroups::request::Driver;
use crate::cgroups::tree::Tree;

fn writes(plan: &Plan) -> Vec<String> {
    plan.writes
        .iter()
        .map(|w| format!("{}/{}", plan.place(&w.controller).unwrap().dir, w.file) + "=" + &w.value)
        .collect()
}

fn on(tree: &Tree, json: &str) -> Vec<String> {
    writes(&plan(&request(Some("/c"), Some(&resources(json))), tree).unwrap())
}

fn refusal(tree: &Tree, json: &str) -> String {
    plan(&request(Some("/c"), Some(&resources(json))), tree)
        .unwrap_err()
        .to_string()
}

#[test]
fn absolute_paths_begin_at_the_mount_relative_ones_at_the_own_cgroup() {
    let dirs = |path, tree: &Tree| {
        plan(&request(path, None), tree)
            .unwrap()
            .places
            .into_iter()
            .map(|p| p.dir)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        dirs(Some("/a/../../b/./c"), &v1())[2],
        "/sys/fs/cgroup/memory/b/c"
    );
    assert_eq!(
        dirs(Some("a/b"), &v1())[2],
        "/sys/fs/cgroup/memory/user/a/b"
    );
    assert_eq!(dirs(None, &v1())[1], "/sys/fs/cgroup/cpu,cpuacct/user/ctr");
    assert_eq!(dirs(Some(""), &v1())[10], "/sys/fs/cgroup/systemd/user/ctr");
    // v2: next to the caller's own cgroup, which has processes.
    assert_eq!(dirs(None, &v2()), ["/sys/fs/cgroup/user.slice/ctr"]);
    assert_eq!(dirs(Some("/x"), &v2()), ["/sys/fs/cgroup/x"]);
    assert!(
        plan(&request(Some("/.."), None), &v1())
            .unwrap_err()
            .to_string()
            .contains("names the root cgroup")
    );
    assert_eq!(clean("..//a/./b/../c/"), "a/c");
}

#[test]
fn hybrid_turns_on_in_v2_only_what_a_limit_needs() {
    let p = plan(&request(Some("/c"), None), &hybrid()).unwrap();
    assert_eq!(p.places.len(), 9);
    assert!(p.places.iter().all(|p| p.enable.is_empty()));
    let r = resources(
        r#"{"memory":{"limit":1048576},"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
    );
    let p = plan(&request(Some("/c"), Some(&r)), &hybrid()).unwrap();
    assert_eq!(p.places[8].enable, ["hugetlb"]);
    assert_eq!(p.places[8].required, ["hugetlb"]);
    assert_eq!(
        writes(&p),
        [
            "/sys/fs/cgroup/memory/c/memory.limit_in_bytes=1048576",
            "/sys/fs/cgroup/unified/c/hugetlb.2MB.max=4194304",
            "/sys/fs/cgroup/unified/c/hugetlb.2MB.rsvd.max=4194304",
        ]
    );
    assert_eq!(p.writes[1].from, "linux.resources.hugepageLimits[0]");
}

#[test]
fn v2_turns_all_on_and_knows_which_are_needed() {
    let p = plan(
        &request(Some("/c"), Some(&resources(r#"{"pids":{"limit":5}}"#))),
        &v2(),
    )
    .unwrap();
    assert_eq!(p.places[0].enable.len(), 8);
    assert_eq!(p.places[0].required, ["pids"]);
}

const MEMORY: &str = r#"{"memory":{"limit":1000,"swap":3000,"reservation":500}}"#;

#[test]
fn memory_on_both() {
    let dir = "/sys/fs/cgroup/memory/c/memory";
    assert_eq!(
        on(&v1(), MEMORY),
        [
            format!("{dir}.limit_in_bytes=1000"),
            format!("{dir}.memsw.limit_in_bytes=3000"),
            format!("{dir}.soft_limit_in_bytes=500"),
        ]
    );
    let dir = "/sys/fs/cgroup/c/memory";
    assert_eq!(
        on(&v2(), MEMORY),
        [
            format!("{dir}.swap.max=2000"),
            format!("{dir}.max=1000"),
            format!("{dir}.low=500")
        ]
    );
    let unlimited = r#"{"memory":{"limit":-1}}"#;
    assert_eq!(
        on(&v2(), unlimited),
        [format!("{dir}.swap.max=max"), format!("{dir}.max=max")]
    );
    assert_eq!(on(&v1(), unlimited).len(), 2);
    assert_eq!(
        on(&v2(), r#"{"memory":{"limit":7,"swap":7}}"#),
        [format!("{dir}.swap.max=0"), format!("{dir}.max=7")]
    );
    assert_eq!(
        on(
            &v2(),
            r#"{"memory":{"limit":0,"swap":0,"swappiness":null,"disableOOMKiller":false}}"#
        ),
        [""; 0]
    );
}

#[test]
fn what_v2_does_not_have_is_an_error_that_names_it() {
    for (json, words) in [
        (
            r#"{"memory":{"swap":5}}"#,
            "unable to set swap limit without memory limit (linux.resources.memory.swap)",
        ),
        (
            r#"{"memory":{"limit":9,"swap":5}}"#,
            "memory+swap limit should be >= memory limit",
        ),
        (
            r#"{"memory":{"swappiness":10}}"#,
            "cannot set memory limit (linux.resources.memory.swappiness)",
        ),
        (
            r#"{"memory":{"disableOOMKiller":true}}"#,
            "OOM killer cannot be disabled",
        ),
        (
            r#"{"memory":{"kernel":4096}}"#,
            "linux.resources.memory.kernel",
        ),
        (
            r#"{"memory":{"useHierarchy":false}}"#,
            "always hierarchical",
        ),
        (r#"{"cpu":{"realtimeRuntime":4096}}"#, "real-time"),
        (r#"{"blockIO":{"leafWeight":100}}"#, "leaf weights"),
        (
            r#"{"network":{"classID":1}}"#,
            "cannot set net_cls limit (linux.resources.network.classID): cgroup v2 has no such \
                controller",
        ),
        (
            r#"{"network":{"priorities":[{"name":"lo","priority":1}]}}"#,
            "cannot set net_prio limit",
        ),
        (
            r#"{"unified":{"perf_event.x":"1"}}"#,
            "controller \"perf_event\" not available",
        ),
        (r#"{"unified":{"a/b":"1"}}"#, "must be a file name"),
        (r#"{"unified":{"memory":"1"}}"#, "CONTROLLER.PARAMETER"),
    ] {
        let error = refusal(&v2(), json);
        assert!(error.contains(words), "{json}: {error}");
    }
}

#[test]
fn what_v1_does_not_have_is_an_error_that_names_it() {
    for (json, words) in [
        (
            r#"{"unified":{"memory.max":"1"}}"#,
            "controller \"memory\" is on a cgroup v1 hierarchy",
        ),
        (
            r#"{"cpu":{"shares":1}}"#,
            "the minimum allowed cpu-shares is 2",
        ),
        (
            r#"{"cpu":{"shares":262145}}"#,
            "the maximum allowed cpu-shares is 262144",
        ),
        (r#"{"memory":{"swappiness":101}}"#, "0-100"),
        (r#"{"memory":{"limit":-2}}"#, "invalid memory value -2"),
        (r#"{"blockIO":{"weight":9}}"#, "10-1000"),
        (
            r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#,
            "invalid page size",
        ),
        (
            r#"{"rdma":{"mlx":{}}}"#,
            "neither hcaHandles nor hcaObjects",
        ),
    ] {
        let error = refusal(&v1(), json);
        assert!(error.contains(words), "{json}: {error}");
    }
    let error = refusal(&hybrid(), r#"{"rdma":{"mlx":{"hcaHandles":1}}}"#);
    assert!(
        error.contains(
            "cannot set rdma limit (linux.resources.rdma[mlx]): no mounted \
        hierarchy has this controller"
        ),
        "{error}"
    );
}

const CPU: &str = r#"{"cpu":{"shares":1024,"quota":50000,"period":200000,"burst":1000,"cpus":"0-1",
    "mems":"0","idle":0}}"#;

#[test]
fn cpu_on_both() {
    assert_eq!(
        on(&v1(), CPU),
        [
            "/sys/fs/cgroup/cpuset/c/cpuset.cpus=0-1",
            "/sys/fs/cgroup/cpuset/c/cpuset.mems=0",
            "/sys/fs/cgroup/cpu,cpuacct/c/cpu.shares=1024",
            "/sys/fs/cgroup/cpu,cpuacct/c/cpu.idle=0",
            "/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_burst_us=1000",
            "/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us=200000",
            "/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us=50000",
        ]
    );
    let c = "/sys/fs/cgroup/c/";
    assert_eq!(
        on(&v2(), CPU),
        [
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
            "cpu.weight=100",
            "cpu.idle=0",
            "cpu.max.burst=1000",
            "cpu.max=50000 200000"
        ]
        .map(|f| format!("{c}{f}"))
    );
    assert_eq!(
        on(&v2(), r#"{"cpu":{"period":5000}}"#),
        [format!("{c}cpu.max=max 5000")]
    );
    assert_eq!(
        on(&v2(), r#"{"cpu":{"quota":-1}}"#),
        [format!("{c}cpu.max=max 100000")]
    );
    assert_eq!(
        on(&v2(), r#"{"cpu":{"shares":512,"idle":1}}"#),
        [format!("{c}cpu.idle=1")]
    );
    assert_eq!(
        [2, 100, 1024, 2048, 262_144].map(weight),
        [1, 17, 100, 174, 10_000]
    );
}

#[test]
fn block_io_on_both() {
    let json = r#"{"blockIO":{"weight":100,"weightDevice":[{"major":8,"minor":0,"weight":500}],
        "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1024}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#;
    let b = "/sys/fs/cgroup/blkio/c/blkio";
    assert_eq!(
        on(&v1(), json),
        [
            "weight=100",
            "weight_device=8:0 500",
            "throttle.read_bps_device=8:0 1024",
            "throttle.write_iops_device=8:0 0"
        ]
        .map(|f| format!("{b}.{f}"))
    );
    let i = "/sys/fs/cgroup/c/io";
    assert_eq!(
        on(&v2(), json),
        [
            "bfq.weight=100",
            "bfq.weight=8:0 500",
            "max=8:0 rbps=1024",
            "max=8:0 wiops=max"
        ]
        .map(|f| format!("{i}.{f}"))
    );
    assert_eq!(
        [10, 100, 1000].map(crate::cgroups::limits::io::io_weight),
        [1, 910, 10_000]
    );
}

#[test]
fn the_others() {
    let json = r#"{"pids":{"limit":0},"network":{"classID":7,
        "priorities":[{"name":"eth0","priority":3}]},
        "rdma":{"mlx5":{"hcaHandles":3,"hcaObjects":10}}}"#;
    assert_eq!(
        on(&v1(), json),
        [
            "/sys/fs/cgroup/pids/c/pids.max=0",
            "/sys/fs/cgroup/net_cls,net_prio/c/net_cls.classid=7",
            "/sys/fs/cgroup/net_cls,net_prio/c/net_prio.ifpriomap=eth0 3",
            "/sys/fs/cgroup/rdma/c/rdma.max=mlx5 hca_handle=3 hca_object=10",
        ]
    );
    assert_eq!(
        on(
            &v2(),
            r#"{"unified":{"memory.high":" 5 ","cgroup.max.depth":"2"},"pids":{"limit":9}}"#
        ),
        [
            "/sys/fs/cgroup/c/pids.max=9",
            "/sys/fs/cgroup/c/cgroup.max.depth=2",
            "/sys/fs/cgroup/c/memory.high=5",
        ]
    );
}

fn unwritable(mut tree: Tree) -> Tree {
    tree.hierarchies.iter_mut().for_each(|h| h.writable = false);
    tree
}

#[test]
fn rootless_without_rights_stays_where_it_is_and_the_plan_shows_it() {
    let mut r = request(None, None);
    (r.rootless, r.device_rules) = (true, true);
    for tree in [unwritable(v1()), unwritable(v2()), Tree::default()] {
        let p = plan(&r, &tree).unwrap();
        assert!(p.places.is_empty() && p.devices.is_none());
        assert!(p.fallbacks.len() >= 2, "{:?}", p.fallbacks);
    }
    // With a path it is an error.
    r.path = Some("/x");
    assert!(
        plan(&r, &unwritable(v1()))
            .unwrap()
            .places
            .iter()
            .all(|p| p.if_denied == IfDenied::Fail)
    );
}

#[test]
fn rootless_without_rights_and_with_limits_is_runcs_error() {
    let limits = resources(r#"{"pids":{"limit":5}}"#);
    let mut r = request(None, Some(&limits));
    r.rootless = true;
    let error = |tree: Tree| plan(&r, &unwritable(tree)).unwrap_err().to_string();
    assert!(
        error(v1()).contains("cannot set pids limit: container could not join or create cgroup")
    );
    assert!(error(v2()).contains(
        "rootless needs no limits + no cgrouppath when no permission is granted for cgroups"
    ));
}

#[test]
fn disabled_makes_nothing_and_refuses_limits() {
    let mut r = request(Some("/x"), None);
    (r.driver, r.device_rules) = (Driver::Disabled, true);
    let p = plan(&r, &v1()).unwrap();
    assert!(p.places.is_empty() && p.devices.is_none() && p.fallbacks.len() == 2);
    let limits = resources(r#"{"pids":{"limit":5}}"#);
    r.resources = Some(&limits);
    assert!(
        plan(&r, &v1())
            .unwrap_err()
            .to_string()
            .contains("the container has no cgroup of its own")
    );
}

#[test]
fn without_any_tree_root_gets_an_error() {
    assert!(
        plan(&request(None, None), &Tree::default())
            .unwrap_err()
            .to_string()
            .contains("no cgroup file system is mounted")
    );
}

#[test]
fn device_rules_need_a_place() {
    let mut r = request(Some("/x"), None);
    r.device_rules = true;
    assert!(plan(&r, &v1()).unwrap().devices.is_some());
    assert_eq!(
        plan(&r, &v2()).unwrap().place("devices").unwrap().dir,
        "/sys/fs/cgroup/x"
    );
    let mut tree = v1();
    tree.hierarchies.retain(|h| h.controllers != ["devices"]);
    assert!(
        plan(&r, &tree)
            .unwrap_err()
            .to_string()
            .contains("neither a v1 devices hierarchy nor cgroup v2")
    );
}

#[test]
fn a_plan_survives_json() {
    let p = plan(&request(Some("/c"), Some(&resources(MEMORY))), &hybrid()).unwrap();
    let text = serde_json::to_string(&p).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), p);
}
