//! The second wall of ordinary users: a machine that has no more rights on the host than they have.

use crate::net_rootless::open_tun;
use crate::net_world::{HOST, World, host_reaches, shell};
use crate::support::machine::Machine;
use crate::support::runtime::{text, until};
use crate::support::{Bundle, fixture, users};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

tests![
    a_machine_of_an_ordinary_user,
    granted_ids_and_a_network_in_a_machine
];

/// The host's id of a process's namespaces' owner, and whether it holds a capability.
fn status_of(pid: i32, name: &str) -> String {
    let status = text(format!("/proc/{pid}/status"));
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn children(pid: i32) -> Vec<i32> {
    text(format!("/proc/{pid}/task/{pid}/children"))
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn a_machine_of_an_ordinary_user() {
    only_hull!("the second wall");
    let mut machine = Machine::of(|| {
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
    fs::write(volume.join("mine"), "the machine's\n").unwrap();
    machine
        .bundle
        .mount("/v", "bind", volume.to_str().unwrap(), &["rbind"]);
    let socket = fixture::new_dir("manager").join("socket");
    let manager = UnixDatagram::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    machine
        .bundle
        .runtime
        .env
        .push(("NOTIFY_SOCKET".into(), socket.display().to_string()));
    let container = machine.create(&[]);
    let all: Vec<i32> = children(container.pid())
        .into_iter()
        .chain([container.pid()])
        .collect();
    assert!(all.len() >= 3, "monitor, share server and machine: {all:?}");
    let own = users::ORDINARY.to_string();
    for pid in all {
        assert!(
            status_of(pid, "Uid:")
                .split_whitespace()
                .all(|id| id == own),
            "{}: {}",
            status_of(pid, "Name:"),
            status_of(pid, "Uid:")
        );
        assert_ne!(
            fs::read_link(format!("/proc/{pid}/ns/user")).unwrap(),
            fs::read_link("/proc/self/ns/user").unwrap()
        );
    }
    container.start();
    let mut said = [0; 16];
    let count = manager.recv(&mut said).unwrap();
    assert_eq!(
        &said[..count],
        b"READY=1\n",
        "start returns once the program is ready"
    );
    until("the program", || !text(volume.join("boot")).is_empty());
    assert_ne!(
        text(volume.join("boot")),
        text("/proc/sys/kernel/random/boot_id"),
        "a kernel of its own"
    );
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
    assert_eq!(
        fs::metadata(machine.bundle.rootfs().join("made"))
            .unwrap()
            .uid(),
        users::ORDINARY
    );
    // What is root's of the host stays so, whatever the guest's root does.
    assert_has!(
        container.exec(&["sh", "-c", "echo y >>/v/mine"]).failure(),
        "permission denied"
    );
    assert_has!(container.call(&["ps"]).success().stdout, "sleep 0.1");
    assert_has!(
        container.call(&["stats", "--no-stream"]).success().stdout,
        machine.bundle.id
    );
    container.kill("TERM").success();
    container.wait_for("stopped");
    container.call(&["delete"]).success();
}

/// Ids as an administrator grants them, in this process's own view of the files.
fn grant_ids() {
    users::private_mounts();
    let folder = fixture::new_dir("etc");
    for (name, line) in [
        (
            "passwd",
            format!("granted:x:{0}:{0}::/:/bin/sh", users::ORDINARY),
        ),
        ("subuid", "granted:300000:65536".into()),
        ("subgid", "granted:300000:65536".into()),
    ] {
        let copy = folder.join(name);
        let present = fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        fs::write(&copy, format!("{present}{line}\n")).unwrap();
        rustix::mount::mount_bind(&copy, Path::new("/etc").join(name))
            .unwrap_or_else(|error| skip!("/etc/{name}: {error}"));
    }
}

fn granted_ids_and_a_network_in_a_machine() {
    only_hull!("the second wall");
    if ["newuidmap", "pasta"]
        .iter()
        .any(|program| shell(&format!("command -v {program}")).status != 0)
    {
        skip!("newuidmap (uidmap) and pasta (passt) are needed");
    }
    let mut world = None;
    let mut machine = Machine::of(|| {
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
    let id = machine.bundle.id.clone();
    machine.bundle.set("/hostname", json!(id));
    let container = machine.create(&["--network", "default", "-p", "8080:80"]);
    container.start();
    let w = world.unwrap();
    until("the published port", || {
        w.outside_reaches(HOST[0], 8080)
            .is_some_and(|said| said == id)
    });
    // From the host itself pasta dials the container's loopback, on the host's side.
    until("the published port, from the host", || {
        host_reaches("127.0.0.1", 8080).is_some_and(|said| said == id)
    });
    let hers = fs::metadata(machine.bundle.rootfs().join("home/ada/hers")).unwrap();
    assert_eq!(
        (hers.uid(), hers.gid()),
        (300_999, 300_999),
        "the ids that were granted"
    );
    container.kill("KILL").success();
    container.wait_for("stopped");
    container.call(&["delete"]).success();
}
