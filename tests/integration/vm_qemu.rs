//! The QEMU of a VM: its confinement on the host, and its end.

use crate::support::vm::{Vm, qemu};
use crate::support::{leaks, runtime, until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::PathBuf;

tests![qemu_is_confined_and_its_end_ends_the_container];

// Attack: QEMU taken over by its guest
fn qemu_is_confined_and_its_end_ends_the_container() {
    only_hull!("the VM backend");
    let vm = Vm::sh("exec sleep 1000");
    let container = vm.create(&[]);
    container.start();
    let (monitor, qemu) = (container.pid(), qemu(&container));
    has_no_rights(qemu);
    is_in_its_own_namespaces(qemu, monitor);
    sees_no_file_of_the_host(qemu);
    holds_no_file_of_the_host(qemu);

    kill_process(Pid::from_raw(qemu).unwrap(), Signal::KILL).unwrap();
    container.wait_for("stopped");
    until("the monitor's end", || leaks::is_gone(monitor));
}

/// An unprivileged user, no capability, no_new_privs, and a seccomp filter.
fn has_no_rights(qemu: i32) {
    let status = runtime::text(format!("/proc/{qemu}/status"));
    let line = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")))
            .unwrap_or_else(|| panic!("no {name}"))
            .trim()
            .to_owned()
    };
    assert_eq!(line("Uid"), ["65534"; 4].join("\t"));
    assert_ne!(line("Gid").split('\t').next(), Some("0"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (line("NoNewPrivs").as_str(), line("Seccomp").as_str()),
        ("1", "2")
    );
}

/// Its namespaces are neither the host's nor, for the network, the monitor's.
fn is_in_its_own_namespaces(qemu: i32, monitor: i32) {
    let namespace =
        |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let qemu = qemu.to_string();
    for kind in ["mnt", "pid", "ipc", "uts", "net"] {
        assert_ne!(namespace(&qemu, kind), namespace("self", kind), "{kind}");
    }
    assert_ne!(
        namespace(&qemu, "net"),
        namespace(&monitor.to_string(), "net")
    );
}

/// Its root has no home, no bundle and no socket of the host.
fn sees_no_file_of_the_host(qemu: i32) {
    let root = PathBuf::from(format!("/proc/{qemu}/root"));
    for name in [
        "home",
        "root",
        "run",
        "var",
        "tmp",
        "etc/shadow",
        "etc/passwd",
        "sys",
    ] {
        assert!(!root.join(name).exists(), "{name}");
    }
}

/// Its descriptors are sockets, memory and events, and the devices that it needs.
fn holds_no_file_of_the_host(qemu: i32) {
    for entry in fs::read_dir(format!("/proc/{qemu}/fd")).unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap().display().to_string();
        let harmless = [
            "socket:",
            "anon_inode:",
            "/memfd:",
            "pipe:",
            "/dev/null",
            "/dev/kvm",
            "/dev/net/tun",
            "/dev/urandom",
        ];
        assert!(
            harmless.iter().any(|start| target.starts_with(start)),
            "{} is {target}",
            entry.path().display()
        );
    }
}
