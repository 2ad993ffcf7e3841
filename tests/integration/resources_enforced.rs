//! `linux.resources`: the kernel enforces the limits, as its own counters or the program's errors
//! show; and commands on frozen containers.

use crate::support::backend::is_vm;
use crate::support::cgroups::{self, Version, by_version, counter};
use crate::support::{Bundle, fixture, until};
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

tests![
    memory_limit_kills,
    memory_limit_ends_the_program,
    memory_goes_to_swap,
    memory_high_slows,
    pids_limit_refuses,
    pids_limit_that_is_raised_refuses_no_more,
    cpu_quota_throttles,
    cpu_set_is_the_programs,
    disk_throttle_slows,
    huge_pages_are_refused,
    network_class_marks_packets,
    network_priority_is_on_packets,
    device_rules_refuse,
    device_rules_are_replaced_by_update,
    freezer_stops_the_clock,
    kill_all_of_a_frozen_container,
    delete_force_of_a_frozen_container,
    delete_force_of_a_frozen_sub_cgroup,
];

/// `oom_kill` of the container's memory cgroup.
fn kills(b: &Bundle) -> u64 {
    counter(
        &b.cgroup_value("memory", "memory.oom_control", "memory.events"),
        "oom_kill",
    )
}

fn memory_limit_kills() {
    let mut b = Bundle::limited(&json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } }));
    b.args(&[
        "/bin/sh",
        "-c",
        "tail /dev/zero; echo status $?; exec sleep 1000",
    ]);
    let _c = b.started();
    until("the kill", || kills(&b) == 1);
}

fn memory_limit_ends_the_program() {
    let mut b = Bundle::limited(&json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } }));
    b.args(&["/bin/sh", "-c", "exec tail /dev/zero"]);
    assert_eq!(b.run().status, 137);
}

/// The program uses more memory than its limit; the rest is in the swap of its kernel.
fn memory_goes_to_swap() {
    if fs::read_to_string("/proc/swaps").unwrap().lines().count() < 2 {
        skip!("the host has no swap");
    }
    let mut b = Bundle::limited(&json!({ "memory": { "limit": 16 << 20, "swap": 80 << 20 } }));
    b.args(&[
        "/bin/sh",
        "-c",
        "a=$(head -c 24000000 /dev/zero | tr '\\0' x); sleep 1000; echo ${#a}",
    ]);
    let _c = b.started();
    let swapped = || match cgroups::version("memory") {
        Version::V1 => counter(&b.cgroup_file("memory", "memory.stat"), "swap"),
        Version::V2 => b
            .cgroup_file("memory", "memory.swap.current")
            .parse()
            .unwrap(),
    };
    until("pages in swap", || swapped() > 4 << 20);
    assert_eq!(kills(&b), 0);
}

fn memory_high_slows() {
    if cgroups::version("memory") == Version::V1 {
        skip!("v1 has no such limit");
    }
    let mut b = Bundle::limited(&json!({ "unified": { "memory.high": "8388608" } }));
    b.args(&[
        "/bin/sh",
        "-c",
        "a=$(head -c 12000000 /dev/zero | tr '\\0' x); sleep 1000; echo ${#a}",
    ]);
    let _c = b.started();
    until("the limit's count", || {
        counter(&b.cgroup_file("memory", "memory.events"), "high") > 0
    });
}

const FORKS: &str = "for i in $(seq 40); do sleep 1000 & done; sleep 1000";

fn pids_limit_refuses() {
    let mut b = Bundle::limited(&json!({ "pids": { "limit": 20 } }));
    b.args(&["/bin/sh", "-c", FORKS]);
    let _c = b.try_create(&[]).0.expect("created");
    b.call(&["start", &b.id]).success();
    // The refusal ends the shell; a VM ends with its program, and with it the counters.
    if !is_vm() {
        until("the refusal", || {
            counter(&b.cgroup_file("pids", "pids.events"), "max") > 0
        });
    }
    // The output of the same program in a second container.
    let mut other = Bundle::limited(&b.spec["linux"]["resources"]);
    other.args(&["/bin/sh", "-c", FORKS]);
    assert_has!(other.run().stderr, "can't fork");
}

fn pids_limit_that_is_raised_refuses_no_more() {
    let b = Bundle::limited(&json!({ "pids": { "limit": 1 } }));
    let c = b.started();
    let refused = c.exec(&["/bin/sh", "-c", "/bin/true; /bin/true"]);
    assert!(
        refused.status != 0 && counter(&b.cgroup_file("pids", "pids.events"), "max") > 0,
        "{refused:?}"
    );
    c.call(&["update", "--pids-limit", "20"]).success();
    c.exec(&["/bin/sh", "-c", "/bin/true; /bin/true"]).success();
}

fn cpu_quota_throttles() {
    let mut b = Bundle::limited(&json!({ "cpu": { "quota": 10_000, "period": 50_000 } }));
    b.args(&["/bin/sh", "-c", "while :; do :; done"]);
    let _c = b.started();
    let stat = || b.cgroup_file("cpu", "cpu.stat");
    until("a throttled period", || {
        counter(&stat(), "nr_throttled") > 3
    });
    let stat = stat();
    assert!(counter(&stat, by_version("cpu", "throttled_time", "throttled_usec")) > 0);
    assert!(counter(&stat, "nr_periods") >= counter(&stat, "nr_throttled"));
}

fn cpu_set_is_the_programs() {
    let b = Bundle::limited(&json!({ "cpu": { "cpus": "0", "mems": "0" } }));
    let c = b.started();
    assert_eq!(c.status_line("Cpus_allowed_list"), "0");
    let of_exec = || {
        c.exec(&["grep", "Cpus_allowed_list", "/proc/self/status"])
            .success()
            .stdout
    };
    assert_eq!(of_exec(), "Cpus_allowed_list:\t0\n");
    c.call(&["update", "--cpuset-cpus", "1"]).success();
    assert_eq!(c.status_line("Cpus_allowed_list"), "1");
    assert_eq!(of_exec(), "Cpus_allowed_list:\t1\n");
}

/// A directory on a disk, and the device number of the disk.
struct Disk {
    dir: PathBuf,
    major: u64,
    minor: u64,
}

/// The disk of `HULL_TEST_DISK`, or that of the scratch directory.
fn disk() -> Disk {
    let own = fixture::new_dir("disk");
    let dir = std::env::var_os("HULL_TEST_DISK").map_or(own, PathBuf::from);
    let number = fs::metadata(&dir).unwrap().dev();
    let (major, minor) = (
        u64::from(libc::major(number)),
        u64::from(libc::minor(number)),
    );
    // The kernel throttles a disk and not a partition.
    let at = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok();
    let whole = at.and_then(|at| {
        if at.join("partition").exists() {
            at.parent().map(Into::into)
        } else {
            Some(at)
        }
    });
    let Some(whole) = whole else {
        skip!("{} is on no disk", dir.display())
    };
    let text = fs::read_to_string(whole.join("dev")).unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    Disk {
        dir,
        major: major.parse().unwrap(),
        minor: minor.parse().unwrap(),
    }
}

/// The container reads as many bytes as the kernel counts, and takes at least the time that the
/// rate makes it take.
fn disk_throttle_slows() {
    let Disk { dir, major, minor } = disk();
    let (rate, bytes) = (512 << 10, 1_u64 << 20);
    let file = dir.join(format!("read-{}", std::process::id()));
    fs::write(&file, vec![7; usize::try_from(bytes).unwrap()]).unwrap();
    fs::File::open(&file).unwrap().sync_all().unwrap();
    let mut b = Bundle::limited(
        &json!({ "blockIO": { "throttleReadBpsDevice": [{ "major": major, "minor": minor, "rate": rate }] } }),
    );
    b.mount("/mnt", "bind", file.to_str().unwrap(), &["bind", "ro"]);
    fs::remove_dir(b.rootfs().join("mnt")).unwrap();
    fs::write(b.rootfs().join("mnt"), "").unwrap();
    b.args(&[
        "/bin/sh",
        "-c",
        "dd if=/mnt of=/dev/null bs=64k count=16 iflag=direct && exec sleep 1000",
    ]);
    let c = b.create();
    let begun = std::time::Instant::now();
    c.start();
    let number = format!("{major}:{minor} ");
    let read = || {
        let (file, word) = by_version(
            "blkio",
            ("blkio.throttle.io_service_bytes", "Read "),
            ("io.stat", "rbytes="),
        );
        let text = b.cgroup_file("blkio", file);
        let counts = text.lines().filter_map(|l| {
            l.strip_prefix(&number)?
                .split_once(word)?
                .1
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        });
        counts.sum::<u64>()
    };
    until("the end of the reads", || read() >= bytes);
    let time = begun.elapsed();
    fs::remove_file(&file).unwrap();
    // Two seconds by the rate; the kernel does not delay the last pieces.
    assert!(
        time.as_millis() >= 1000,
        "{bytes} bytes at {rate} a second in {time:?}"
    );
}

/// Three pages where two are allowed. Reservations count: the host need not have the pages.
fn huge_pages_are_refused() {
    if !std::path::Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        skip!("this kernel has no pages of 2 MiB");
    }
    let version = cgroups::version("hugetlb");
    let mut b =
        Bundle::limited(&json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }] }));
    // mmap of 6 MiB, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB.
    b.args(&[
        "/bin/sh",
        "-c",
        "/bin/probe --probe syscall 9 0 6291456 3 262178 -1 0; exec sleep 1000",
    ]);
    let _c = b.started();
    let count = || match version {
        Version::V1 => b
            .cgroup_file("hugetlb", "hugetlb.2MB.rsvd.failcnt")
            .parse()
            .unwrap(),
        Version::V2 => counter(&b.cgroup_file("hugetlb", "hugetlb.2MB.events"), "max"),
    };
    until("the counter of refusals", || count() > 0);
}

/// A rule of nftables counts the packets of the class.
fn network_class_marks_packets() {
    if cgroups::hierarchy("net_cls").is_none() {
        skip!("net_cls is not mounted here");
    }
    let mut b = Bundle::limited(&json!({ "network": { "classID": 1_048_577 } }));
    b.args(&[
        "/bin/sh",
        "-c",
        "ip link set lo up; sleep 1; while :; do echo x | nc -w 1 127.0.0.1 9 ; sleep 0.2; done",
    ]);
    b.add_caps(&["CAP_NET_ADMIN"]);
    let c = b.started();
    let nft = |rules: &[&str]| {
        let mut command = std::process::Command::new("nsenter");
        command
            .args(["--net", &format!("--target={}", c.pid()), "nft"])
            .args(rules);
        crate::support::runtime::finish(command, crate::support::runtime::LIMIT)
    };
    nft(&[
        "add table inet seen; add chain inet seen out { type filter hook output priority 0; }; \
        add rule inet seen out meta cgroup 1048577 counter",
    ])
    .success();
    until("a counted packet", || {
        let text = nft(&["list", "chain", "inet", "seen", "out"])
            .success()
            .stdout;
        !text.contains("packets 0") && text.contains("packets ")
    });
}

/// A table of nftables that looks at the packets of the host's loopback device.
struct Egress(String);

impl Egress {
    fn nft(&self, line: &str) -> String {
        let mut command = std::process::Command::new("nft");
        command.arg(line.replace("TABLE", &self.0));
        crate::support::runtime::finish(command, crate::support::runtime::LIMIT)
            .success()
            .stdout
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        self.nft("delete table netdev TABLE");
    }
}

/// The kernel looks the interface up in the initial network namespace only (`write_priomap`,
/// net/core/netprio_cgroup.c): so the container is in that one.
fn network_priority_is_on_packets() {
    if cgroups::hierarchy("net_prio").is_none() {
        skip!("net_prio is not mounted here");
    }
    let egress = Egress(format!("hull_test_{}", std::process::id()));
    egress.nft(
        "add table netdev TABLE; add chain netdev TABLE out { type filter hook egress \
        device lo priority 0; }; add rule netdev TABLE out meta priority 0:5 counter",
    );
    let counted = || {
        let text = egress.nft("list chain netdev TABLE out");
        assert!(text.contains("counter packets"), "{text}");
        !text.contains("packets 0")
    };
    let mut b =
        Bundle::limited(&json!({ "network": { "priorities": [{ "name": "lo", "priority": 5 }] } }));
    b.without_namespace("network").args(&[
        "/bin/sh",
        "-c",
        "while :; do echo x | nc -w 1 127.0.0.1 9; sleep 0.2; done",
    ]);
    assert!(!counted(), "another process sends with that priority");
    let _c = b.started();
    until("a counted packet", counted);
}

fn device_rules_refuse() {
    let mut b = Bundle::new();
    b.push(
        "/linux/resources/devices",
        json!({ "allow": true, "type": "c", "major": 1, "minor": 1, "access": "r" }),
    );
    for (path, minor) in [("/dev/mem", 1), ("/dev/port", 4)] {
        b.push(
            "/linux/devices",
            json!({ "path": path, "type": "c", "major": 1, "minor": minor }),
        );
    }
    let said = b.output_of(
        "for d in port mem null; do (exec 3</dev/$d) 2>&1 && echo $d is \
        opened; (exec 3>/dev/$d) 2>&1 && echo $d is written; done; true",
    );
    for words in [
        "can't open /dev/port: Operation not permitted",
        "can't create /dev/port: Operation not permitted",
        "null is opened",
        "null is written",
    ] {
        assert_has!(said, words);
    }
    // The rule allows reading (for which the kernel may want CAP_SYS_RAWIO too), and not writing.
    assert_has!(said, "can't create /dev/mem: Operation not permitted");
}

fn device_rules_are_replaced_by_update() {
    only_hull!("runc 1.1.5 skips devices in update");
    let mut b = Bundle::sleeper();
    b.push(
        "/linux/devices",
        json!({ "path": "/dev/control", "type": "c", "major": 10, "minor": 237 }),
    );
    let c = b.started();
    let open = || c.exec(&["/bin/sh", "-c", "exec 3</dev/control"]);
    assert_has!(open().stderr, "Operation not permitted");
    let update = |allow: bool| {
        let rules = json!({ "devices": [{ "allow": false, "access": "rwm" }, { "allow": allow, "type": "c", "major": 10, "minor": 237, "access": "rw" }] });
        b.runtime
            .call_with_input(&["update", "--resources", "-", &b.id], &rules.to_string())
            .success();
    };
    update(true);
    assert!(
        !open().stderr.contains("Operation not permitted"),
        "{:?}",
        open()
    );
    update(false);
    assert_has!(open().stderr, "Operation not permitted");
    c.exec(&["/bin/sh", "-c", "exec 3>/dev/null"]).success();
}

fn freezer_stops_the_clock() {
    let mut b = Bundle::sleeper();
    b.args(&["/bin/sh", "-c", "while :; do :; done"]);
    let c = b.started();
    let used = || match cgroups::version("cpuacct") {
        Version::V1 => b
            .cgroup_file("cpuacct", "cpuacct.usage")
            .parse::<u64>()
            .unwrap(),
        Version::V2 => counter(&b.cgroup_file("cpu", "cpu.stat"), "usage_usec"),
    };
    c.call(&["pause"]).success();
    let at = used();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(used(), at, "a frozen program uses no time");
    c.call(&["resume"]).success();
    until("the program to continue", || used() > at);
}

fn kill_all_of_a_frozen_container() {
    let b = Bundle::sh("sleep 1000 & sleep 1000 & wait");
    let c = b.started();
    c.call(&["pause"]).success();
    b.call(&["kill", "--all", &b.id, "KILL"]).success();
    c.wait_for("stopped");
}

fn delete_force_of_a_frozen_container() {
    let b = Bundle::sh("trap '' TERM; sleep 1000 & sleep 1000 & wait");
    let c = b.started();
    c.call(&["pause"]).success();
    c.call(&["delete", "--force"]).success();
    assert_has!(c.call(&["state"]).failure(), "does not exist");
}

/// The container may have made and frozen a cgroup below its own.
fn delete_force_of_a_frozen_sub_cgroup() {
    let b = Bundle::sh("sleep 1000 & sleep 1000 & wait");
    let c = b.started();
    let dir = b.cgroup_dir("freezer").join("below");
    fs::create_dir(&dir).unwrap();
    let listed = || b.cgroup_file("freezer", "cgroup.procs");
    until("the shell's children", || listed().lines().count() == 3);
    let all = listed();
    let child = all.lines().find(|pid| *pid != c.pid().to_string()).unwrap();
    fs::write(dir.join("cgroup.procs"), child).unwrap();
    let (file, value) = by_version(
        "freezer",
        ("freezer.state", "FROZEN"),
        ("cgroup.freeze", "1"),
    );
    fs::write(dir.join(file), value).unwrap();
    c.call(&["delete", "--force"]).success();
    assert!(!b.cgroup_dir("freezer").exists());
}
