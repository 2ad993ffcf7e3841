//! Trees of other hosts.

use crate::cgroups::request::{CgroupRequest, Driver};
use crate::cgroups::tree::{Hierarchy, Tree, Version};
use crate::spec::config::Resources;
use std::collections::BTreeMap;
use std::sync::LazyLock;

static NO_ANNOTATIONS: LazyLock<BTreeMap<String, String>> = LazyLock::new(BTreeMap::new);

fn list(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

pub fn v1_hierarchy(controllers: &str, own: &str) -> Hierarchy {
    let names = list(controllers);
    Hierarchy {
        version: Version::V1,
        mount_point: format!(
            "/sys/fs/cgroup/{}",
            names.join(",").trim_start_matches("name=")
        ),
        root: "/".to_owned(),
        controllers: names,
        near_controllers: Vec::new(),
        own: own.to_owned(),
        writable: true,
    }
}

fn v2_hierarchy(mount_point: &str, controllers: &str, own: &str) -> Hierarchy {
    Hierarchy {
        version: Version::V2,
        mount_point: mount_point.to_owned(),
        root: "/".to_owned(),
        controllers: list(controllers),
        near_controllers: list(controllers),
        own: own.to_owned(),
        writable: true,
    }
}

/// Every controller in v1, cpu with cpuacct and net_cls with net_prio, as distributions had it.
pub fn v1() -> Tree {
    let names = [
        "cpuset",
        "cpu cpuacct",
        "memory",
        "devices",
        "freezer",
        "net_cls net_prio",
        "blkio",
        "pids",
        "hugetlb",
        "rdma",
        "name=systemd",
    ];
    Tree {
        hierarchies: names.iter().map(|n| v1_hierarchy(n, "/user")).collect(),
        uid: 0,
    }
}

/// v1, and hugetlb in v2, as on the host of these tests.
pub fn hybrid() -> Tree {
    let names = [
        "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
    ];
    let mut hierarchies: Vec<Hierarchy> = names.iter().map(|n| v1_hierarchy(n, "/")).collect();
    hierarchies.push(v2_hierarchy("/sys/fs/cgroup/unified", "hugetlb", "/"));
    Tree {
        hierarchies,
        uid: 0,
    }
}

pub const V2_CONTROLLERS: &str = "cpuset cpu io memory hugetlb pids rdma misc";

pub fn v2() -> Tree {
    Tree {
        hierarchies: vec![v2_hierarchy(
            "/sys/fs/cgroup",
            V2_CONTROLLERS,
            "/user.slice/session-1.scope",
        )],
        uid: 0,
    }
}

pub fn request<'a>(path: Option<&'a str>, resources: Option<&'a Resources>) -> CgroupRequest<'a> {
    CgroupRequest {
        id: "ctr",
        path,
        driver: Driver::Cgroupfs,
        resources,
        device_rules: false,
        annotations: &NO_ANNOTATIONS,
        rootless: false,
    }
}

pub fn resources(json: &str) -> Resources {
    serde_json::from_str(json).unwrap()
}
