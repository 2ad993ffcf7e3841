use crate::cgroups::tree::{Tree, Version};
use crate::sys::mountinfo;

fn parse(mounts: &str, own: &str) -> Tree {
    Tree::of(&mountinfo::parse(mounts.as_bytes()), own)
}

const V1_OWN: &str =
    "4:memory:/user/x\n3:cpu,cpuacct:/user\n2:name=systemd:/\n1:devices:/user\n0::/\n";

#[test]
fn v1_with_comounted_controllers_and_a_named_hierarchy() {
    let mountinfo = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpuacct,cpu
34 31 0:31 / /sys/fs/cgroup/systemd ro,relatime - cgroup cgroup rw,xattr,name=systemd
35 31 0:32 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
";
    let tree = parse(mountinfo, V1_OWN);
    let shown: Vec<_> = tree
        .hierarchies
        .iter()
        .map(|h| (h.controllers.join("+"), h.own_dir(), h.writable))
        .collect();
    let dir = |d: &str| Some(format!("/sys/fs/cgroup/{d}"));
    let expected = [
        ("memory", dir("memory/user/x"), true),
        ("cpu+cpuacct", dir("cpu,cpuacct/user"), true),
        ("name=systemd", dir("systemd"), false),
        ("devices", dir("devices/user"), true),
    ];
    assert_eq!(shown, expected.map(|(c, d, w)| (c.to_owned(), d, w)));
    assert!(!tree.is_pure_v2());
}

#[test]
fn hybrid_and_pure_v2() {
    let mountinfo = "32 31 0:29 / /cg/memory rw - cgroup cgroup rw,memory\n41 31 0:38 / \
        /cg/unified rw - cgroup2 none rw,nsdelegate\n";
    let tree = parse(mountinfo, "4:memory:/a\n0::/b c\n");
    assert_eq!(
        tree.hierarchies
            .iter()
            .map(|h| h.version)
            .collect::<Vec<_>>(),
        [Version::V1, Version::V2]
    );
    assert_eq!(
        tree.hierarchies[1].own_dir().as_deref(),
        Some("/cg/unified/b c")
    );
    assert_eq!(
        tree.hierarchies[1].relative_dir().as_deref(),
        Some("/cg/unified")
    );

    let tree = parse(
        "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "0::/user.slice/u.scope\n",
    );
    assert!(tree.is_pure_v2());
    assert_eq!(
        tree.hierarchies[0].relative_dir().as_deref(),
        Some("/sys/fs/cgroup/user.slice")
    );
}

#[test]
fn in_a_container_without_a_cgroup_namespace_the_mount_shows_a_part() {
    let mountinfo = "32 31 0:29 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let own = |path: &str| parse(mountinfo, &format!("4:memory:{path}\n")).hierarchies[0].own_dir();
    assert_eq!(own("/docker/abc").as_deref(), Some("/sys/fs/cgroup/memory"));
    assert_eq!(
        own("/docker/abc/x").as_deref(),
        Some("/sys/fs/cgroup/memory/x")
    );
    assert_eq!(own("/docker/abcd"), None);
    assert_eq!(own("/"), None);
}

#[test]
fn a_mount_from_outside_of_the_cgroup_namespace_does_not_show_the_own_cgroup() {
    let tree = parse(
        "32 31 0:29 /../.. /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        "4:memory:/\n",
    );
    assert_eq!(tree.hierarchies[0].own_dir(), None);
}

#[test]
fn a_mount_under_another_one_is_not_seen() {
    let base = "\
20 1 0:20 / / rw - ext4 /dev/root rw
31 20 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";
    assert_eq!(parse(base, "4:memory:/\n").hierarchies.len(), 1);
    let covered = format!("{base}40 31 0:50 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n");
    assert_eq!(parse(&covered, "4:memory:/\n").hierarchies.len(), 0);
    let again =
        format!("{covered}41 40 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    assert_eq!(parse(&again, "4:memory:/\n").hierarchies.len(), 1);
    let beside = format!("{base}40 20 0:50 / /sys/fs/cgro rw - tmpfs tmpfs rw\n");
    assert_eq!(parse(&beside, "4:memory:/\n").hierarchies.len(), 1);
}

#[test]
fn the_mount_that_shows_most_is_taken() {
    let mountinfo = "\
32 31 0:29 /docker/abc /var/ctr/sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
33 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:29 /user /mnt/x\\040y rw - cgroup cgroup rw,memory
";
    let tree = parse(mountinfo, "4:memory:/user/a\n");
    assert_eq!(tree.hierarchies.len(), 1);
    assert_eq!(tree.hierarchies[0].mount_point, "/sys/fs/cgroup/memory");
}

#[test]
fn blanks_in_mount_points_are_decoded_and_a_deleted_cgroup_keeps_its_name() {
    let tree = parse(
        "32 31 0:29 / /a\\040b\\134 rw - cgroup cgroup rw,memory\n",
        "4:memory:/x:y (deleted)\n",
    );
    assert_eq!(tree.hierarchies[0].own_dir().as_deref(), Some("/a b\\/x:y"));
}
