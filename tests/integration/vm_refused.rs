//! What a VM cannot have: each field of the config and each option is an error that names it,
//! before a VM is made (docs/vm.md, "What cannot cross").

use crate::support::backend::ANNOTATION;
use crate::support::users::Holder;
use crate::support::{Bundle, fixture};
use serde_json::{Value, json};
use std::os::unix::net::UnixListener;

tests![
    resources_of_the_host_are_refused_by_field,
    values_of_the_vm_section_are_refused_by_field,
    options_that_name_host_resources_are_refused
];

/// Asserts that `create --vm` fails with an error, although the test gives no kernel.
#[track_caller]
fn refused(bundle: &Bundle, flags: &[&str], error: &str) {
    let (container, out) = bundle.try_create(&[&["--vm"], flags].concat());
    assert!(
        container.is_none(),
        "create succeeded; the error should be: {error}"
    );
    assert_has!(out.failure(), error.to_lowercase());
    assert_has!(
        bundle.call(&["state", &bundle.id]).failure(),
        "does not exist"
    );
}

/// The same for a field of the config.
#[track_caller]
fn set(path: &str, value: Value, error: &str) {
    let mut bundle = Bundle::new();
    refused(bundle.set(path, value), &[], error);
}

/// The same for a bind mount of a special file.
#[track_caller]
fn bound(source: &str, kind: &str) {
    let mut bundle = Bundle::new();
    let index = bundle.spec["mounts"].as_array().unwrap().len();
    refused(
        bundle.mount("/mnt", "bind", source, &["bind"]),
        &[],
        &format!("mounts[{index}]: {source} is {kind} of the host"),
    );
}

fn resources_of_the_host_are_refused_by_field() {
    only_hull!("the VM backend");
    let dir = fixture::new_dir("host");
    let _listener = UnixListener::bind(dir.join("socket")).unwrap();
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    bound("/dev/null", "a character device");
    bound(dir.join("socket").to_str().unwrap(), "a socket");
    bound(dir.join("fifo").to_str().unwrap(), "a fifo");
    let mut overlay = Bundle::new();
    let index = overlay.spec["mounts"].as_array().unwrap().len();
    overlay.mount("/mnt", "overlay", "overlay", &["lowerdir=/etc:/opt"]);
    refused(
        &overlay,
        &[],
        &format!("mounts[{index}]: an overlay's options name directories of the host"),
    );

    let node = |path: &str, minor: u32| json!([{ "path": path, "type": "c", "major": 10, "minor": minor }]);
    set(
        "/linux/devices",
        node("/dev/of-kvm", 232),
        "linux.devices: /dev/of-kvm (10:232) is a device of the host",
    );
    for kind in ["pid", "mount", "user", "cgroup", "time"] {
        let mut bundle = Bundle::new();
        let path = format!(
            "/proc/self/ns/{}",
            if kind == "mount" { "mnt" } else { kind }
        );
        bundle.join(kind, &path);
        if kind == "user" {
            bundle.map_ids();
        }
        refused(
            &bundle,
            &[],
            &format!("linux.namespaces: the {kind} namespace {path} is the host's"),
        );
    }
    let holder = Holder::new(&["--net"]);
    let mut bundle = Bundle::new();
    refused(
        bundle.join("ipc", holder.path("net")),
        &[],
        "is a network namespace, not an ipc namespace",
    );
    let mut bundle = Bundle::new();
    refused(
        bundle.without_namespace("network"),
        &[],
        "linux.namespaces: a virtual machine cannot have the host's network",
    );
    set(
        "/linux/netDevices",
        json!({ "eth7": {} }),
        "linux.netDevices.eth7: a network device of the host",
    );
    set(
        "/hooks/createContainer",
        json!([{ "path": "/bin/true" }]),
        "hooks.createContainer",
    );
    let listener = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent", "syscalls": [{ "names": ["sync"], "action": "SCMP_ACT_NOTIFY" }] });
    set("/linux/seccomp", listener, "linux.seccomp.listenerPath");
    // The guest has cgroup v2, whatever the host has.
    for (name, value) in [
        ("kernel", json!(64 << 20)),
        ("disableOOMKiller", json!(true)),
    ] {
        set(
            "/linux/resources/memory",
            json!({ name: value }),
            &format!("linux.resources.memory.{name}"),
        );
    }
}

fn values_of_the_vm_section_are_refused_by_field() {
    only_hull!("the VM backend");
    let kernel = || json!({ "path": "/no/such/kernel" });
    for (section, error) in [
        (
            json!({ "kernel": { "path": "/no/such/kernel", "initrd": "/initrd" } }),
            "vm.kernel.initrd",
        ),
        (
            json!({ "kernel": kernel(), "hypervisor": { "parameters": ["-M"] } }),
            "vm.hypervisor.parameters",
        ),
        (
            json!({ "kernel": kernel(), "image": { "path": "/image", "format": "iso" } }),
            "vm.image.format",
        ),
        (
            json!({ "kernel": kernel(), "hwConfig": { "deviceTree": "/tree" } }),
            "vm.hwConfig",
        ),
        (json!({ "kernel": kernel() }), "/no/such/kernel"),
    ] {
        set("/vm", section, error);
    }
    set(
        "/annotations",
        json!({ ANNOTATION: "brick" }),
        &format!("annotation {ANNOTATION}=\"brick\": the backends are"),
    );
}

fn options_that_name_host_resources_are_refused() {
    only_hull!("the VM backend");
    refused(&Bundle::new(), &["--preserve-fds", "1"], "--preserve-fds");
    let bundle = Bundle::new();
    bundle.write();
    let args = [
        "run",
        "--vm",
        "--bundle",
        bundle.dir.to_str().unwrap(),
        &bundle.id,
    ];
    let command = bundle.runtime.command(&args);
    let mut activated = std::process::Command::new("sh");
    // The sockets are hull's own where LISTEN_PID says so.
    activated
        .args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args());
    let said = crate::support::runtime::finish(activated, crate::support::runtime::LIMIT);
    assert_has!(said.failure(), "listen_fds");
    refused(&Bundle::new(), &["--vm-memory", "1m"], "a guest needs 64m");
    let (b, root) = (Bundle::new(), fixture::new_dir("root"));
    fixture::fill_rootfs(&root);
    let kept = fixture::new_dir("kept");
    let args = [
        "run",
        "--vm",
        "--rootfs",
        root.to_str().unwrap(),
        "--keep-changes",
        kept.to_str().unwrap(),
        "--",
        "true",
    ];
    assert_has!(b.runtime.call(&args).failure(), "--keep-changes");
}
