use super::fake::{request, resources};
use super::kernel::{Name, Program, RootControl, has_v1, planned, value};
use crate::cgroups::group::{Group, Record};
use crate::cgroups::place::{IfDenied, Place};
use crate::cgroups::request::Driver;
use crate::cgroups::tree::Version;
use crate::cgroups::update::restoring;

#[test]
fn what_is_put_back_is_what_the_file_said() {
    for (name, text, value, expected) in [
        (
            "memory.limit_in_bytes",
            "9223372036854771712\n",
            "5",
            "9223372036854771712",
        ),
        (
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            "1",
            "0",
        ),
        ("cpuset.cpus", "\n", "0-1", "\n"),
        ("cpu.max", "max 100000\n", "50000 100000", "max 100000"),
        (
            "io.max",
            "8:0 rbps=max wbps=77 riops=max wiops=max\n",
            "8:0 wbps=5",
            "8:0 wbps=77",
        ),
        (
            "io.max",
            "8:16 rbps=9 wbps=77 riops=max wiops=max\n",
            "8:0 rbps=5",
            "8:0 rbps=max",
        ),
        ("io.weight", "default 100\n8:0 50\n", "910", "100"),
        ("io.weight", "default 100\n8:0 50\n", "8:0 7", "8:0 50"),
        ("io.weight", "default 100\n", "8:0 7", "8:0 default"),
        (
            "blkio.throttle.read_bps_device",
            "8:0 1024\n",
            "8:0 5",
            "8:0 1024",
        ),
        ("blkio.throttle.read_bps_device", "", "8:0 5", "8:0 0"),
        ("net_prio.ifpriomap", "lo 0\neth0 4\n", "eth0 7", "eth0 4"),
        (
            "rdma.max",
            "mlx5 hca_handle=max hca_object=3\n",
            "mlx5 hca_object=9",
            "mlx5 hca_handle=max hca_object=3",
        ),
        ("pids.max", "max\n", "5", "max"),
    ] {
        assert_eq!(restoring(name, text, value), expected, "{name}");
    }
}

/// A directory that looks like a v2 cgroup.
struct Directory(String);

impl Directory {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let dir = std::env::temp_dir().join(format!("hull-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (file, text) in files {
            std::fs::write(dir.join(file), text).unwrap();
        }
        Self(dir.to_str().unwrap().to_owned())
    }

    fn group(&self) -> Group {
        let controllers = super::fake::V2_CONTROLLERS
            .split(' ')
            .map(str::to_owned)
            .collect();
        let place = Place {
            version: Version::V2,
            controllers,
            mount_point: std::env::temp_dir().to_str().unwrap().to_owned(),
            root: "/".to_owned(),
            dir: self.0.clone(),
            enable: Vec::new(),
            required: Vec::new(),
            if_denied: IfDenied::Fail,
        };
        Group::open(&Record {
            driver: Driver::Cgroupfs,
            places: vec![place],
            devices: None,
            unit: None,
        })
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("{}/{file}", self.0)).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The files of this v2 cgroup are regular ones, in which a shorter value leaves the end of a
/// longer one: blanks fill them.
#[test]
fn half_of_a_pair_is_completed_by_what_is_in_force() {
    let directory = Directory::new(
        "half",
        &[
            ("cpu.max", "30000 60000\n"),
            ("memory.max", "100\n"),
            ("memory.swap.max", "50\n"),
        ],
    );
    let whole = |json: &str| {
        directory
            .group()
            .with_present_values(&resources(json))
            .unwrap()
    };
    let cpu = whole(r#"{"cpu":{"quota":7000}}"#).cpu.unwrap();
    assert_eq!((cpu.quota, cpu.period), (Some(7000), Some(60_000)));
    let cpu = whole(r#"{"cpu":{"period":7000}}"#).cpu.unwrap();
    assert_eq!((cpu.quota, cpu.period), (Some(30_000), Some(7000)));
    let memory = whole(r#"{"memory":{"swap":120}}"#).memory.unwrap();
    assert_eq!((memory.limit, memory.swap), (Some(100), Some(120)));
    // The sum of 150 stays.
    let memory = whole(r#"{"memory":{"limit":140}}"#).memory.unwrap();
    assert_eq!((memory.limit, memory.swap), (Some(140), Some(150)));
    let memory = whole(r#"{"memory":{"limit":-1}}"#).memory.unwrap();
    assert_eq!((memory.limit, memory.swap), (Some(-1), None));
    let error = directory
        .group()
        .update(&resources(r#"{"memory":{"limit":160}}"#))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("memory+swap limit should be >= memory limit"),
        "{error}"
    );
}

#[test]
fn check_before_update_refuses_a_limit_below_what_is_used() {
    let directory = Directory::new(
        "check",
        &[
            ("memory.max", "max\n"),
            ("memory.swap.max", "max\n"),
            ("memory.current", "5000\n"),
        ],
    );
    let update = |limit: u32| {
        let json = format!(r#"{{"memory":{{"limit":{limit},"checkBeforeUpdate":true}}}}"#);
        directory.group().update(&resources(&json))
    };
    let error = update(4999).unwrap_err().to_string();
    assert!(
        error.contains("rejecting memory limit 4999: usage 5000"),
        "{error}"
    );
    assert_eq!(directory.read("memory.max"), "max\n");
    update(5001).unwrap();
    assert_eq!(directory.read("memory.max"), "5001");
}

#[test]
fn all_or_nothing() {
    if !has_v1("memory") || !has_v1("cpu") || !has_v1("pids") {
        return;
    }
    let _root = RootControl::keep();
    let name = Name::new();
    let first = resources(
        r#"{"memory":{"limit":67108864,"swap":67108864},
            "cpu":{"shares":512,"quota":20000,"period":50000},"pids":{"limit":7}}"#,
    );
    let plan = planned(&request(Some(&name.0), Some(&first)));
    let mut group = Group::create(&plan).unwrap();
    group.apply(&plan).unwrap();
    let all = |group: &Group| {
        [
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.memsw.limit_in_bytes"),
            ("cpu", "cpu.shares"),
            ("cpu", "cpu.cfs_quota_us"),
            ("pids", "pids.max"),
            ("cpuset", "cpuset.cpus"),
        ]
        .map(|(c, f)| value(group, c, f))
    };
    let before = all(&group);
    // The kernel, which has no such page size, refuses the last value; or hull does so before it
    // writes anything.
    for last in [
        r#""hugepageLimits":[{"pageSize":"3MB","limit":0}]"#,
        r#""rdma":{"x":{"hcaHandles":1}}"#,
        r#""blockIO":{"weight":5000}"#,
    ] {
        let json = format!(
            r#"{{"memory":{{"limit":134217728,"swap":268435456}},
                "cpu":{{"shares":100,"quota":90000,"cpus":"0"}},"pids":{{"limit":50}},{last}}}"#
        );
        let error = group.update(&resources(&json)).unwrap_err().to_string();
        assert!(
            error.contains("linux.resources.") && !error.contains("put back"),
            "{error}"
        );
        assert_eq!(all(&group), before, "{last}");
    }
    group
        .update(&resources(
            r#"{"memory":{"limit":134217728,"swap":268435456},
        "cpu":{"shares":100,"cpus":"0"},"pids":{"limit":50}}"#,
        ))
        .unwrap();
    assert_eq!(
        all(&group),
        ["134217728", "268435456", "100", "20000", "50", "0"]
    );
    // An update without values changes nothing.
    group.update(&resources("{}")).unwrap();
    assert_eq!(all(&group)[4], "50");
}

#[test]
fn a_limit_below_the_usage_says_both() {
    if !has_v1("memory") {
        return;
    }
    let name = Name::new();
    let plan = planned(&request(Some(&name.0), None));
    let mut group = Group::create(&plan).unwrap();
    // The shell's own memory, which the kernel cannot reclaim without swap.
    let procs = format!("{}/cgroup.procs", group.dir("memory").unwrap());
    let mut program = Program::new(&format!(
        "echo $$ > {procs}; x=$(head -c 33554432 /dev/zero | tr '\\0' x); echo ok; kill -STOP $$"
    ));
    let mut answer = [0; 2];
    std::io::Read::read_exact(program.0.stdout.as_mut().unwrap(), &mut answer).unwrap();
    let error = group
        .update(&resources(r#"{"memory":{"limit":1048576}}"#))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("unable to set memory limit to 1048576 (current usage: "),
        "{error}"
    );
}

#[test]
fn device_rules_are_updated() {
    if !has_v1("devices") {
        return;
    }
    let name = Name::new();
    let r = resources(
        r#"{"devices":[{"allow":true,"type":"c","major":10,"minor":228,"access":"rwm"}]}"#,
    );
    let mut wish = request(Some(&name.0), Some(&r));
    wish.device_rules = true;
    let plan = planned(&wish);
    let mut group = Group::create(&plan).unwrap();
    group.apply(&plan).unwrap();
    group
        .update(&resources(
            r#"{"devices":[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#,
        ))
        .unwrap();
    let list = value(&group, "devices", "devices.list");
    assert!(
        list.contains("c 10:229 rw") && !list.contains("10:228") && list.contains("c 1:3 rwm"),
        "{list}"
    );
}
