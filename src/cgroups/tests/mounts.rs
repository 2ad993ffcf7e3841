use super::fake::{request, v1, v1_hierarchy, v2};
use crate::cgroups::mounts::{CgroupMount, mounts_for_container};
use crate::cgroups::plan::plan;
use crate::cgroups::request::Driver;
use crate::cgroups::tree::Tree;

fn file(below: &str, fstype: &'static str, data: &str, host: &str) -> CgroupMount {
    CgroupMount::File {
        below: below.into(),
        fstype,
        data: data.into(),
        host: host.into(),
    }
}

#[test]
fn v1_with_a_cgroup_namespace_mounts_each_hierarchy_anew() {
    let p = plan(&request(Some("/c"), None), &v1()).unwrap();
    let steps = mounts_for_container(&p, true, false);
    assert_eq!(steps[0], CgroupMount::Tmpfs);
    assert_eq!(
        steps[2],
        file(
            "/cpu,cpuacct",
            "cgroup",
            "cpu,cpuacct",
            "/sys/fs/cgroup/cpu,cpuacct/c"
        )
    );
    assert_eq!(
        steps[11],
        file(
            "/systemd",
            "cgroup",
            "name=systemd",
            "/sys/fs/cgroup/systemd/c"
        )
    );
    let link = |below: &str, to: &str| CgroupMount::Symlink {
        below: below.into(),
        to: to.into(),
    };
    assert_eq!(
        steps[12..],
        [
            link("/cpu", "cpu,cpuacct"),
            link("/cpuacct", "cpu,cpuacct"),
            link("/net_cls", "net_cls,net_prio"),
            link("/net_prio", "net_cls,net_prio")
        ]
    );
}

#[test]
fn v1_without_one_binds_the_containers_own() {
    let mut tree = Tree {
        hierarchies: vec![
            v1_hierarchy("memory", "/user"),
            v1_hierarchy("pids", "/user"),
        ],
        uid: 0,
    };
    tree.hierarchies[1].writable = false;
    let mut r = request(None, None);
    r.rootless = true;
    let p = plan(&r, &tree).unwrap();
    let bind = |below: &str, source: &str| CgroupMount::Bind {
        below: below.into(),
        source: source.into(),
    };
    // A container without a cgroup of its own is in the caller's.
    let expected = [
        CgroupMount::Tmpfs,
        bind("/memory", "/sys/fs/cgroup/memory/user/ctr"),
        bind("/pids", "/sys/fs/cgroup/pids/user"),
    ];
    assert_eq!(mounts_for_container(&p, false, false), expected);
}

#[test]
fn v2_is_one_mount_with_a_way_out() {
    let mut r = request(Some("/c"), None);
    let p = plan(&r, &v2()).unwrap();
    assert_eq!(
        mounts_for_container(&p, true, false),
        [file("", "cgroup2", "", "/sys/fs/cgroup/c")]
    );
    assert_eq!(
        mounts_for_container(&p, false, false),
        [file("", "cgroup2", "", "/sys/fs/cgroup")]
    );
    r.driver = Driver::Disabled;
    let p = plan(&r, &v2()).unwrap();
    assert_eq!(
        mounts_for_container(&p, true, false),
        [file(
            "",
            "cgroup2",
            "",
            "/sys/fs/cgroup/user.slice/session-1.scope"
        )]
    );
}

#[test]
fn type_cgroup2_is_the_v2_tree_of_a_hybrid_host() {
    let tree = Tree {
        hierarchies: vec![v1_hierarchy("memory", "/"), v2().hierarchies.remove(0)],
        uid: 0,
    };
    let p = plan(&request(None, None), &tree).unwrap();
    let steps = mounts_for_container(&p, true, true);
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert!(
        matches!(&steps[0], CgroupMount::File { below, fstype: "cgroup2", .. } if below.is_empty())
    );
    assert!(mounts_for_container(&p, true, false).len() > 1);
}
