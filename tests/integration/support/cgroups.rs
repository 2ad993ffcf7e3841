//! Where this machine's kernel has a controller: in a hierarchy of cgroup v1 or in the one of v2,
//! found from mountinfo. With `HULL_TEST_SYSTEMD` set, every container's cgroup is made by systemd.

use std::fs;
use std::path::PathBuf;

/// The two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// Whether the suite drives the runtime with `--systemd-cgroup`.
pub fn by_systemd() -> bool {
    std::env::var_os("HULL_TEST_SYSTEMD").is_some()
}

/// The hierarchy of a controller, by its v1 name: which interface, and where it is mounted.
pub fn hierarchy(controller: &str) -> Option<(Version, PathBuf)> {
    let mounts = mounts();
    let v1 = mounts
        .iter()
        .find(|(kind, _, options)| kind == "cgroup" && options.split(',').any(|o| o == controller));
    if let Some((_, point, _)) = v1 {
        return Some((Version::V1, point.into()));
    }
    let (_, point, _) = mounts.iter().find(|(kind, ..)| kind == "cgroup2")?;
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

/// Which interface a controller speaks here; the test is skipped where there is none.
pub fn version(controller: &str) -> Version {
    if super::wall::is_vm() {
        return Version::V2;
    }
    match hierarchy(controller) {
        Some((version, _)) => version,
        None => skip!("no hierarchy has the controller {controller} here"),
    }
}

/// The interface of a container's controller; none where its kernel has no such controller. A
/// guest's tree is v2's.
pub fn speaks(controller: &str) -> Option<Version> {
    let of_guest = |name: &str| {
        [
            "cpu", "cpuset", "devices", "freezer", "hugetlb", "io", "memory", "pids", "rdma",
        ]
        .contains(&name)
    };
    match super::wall::is_vm() {
        true => of_guest(v2_name(controller)).then_some(Version::V2),
        false => hierarchy(controller).map(|(version, _)| version),
    }
}

/// Whether the one tree that a container sees is v2's.
pub fn is_pure_v2() -> bool {
    super::wall::is_vm() || mounts().iter().all(|(kind, ..)| kind == "cgroup2")
}

/// A value that differs between the interfaces.
pub fn by_version<T>(controller: &str, v1: T, v2: T) -> T {
    if version(controller) == Version::V1 {
        v1
    } else {
        v2
    }
}

/// Type, place and the file system's options of each cgroup mount.
fn mounts() -> Vec<(String, String, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let kind = back.next().filter(|kind| kind.starts_with("cgroup"))?;
        Some((
            kind.to_owned(),
            front.split(' ').nth(4)?.to_owned(),
            back.nth(1)?.to_owned(),
        ))
    };
    text.lines().filter_map(mount).collect()
}

/// Every folder in which a suite's cgroups may begin.
pub fn roots() -> Vec<PathBuf> {
    let mut all = vec![];
    for (_, point, _) in mounts() {
        let user = "user.slice/user-1000.slice/user@1000.service";
        for below in [
            "",
            "system.slice",
            "hull-test-delegated",
            user,
            &format!("{user}/user.slice"),
            &format!("{user}/app.slice"),
        ] {
            all.push(PathBuf::from(&point).join(below));
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
