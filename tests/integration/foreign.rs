//! A bundle of another architecture, behind either wall.

use crate::support::machine::Machine;
use crate::support::{Bundle, fixture, leaks, users};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

tests![
    an_annotated_bundle_runs_on_the_shared_kernel,
    what_a_foreign_bundle_needs_is_said,
    the_plan_shows_the_interpreter,
    a_foreign_bundle_runs_in_a_machine,
];

const ANNOTATION: &str = "org.opencontainers.image.architecture";

/// Debian's busybox for arm64; skips the test where it, or what runs it, cannot be had.
fn busybox() -> PathBuf {
    if !Path::new("/usr/bin/qemu-aarch64-static").exists() {
        skip!("qemu-user-static is not installed");
    }
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/busybox-of"));
    command
        .arg("arm64")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = leaks::spawn(&mut command)
        .unwrap()
        .wait_with_output()
        .unwrap();
    if !output.status.success() {
        skip!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Every program of the bundle is that busybox, another than the suite's.
fn make_foreign(bundle: &mut Bundle, busybox: &Path) {
    let own = bundle.rootfs().join("bin/busybox");
    fs::remove_file(&own).unwrap();
    fs::copy(busybox, own).unwrap();
    bundle.args(&["uname", "-m"]);
}

fn annotated(busybox: &Path) -> Bundle {
    let mut bundle = Bundle::new();
    make_foreign(&mut bundle, busybox);
    bundle.set("/annotations", json!({ ANNOTATION: "arm64" }));
    bundle
}

/// What the host's own binfmt_misc has, entry by entry.
fn registered() -> BTreeMap<String, String> {
    let place = fixture::new_dir("registry");
    rustix::mount::mount(
        "binfmt_misc",
        &place,
        "binfmt_misc",
        rustix::mount::MountFlags::RDONLY,
        None,
    )
    .unwrap();
    let entries = fs::read_dir(&place).unwrap().flatten();
    let all = entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read_to_string(entry.path()).unwrap_or_default(),
            )
        })
        .collect();
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).unwrap();
    all
}

fn skip_without_registries() {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse::<u32>().ok());
    if (numbers.next().unwrap(), numbers.next().unwrap()) < (6, 7)
        || !crate::support::runtime::text("/proc/filesystems").contains("binfmt_misc")
    {
        skip!("this kernel has no binfmt_misc for user namespaces");
    }
}

fn an_annotated_bundle_runs_on_the_shared_kernel() {
    only_hull!("runc leaves it to the host");
    skip_without_registries();
    let busybox = busybox();
    users::private_mounts();
    let before = registered();
    let mut b = annotated(&busybox);
    b.add_user_namespace();
    assert_eq!(b.run().success().stdout, "aarch64\n");
    // While it lives, for what exec adds, and as an argument's first word is the program's own.
    b.args(&["sleep", "1000"]);
    let c = b.started();
    assert_eq!(c.exec(&["uname", "-m"]).success().stdout, "aarch64\n");
    assert_eq!(c.exec(&["sh", "-c", "echo $0; exit 3"]).status, 3);
    assert_eq!(registered(), before, "the host's binfmt_misc is as it was");
    drop(c);
    assert_eq!(registered(), before);
}

fn what_a_foreign_bundle_needs_is_said() {
    only_hull!("runc leaves it to the host");
    skip_without_registries();
    let busybox = busybox();
    let b = annotated(&busybox);
    let said = b.run().failure();
    assert_has!(said, "is for aarch64");
    assert_has!(said, "user namespace");
    let mut b = annotated(&busybox);
    b.add_user_namespace();
    b.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["destination"] != "/proc");
    assert_has!(b.run().failure(), "mount of proc");
    // Nobody says what it is for.
    let mut b = Bundle::new();
    make_foreign(&mut b, &busybox);
    assert_has!(b.run().failure(), "exec format error");
    // It says so and is not: its program's header counts.
    let mut b = Bundle::sh("uname -m");
    b.set("/annotations", json!({ ANNOTATION: "arm64" }));
    assert_eq!(b.run().success().stdout.trim(), std::env::consts::ARCH);
    // One that nothing here runs.
    let mut b = Bundle::new();
    let mut header = vec![0_u8; 64];
    header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    (header[16], header[18], header[19]) = (2, 2, 1);
    fs::remove_file(b.rootfs().join("bin/busybox")).unwrap();
    fs::write(b.rootfs().join("bin/busybox"), header).unwrap();
    b.args(&["sh"])
        .set("/annotations", json!({ ANNOTATION: "loong64" }));
    if Path::new("/usr/bin/qemu-loongarch64-static").exists() {
        return;
    }
    assert_has!(b.run().failure(), "qemu-loongarch64-static");
}

fn the_plan_shows_the_interpreter() {
    only_hull!("a plan");
    skip_without_registries();
    let mut b = annotated(&busybox());
    b.add_user_namespace();
    b.write();
    let plan = b.call(&["plan", b.dir.to_str().unwrap()]).success().stdout;
    assert_has!(plan, "/proc/sys/fs/binfmt_misc/register");
    assert_has!(plan, "hull-aarch64");
}

fn a_foreign_bundle_runs_in_a_machine() {
    only_hull!("the second wall");
    let busybox = busybox();
    let mut machine = Machine::of(Bundle::new);
    make_foreign(&mut machine.bundle, &busybox);
    machine
        .bundle
        .push("/linux/namespaces", json!({ "type": "user" }));
    machine.bundle.map_ids();
    assert_eq!(machine.run().success().stdout, "aarch64\n");
}
