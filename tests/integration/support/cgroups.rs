//! The host's cgroup hierarchies, from mountinfo: whether a controller is in one of cgroup v1 or in
//! that of v2. With `HULL_TEST_SYSTEMD` set, systemd makes every container's cgroup.

use std::fs;
use std::path::PathBuf;

/// The two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// Whether the suite calls the runtime with `--systemd-cgroup`.
pub fn by_systemd() -> bool {
    std::env::var_os("HULL_TEST_SYSTEMD").is_some()
}

/// The hierarchy of a controller, by its v1 name: which interface, and where it is mounted.
pub fn hierarchy(controller: &str) -> Option<(Version, PathBuf)> {
    let mounts = mounts();
    let v1 = mounts
        .iter()
        .find(|m| m.kind == "cgroup" && m.options.split(',').any(|o| o == controller));
    if let Some(mount) = v1 {
        return Some((Version::V1, mount.point.clone().into()));
    }
    let point = &mounts.iter().find(|m| m.kind == "cgroup2")?.point;
    let listed = fs::read_to_string(format!("{point}/cgroup.controllers")).unwrap_or_default();
    let name = v2_name(controller);
    let has = matches!(name, "devices" | "freezer") || listed.split_whitespace().any(|c| c == name);
    has.then(|| (Version::V2, point.into()))
}

/// What v2 calls a controller of v1.
pub fn v2_name(controller: &str) -> &str {
    match controller {
        "blkio" => "io",
        "cpuacct" => "cpu",
        other => other,
    }
}

/// The interface of a controller on this host; the test is skipped where no hierarchy has it.
pub fn version(controller: &str) -> Version {
    if super::backend::is_vm() {
        return Version::V2;
    }
    match hierarchy(controller) {
        Some((version, _)) => version,
        None => skip!("no hierarchy has the controller {controller} here"),
    }
}

/// The interface of a container's controller; none where its kernel has no such controller. The
/// tree of a guest is v2's.
pub fn container_version(controller: &str) -> Option<Version> {
    let of_guest = |name: &str| {
        [
            "cpu", "cpuset", "devices", "freezer", "hugetlb", "io", "memory", "pids", "rdma",
        ]
        .contains(&name)
    };
    match super::backend::is_vm() {
        true => of_guest(v2_name(controller)).then_some(Version::V2),
        false => hierarchy(controller).map(|(version, _)| version),
    }
}

/// Whether the one tree that a container sees is that of v2.
pub fn is_pure_v2() -> bool {
    super::backend::is_vm() || mounts().iter().all(|m| m.kind == "cgroup2")
}

/// A value that differs between the interfaces.
pub fn by_version<T>(controller: &str, v1: T, v2: T) -> T {
    if version(controller) == Version::V1 {
        v1
    } else {
        v2
    }
}

/// A mount of a cgroup hierarchy.
struct Mount {
    /// `cgroup` or `cgroup2`.
    kind: String,
    point: String,
    /// The options of the file system: v1's controllers are among them.
    options: String,
}

fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let kind = back.next().filter(|kind| kind.starts_with("cgroup"))?;
        Some(Mount {
            kind: kind.to_owned(),
            point: front.split(' ').nth(4)?.to_owned(),
            options: back.nth(1)?.to_owned(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// Every directory in which the suite's cgroups may be.
pub fn roots() -> Vec<PathBuf> {
    let mut all = vec![];
    for mount in mounts() {
        let user = "user.slice/user-1000.slice/user@1000.service";
        for below in [
            "",
            "system.slice",
            "hull-test-delegated",
            user,
            &format!("{user}/user.slice"),
            &format!("{user}/app.slice"),
        ] {
            all.push(PathBuf::from(&mount.point).join(below));
        }
    }
    all.retain(|d| d.is_dir());
    all
}

/// A counter of a file of `NAME NUMBER` lines.
pub fn counter(text: &str, name: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
        .trim()
        .parse()
        .unwrap()
}
