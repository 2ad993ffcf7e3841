//! `root`, `linux.rootfsPropagation`, `linux.maskedPaths` and `linux.readonlyPaths`; and the
//! propagation of mounts between host and container.

use crate::support::users::private_mounts;
use crate::support::{Bundle, fixture, leaks, until};
use nix::mount::MsFlags;
use serde_json::json;
use std::fs;
use std::path::Path;

tests![
    root_is_read_only_where_asked,
    root_is_writable_where_asked,
    root_by_absolute_path,
    root_by_a_symlink,
    no_pivot_works,
    old_root_is_gone,
    masked_files_are_empty,
    masked_directories_are_empty_and_read_only,
    masked_paths_that_are_missing_are_passed_over,
    masked_path_through_a_symlink_stays_in_the_root,
    read_only_paths_refuse_writes,
    read_only_paths_that_are_missing_are_passed_over,
    default_masks_hide_the_kernels_secrets,
    rootfs_propagation_kinds,
    unknown_rootfs_propagation_is_an_error,
    container_mounts_do_not_reach_the_host,
    private_mount_gets_nothing_from_the_host,
    slave_mount_gets_the_hosts_mounts,
    shared_mount_gives_mounts_to_the_host,
    propagation_of_each_kind,
    mounts_of_the_host_are_not_visible,
    proc_cannot_be_a_volume,
    root_on_another_mount,
];

fn root_is_read_only_where_asked() {
    let mut b = Bundle::new();
    assert_has!(b.output_of("touch /x 2>&1; true"), "Read-only file system");
    assert_eq!(
        b.output_of("grep ' / / \\| / ro' /proc/self/mountinfo | wc -l")
            .trim(),
        "1"
    );
}

fn root_is_writable_where_asked() {
    let mut b = Bundle::new();
    b.writable();
    b.output_of("touch /made");
    assert!(b.rootfs().join("made").exists());
}

fn root_by_absolute_path() {
    let mut b = Bundle::new();
    b.set("/root/path", json!(b.rootfs()));
    assert_eq!(b.output_of("hostname"), "box");
}

fn root_by_a_symlink() {
    let mut b = Bundle::new();
    std::os::unix::fs::symlink("rootfs", b.dir.join("link")).unwrap();
    b.set("/root/path", json!("link"));
    only_hull!("runc 1.1.5 refuses a symlink as the root");
    let out = {
        b.args(&["hostname"]);
        b.run()
    };
    // The specification does not say whether it works; otherwise it must be a clear error.
    assert!(
        out.status == 0 || out.stderr.contains("symlink") || out.stderr.contains("symbolic link"),
        "{out:?}"
    );
}

fn no_pivot_works() {
    let mut b = Bundle::new();
    b.args(&[
        "sh",
        "-c",
        "ls -d /bin /work /var/lib 2>/dev/null; hostname",
    ]);
    assert_eq!(b.run_with(&["--no-pivot"]).success().stdout, "/bin\nbox\n");
}

fn old_root_is_gone() {
    let text = Bundle::new().output_of("cut -d ' ' -f 5 /proc/self/mountinfo");
    for mount in text.lines() {
        let known = ["/", "/proc", "/dev", "/sys", "/run"]
            .iter()
            .any(|k| mount == *k || (*k != "/" && mount.starts_with(&format!("{k}/"))));
        assert!(known, "{mount} is not a mount of the container:\n{text}");
    }
}

fn masked_files_are_empty() {
    let mut b = Bundle::new();
    fs::write(b.rootfs().join("etc/secret"), "secret").unwrap();
    b.push("/linux/maskedPaths", json!("/etc/secret"));
    assert_eq!(
        b.output_of("cat /etc/secret | wc -c; stat -c '%t:%T' /etc/secret"),
        "0\n1:3"
    );
}

fn masked_directories_are_empty_and_read_only() {
    let mut b = Bundle::new();
    fs::write(b.rootfs().join("var/secret"), "secret").unwrap();
    b.writable().push("/linux/maskedPaths", json!("/var"));
    assert_has!(
        b.output_of("ls /var; touch /var/x 2>&1; true"),
        "Read-only file system"
    );
    assert_eq!(b.output_of("ls -A /var"), "");
}

fn masked_paths_that_are_missing_are_passed_over() {
    let mut b = Bundle::new();
    b.push("/linux/maskedPaths", json!("/no/such/path"));
    assert_eq!(b.output_of("hostname"), "box");
}

fn masked_path_through_a_symlink_stays_in_the_root() {
    let mut b = Bundle::new();
    let hosts = fixture::new_dir("hosts");
    fs::write(hosts.join("file"), "the host's").unwrap();
    std::os::unix::fs::symlink(&hosts, b.rootfs().join("var/link")).unwrap();
    b.push("/linux/maskedPaths", json!("/var/link/file"));
    assert_eq!(b.output_of("hostname"), "box");
    assert_eq!(
        fs::read_to_string(hosts.join("file")).unwrap(),
        "the host's"
    );
}

fn read_only_paths_refuse_writes() {
    let mut b = Bundle::new();
    b.writable().push("/linux/readonlyPaths", json!("/etc"));
    b.push("/linux/readonlyPaths", json!("/var"));
    let text = b.output_of(
        "touch /etc/x 2>&1; echo 1 2>&1 > /proc/sys/kernel/shmmni; touch /tmp/x && echo made; true",
    );
    assert_has!(text, "/etc/x: Read-only file system");
    assert_has!(text, "made");
    assert_eq!(
        b.output_of("awk '$5 == \"/proc/sys\" {print $6}' /proc/self/mountinfo")
            .split(',')
            .next(),
        Some("ro")
    );
}

fn read_only_paths_that_are_missing_are_passed_over() {
    let mut b = Bundle::new();
    b.push("/linux/readonlyPaths", json!("/no/such/path"));
    assert_eq!(b.output_of("hostname"), "box");
}

fn default_masks_hide_the_kernels_secrets() {
    let text = Bundle::new().output_of(
        "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | \
        wc -c; ls -A /proc/scsi /sys/firmware 2>/dev/null | grep -v ':$' | grep -c . ; true",
    );
    assert_eq!(text, "0\n0");
}

/// The optional fields of the root's line in mountinfo, for a value of rootfsPropagation.
fn root_tags(kind: &str) -> String {
    let mut b = Bundle::sleeper();
    b.set("/linux/rootfsPropagation", json!(kind));
    let c = b.started();
    let text = c.proc_file("mountinfo");
    let line = text
        .lines()
        .find(|l| l.split(' ').nth(4) == Some("/"))
        .unwrap();
    let (tags, _) = line.split_once(" - ").unwrap();
    tags.split(' ')
        .skip(6)
        .map(|t| t.split(':').next().unwrap().to_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn rootfs_propagation_kinds() {
    private_mounts();
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_SHARED | MsFlags::MS_REC,
        None::<&str>,
    )
    .unwrap();
    for kind in ["private", "rprivate"] {
        assert_eq!(root_tags(kind), "", "{kind}");
    }
    for kind in ["slave", "rslave"] {
        assert_eq!(root_tags(kind), "master", "{kind}");
    }
    only_hull!("runc 1.1.5 fails with an unbindable root, and makes no shared one");
    for kind in ["shared", "rshared"] {
        assert_has!(root_tags(kind), "shared");
    }
    for kind in ["unbindable", "runbindable"] {
        assert_eq!(root_tags(kind), "unbindable", "{kind}");
    }
}

fn unknown_rootfs_propagation_is_an_error() {
    let mut b = Bundle::new();
    b.set("/linux/rootfsPropagation", json!("sideways"));
    assert_has!(b.run().failure(), "propagation");
}

/// A directory that is a shared mount, in a mount namespace of the test's own.
fn shared_directory() -> String {
    private_mounts();
    let dir = fixture::new_dir("shared");
    fixture::mount_tmpfs(&dir, MsFlags::empty(), None);
    nix::mount::mount(
        None::<&str>,
        &dir,
        None::<&str>,
        MsFlags::MS_SHARED,
        None::<&str>,
    )
    .unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    dir.to_str().unwrap().to_owned()
}

/// Mounts a tmpfs with the file `mark`.
fn mount_tmpfs_with_mark(dir: &Path) {
    fixture::mount_tmpfs(dir, MsFlags::empty(), None);
    fs::write(dir.join("mark"), "").unwrap();
}

fn container_mounts_do_not_reach_the_host() {
    let dir = shared_directory();
    let mut b = Bundle::new();
    b.add_caps(&["CAP_SYS_ADMIN"])
        .mount("/mnt", "bind", &dir, &["rbind"]);
    b.output_of("mount -t tmpfs tmpfs /mnt/sub && touch /mnt/sub/mark");
    assert!(!Path::new(&dir).join("sub/mark").exists());
}

/// Whether the container sees a mount that the host makes after its start.
fn seen_after_mount(options: &[&str]) -> bool {
    let dir = shared_directory();
    let mut b = Bundle::sleeper();
    b.mount("/mnt", "bind", &dir, options);
    let c = b.started();
    mount_tmpfs_with_mark(&Path::new(&dir).join("sub"));
    c.exec(&["ls", "/mnt/sub/mark"]).status == 0
}

fn private_mount_gets_nothing_from_the_host() {
    assert!(!seen_after_mount(&["rbind", "rprivate"]));
    assert!(!seen_after_mount(&["rbind", "private"]));
}

fn slave_mount_gets_the_hosts_mounts() {
    assert!(seen_after_mount(&["rbind", "rslave"]));
}

fn shared_mount_gives_mounts_to_the_host() {
    let dir = shared_directory();
    let mut b = Bundle::sh("mount -t tmpfs tmpfs /mnt/sub && touch /mnt/sub/mark && sleep 1000");
    b.set("/linux/rootfsPropagation", json!("rshared"));
    b.add_caps(&["CAP_SYS_ADMIN"])
        .mount("/mnt", "bind", &dir, &["rbind", "rshared"]);
    let _c = b.started();
    until("the container's mount", || {
        Path::new(&dir).join("sub/mark").exists()
    });
}

fn propagation_of_each_kind() {
    let dir = shared_directory();
    for (options, tags) in [
        (&["bind", "shared"][..], "shared"),
        (&["rbind", "rshared"], "shared"),
        (&["bind", "slave"], "master"),
        (&["rbind", "rslave"], "master"),
        (&["bind", "private"], ""),
        (&["rbind", "rprivate"], ""),
        (&["bind", "unbindable"], "unbindable"),
    ] {
        let mut b = Bundle::new();
        b.mount("/mnt", "bind", &dir, options);
        if tags == "shared" {
            b.set("/linux/rootfsPropagation", json!("rshared"));
        }
        let text = b.output_of("grep ' /mnt ' /proc/self/mountinfo");
        let (before, _) = text.split_once(" - ").unwrap();
        let have = before
            .split(' ')
            .skip(6)
            .map(|t| t.split(':').next().unwrap())
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(have, tags, "{options:?}");
    }
}

fn mounts_of_the_host_are_not_visible() {
    private_mounts();
    let dir = fixture::new_dir("hosts");
    nix::mount::mount(
        Some("hosts-own"),
        &dir,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let text = Bundle::new().output_of("cat /proc/self/mountinfo");
    assert!(!text.contains("hosts-own"), "{text}");
}

/// CVE-2019-16884 and similar ones.
// Attack: CVE-2019-19921
fn proc_cannot_be_a_volume() {
    let fake = fixture::new_dir("fake-proc");
    fs::create_dir_all(fake.join("self/attr")).unwrap();
    fs::create_dir_all(fake.join("sys")).unwrap();
    let mut b = Bundle::new();
    b.mount("/proc", "bind", fake.to_str().unwrap(), &["bind"])
        .args(&["true"]);
    assert_has!(b.run().failure(), "/proc");
    let mut b = Bundle::new();
    b.mount("/proc/sys", "bind", fake.to_str().unwrap(), &["bind"])
        .args(&["true"]);
    assert_has!(b.run().failure(), "/proc");
    let mut b = Bundle::new();
    b.mount("/sys/kernel", "bind", fake.to_str().unwrap(), &["bind"]);
    assert_eq!(
        b.output_of("ls /sys/kernel"),
        "self\nsys",
        "a volume below /sys must be allowed"
    );
}

fn root_on_another_mount() {
    private_mounts();
    let dir = fixture::new_dir("root-mount");
    fixture::mount_tmpfs(&dir, MsFlags::MS_NODEV, None);
    let mut b = Bundle::new();
    let mut copy = std::process::Command::new("cp");
    copy.arg("-a").arg(b.rootfs()).arg(dir.join("rootfs"));
    assert!(leaks::succeeds(&mut copy));
    b.set("/root/path", json!(dir.join("rootfs")));
    let flags = b.output_of("awk '$5 == \"/\" {print $6}' /proc/self/mountinfo");
    assert!(flags.starts_with("ro,"), "{flags}");
}
