//! Two network namespaces for tests of networks: one stands for the host, one for an external host.
//! The test's process, and so the runtime that it calls, is in the first; nothing reaches the real
//! host's network.

use crate::support::{Bundle, Container, runtime, users};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// The host's addresses on the link between both.
pub const HOST: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];
/// The external host's addresses on it.
pub const EXTERNAL: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];

/// The two namespaces, and the state directory of the containers.
pub struct World {
    external: users::Holder,
    state: std::path::PathBuf,
}

/// Gives the test's process, and all that it starts from now on, a network namespace of its own.
pub fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .expect("cannot unshare the network namespace");
    ip("link set lo up");
}

/// Runs `ip` on the host.
pub fn ip(args: &str) -> String {
    run("ip", args).success().stdout
}

/// Runs a program on the host; blanks separate its arguments.
pub fn run(program: &str, args: &str) -> runtime::Output {
    let mut command = Command::new(program);
    command.args(args.split_whitespace());
    runtime::finish(command, runtime::LIMIT)
}

/// Runs a shell script on the host.
pub fn shell(script: &str) -> runtime::Output {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    runtime::finish(command, runtime::LIMIT)
}

impl World {
    /// Makes both, with a link and routes between them.
    pub fn new() -> Self {
        own_network();
        let external = users::Holder::new(&["--net"]);
        let world = Self {
            external,
            state: crate::support::fixture::new_dir("networks").join("state"),
        };
        ip(&format!(
            "link add up0 type veth peer name out0 netns {}",
            world.external.pid()
        ));
        ip("addr add 198.51.100.1/24 dev up0");
        ip("-6 addr add 2001:db8:1::1/64 dev up0 nodad");
        ip("link set up0 up");
        for line in [
            "link set lo up",
            "addr add 198.51.100.2/24 dev out0",
            "-6 addr add 2001:db8:1::2/64 dev out0 nodad",
            "link set out0 up",
        ] {
            world.run_external("ip", line).success();
        }
        ip("route add default via 198.51.100.2");
        ip("-6 route add default via 2001:db8:1::2");
        world
    }

    /// Runs a program on the external host.
    pub fn run_external(&self, program: &str, args: &str) -> runtime::Output {
        run(
            "nsenter",
            &format!(
                "--net={} {program} {args}",
                self.external.path("net").display()
            ),
        )
    }

    /// The path of the external host's network namespace.
    pub fn external_namespace(&self) -> String {
        self.external.path("net").display().to_string()
    }

    /// A bundle in this world's state directory, whose shell runs a script, with the capabilities
    /// that an attack on its network needs.
    pub fn bundle(&self, script: &str) -> Bundle {
        let mut b = Bundle::sh(script);
        b.runtime.state = self.state.clone();
        b.add_caps(&["CAP_NET_ADMIN", "CAP_NET_RAW"]);
        b.set("/hostname", json!(b.id.clone()));
        b
    }

    /// A bundle that serves its host name on port 80, over IPv4 and IPv6.
    pub fn server(&self) -> Bundle {
        self.bundle("while true; do hostname | nc -l -p 80; done")
    }

    /// Runs a command of the runtime with this world's state directory.
    pub fn hull(&self, args: &[&str]) -> runtime::Output {
        runtime::Runtime::new(self.state.clone()).call(args)
    }

    /// What `network inspect` prints.
    pub fn inspect(&self, network: &str) -> Value {
        serde_json::from_str(&self.hull(&["network", "inspect", network]).success().stdout).unwrap()
    }

    /// A container's addresses on a network: of IPv4, then of IPv6.
    pub fn addresses(&self, network: &str, id: &str) -> Vec<String> {
        let document = self.inspect(network);
        let one = document["containers"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["id"] == id)
            .expect("the container is not on the network")
            .clone();
        one["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a.as_str().unwrap().split('/').next().unwrap().to_owned())
            .collect()
    }

    /// What a port answers to the external host.
    pub fn external_reaches(&self, address: &str, port: u16) -> Option<String> {
        answer(&self.run_external("timeout", &format!("2 busybox nc {address} {port}")))
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }
}

/// Starts a container with network options.
pub fn start<'a>(bundle: &'a Bundle, flags: &[&str]) -> Container<'a> {
    let (container, out) = bundle.try_create(flags);
    out.success();
    let container = container.unwrap();
    container.start();
    container
}

/// The answer that a client printed; none where there was none.
pub fn answer(out: &runtime::Output) -> Option<String> {
    let text = out.stdout.trim().to_owned();
    (out.status == 0 && !text.is_empty()).then_some(text)
}

/// What a port answers to the host.
pub fn host_reaches(address: &str, port: u16) -> Option<String> {
    answer(&run("timeout", &format!("2 busybox nc {address} {port}")))
}

/// What a port answers to a container.
pub fn reaches(from: &Container, address: &str, port: u16) -> Option<String> {
    answer(&from.exec(&["timeout", "2", "nc", address, &port.to_string()]))
}

/// Asks again for some seconds: a server in shell may be between two connections, and the first
/// packet on a route may wait for neighbour discovery.
pub fn eventually(what: &str, mut ask: impl FnMut() -> Option<String>) -> String {
    for _ in 0..20 {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    panic!("{what}: no answer");
}

/// The host's links, without those that the world made.
pub fn links() -> Vec<String> {
    let all = ip("-br link");
    let name = |line: &str| {
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .split('@')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    all.lines()
        .map(name)
        .filter(|name| !["lo", "up0"].contains(&name.as_str()))
        .collect()
}

/// The host's nftables rules, without counters.
pub fn rules() -> String {
    run("nft", "--stateless list ruleset").success().stdout
}

/// Runs a function in another network namespace, on a thread that joins it: sockets that it makes
/// stay in that namespace.
pub fn within<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = std::fs::File::open(namespace).unwrap();
    let thread = std::thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("cannot join the network namespace");
        work()
    });
    thread
        .join()
        .expect("the thread in the other namespace failed")
}

/// Programs that are not there for now: another file covers them, in this test's mount namespace.
pub struct Hidden(Vec<std::path::PathBuf>);

/// Hides programs wherever hull looks for them, whatever PATH says.
pub fn hide(programs: &[&str]) -> Hidden {
    const DIRECTORIES: [&str; 5] = [
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
        "/usr/local/bin",
        "/usr/bin",
    ];
    super::users::private_mounts();
    let mut hidden = Hidden(Vec::new());
    for directory in DIRECTORIES {
        for program in programs {
            let path = std::path::Path::new(directory).join(program);
            if path.is_file() {
                let none: Option<&str> = None;
                let flags = nix::mount::MsFlags::MS_BIND;
                nix::mount::mount(Some("/dev/null"), &path, none, flags, none).unwrap();
                hidden.0.push(path);
            }
        }
    }
    hidden
}

impl Drop for Hidden {
    fn drop(&mut self) {
        for path in &self.0 {
            nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).ok();
        }
    }
}
