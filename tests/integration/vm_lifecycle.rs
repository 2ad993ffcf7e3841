//! The life of a container in a VM: create, start, exec, ps, pause, update, kill and run, its
//! terminal and its network. One boot serves many checks: under emulation it takes some seconds.

use crate::descriptors::Stray;
use crate::support::console::FdSocket;
use crate::support::network::{HOST, World, answer, eventually, reaches, rules, shell, start};
use crate::support::runtime::{Container, finish, text, until, wait};
use crate::support::users::Holder;
use crate::support::vm::{BOOT_ID, LIMIT, Vm, host_processes};
use crate::support::{fixture, leaks};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

tests![
    the_life_of_a_container,
    run_gives_output_status_and_hooks,
    interfaces_keep_their_names,
    a_terminal,
    a_vm_has_its_address_and_ports,
];

fn sum(path: &Path) -> String {
    let mut command = Command::new("sha256sum");
    command.arg(path);
    let output = finish(command, LIMIT).success().stdout;
    output.split(' ').next().unwrap().to_owned()
}

/// A file of random bytes.
fn noise(size: usize) -> PathBuf {
    let path = fixture::new_dir("noise").join("bytes");
    let mut bytes = vec![0; size];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn the_life_of_a_container() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh(
        "trap 'echo ended >/dir/log; exit 5' TERM; cat /proc/sys/kernel/random/boot_id >/dir/log; \
            while :; do sleep 0.1; done",
    );
    let volume = fixture::new_dir("volume");
    vm.bundle
        .mount("/dir", "bind", volume.to_str().unwrap(), &["rbind"]);
    vm.bundle
        .set("/linux/resources/memory", json!({ "limit": MEMORY }));
    vm.bundle
        .push("/linux/namespaces", json!({ "type": "cgroup" }));
    let pid_file = volume.join("pid");
    let stray = Stray::new();
    let container = vm.create(&["--pid-file", pid_file.to_str().unwrap()]);
    let processes = host_processes(&container);
    assert!(
        processes.len() >= 3,
        "monitor, share server and QEMU: {processes:?}"
    );
    processes
        .iter()
        .for_each(|pid| stray.is_not_in(pid, &vm.bundle.runtime.state));
    assert_eq!(container.status(), "created");
    assert_eq!(text(&pid_file), container.pid().to_string());
    assert_eq!(container.proc_file("comm").trim(), "hull-vm");
    assert!(!volume.join("log").exists(), "the program waits for start");
    container.start();
    until("the program runs", || !text(volume.join("log")).is_empty());
    assert_ne!(
        text(volume.join("log")).trim(),
        text(BOOT_ID).trim(),
        "the container runs on the host's kernel"
    );
    assert_eq!(container.status(), "running");

    exec_works(&container, &volume);
    processes_are_listed(&container);
    a_silent_client_is_disconnected(&container);
    container.call(&["pause"]).success();
    assert_eq!(container.status(), "paused");
    assert_has!(container.exec(&["true"]).failure(), "paused");
    container.call(&["resume"]).success();
    assert_eq!(container.status(), "running");
    the_memory_limit_is_reported_and_updated(&container);
    resources_of_the_host_are_refused(&container);

    container.kill("TERM").success();
    container.wait_for("stopped");
    assert_eq!(text(volume.join("log")), "ended\n");
    assert_has!(container.exec(&["true"]).failure(), "stopped container");
}

/// The memory limit of the container.
const MEMORY: u64 = 200 << 20;

fn memory_max(container: &Container) -> String {
    let out = container.exec(&["cat", "/sys/fs/cgroup/memory.max"]);
    out.success().stdout.trim().to_owned()
}

/// The exit status, separate streams, binary standard input, a missing program; and the process is
/// in the container's cgroup.
fn exec_works(container: &Container, volume: &Path) {
    let out = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(
        (out.status, out.stdout.as_str(), out.stderr.as_str()),
        (3, "out\n", "err\n")
    );
    assert_eq!(memory_max(container), MEMORY.to_string());
    assert_eq!(container.exec(&["sh", "-c", "kill -9 $$"]).status, 137);
    assert_has!(
        container.exec(&["nosuch"]).failure(),
        "executable file not found in $path"
    );
    let bytes = noise(700_000);
    let mut command = container.bundle.runtime.command(&[
        "exec",
        &container.bundle.id,
        "sh",
        "-c",
        "cat >/dir/copy; cat /dir/copy",
    ]);
    command.stdin(File::open(&bytes).unwrap());
    finish(command, LIMIT).success();
    assert_eq!(sum(&volume.join("copy")), sum(&bytes), "binary stdin");
}

fn the_memory_limit_is_reported_and_updated(container: &Container) {
    let stats: Value =
        serde_json::from_str(&container.call(&["events", "--stats"]).success().stdout).unwrap();
    assert_eq!(
        stats["data"]["memory"]["usage"]["limit"],
        json!(MEMORY),
        "{stats}"
    );
    let update = |size: &str| container.call(&["update", "--memory", size]);
    update("150m").success();
    assert_eq!(memory_max(container), (150 << 20).to_string());
    assert_has!(update("4g").failure(), "a balloon cannot grow past that");
}

fn processes_are_listed(container: &Container) {
    assert_has!(container.call(&["ps"]).success().stdout, "sleep 0.1");
    let ids: Vec<i32> =
        serde_json::from_str(&container.call(&["ps", "--format", "json"]).success().stdout)
            .unwrap();
    assert!(!ids.is_empty());
    // More text than the buffer of a socket holds.
    let script = "n=$(printf %06000d 0); for i in $(seq 60); do sh -c 'sleep 1000; :' $n & done \
        >/dev/null 2>&1 </dev/null";
    container.exec(&["sh", "-c", script]).success();
    // Between fork and execve, a process has the command line of its parent.
    let long = || {
        container
            .call(&["ps"])
            .success()
            .stdout
            .lines()
            .filter(|line| line.len() > 4000)
            .count()
    };
    until("sixty long lines", || long() == 60);
    container.exec(&["sh", "-c", "kill -9 $(pidof sleep)"]);
}

/// A client sends requests and does not read the answers: the monitor disconnects it and serves the
/// other clients.
fn a_silent_client_is_disconnected(container: &Container) {
    let limits = container.proc_file("limits");
    let of = |line: &str| {
        line.split_whitespace()
            .skip(3)
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .map(of)
        .unwrap();
    assert_eq!(
        files[0], files[1],
        "the monitor has not raised its limit of open files"
    );
    // By way of a descriptor: the path may be longer than the address of a socket.
    let directory = File::open(container.bundle.runtime.state.join(&container.bundle.id)).unwrap();
    let name = format!(
        "/proc/self/fd/{}/vm.sock",
        std::os::fd::AsRawFd::as_raw_fd(&directory)
    );
    use rustix::net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send,
        socket_with,
    };
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    connect(&socket, &SocketAddrUnix::new(name.as_str()).unwrap()).unwrap();
    let ask = || {
        send(
            &socket,
            b"\"Processes\"",
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )
    };
    until(
        "the monitor to disconnect a client that does not read",
        || (0..50).any(|_| ask() == Err(rustix::io::Errno::PIPE)),
    );
    assert_has!(container.call(&["ps"]).success().stdout, "sleep 0.1");
    assert_eq!(container.status(), "running");
}

fn resources_of_the_host_are_refused(container: &Container) {
    for flags in [["--preserve-fds", "1"], ["--cgroup", "/below"]] {
        assert_has!(
            container.exec_with(&flags, &["true"]).failure(),
            "--preserve-fds and --cgroup name what is the host's"
        );
    }
    assert_has!(
        container.call(&["checkpoint"]).failure(),
        "a container in a virtual machine cannot be checkpointed"
    );
}

fn run_gives_output_status_and_hooks() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh(
        "echo out; echo err >&2; id -u; cat /proc/self/status; ip addr show eth0; kill -USR1 $$",
    );
    let network = Holder::new(&["--net"]);
    let within = |words: &str| {
        shell(&format!(
            "nsenter --net={} sh -c '{words}'",
            network.path("net").display()
        ))
        .success()
        .stdout
    };
    // The guest's kernel finds the interfaces in the other order, and gives each the other's name.
    within(
        "ip link add eth0 type veth peer name eth1; ip addr add 10.9.8.7/24 dev eth0; ip link set \
            eth0 up; ip link set eth1 up",
    );
    vm.bundle.join("network", network.path("net"));
    let log = fixture::new_dir("hooks").join("log");
    let hook = |name: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} $(cat) >>{}", log.display())] }]);
    for list in ["createRuntime", "poststart", "poststop"] {
        vm.bundle.set(&format!("/hooks/{list}"), hook(list));
    }
    vm.bundle
        .set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    vm.bundle
        .push("/linux/namespaces", json!({ "type": "user" }));
    vm.bundle.map_ids();
    let out = vm.run();
    // The first process of a pid namespace ignores signals of its own that it does not handle
    // (pid_namespaces(7)): it exits by itself.
    assert_eq!(out.status, 0, "{}", out.stderr);
    assert!(out.stdout.starts_with("out\n1000\n"), "{}", out.stdout);
    assert_eq!(out.stderr, "err\n");
    assert_has!(out.stdout, "NoNewPrivs:\t1");
    assert_has!(out.stdout, "10.9.8.7/24");
    let left = within("tc qdisc show; nft list tables; ip -o link");
    assert!(
        !left.contains("ingress") && !left.contains("hull"),
        "{left}"
    );
    let said = text(&log);
    let order: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(order, ["createRuntime", "poststart", "poststop"]);
    assert_has!(said, vm.bundle.id);
}

/// The guest's kernel names the interfaces in an order of its own, and may give each the other's
/// name. hull gives each its own name again.
fn interfaces_keep_their_names() {
    only_hull!("the VM backend");
    for lower in ["eth0", "eth1"] {
        let higher = if lower == "eth0" { "eth1" } else { "eth0" };
        let mut vm = Vm::sh("ip -o link");
        let network = Holder::new(&["--net"]);
        let make = format!(
            "ip link add {lower} address 02:00:00:00:00:01 type veth peer name {higher} address \
                02:00:00:00:00:02; ip link set {lower} up; ip link set {higher} up"
        );
        shell(&format!(
            "nsenter --net={} sh -c '{make}'",
            network.path("net").display()
        ))
        .success();
        vm.bundle.join("network", network.path("net"));
        let out = vm.run();
        assert_eq!(out.status, 0, "{}", out.stderr);
        for (name, last) in [(lower, "01"), (higher, "02")] {
            let line = out
                .stdout
                .lines()
                .find(|line| line.contains(&format!(": {name}: ")))
                .unwrap_or_else(|| panic!("{}", out.stdout));
            assert_has!(line, format!("02:00:00:00:00:{last}"));
        }
    }
}

fn a_terminal() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("tty; stty size; read line; echo \"got $line\"; stty size; exit 4");
    vm.bundle.set("/process/terminal", json!(true));
    vm.bundle
        .set("/process/consoleSize", json!({ "height": 30, "width": 90 }));
    let socket = FdSocket::new();
    let container = vm.create(&["--console-socket", socket.path.to_str().unwrap()]);
    let mut terminal = socket.terminal();
    container.start();
    assert_has!(terminal.read_until("30 90"), "/dev/pts/0");
    rustix::termios::tcsetwinsize(
        &terminal.0,
        rustix::termios::Winsize {
            ws_row: 50,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
    .unwrap();
    terminal.write("hello\r");
    // One read may return both lines.
    assert_has!(terminal.read_until("50 120"), "got hello");
    container.wait_for("stopped");
}

fn a_vm_has_its_address_and_ports() {
    only_hull!("the VM backend");
    let mut world = None;
    let vm = Vm::of(|| {
        let made = World::new();
        let server = made.server();
        world = Some(made);
        server
    });
    let (w, id) = (world.unwrap(), vm.bundle.id.clone());
    let container = vm.create(&["--network", "default", "--publish", "8080:80"]);
    container.start();
    let neighbour = w.bundle("sleep 1000");
    let n = start(&neighbour, &["--network", "default"]);
    for address in w.addresses("default", &id) {
        assert_eq!(
            &eventually(&format!("neighbour, {address}"), || reaches(
                &n, &address, 80
            )),
            &id
        );
    }
    assert_eq!(
        &eventually("neighbour, by name", || reaches(&n, &id, 80)),
        &id
    );
    assert_eq!(
        &eventually("external", || w.external_reaches(HOST[0], 8080)),
        &id
    );
    forwarders_in_the_namespace_reach_the_guest(&container, &w);
    let shown = container
        .exec(&["ip", "addr", "show", "eth0"])
        .success()
        .stdout;
    assert!(
        w.addresses("default", &id)
            .iter()
            .all(|address| shown.contains(address.as_str())),
        "{shown}"
    );
    container.kill("KILL").success();
    container.wait_for("stopped");
    drop((container, n));
    assert_eq!(rules(), "");
}

/// A port forwarder in the network namespace on the host connects to the addresses of that
/// namespace: loopback, or the container's own.
fn forwarders_in_the_namespace_reach_the_guest(container: &Container, w: &World) {
    let id = &container.bundle.id;
    let nc = |args: &str| {
        shell(&format!(
            "nsenter --net=/proc/{}/ns/net timeout 20 busybox nc {args}",
            container.pid()
        ))
    };
    let addresses = w.addresses("default", id);
    for address in addresses.iter().map(String::as_str).chain(["127.0.0.1"]) {
        let said = eventually(&format!("from the namespace, {address}"), || {
            answer(&nc(&format!("{address} 80")))
        });
        assert_eq!(&said, id);
    }
    // Each direction is closed on its own: the server answers after the client's last byte.
    let bytes = noise(3 << 20);
    let server = ["exec", id, "nc", "-l", "-p", "90", "-e", "sha256sum"];
    let server = leaks::spawn(&mut container.bundle.runtime.command(&server)).unwrap();
    let said = eventually("a checksum", || {
        answer(&nc(&format!("127.0.0.1 90 <{}", bytes.display())))
    });
    assert_eq!(said.split(' ').next().unwrap(), sum(&bytes));
    assert_eq!(wait(server, LIMIT), 0);
    assert_eq!(nc("127.0.0.1 91").stdout, "", "no server listens");
}
