//! `mounts`: every type and option, as mountinfo in the container shows it.

use crate::support::users::private_mounts;
use crate::support::{Bundle, fixture};
use nix::mount::MsFlags;
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

tests![
    tmpfs_takes_size_mode_and_flags,
    tmpfs_mode_wins_over_the_directory_below,
    every_flag_reaches_the_mount,
    the_option_defaults_has_no_effect,
    later_flags_override_earlier_ones,
    atime_options,
    bind_of_a_directory,
    bind_of_a_file_makes_its_target,
    bind_is_not_recursive_and_rbind_is,
    read_only_bind_keeps_submounts_writable,
    recursive_read_only_reaches_submounts,
    recursive_attributes,
    bind_from_a_path_relative_to_the_bundle,
    bind_of_a_missing_source_is_an_error,
    missing_target_directories_are_made,
    symlinked_target_stays_in_the_root,
    absolute_symlinked_target_stays_in_the_root,
    mounts_come_in_order,
    targets_may_be_dangling_symlinks,
    a_bind_on_the_root_replaces_it,
    a_new_file_system_on_the_root_is_refused,
    a_bind_of_the_hosts_root_shows_the_host,
    a_source_below_an_earlier_mount_is_that_mounts,
    a_bind_has_exactly_the_flags_that_are_given,
    a_locked_flag_cannot_be_cleared_by_name,
    cleared_atime_settings_leave_relatime,
    mounts_below_a_read_only_tmpfs_are_made,
    mounts_below_the_read_only_cgroup_directory_are_made,
    a_bind_on_a_default_device_wins,
    a_tmpfs_may_cover_a_directory_of_proc,
    many_mounts_fit_into_a_small_limit_of_descriptors,
    without_pivot_a_nested_namespace_gets_no_fresh_proc,
    tmpcopyup_copies_the_directory,
    mount_without_source,
    mount_without_type_and_bind_option_is_an_error,
    unknown_file_system_is_an_error,
    bind_with_type_none_or_bind,
    bind_keeps_locked_flags_in_a_user_namespace,
    overlay_from_options,
    proc_is_this_pid_namespaces,
    sysfs_is_this_network_namespaces,
    devpts_is_a_new_instance,
    mqueue_and_shm,
    mqueue_belongs_to_root_in_a_user_namespace,
    data_options_reach_the_file_system,
    idmapped_mount_in_a_user_namespace,
    idmapped_mount_without_a_user_namespace,
    recursive_idmapped_mount,
];

/// The options of the topmost mount at `target`, and those of its file system, by mountinfo in the
/// container.
fn options_of(b: &mut Bundle, target: &str) -> (String, String) {
    let text = b.output_of("cat /proc/self/mountinfo");
    let line = text
        .lines()
        .rfind(|l| l.split(' ').nth(4) == Some(target))
        .unwrap_or_else(|| panic!("no mount at {target}:\n{text}"));
    let fields: Vec<&str> = line.split(' ').collect();
    (fields[5].to_owned(), (*fields.last().unwrap()).to_owned())
}

#[track_caller]
fn assert_options(b: &mut Bundle, target: &str, with: &[&str], without: &[&str]) {
    let (options, _) = options_of(b, target);
    let have: Vec<&str> = options.split(',').collect();
    for w in with {
        assert!(have.contains(w), "{w} is missing in {options}");
    }
    for w in without {
        assert!(!have.contains(w), "{w} should not be in {options}");
    }
}

fn tmpfs_takes_size_mode_and_flags() {
    let mut b = Bundle::new();
    let options = [
        "nosuid",
        "noexec",
        "nodev",
        "size=64k",
        "mode=1711",
        "uid=1000",
        "gid=10",
    ];
    b.mount("/mnt/new", "tmpfs", "tmpfs", &options);
    assert_eq!(b.output_of("stat -c '%a %u %g' /mnt/new"), "1711 1000 10");
    let (flags, data) = options_of(&mut b, "/mnt/new");
    assert_eq!(flags, "rw,nosuid,nodev,noexec,relatime");
    assert_has!(data, "size=64k");
    b.set("/process/user", json!({ "uid": 1000, "gid": 10 }));
    let said = b.output_of("dd if=/dev/zero of=/mnt/new/big bs=1k count=100 2>&1; true");
    assert_has!(said, "No space left");
}

fn tmpfs_mode_wins_over_the_directory_below() {
    only_hull!("runc 1.1.5 gives a tmpfs the mode of the directory below it");
    let mut b = Bundle::new();
    b.mount("/mnt", "tmpfs", "tmpfs", &["mode=1711"]);
    b.mount("/var", "tmpfs", "tmpfs", &[]);
    fs::set_permissions(b.rootfs().join("var"), fs::Permissions::from_mode(0o710)).unwrap();
    assert_eq!(
        b.output_of("stat -c %a /mnt /var"),
        "1711\n710",
        "without a mode, it has that of the directory"
    );
}

fn every_flag_reaches_the_mount() {
    for flag in [
        "ro",
        "nosuid",
        "nodev",
        "noexec",
        "nosymfollow",
        "noatime",
        "nodiratime",
    ] {
        if flag == "nosymfollow" && !crate::support::runtime::drives_hull() {
            continue;
        }
        let mut b = Bundle::new();
        b.mount("/mnt", "tmpfs", "tmpfs", &[flag]);
        assert_options(&mut b, "/mnt", &[flag], &[]);
    }
    let mut b = Bundle::new();
    b.mount("/mnt", "tmpfs", "tmpfs", &["sync", "dirsync"]);
    let (_, data) = options_of(&mut b, "/mnt");
    assert!(data.contains("sync") && data.contains("dirsync"), "{data}");
}

fn later_flags_override_earlier_ones() {
    let mut b = Bundle::new();
    b.mount(
        "/mnt",
        "tmpfs",
        "tmpfs",
        &[
            "ro", "nosuid", "noexec", "nodev", "rw", "suid", "exec", "dev",
        ],
    );
    assert_options(
        &mut b,
        "/mnt",
        &["rw"],
        &["ro", "nosuid", "noexec", "nodev"],
    );
}

fn the_option_defaults_has_no_effect() {
    only_hull!("runc 1.1.5 passes the option to the file system");
    let mut b = Bundle::new();
    b.mount("/mnt", "tmpfs", "tmpfs", &["nosuid", "ro", "defaults"]);
    assert_options(&mut b, "/mnt", &["ro", "nosuid"], &[]);
}

fn atime_options() {
    for (option, with, without) in [
        ("relatime", &["relatime"][..], &["noatime"][..]),
        ("strictatime", &[], &["relatime", "noatime"]),
        ("noatime", &["noatime"], &["relatime"]),
        ("norelatime", &[], &["noatime"]),
    ] {
        let mut b = Bundle::new();
        b.mount("/mnt", "tmpfs", "tmpfs", &[option]);
        assert_options(&mut b, "/mnt", with, without);
    }
}

fn bind_of_a_directory() {
    let source = fixture::new_dir("source");
    fs::write(source.join("file"), "text").unwrap();
    let mut b = Bundle::new();
    b.mount(
        "/mnt",
        "bind",
        source.to_str().unwrap(),
        &["bind", "nosuid"],
    );
    assert_eq!(b.output_of("cat /mnt/file; echo new > /mnt/made"), "text");
    assert_eq!(fs::read_to_string(source.join("made")).unwrap(), "new\n");
    assert_options(&mut b, "/mnt", &["rw", "nosuid"], &[]);
    let mut b = Bundle::new();
    b.mount("/mnt", "bind", source.to_str().unwrap(), &["rbind", "ro"]);
    assert_options(&mut b, "/mnt", &["ro"], &[]);
    assert_has!(
        b.output_of("echo x 2>&1 > /mnt/file || true; touch /mnt/x 2>&1; true"),
        "Read-only file system"
    );
}

fn bind_of_a_file_makes_its_target() {
    let source = fixture::new_dir("source").join("file");
    fs::write(&source, "text").unwrap();
    let mut b = Bundle::new();
    b.mount(
        "/mnt/deep/er/target",
        "bind",
        source.to_str().unwrap(),
        &["bind"],
    );
    assert_eq!(b.output_of("cat /mnt/deep/er/target"), "text");
    assert!(b.rootfs().join("mnt/deep/er/target").is_file());
}

/// A directory with a tmpfs below it, `sub`, which has the file `inner`; in a mount namespace of
/// the test's own.
fn tree_with_submount() -> String {
    private_mounts();
    let source = fixture::new_dir("tree");
    fs::create_dir(source.join("sub")).unwrap();
    fixture::mount_tmpfs(&source.join("sub"), MsFlags::empty(), None);
    fs::write(source.join("sub/inner"), "inner").unwrap();
    source.to_str().unwrap().to_owned()
}

fn bind_is_not_recursive_and_rbind_is() {
    let source = tree_with_submount();
    for (option, seen) in [("bind", ""), ("rbind", "inner")] {
        let mut b = Bundle::new();
        b.mount("/mnt", "bind", &source, &[option]);
        assert_eq!(b.output_of("ls /mnt/sub"), seen, "{option}");
    }
}

fn read_only_bind_keeps_submounts_writable() {
    let source = tree_with_submount();
    let mut b = Bundle::new();
    b.mount("/mnt", "bind", &source, &["rbind", "ro"]);
    assert_eq!(
        b.output_of("touch /mnt/x 2>/dev/null || echo refused; touch /mnt/sub/x && echo made"),
        "refused\nmade"
    );
}

fn recursive_read_only_reaches_submounts() {
    let source = tree_with_submount();
    let mut b = Bundle::new();
    b.mount("/mnt", "bind", &source, &["rbind", "rro"]);
    assert_options(&mut b, "/mnt", &["ro"], &[]);
    assert_options(&mut b, "/mnt/sub", &["ro"], &[]);
    assert_eq!(
        b.output_of("touch /mnt/sub/x 2>/dev/null || echo refused"),
        "refused"
    );
}

fn recursive_attributes() {
    let source = tree_with_submount();
    let mut b = Bundle::new();
    b.mount(
        "/mnt",
        "bind",
        &source,
        &[
            "rbind",
            "rnosuid",
            "rnodev",
            "rnoexec",
            "rnoatime",
            "rnodiratime",
        ],
    );
    let all = &["rw", "nosuid", "nodev", "noexec", "noatime", "nodiratime"];
    assert_options(&mut b, "/mnt", all, &[]);
    assert_options(&mut b, "/mnt/sub", all, &[]);
    for (option, without) in [
        ("rstrictatime", &["relatime", "noatime"][..]),
        ("rrelatime", &["noatime"]),
    ] {
        let mut b = Bundle::new();
        b.mount("/mnt", "bind", &source, &["rbind", option]);
        assert_options(&mut b, "/mnt/sub", &[], without);
    }
}

fn bind_from_a_path_relative_to_the_bundle() {
    let mut b = Bundle::new();
    fs::create_dir(b.dir.join("data")).unwrap();
    fs::write(b.dir.join("data/file"), "text").unwrap();
    b.mount("/mnt", "bind", "data", &["bind"]);
    assert_eq!(b.output_of("cat /mnt/file"), "text");
}

fn bind_of_a_missing_source_is_an_error() {
    let mut b = Bundle::new();
    b.mount("/mnt", "bind", "/no/such/source", &["bind"]);
    let error = b.run().failure();
    assert_has!(error, "no such file or directory");
    assert_has!(error, "/no/such/source");
}

fn missing_target_directories_are_made() {
    let mut b = Bundle::new();
    b.mount("/a/b/c", "tmpfs", "tmpfs", &[]);
    assert_eq!(b.output_of("stat -c '%a %F' /a/b"), "755 directory");
}

fn symlinked_target_stays_in_the_root() {
    let hosts = fixture::new_dir("hosts");
    let mut b = Bundle::new();
    symlink(
        format!("../../../../../../../../..{}", hosts.display()),
        b.rootfs().join("link"),
    )
    .unwrap();
    b.mount("/link/below", "tmpfs", "tmpfs", &["mode=700"]);
    let in_root = format!("{}/below", hosts.display());
    assert_options(&mut b, &in_root, &["rw"], &[]);
    assert_eq!(
        fs::read_dir(hosts).unwrap().count(),
        0,
        "something was made on the host"
    );
}

fn absolute_symlinked_target_stays_in_the_root() {
    let mut b = Bundle::new();
    symlink("/var/real", b.rootfs().join("link")).unwrap();
    fs::create_dir(b.rootfs().join("var/real")).unwrap();
    b.mount("/link", "tmpfs", "tmpfs", &[]);
    assert_options(&mut b, "/var/real", &["rw"], &[]);
}

fn mounts_come_in_order() {
    let mut b = Bundle::new();
    b.mount("/mnt", "tmpfs", "first", &["size=16k"]).mount(
        "/mnt",
        "tmpfs",
        "second",
        &["size=32k"],
    );
    b.mount("/mnt/below", "tmpfs", "third", &[]);
    let text = b.output_of("grep /mnt /proc/self/mountinfo");
    let sources: Vec<&str> = text
        .lines()
        .map(|l| l.split(' ').rev().nth(1).unwrap())
        .collect();
    assert_eq!(sources, ["first", "second", "third"]);
}

fn tmpcopyup_copies_the_directory() {
    let mut b = Bundle::new();
    let var = b.rootfs().join("var");
    fs::create_dir(var.join("sub")).unwrap();
    fs::write(var.join("sub/file"), "text").unwrap();
    fs::set_permissions(var.join("sub/file"), fs::Permissions::from_mode(0o646)).unwrap();
    std::os::unix::fs::chown(var.join("sub/file"), Some(1000), Some(10)).unwrap();
    symlink("sub/file", var.join("link")).unwrap();
    b.mount("/var", "tmpfs", "tmpfs", &["rw", "tmpcopyup"]);
    let script = "cat /var/sub/file; echo; stat -c '%a %u %g' /var/sub/file; readlink /var/link; \
        echo more > /var/sub/file; stat -f -c %T /var";
    assert_eq!(b.output_of(script), "text\n646 1000 10\nsub/file\ntmpfs");
    assert_eq!(
        fs::read_to_string(var.join("sub/file")).unwrap(),
        "text",
        "the file of the image has changed"
    );
}

fn mount_without_source() {
    let mut b = Bundle::new();
    b.push("/mounts", json!({ "destination": "/mnt", "type": "tmpfs" }));
    assert_options(&mut b, "/mnt", &["rw"], &[]);
}

fn mount_without_type_and_bind_option_is_an_error() {
    let mut b = Bundle::new();
    b.push(
        "/mounts",
        json!({ "destination": "/mnt", "source": "/tmp" }),
    );
    b.run().failure();
}

fn unknown_file_system_is_an_error() {
    let mut b = Bundle::new();
    b.mount("/mnt", "nosuchfs", "none", &[]);
    let error = b.run().failure();
    assert_has!(error, "/mnt");
    assert_has!(error, "no such device");
}

fn bind_with_type_none_or_bind() {
    let source = fixture::new_dir("source");
    fs::write(source.join("file"), "text").unwrap();
    for kind in ["none", "bind"] {
        let mut b = Bundle::new();
        b.mount("/mnt", kind, source.to_str().unwrap(), &["bind"]);
        assert_eq!(b.output_of("cat /mnt/file"), "text");
    }
    let mut b = Bundle::new();
    b.push(
        "/mounts",
        json!({ "destination": "/mnt", "source": source, "options": ["bind"] }),
    );
    assert_eq!(b.output_of("cat /mnt/file"), "text");
}

/// A user namespace may not clear a flag of the host's mount: the kernel refuses a remount without
/// it with EPERM. So the runtime must keep the flag unless the configuration has its opposite.
fn bind_keeps_locked_flags_in_a_user_namespace() {
    only_hull!("runc 1.1.5 fails with EPERM there");
    private_mounts();
    let source = fixture::new_dir("locked");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fixture::mount_tmpfs(&source, flags, None);
    let mut b = Bundle::of_ordinary_user();
    b.mount("/mnt", "bind", source.to_str().unwrap(), &["bind", "ro"]);
    assert_options(&mut b, "/mnt", &["ro", "nosuid", "nodev", "noexec"], &[]);
}

fn overlay_from_options() {
    let base = fixture::new_dir("layers");
    for d in ["lower", "upper", "work"] {
        fs::create_dir(base.join(d)).unwrap();
    }
    fs::write(base.join("lower/file"), "lower").unwrap();
    let mut b = Bundle::new();
    let data = ["lower", "upper", "work"].map(|d| format!("{d}dir={}/{d}", base.display()));
    b.mount(
        "/mnt",
        "overlay",
        "overlay",
        &[&data[0], &data[1], &data[2]],
    );
    assert_eq!(
        b.output_of("cat /mnt/file; echo upper > /mnt/file"),
        "lower"
    );
    assert_eq!(
        fs::read_to_string(base.join("upper/file")).unwrap(),
        "upper\n"
    );
    assert_eq!(
        fs::read_to_string(base.join("lower/file")).unwrap(),
        "lower"
    );
}

fn proc_is_this_pid_namespaces() {
    assert_eq!(
        Bundle::new().output_of("echo $$ /proc/[0-9]*; readlink /proc/1/exe"),
        "1 /proc/1\n/bin/busybox"
    );
}

fn sysfs_is_this_network_namespaces() {
    assert_eq!(
        Bundle::new().output_of("ls /sys/class/net; touch /sys/x 2>/dev/null || echo refused"),
        "lo\nrefused"
    );
}

fn devpts_is_a_new_instance() {
    let mut b = Bundle::new();
    assert_eq!(
        b.output_of("ls /dev/pts; readlink /dev/ptmx"),
        "ptmx\npts/ptmx"
    );
    let (flags, data) = options_of(&mut b, "/dev/pts");
    assert_eq!(flags, "rw,nosuid,noexec,relatime");
    assert_eq!(data, "rw,gid=5,mode=620,ptmxmode=666");
}

fn mqueue_and_shm() {
    let mut b = Bundle::new();
    assert_options(&mut b, "/dev/mqueue", &["nosuid", "nodev", "noexec"], &[]);
    assert_eq!(
        b.output_of("stat -c %a /dev/shm; stat -f -c %b /dev/shm"),
        "1777\n16384"
    );
}

/// A new mqueue belongs to the ids of the process that mounts it: these must be those of the
/// container's root by then.
fn mqueue_belongs_to_root_in_a_user_namespace() {
    only_hull!("runc 1.1.5 gives it root's user and nobody's group");
    let mut b = Bundle::with_user_namespace();
    assert_eq!(
        b.output_of("stat -c '%u %g' /dev/mqueue /dev/shm"),
        "0 0\n0 0"
    );
}

fn data_options_reach_the_file_system() {
    let mut b = Bundle::new();
    b.mount("/mnt", "tmpfs", "tmpfs", &["nr_inodes=12"]);
    assert_has!(options_of(&mut b, "/mnt").1, "nr_inodes=12");
    let mut b = Bundle::new();
    b.mount("/mnt", "tmpfs", "tmpfs", &["nosuchoption=12"]);
    assert_has!(b.run().failure(), "invalid argument");
}

/// A directory whose one file belongs to 1000:1000 on the host.
fn directory_of_1000() -> String {
    let source = fixture::new_dir("idmapped");
    fs::write(source.join("file"), "").unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(1000), Some(1000)).unwrap();
    source.to_str().unwrap().to_owned()
}

fn idmapped_mount_in_a_user_namespace() {
    only_hull!("runc 1.1.5 has no idmapped mounts");
    let source = directory_of_1000();
    let mut b = Bundle::with_user_namespace();
    b.mount("/mnt", "bind", &source, &["bind", "idmap"]);
    assert_eq!(b.output_of("stat -c '%u %g' /mnt/file"), "1000 1000");
    let mut b = Bundle::with_user_namespace();
    b.mount("/mnt", "bind", &source, &["bind"]);
    assert_eq!(
        b.output_of("stat -c '%u %g' /mnt/file"),
        "65534 65534",
        "without the map the owner is nobody"
    );
}

fn idmapped_mount_without_a_user_namespace() {
    only_hull!("runc 1.1.5 has no idmapped mounts");
    let source = directory_of_1000();
    let map = json!([{ "containerID": 1000, "hostID": 5000, "size": 1 }]);
    let mut b = Bundle::new();
    b.push("/mounts", json!({
        "destination": "/mnt", "type": "bind", "source": source, "options": ["bind"], "uidMappings": map, "gidMappings": map
    }));
    assert_eq!(b.output_of("stat -c '%u %g' /mnt/file"), "5000 5000");
}

fn recursive_idmapped_mount() {
    only_hull!("runc 1.1.5 has no idmapped mounts");
    let source = tree_with_submount();
    std::os::unix::fs::chown(format!("{source}/sub/inner"), Some(1000), Some(1000)).unwrap();
    for (option, owner) in [("ridmap", "1000"), ("idmap", "65534")] {
        let mut b = Bundle::with_user_namespace();
        b.mount("/mnt", "bind", &source, &["rbind", option]);
        assert_eq!(b.output_of("stat -c %u /mnt/sub/inner"), owner, "{option}");
    }
}

fn targets_may_be_dangling_symlinks() {
    only_hull!("runc 1.1.5 refuses them");
    for user in [false, true] {
        let source = fixture::new_dir("source");
        fs::write(source.join("file"), "text").unwrap();
        let mut b = Bundle::new();
        if user {
            b.add_user_namespace();
        }
        let root = b.rootfs();
        symlink("/usr/share/zoneinfo/X", root.join("etc/localtime")).unwrap();
        symlink("../run/here/resolv.conf", root.join("etc/resolv.conf")).unwrap();
        symlink("/data/new", root.join("logs")).unwrap();
        symlink("through", root.join("first")).unwrap();
        symlink("/somewhere", root.join("through")).unwrap();
        let file = source.join("file");
        let file = file.to_str().unwrap();
        b.mount("/etc/localtime", "bind", file, &["bind"]);
        b.mount("/etc/resolv.conf", "bind", file, &["bind"]);
        b.mount("/logs", "bind", source.to_str().unwrap(), &["bind"]);
        b.mount("/first", "tmpfs", "tmpfs", &[]);
        let script = "cat /usr/share/zoneinfo/X /run/here/resolv.conf /data/new/file; \
                      touch /first/made && ls /somewhere";
        assert_eq!(b.output_of(script), "texttexttextmade", "user: {user}");
    }
}

fn a_bind_on_the_root_replaces_it() {
    for read_only in [false, true] {
        let mut b = Bundle::new();
        b.set("/root/readonly", json!(read_only));
        let other = b.dir.join("other");
        fixture::fill_rootfs(&other);
        fs::write(other.join("marker"), "new").unwrap();
        let mount = json!({
            "destination": "/", "type": "bind", "source": other, "options": ["rbind"],
        });
        let mounts = b.spec["mounts"].as_array_mut().unwrap();
        mounts.insert(0, mount);
        let script = "cat /marker; test -e /dev/null && test -d /proc/self && echo; \
                      touch /x 2>&1; true";
        let out = b.output_of(script);
        assert!(out.starts_with("new"), "{out}");
        assert_eq!(out.contains("Read-only"), read_only, "{out}");
    }
}

fn a_new_file_system_on_the_root_is_refused() {
    only_hull!("runc covers the root, and then finds no program");
    let mut b = Bundle::new();
    b.mount("/", "tmpfs", "tmpfs", &[]);
    assert_has!(b.run().failure(), "cannot cover the root");
}

fn a_bind_of_the_hosts_root_shows_the_host() {
    let place = fixture::new_dir("host");
    fs::write(place.join("mark"), "here").unwrap();
    for user in [false, true] {
        let mut b = Bundle::new();
        if user {
            b.add_user_namespace();
        }
        b.mount("/mnt", "bind", "/", &["rbind", "ro"]);
        let script = format!("cat /mnt{}/mark", place.display());
        assert_eq!(b.output_of(&script), "here", "user: {user}");
    }
}

fn a_source_below_an_earlier_mount_is_that_mounts() {
    for user in [false, true] {
        let source = fixture::new_dir("source");
        fs::create_dir(source.join("below")).unwrap();
        fs::write(source.join("below/file"), "text").unwrap();
        let mut b = Bundle::new();
        if user {
            b.add_user_namespace();
        }
        b.mount("/mnt", "bind", source.to_str().unwrap(), &["bind"]);
        let below = b.rootfs().join("mnt/below");
        b.mount("/copy", "bind", below.to_str().unwrap(), &["bind"]);
        assert_eq!(b.output_of("cat /copy/file"), "text", "user: {user}");
    }
}

fn a_bind_has_exactly_the_flags_that_are_given() {
    private_mounts();
    let source = fixture::new_dir("flags");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fixture::mount_tmpfs(&source, flags | MsFlags::MS_NOATIME, None);
    let source = source.to_str().unwrap();
    let all = &["nosuid", "nodev", "noexec"][..];
    for (options, with, without) in [
        (&["bind"][..], all, &[][..]),
        (&["bind", "ro"], &["ro", "noatime"], all),
        (&["bind", "rw"], all, &[]),
        (&["bind", "nodev"], &["nodev"], &["nosuid", "noexec"]),
        (&["bind", "rprivate"], all, &[]),
    ] {
        let mut b = Bundle::new();
        b.mount("/mnt", "bind", source, options);
        assert_options(&mut b, "/mnt", with, without);
    }
}

fn a_locked_flag_cannot_be_cleared_by_name() {
    private_mounts();
    let source = fixture::new_dir("locked");
    fixture::mount_tmpfs(&source, MsFlags::MS_RDONLY | MsFlags::MS_NODEV, None);
    let source = source.to_str().unwrap();
    let mut b = Bundle::with_user_namespace();
    b.mount("/mnt", "bind", source, &["bind", "nosuid"]);
    assert_options(&mut b, "/mnt", &["ro", "nodev", "nosuid"], &[]);
    let mut b = Bundle::with_user_namespace();
    b.mount("/mnt", "bind", source, &["bind", "rw"]);
    assert_has!(b.run().failure(), "/mnt");
    only_hull!("runc 1.1.5 does not know the recursive one");
    for options in [&["bind", "dev"][..], &["rbind", "rdev"]] {
        let mut b = Bundle::with_user_namespace();
        b.mount("/mnt", "bind", source, options);
        assert_options(&mut b, "/mnt", &["ro", "nodev"], &[]);
    }
}

fn cleared_atime_settings_leave_relatime() {
    only_hull!("runc 1.1.5 does not know all of them");
    let source = tree_with_submount();
    for option in ["rnorelatime", "rnostrictatime", "ratime"] {
        let mut b = Bundle::new();
        b.mount("/mnt", "bind", &source, &["rbind", option]);
        assert_options(&mut b, "/mnt/sub", &["relatime"], &[]);
    }
}

fn mounts_below_a_read_only_tmpfs_are_made() {
    let source = fixture::new_dir("source");
    fs::write(source.join("file"), "text").unwrap();
    let mut b = Bundle::new();
    b.mount("/mnt", "tmpfs", "tmpfs", &["ro"]);
    b.mount("/mnt/new", "bind", source.to_str().unwrap(), &["bind"]);
    let script = "cat /mnt/new/file; touch /mnt/x 2>/dev/null || echo refused";
    assert_eq!(b.output_of(script), "textrefused");
}

fn mounts_below_the_read_only_cgroup_directory_are_made() {
    let mut b = Bundle::new();
    b.mount("/sys/fs/cgroup/mine", "tmpfs", "tmpfs", &["mode=711"]);
    if crate::support::cgroups::is_pure_v2() {
        skip!("in a v2 tree a new directory is a cgroup, and no place for a mount");
    }
    let script = "stat -c %a /sys/fs/cgroup/mine; touch /sys/fs/cgroup/x 2>&1; true";
    let out = b.output_of(script);
    assert!(out.starts_with("711"), "{out}");
    assert_has!(out, "Read-only");
}

fn a_bind_on_a_default_device_wins() {
    let file = fixture::new_dir("source").join("file");
    fs::write(&file, "text").unwrap();
    for user in [false, true] {
        let mut b = Bundle::new();
        if user {
            b.add_user_namespace();
        }
        b.mount("/dev/random", "bind", "/dev/urandom", &["bind"]);
        b.mount("/dev/tty", "bind", file.to_str().unwrap(), &["bind"]);
        let script = "stat -c %t:%T /dev/random; cat /dev/tty";
        assert_eq!(b.output_of(script), "1:9\ntext", "user: {user}");
    }
}

fn a_tmpfs_may_cover_a_directory_of_proc() {
    let mut b = Bundle::new();
    b.mount("/proc/irq", "tmpfs", "tmpfs", &["ro"]);
    assert_eq!(b.output_of("ls /proc/irq | wc -l"), "0");
    let mut b = Bundle::new();
    b.mount("/proc", "tmpfs", "tmpfs", &[]);
    b.run().failure();
}

fn many_mounts_fit_into_a_small_limit_of_descriptors() {
    only_hull!("runc needs more than 128 descriptors for itself");
    let source = fixture::new_dir("source");
    let mut b = Bundle::new();
    b.spec["process"]["rlimits"] = json!([]);
    for number in 0..300 {
        let target = format!("/q/{number}");
        b.mount(&target, "bind", source.to_str().unwrap(), &["bind"]);
    }
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 128, 1024).unwrap();
    assert_eq!(b.output_of("grep -c ' /q/' /proc/self/mountinfo"), "300");
}

fn without_pivot_a_nested_namespace_gets_no_fresh_proc() {
    let mut b = Bundle::new();
    b.spec["process"]["capabilities"] = json!({});
    // Root without CAP_SETFCAP may not map ids.
    b.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    b.args(&[
        "sh",
        "-c",
        "unshare -Urmpf sh -c 'mkdir -p /tmp/p && mount -t proc proc /tmp/p' 2>&1 \
         && echo mounted; unshare -Urm sh -c 'mount -t sysfs sysfs /tmp/p' 2>&1 && echo mounted",
    ]);
    b.mount("/tmp", "tmpfs", "tmpfs", &[]);
    let out = b.run_with(&["--no-pivot"]).stdout;
    assert!(!out.contains("mounted"), "{out}");
    assert_has!(out, "mount: ");
}
