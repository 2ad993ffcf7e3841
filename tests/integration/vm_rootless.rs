//! VMs of ordinary users: the processes of the VM have no more rights on the host than the user.

use crate::net_rootless::open_tun;
use crate::support::network::{HOST, World, host_reaches, shell};
use crate::support::runtime::{Container, text, until};
use crate::support::vm::{BOOT_ID, Vm, host_processes};
use crate::support::{Bundle, fixture, users};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

tests![
    a_vm_of_an_ordinary_user,
    a_vm_with_granted_ids_and_a_network
];

/// A line of a process's status file.
fn status_of(pid: i32, name: &str) -> String {
    let status = text(format!("/proc/{pid}/status"));
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn a_vm_of_an_ordinary_user() {
    only_hull!("the VM backend");
    let mut vm = Vm::of(|| {
        let mut b = Bundle::of_ordinary_user();
        b.push("/linux/namespaces", json!({ "type": "network" }));
        b.set("/root/readonly", json!(false));
        b.args(&[
            "/bin/sh",
            "-c",
            "trap 'exit 5' TERM; /bin/probe --probe notify READY=1; cat \
            /proc/sys/kernel/random/boot_id >/v/boot; while :; do sleep 0.1; done",
        ]);
        b
    });
    let volume = fixture::new_dir("volume");
    fixture::give_to(&volume, users::ORDINARY, users::ORDINARY);
    fs::write(volume.join("mine"), "the host's\n").unwrap();
    vm.bundle
        .mount("/v", "bind", volume.to_str().unwrap(), &["rbind"]);
    let socket = fixture::new_dir("manager").join("socket");
    let manager = UnixDatagram::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    vm.bundle
        .runtime
        .env
        .push(("NOTIFY_SOCKET".into(), socket.display().to_string()));
    let container = vm.create(&[]);
    processes_are_the_users(&container);
    container.start();
    let mut said = [0; 16];
    let count = manager.recv(&mut said).unwrap();
    assert_eq!(
        &said[..count],
        b"READY=1\n",
        "start has returned before the program was ready"
    );
    until("the program", || !text(volume.join("boot")).is_empty());
    assert_ne!(
        text(volume.join("boot")),
        text(BOOT_ID),
        "the container runs on the host's kernel"
    );
    roots_files_are_the_users(&container);
    assert_has!(container.call(&["ps"]).success().stdout, "sleep 0.1");
    assert_has!(
        container.call(&["stats", "--no-stream"]).success().stdout,
        vm.bundle.id
    );
    container.kill("TERM").success();
    container.wait_for("stopped");
    container.call(&["delete"]).success();
}

/// Asserts that every process of the VM on the host has the user's id, in a user namespace.
fn processes_are_the_users(container: &Container) {
    let all = host_processes(container);
    assert!(all.len() >= 3, "monitor, share server and QEMU: {all:?}");
    let user = users::ORDINARY.to_string();
    for pid in all {
        let ids = status_of(pid, "Uid:");
        assert!(
            ids.split_whitespace().all(|id| id == user),
            "{}: {ids}",
            status_of(pid, "Name:")
        );
        assert_ne!(
            fs::read_link(format!("/proc/{pid}/ns/user")).unwrap(),
            fs::read_link("/proc/self/ns/user").unwrap()
        );
    }
}

/// Asserts that a file of the container's root belongs to the user on the host, and that the
/// container's root cannot write to a file of the host's root.
fn roots_files_are_the_users(container: &Container) {
    let out = container.exec(&[
        "sh",
        "-c",
        "id -u; echo x >/made; stat -c %u /made /v; cat /proc/self/uid_map; exit 3",
    ]);
    assert_eq!((out.status, out.stderr.as_str()), (3, ""));
    assert_eq!(
        out.stdout.split_whitespace().collect::<Vec<_>>(),
        ["0", "0", "0", "0", "0", "1"]
    );
    let made = fs::metadata(container.bundle.rootfs().join("made")).unwrap();
    assert_eq!(made.uid(), users::ORDINARY);
    assert_has!(
        container.exec(&["sh", "-c", "echo y >>/v/mine"]).failure(),
        "permission denied"
    );
}

/// Grants the ordinary user subordinate ids, in files that only this test's mount namespace has.
fn grant_ids() {
    users::private_mounts();
    let etc = fixture::new_dir("etc");
    for (name, line) in [
        (
            "passwd",
            format!("granted:x:{0}:{0}::/:/bin/sh", users::ORDINARY),
        ),
        ("subuid", "granted:300000:65536".into()),
        ("subgid", "granted:300000:65536".into()),
    ] {
        let copy = etc.join(name);
        let present = fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        fs::write(&copy, format!("{present}{line}\n")).unwrap();
        rustix::mount::mount_bind(&copy, Path::new("/etc").join(name))
            .unwrap_or_else(|error| skip!("/etc/{name}: {error}"));
    }
}

fn a_vm_with_granted_ids_and_a_network() {
    only_hull!("the VM backend");
    if ["newuidmap", "pasta"]
        .iter()
        .any(|program| shell(&format!("command -v {program}")).status != 0)
    {
        skip!("newuidmap (uidmap) and pasta (passt) are needed");
    }
    let mut world = None;
    let mut vm = Vm::of(|| {
        world = Some(World::new());
        open_tun();
        grant_ids();
        let mut b = Bundle::of_ordinary_user();
        b.set("/linux/uidMappings", json!([]));
        b.set("/linux/gidMappings", json!([]));
        b.push("/linux/namespaces", json!({ "type": "network" }));
        b.set("/root/readonly", json!(false));
        for set in ["bounding", "effective", "permitted"] {
            b.push(&format!("/process/capabilities/{set}"), json!("CAP_CHOWN"));
        }
        b.args(&[
            "/bin/sh",
            "-c",
            "touch /home/ada/hers; chown 1000:1000 /home/ada/hers; while \
            true; do hostname | nc -l -p 80; done",
        ]);
        b
    });
    let id = vm.bundle.id.clone();
    vm.bundle.set("/hostname", json!(id));
    let container = vm.create(&["--network", "default", "-p", "8080:80"]);
    container.start();
    let w = world.unwrap();
    until("the published port", || {
        w.external_reaches(HOST[0], 8080)
            .is_some_and(|said| said == id)
    });
    // For a connection from the host, pasta connects to the loopback address of the network
    // namespace on the host.
    until("the published port, from the host", || {
        host_reaches("127.0.0.1", 8080).is_some_and(|said| said == id)
    });
    let hers = fs::metadata(vm.bundle.rootfs().join("home/ada/hers")).unwrap();
    assert_eq!(
        (hers.uid(), hers.gid()),
        (300_999, 300_999),
        "the owner is not one of the granted ids"
    );
    container.kill("KILL").success();
    container.wait_for("stopped");
    container.call(&["delete"]).success();
}
