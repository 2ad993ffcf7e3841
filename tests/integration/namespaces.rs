//! `linux.namespaces`: new ones, those left out, and those joined by path; host names,
//! `linux.sysctl`, `linux.timeOffsets`, id mappings and `linux.personality`.

use crate::support::backend::is_vm;
use crate::support::users::{Holder, MAPPED};
use crate::support::{Bundle, until};
use serde_json::json;
use std::fs;

tests![
    sysctls_of_the_callers_own_namespace_are_refused,
    new_namespaces_differ_from_the_hosts,
    namespaces_left_out_are_the_runtimes,
    namespaces_are_joined_by_path,
    pid_namespace_is_joined_by_path,
    mount_namespace_is_joined_by_path,
    network_namespace_of_a_joined_user_namespace,
    cgroup_namespace_hides_the_path,
    time_namespace_has_its_offsets,
    exec_joins_the_time_namespace,
    hostname_is_set,
    domainname_is_set,
    loopback_is_up_in_a_new_network_namespace,
    namespace_twice_is_an_error,
    namespace_of_the_wrong_kind_is_an_error,
    namespace_path_that_is_missing_is_an_error,
    hostname_without_uts_namespace_is_an_error,
    sysctl_of_a_shared_namespace_is_an_error,
    sysctl_is_written,
    unknown_sysctl_is_an_error,
    mappings_without_user_namespace_are_an_error,
    several_mappings_are_written,
    personality_is_set,
];

const KINDS: &[&str] = &["pid", "net", "ipc", "uts", "mnt"];

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}"))
        .unwrap()
        .display()
        .to_string()
}

fn new_namespaces_differ_from_the_hosts() {
    let mut b = Bundle::new();
    b.push("/linux/namespaces", json!({ "type": "cgroup" }));
    for kind in KINDS.iter().chain(&["cgroup"]) {
        assert_ne!(
            b.output_of(&format!("readlink /proc/self/ns/{kind}")),
            own(kind),
            "{kind}"
        );
    }
}

fn namespaces_left_out_are_the_runtimes() {
    let mut b = Bundle::new();
    for (kind, link) in [
        ("pid", "pid"),
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
    ] {
        b.without_namespace(kind);
        b.remove("/hostname");
        assert_eq!(
            b.output_of(&format!("readlink /proc/self/ns/{link}")),
            own(link),
            "{kind}"
        );
    }
    assert_eq!(b.output_of("readlink /proc/self/ns/cgroup"), own("cgroup"));
}

fn namespaces_are_joined_by_path() {
    let holder = Holder::new(&["--net", "--ipc", "--uts"]);
    let mut b = Bundle::new();
    b.remove("/hostname");
    for (kind, link) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        b.join(kind, holder.path(link));
    }
    for link in ["net", "ipc", "uts"] {
        assert_eq!(
            b.output_of(&format!("readlink /proc/self/ns/{link}")),
            holder.identity(link)
        );
    }
}

fn pid_namespace_is_joined_by_path() {
    let pod = Bundle::sleeper();
    let first = pod.started();
    let mut b = Bundle::new();
    b.join("pid", format!("/proc/{}/ns/pid", first.pid()));
    let text = b.output_of("cat /proc/1/cmdline | tr '\\0' ' '; echo; [ $$ -gt 1 ] && echo later");
    assert_eq!(text, "sleep 1000 \nlater");
    assert_eq!(first.status(), "running", "the first container has ended");
}

fn mount_namespace_is_joined_by_path() {
    let pod = Bundle::sleeper();
    let first = pod.started();
    let mut b = Bundle::new();
    b.join("mount", format!("/proc/{}/ns/mnt", first.pid()));
    b.set("/mounts", json!([]))
        .remove("/linux/maskedPaths")
        .remove("/linux/readonlyPaths");
    b.set("/root/path", json!("/")).writable();
    only_hull!("runc 1.1.5 needs the bundle's directory in a joined mount namespace");
    assert_eq!(
        b.output_of("hostname; cat /etc/group | head -1"),
        "box\nroot:x:0:"
    );
}

fn network_namespace_of_a_joined_user_namespace() {
    let holder = Holder::with_user_namespace(&["--net", "--ipc", "--uts"]);
    let mut b = Bundle::new();
    b.join("user", holder.path("user")).map_ids();
    b.remove("/hostname");
    for (kind, link) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        b.join(kind, holder.path(link));
    }
    b.add_caps(&["CAP_NET_ADMIN"]);
    for link in ["user", "net", "ipc", "uts"] {
        assert_eq!(
            b.output_of(&format!("readlink /proc/self/ns/{link}")),
            holder.identity(link)
        );
    }
    b.output_of("ip link set lo down");
}

fn cgroup_namespace_hides_the_path() {
    let mut b = Bundle::new();
    assert_has!(
        b.output_of("cat /proc/self/cgroup"),
        crate::support::cgroups::by_version(
            "pids",
            format!(":pids:{}", b.cgroup),
            format!("0::{}", b.cgroup_in_container())
        )
    );
    b.push("/linux/namespaces", json!({ "type": "cgroup" }));
    assert_has!(
        b.output_of("cat /proc/self/cgroup; echo end"),
        crate::support::cgroups::by_version("pids", ":pids:/\n", "0::/\n")
    );
}

fn with_offsets() -> Bundle {
    let mut b = Bundle::sleeper();
    b.push("/linux/namespaces", json!({ "type": "time" }));
    b.set(
        "/linux/timeOffsets",
        json!({ "monotonic": { "secs": 7200 }, "boottime": { "secs": 1_000_000, "nanosecs": 5 } }),
    );
    b
}

fn time_namespace_has_its_offsets() {
    only_hull!("runc 1.1.5 has no time namespaces");
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    // The clock of a guest begins with its boot.
    let host: f64 = if is_vm() {
        0.0
    } else {
        uptime.split(' ').next().unwrap().parse().unwrap()
    };
    let mut b = with_offsets();
    let text = b.output_of("cat /proc/uptime; cat /proc/self/timens_offsets");
    let uptime: f64 = text.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime - host >= 1_000_000.0, "{uptime} {host}");
    let offsets: Vec<&str> = text
        .lines()
        .skip(1)
        .flat_map(str::split_whitespace)
        .collect();
    assert_eq!(
        offsets,
        ["monotonic", "7200", "0", "boottime", "1000000", "5"]
    );
}

fn exec_joins_the_time_namespace() {
    only_hull!("runc 1.1.5 has no time namespaces");
    let b = with_offsets();
    let c = b.started();
    let of_init = c.namespace("time");
    assert_eq!(
        c.exec(&["readlink", "/proc/self/ns/time"])
            .success()
            .stdout
            .trim(),
        of_init
    );
    // In VM mode too: the initial namespaces of all kernels have the same number.
    assert_ne!(of_init, own("time"));
}

fn hostname_is_set() {
    assert_eq!(
        Bundle::new()
            .set("/hostname", json!("some.host"))
            .output_of("hostname"),
        "some.host"
    );
}

fn domainname_is_set() {
    only_hull!("runc 1.1.5 has no domainname");
    assert_eq!(
        Bundle::new()
            .set("/domainname", json!("example.org"))
            .output_of("cat /proc/sys/kernel/domainname"),
        "example.org"
    );
}

fn loopback_is_up_in_a_new_network_namespace() {
    let text =
        Bundle::new().output_of("ls /sys/class/net; cat /sys/class/net/lo/flags; ip addr show lo");
    assert_has!(text, "127.0.0.1/8");
    assert_has!(text, "LOOPBACK,UP");
}

fn namespace_twice_is_an_error() {
    let mut b = Bundle::new();
    b.push("/linux/namespaces", json!({ "type": "pid" }));
    assert_has!(b.run().failure(), "pid");
}

fn namespace_of_the_wrong_kind_is_an_error() {
    let holder = Holder::new(&["--net"]);
    let mut b = Bundle::new();
    b.join("ipc", holder.path("net"));
    b.run().failure();
}

fn namespace_path_that_is_missing_is_an_error() {
    let mut b = Bundle::new();
    b.join("network", "/no/such/namespace");
    let error = b.run().failure();
    assert_has!(error, "/no/such/namespace");
    assert_has!(error, "no such file or directory");
}

fn hostname_without_uts_namespace_is_an_error() {
    let mut b = Bundle::new();
    b.without_namespace("uts");
    assert_has!(b.run().failure(), "hostname");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(host.trim(), "box");
}

fn sysctl_of_a_shared_namespace_is_an_error() {
    let mut b = Bundle::new();
    b.without_namespace("network");
    b.set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }));
    assert_has!(b.run().failure(), "net.ipv4.ip_forward");
    let mut b = Bundle::new();
    b.set("/linux/sysctl", json!({ "vm.swappiness": "1" }));
    assert_has!(b.run().failure(), "vm.swappiness");
}

fn sysctl_is_written() {
    let mut b = Bundle::new();
    b.set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1", "kernel.shmmni": "1234", "net/ipv4/ping_group_range": "0 5", "fs.mqueue.msg_max": "55" }));
    let files = "net/ipv4/ip_forward kernel/shmmni net/ipv4/ping_group_range fs/mqueue/msg_max";
    let text = b.output_of(&format!("cd /proc/sys; cat {files}"));
    assert_eq!(
        text.split_whitespace().collect::<Vec<_>>(),
        ["1", "1234", "0", "5", "55"]
    );
}

fn unknown_sysctl_is_an_error() {
    let mut b = Bundle::new();
    b.set("/linux/sysctl", json!({ "net.ipv4.no_such_key": "1" }));
    assert_has!(b.run().failure(), "no such file or directory");
}

fn mappings_without_user_namespace_are_an_error() {
    only_hull!("runc 1.1.5 ignores the mappings");
    let mut b = Bundle::new();
    b.map_ids();
    assert_has!(b.run().failure(), "user namespace");
}

fn several_mappings_are_written() {
    let mut b = Bundle::with_user_namespace();
    let map = json!([
        { "containerID": 0, "hostID": MAPPED, "size": 10 },
        { "containerID": 1000, "hostID": MAPPED + 5000, "size": 5 }
    ]);
    b.set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    b.set(
        "/mounts/2/options",
        json!([
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5"
        ]),
    );
    let text = b.output_of("cat /proc/self/uid_map /proc/self/gid_map");
    let numbers: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(numbers[..6], ["0", "200000", "10", "1000", "205000", "5"]);
    assert_eq!(numbers[6..], numbers[..6]);
}

fn personality_is_set() {
    only_hull!("runc 1.1.5 has no personality");
    let mut b = Bundle::sh("uname -m; cat /proc/self/personality");
    b.set("/linux/personality", json!({ "domain": "LINUX32" }));
    let out = b.run().success().stdout;
    assert_has!(out, "i686");
    assert_has!(out, "00000008");
    let b = {
        b.set("/process/args", json!(["sleep", "1000"]));
        b
    };
    let c = b.started();
    until("the personality", || {
        c.proc_file("personality").trim() == "00000008"
    });
    assert_eq!(c.exec(&["uname", "-m"]).success().stdout.trim(), "i686");
}

/// Docker's `--network host` names the host's namespace by its path.
fn sysctls_of_the_callers_own_namespace_are_refused() {
    only_hull!("runc 1.1.5 compares the paths of network namespaces only");
    for (kind, file, key) in [
        ("network", "net", "net.ipv4.ip_forward"),
        ("ipc", "ipc", "kernel.msgmax"),
        ("uts", "uts", "kernel.domainname"),
    ] {
        let mut b = Bundle::new();
        b.without_namespace(kind);
        let path = format!("/proc/{}/ns/{file}", std::process::id());
        b.push("/linux/namespaces", json!({ "type": kind, "path": path }));
        if kind == "uts" {
            b.spec.as_object_mut().unwrap().remove("hostname");
        }
        b.set("/linux/sysctl", json!({ key: "1" }));
        b.args(&["true"]);
        assert_has!(b.run().failure(), "is not allowed in the hosts");
    }
}
