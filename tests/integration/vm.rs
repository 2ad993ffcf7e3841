//! The second wall: the same commands on a container in a machine of its own. One boot serves as
//! much as it can: under emulation it takes some seconds.

use crate::descriptors::Stray;
use crate::net_world::{HOST, World, answer, eventually, reaches, rules, shell, start};
use crate::support::console::FdSocket;
use crate::support::machine::Machine;
use crate::support::runtime::{Container, finish, text, until};
use crate::support::users::Holder;
use crate::support::{fixture, leaks};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};

tests![
    the_life_of_a_container_in_a_machine,
    run_gives_output_status_and_hooks,
    interfaces_have_their_own_names,
    a_terminal_in_a_machine,
    a_guest_that_dies_is_an_error_with_its_console,
    a_machine_has_its_address_and_ports,
];

fn sum(path: &std::path::Path) -> String {
    let output = leaks::spawn(Command::new("sha256sum").arg(path).stdout(Stdio::piped()))
        .unwrap()
        .wait_with_output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

/// A file of bytes that no text has.
fn noise(size: usize) -> std::path::PathBuf {
    let path = fixture::new_dir("noise").join("bytes");
    let mut bytes = vec![0; size];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn the_life_of_a_container_in_a_machine() {
    only_hull!("the second wall");
    let mut machine = Machine::sh(
        "trap 'echo ended >/dir/log; exit 5' TERM; cat /proc/sys/kernel/random/boot_id >/dir/log; \
            while :; do sleep 0.1; done",
    );
    let volume = fixture::new_dir("volume");
    machine
        .bundle
        .mount("/dir", "bind", volume.to_str().unwrap(), &["rbind"]);
    machine
        .bundle
        .set("/linux/resources/memory", json!({ "limit": 200 << 20 }));
    machine
        .bundle
        .push("/linux/namespaces", json!({ "type": "cgroup" }));
    let pid_file = volume.join("pid");
    let stray = Stray::new();
    let container = machine.create(&["--pid-file", pid_file.to_str().unwrap()]);
    let below = container.proc_file(&format!("task/{}/children", container.pid()));
    let behind: Vec<i32> = below
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .chain([container.pid()])
        .collect();
    assert!(
        behind.len() >= 3,
        "monitor, share server and machine: {behind:?}"
    );
    behind
        .iter()
        .for_each(|pid| stray.is_not_in(pid, &machine.bundle.runtime.state));
    assert_eq!(container.status(), "created");
    assert_eq!(text(&pid_file), container.pid().to_string());
    assert_eq!(container.proc_file("comm").trim(), "hull-vm");
    assert!(!volume.join("log").exists(), "the program waits for start");
    container.start();
    until("the program runs", || !text(volume.join("log")).is_empty());
    assert_ne!(
        text(volume.join("log")).trim(),
        text("/proc/sys/kernel/random/boot_id").trim(),
        "a kernel of its own"
    );
    assert_eq!(container.status(), "running");

    // exec: status, streams apart, stdin, a missing program, the same namespaces and limits as the
    // program.
    let out = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(
        (out.status, out.stdout.as_str(), out.stderr.as_str()),
        (3, "out\n", "err\n")
    );
    assert_eq!(
        container
            .exec(&["cat", "/sys/fs/cgroup/memory.max"])
            .success()
            .stdout
            .trim(),
        (200 << 20).to_string()
    );
    assert_eq!(container.exec(&["sh", "-c", "kill -9 $$"]).status, 137);
    assert_has!(
        container.exec(&["nosuch"]).failure(),
        "executable file not found in $path"
    );
    let bytes = noise(700_000);
    let copy = volume.join("copy");
    let mut command = machine.bundle.runtime.command(&[
        "exec",
        &machine.bundle.id,
        "sh",
        "-c",
        "cat >/dir/copy; cat /dir/copy",
    ]);
    command.stdin(File::open(&bytes).unwrap());
    finish(command, crate::support::machine::LIMIT).success();
    assert_eq!(sum(&copy), sum(&bytes), "binary stdin");

    // What the machine does for the verbs.
    processes_are_listed(&container);
    nobody_who_is_silent_is_waited_for(&container);
    container.call(&["pause"]).success();
    assert_eq!(container.status(), "paused");
    assert_has!(container.exec(&["true"]).failure(), "paused");
    container.call(&["resume"]).success();
    assert_eq!(container.status(), "running");
    let stats: Value =
        serde_json::from_str(&container.call(&["events", "--stats"]).success().stdout).unwrap();
    assert_eq!(
        stats["data"]["memory"]["usage"]["limit"],
        json!(200 << 20),
        "{stats}"
    );
    machine
        .bundle
        .call(&["update", "--memory", "150m", &machine.bundle.id])
        .success();
    assert_eq!(
        container
            .exec(&["cat", "/sys/fs/cgroup/memory.max"])
            .success()
            .stdout
            .trim(),
        (150 << 20).to_string()
    );
    let much = machine
        .bundle
        .call(&["update", "--memory", "4g", &machine.bundle.id])
        .failure();
    assert_has!(much, "a balloon cannot grow past that");
    refuses_what_is_the_hosts(&container);

    container.kill("TERM").success();
    container.wait_for("stopped");
    assert_eq!(text(volume.join("log")), "ended\n");
    assert_has!(container.exec(&["true"]).failure(), "stopped container");
}

fn processes_are_listed(container: &Container) {
    assert_has!(container.call(&["ps"]).success().stdout, "sleep 0.1");
    let ids: Vec<i32> =
        serde_json::from_str(&container.call(&["ps", "--format", "json"]).success().stdout)
            .unwrap();
    assert!(!ids.is_empty());
    // More than a socket's buffer holds.
    let script = "n=$(printf %06000d 0); for i in $(seq 60); do sh -c 'sleep 1000; :' $n & done \
        >/dev/null 2>&1 </dev/null";
    container.exec(&["sh", "-c", script]).success();
    // One that is born and has not begun has its parent's line.
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

/// A command that asks and does not listen: others are served.
fn nobody_who_is_silent_is_waited_for(container: &Container) {
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
        "the monitor may have as many files as it can"
    );
    let folder = File::open(container.bundle.runtime.state.join(&container.bundle.id)).unwrap();
    let name = format!(
        "/proc/self/fd/{}/vm.sock",
        std::os::fd::AsRawFd::as_raw_fd(&folder)
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
        "the monitor lets go of one that asks and does not listen",
        || (0..50).any(|_| ask() == Err(rustix::io::Errno::PIPE)),
    );
    assert_has!(container.call(&["ps"]).success().stdout, "sleep 0.1");
    assert_eq!(container.status(), "running");
}

fn refuses_what_is_the_hosts(container: &Container) {
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
    only_hull!("the second wall");
    let mut machine = Machine::sh(
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
    // The guest's kernel meets them in the other order, and gives each the other's name.
    within(
        "ip link add eth0 type veth peer name eth1; ip addr add 10.9.8.7/24 dev eth0; ip link set \
            eth0 up; ip link set eth1 up",
    );
    let namespaces = machine.bundle.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap();
    namespaces
        .iter_mut()
        .find(|namespace| namespace["type"] == "network")
        .unwrap()["path"] = json!(network.path("net"));
    let log = fixture::new_dir("hooks").join("log");
    let hook = |name: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} $(cat) >>{}", log.display())] }]);
    for list in ["createRuntime", "poststart", "poststop"] {
        machine.bundle.set(&format!("/hooks/{list}"), hook(list));
    }
    machine
        .bundle
        .set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    machine
        .bundle
        .push("/linux/namespaces", json!({ "type": "user" }));
    machine.bundle.map_ids();
    let out = machine.run();
    // The first process of a process namespace is spared its own signals' default actions
    // (pid_namespaces(7)): it ends by itself.
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
    assert_has!(said, machine.bundle.id);
}

/// The guest's kernel names what it finds in an order of its own. Where that gives each the other's
/// name, they are given their own.
fn interfaces_have_their_own_names() {
    only_hull!("the second wall");
    for lower in ["eth0", "eth1"] {
        let higher = if lower == "eth0" { "eth1" } else { "eth0" };
        let mut machine = Machine::sh("ip -o link");
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
        let namespaces = machine.bundle.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap();
        namespaces
            .iter_mut()
            .find(|namespace| namespace["type"] == "network")
            .unwrap()["path"] = json!(network.path("net"));
        let out = machine.run();
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

fn a_terminal_in_a_machine() {
    only_hull!("the second wall");
    let mut machine =
        Machine::sh("tty; stty size; read line; echo \"got $line\"; stty size; exit 4");
    machine.bundle.set("/process/terminal", json!(true));
    machine
        .bundle
        .set("/process/consoleSize", json!({ "height": 30, "width": 90 }));
    let socket = FdSocket::new();
    let container = machine.create(&["--console-socket", socket.path.to_str().unwrap()]);
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
    // One read may bring both lines.
    assert_has!(terminal.read_until("50 120"), "got hello");
    container.wait_for("stopped");
}

fn a_guest_that_dies_is_an_error_with_its_console() {
    only_hull!("the second wall");
    let mut machine = Machine::sh("true");
    machine.bundle.set(
        "/vm",
        json!({ "kernel": { "path": "", "parameters": ["rdinit=/nothing", "init=/nothing"] } }),
    );
    let said = machine.refused();
    assert_has!(said, "the machine ended");
    assert_has!(said, "kernel panic");
}

fn a_machine_has_its_address_and_ports() {
    only_hull!("the second wall");
    let mut world = None;
    let machine = Machine::of(|| {
        let made = World::new();
        let server = made.server();
        world = Some(made);
        server
    });
    let (w, id) = (world.unwrap(), machine.bundle.id.clone());
    let container = machine.create(&["--network", "default", "--publish", "8080:80"]);
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
        &eventually("outside", || w.outside_reaches(HOST[0], 8080)),
        &id
    );
    // Who forwards ports from within the namespace dials its addresses on the host's side:
    // loopback, or its own.
    let within = |words: &str| {
        shell(&format!(
            "nsenter --net=/proc/{}/ns/net timeout 20 busybox nc {words}",
            container.pid()
        ))
    };
    for address in w
        .addresses("default", &id)
        .iter()
        .map(String::as_str)
        .chain(["127.0.0.1"])
    {
        assert_eq!(
            &eventually(&format!("from within, {address}"), || answer(&within(
                &format!("{address} 80")
            ))),
            &id
        );
    }
    // Both ways to their ends: the server's answer begins after the client's last byte.
    let bytes = noise(3 << 20);
    let mut serving = leaks::spawn(&mut machine.bundle.runtime.command(&[
        "exec",
        &id,
        "nc",
        "-l",
        "-p",
        "90",
        "-e",
        "sha256sum",
    ]))
    .unwrap();
    let said = eventually("a sum, from within", || {
        answer(&within(&format!("127.0.0.1 90 <{}", bytes.display())))
    });
    assert_eq!(said.split(' ').next().unwrap(), sum(&bytes));
    assert!(serving.wait().unwrap().success());
    assert_eq!(within("127.0.0.1 91").stdout, "", "nobody listens");
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
