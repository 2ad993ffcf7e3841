//! `linux.devices` and the default devices, and the device rules of the cgroup (which
//! `resources_enforced` tests too).

use crate::support::cgroups::{self, Version};
use crate::support::{Bundle, fixture};
use serde_json::json;
use std::os::unix::fs::symlink;

tests![
    a_device_without_a_path_is_none_in_dev,
    default_devices_are_there,
    default_devices_work,
    standard_links_are_there,
    further_devices_are_made,
    fifo_device_is_made,
    device_in_a_new_directory,
    device_without_a_mode_has_a_default,
    device_of_an_unknown_type_is_an_error,
    device_outside_of_dev_is_made,
    devices_in_a_user_namespace_are_bound,
    devices_of_an_ordinary_user_are_bound,
    denied_device_cannot_be_opened,
    allowed_device_can_be_opened,
    mknod_of_a_device_needs_a_rule,
    device_rules_are_the_cgroups,
    console_exists_with_a_terminal_only,
    device_over_a_symlink_stays_in_the_root,
    an_empty_file_at_a_devices_path_is_covered,
];

fn default_devices_are_there() {
    let text = Bundle::new()
        .output_of("cd /dev; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty");
    let expected = ["null", "zero", "full", "random", "urandom", "tty"]
        .iter()
        .zip(["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"]);
    let expected: Vec<String> = expected
        .map(|(n, d)| format!("{n} character special file {d} 666 0:0"))
        .collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

fn default_devices_work() {
    let script = "echo x > /dev/null; head -c 4 /dev/zero | od -An -tx1; echo x 2>/dev/null > \
        /dev/full || echo full; head -c 8 /dev/urandom | wc -c";
    assert_eq!(Bundle::new().output_of(script), " 00 00 00 00\nfull\n8");
}

fn standard_links_are_there() {
    let text = Bundle::new().output_of(
        "cd /dev; readlink fd; readlink stdin; readlink stdout; readlink stderr; readlink ptmx",
    );
    assert_eq!(
        text,
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx"
    );
}

fn further_devices_are_made() {
    let mut b = Bundle::new();
    b.push("/linux/devices", json!({ "path": "/dev/one", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640, "uid": 1000, "gid": 29 }));
    b.push(
        "/linux/devices",
        json!({ "path": "/dev/two", "type": "b", "major": 7, "minor": 3, "fileMode": 0o600 }),
    );
    b.push(
        "/linux/devices",
        json!({ "path": "/dev/three", "type": "u", "major": 1, "minor": 5, "fileMode": 0o666 }),
    );
    let text = b.output_of("cd /dev; stat -c '%F %t:%T %a %u:%g' one two three");
    assert_eq!(
        text,
        "character special file 1:b 640 1000:29\nblock special file 7:3 600 0:0\ncharacter \
            special file 1:5 666 0:0"
    );
}

fn fifo_device_is_made() {
    let mut b = Bundle::new();
    b.push(
        "/linux/devices",
        json!({ "path": "/dev/pipe", "type": "p", "fileMode": 0o620 }),
    );
    assert_eq!(b.output_of("stat -c '%F %a' /dev/pipe"), "fifo 620");
}

fn device_in_a_new_directory() {
    let mut b = Bundle::new();
    b.push("/linux/devices", json!({ "path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666 }));
    assert_eq!(b.output_of("stat -c '%t:%T %a' /dev/net/tun"), "a:c8 666");
}

fn device_without_a_mode_has_a_default() {
    let mut b = Bundle::new();
    b.push(
        "/linux/devices",
        json!({ "path": "/dev/one", "type": "c", "major": 1, "minor": 3 }),
    );
    assert_eq!(b.output_of("stat -c '%t:%T %a' /dev/one"), "1:3 666");
}

fn device_of_an_unknown_type_is_an_error() {
    let mut b = Bundle::new();
    b.push(
        "/linux/devices",
        json!({ "path": "/dev/one", "type": "x", "major": 1, "minor": 3 }),
    );
    b.run().failure();
}

fn device_outside_of_dev_is_made() {
    let mut b = Bundle::new();
    b.writable();
    b.push(
        "/linux/devices",
        json!({ "path": "/var/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }),
    );
    assert_eq!(b.output_of("stat -c '%t:%T' /var/null"), "1:3");
}

fn devices_in_a_user_namespace_are_bound() {
    let mut b = Bundle::with_user_namespace();
    let text = b.output_of(
        "stat -c '%F %t:%T %a' /dev/null; echo x > /dev/null && head -c 1 \
        /dev/zero | wc -c; grep -c ' /dev/null ' /proc/self/mountinfo",
    );
    assert_eq!(text, "character special file 1:3 666\n1\n1");
}

fn devices_of_an_ordinary_user_are_bound() {
    let mut b = Bundle::of_ordinary_user();
    assert_eq!(
        b.output_of("echo x > /dev/null && head -c 5 /dev/zero | wc -c"),
        "5"
    );
}

fn denied_device_cannot_be_opened() {
    let mut b = Bundle::new();
    b.push(
        "/linux/devices",
        json!({ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }),
    );
    assert_eq!(
        b.output_of("cat /dev/kmsg 2>&1 | head -1"),
        "cat: can't open '/dev/kmsg': Operation not permitted"
    );
}

fn allowed_device_can_be_opened() {
    let mut b = Bundle::new();
    b.push(
        "/linux/devices",
        json!({ "path": "/dev/mine", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }),
    );
    b.push(
        "/linux/resources/devices",
        json!({ "allow": true, "type": "c", "major": 1, "minor": 11, "access": "w" }),
    );
    assert_eq!(
        b.output_of("exec 3>/dev/mine && echo writes; cat /dev/mine 2>&1 | head -1"),
        "writes\ncat: can't open '/dev/mine': Operation not permitted"
    );
}

fn mknod_of_a_device_needs_a_rule() {
    let mut b = Bundle::new();
    b.add_caps(&["CAP_MKNOD"])
        .mount("/mnt", "tmpfs", "tmpfs", &[]);
    assert_eq!(
        b.output_of("mknod /mnt/mem c 1 1 && echo made; cat /mnt/mem 2>&1; true"),
        "made\ncat: can't open '/mnt/mem': Operation not permitted"
    );
}

fn device_rules_are_the_cgroups() {
    let mut b = Bundle::sleeper();
    b.push(
        "/linux/resources/devices",
        json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" }),
    );
    b.push(
        "/linux/resources/devices",
        json!({ "allow": true, "type": "b", "major": 8, "access": "r" }),
    );
    let _c = b.started();
    if cgroups::version("devices") == Version::V2 {
        skip!("v2 has no list to read: the other tests here show what the rules do");
    }
    let list = b.cgroup_file("devices", "devices.list");
    for rule in [
        "c 10:229 rw",
        "b 8:* r",
        "c 1:3 rwm",
        "c 136:* rwm",
        "c *:* m",
        "b *:* m",
    ] {
        assert!(list.lines().any(|l| l == rule), "{rule} is not in\n{list}");
    }
    assert!(!list.contains("a *:* rwm"), "{list}");
}

fn console_exists_with_a_terminal_only() {
    assert_eq!(
        Bundle::new().output_of("ls /dev/console 2>&1; true"),
        "ls: /dev/console: No such file or directory"
    );
}

fn device_over_a_symlink_stays_in_the_root() {
    let hosts = fixture::new_dir("hosts");
    let mut b = Bundle::new();
    b.writable();
    symlink(&hosts, b.rootfs().join("var/link")).unwrap();
    b.push(
        "/linux/devices",
        json!({ "path": "/var/link/null", "type": "c", "major": 1, "minor": 3 }),
    );
    b.args(&["true"]);
    b.run();
    assert_eq!(std::fs::read_dir(hosts).unwrap().count(), 0);
}

/// Where mknod was refused, hull made an empty file and bound the device node on it. root uses the
/// same root filesystem afterwards.
fn an_empty_file_at_a_devices_path_is_covered() {
    let mut b = Bundle::new();
    b.writable();
    let mounts = b.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    let dev = b.rootfs().join("dev");
    std::fs::create_dir_all(&dev).unwrap();
    std::fs::write(dev.join("null"), "").unwrap();
    assert_eq!(
        b.output_of("stat -c '%F %t:%T' /dev/null").trim(),
        "character special file 1:3"
    );
    std::fs::remove_file(dev.join("zero")).unwrap();
    std::fs::write(dev.join("zero"), "not empty").unwrap();
    assert_has!(b.run().failure(), "file exists");
}

/// runc makes no node for it: it is there for the cgroup's rules alone.
fn a_device_without_a_path_is_none_in_dev() {
    let mut b = Bundle::new();
    let before = b.output_of("ls /dev");
    b.push(
        "/linux/devices",
        json!({ "path": "", "type": "c", "major": 10, "minor": 229 }),
    );
    assert_eq!(b.output_of("ls /dev"), before);
}
