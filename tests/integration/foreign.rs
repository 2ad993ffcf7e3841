//! A bundle for another architecture (`foreign`): binfmt_misc in the namespace backend, the guest's
//! own kernel in the VM backend.

use crate::support::vm::Vm;
use crate::support::{Bundle, fixture, leaks, runtime, users};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

tests![
    an_annotated_bundle_runs_on_the_shared_kernel,
    errors_tell_what_a_foreign_bundle_needs,
    the_plan_shows_the_interpreter,
    a_foreign_bundle_runs_in_a_vm,
];

const ANNOTATION: &str = "org.opencontainers.image.architecture";

/// Debian's busybox for arm64; skips the test where it or QEMU's interpreter is not available.
fn busybox() -> PathBuf {
    if !Path::new("/usr/bin/qemu-aarch64-static").exists() {
        skip!("qemu-user-static is not installed");
    }
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/busybox-of"));
    let output = leaks::output(command.arg("arm64")).unwrap();
    if !output.status.success() {
        skip!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Replaces the bundle's busybox, and so every program of its root, by that one.
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

/// The entries of the host's own binfmt_misc.
fn host_entries() -> BTreeMap<String, String> {
    let dir = fixture::new_dir("binfmt_misc");
    rustix::mount::mount(
        "binfmt_misc",
        &dir,
        "binfmt_misc",
        rustix::mount::MountFlags::RDONLY,
        None,
    )
    .unwrap();
    let entries = fs::read_dir(&dir).unwrap().flatten();
    let all = entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read_to_string(entry.path()).unwrap_or_default(),
            )
        })
        .collect();
    rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH).unwrap();
    all
}

/// Skips the test where the kernel has no binfmt_misc of a user namespace (Linux 6.7).
fn needs_binfmt_misc_of_user_namespaces() {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse::<u32>().ok());
    if (numbers.next().unwrap(), numbers.next().unwrap()) < (6, 7)
        || !runtime::text("/proc/filesystems").contains("binfmt_misc")
    {
        skip!("this kernel has no binfmt_misc for user namespaces");
    }
}

fn an_annotated_bundle_runs_on_the_shared_kernel() {
    only_hull!("runc leaves binfmt_misc to the host");
    needs_binfmt_misc_of_user_namespaces();
    let busybox = busybox();
    users::private_mounts();
    let before = host_entries();
    let mut b = annotated(&busybox);
    b.add_user_namespace();
    assert_eq!(b.run().success().stdout, "aarch64\n");
    // exec uses the interpreter too, and the program sees its own name as the first argument.
    b.args(&["sleep", "1000"]);
    let c = b.started();
    assert_eq!(c.exec(&["uname", "-m"]).success().stdout, "aarch64\n");
    assert_eq!(c.exec(&["sh", "-c", "echo $0; exit 3"]).status, 3);
    assert_eq!(host_entries(), before, "the host's binfmt_misc has changed");
    drop(c);
    assert_eq!(host_entries(), before);
}

fn errors_tell_what_a_foreign_bundle_needs() {
    only_hull!("runc leaves binfmt_misc to the host");
    needs_binfmt_misc_of_user_namespaces();
    let busybox = busybox();
    let b = annotated(&busybox);
    let error = b.run().failure();
    assert_has!(error, "is for aarch64");
    assert_has!(error, "user namespace");
    let mut b = annotated(&busybox);
    b.add_user_namespace();
    b.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["destination"] != "/proc");
    assert_has!(b.run().failure(), "mount of proc");
    // Without the annotation.
    let mut b = Bundle::new();
    make_foreign(&mut b, &busybox);
    assert_has!(b.run().failure(), "exec format error");
    // With the annotation on a native bundle: the header of the program decides.
    let mut b = Bundle::sh("uname -m");
    b.set("/annotations", json!({ ANNOTATION: "arm64" }));
    assert_eq!(b.run().success().stdout.trim(), std::env::consts::ARCH);
    // An architecture for which no interpreter is installed.
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
    only_hull!("only hull has plans");
    needs_binfmt_misc_of_user_namespaces();
    let mut b = annotated(&busybox());
    b.add_user_namespace();
    b.write();
    let plan = b.call(&["plan", b.dir.to_str().unwrap()]).success().stdout;
    assert_has!(plan, "/proc/sys/fs/binfmt_misc/register");
    assert_has!(plan, "hull-aarch64");
}

fn a_foreign_bundle_runs_in_a_vm() {
    only_hull!("the VM backend");
    let busybox = busybox();
    let mut vm = Vm::of(Bundle::new);
    make_foreign(&mut vm.bundle, &busybox);
    vm.bundle
        .push("/linux/namespaces", json!({ "type": "user" }));
    vm.bundle.map_ids();
    assert_eq!(vm.run().success().stdout, "aarch64\n");
}
