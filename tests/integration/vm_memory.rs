//! The memory of a VM: `update --memory` changes it while the guest runs, by the balloon and by
//! memory that is plugged in.

use crate::support::runtime::{Container, until};
use crate::support::vm::{REPORT, Vm};
use serde_json::{Value, json};

tests![
    memory_follows_the_limit,
    update_returns_after_the_balloon_has_given_back
];

/// A line of the guest's /proc/meminfo, in bytes.
fn memory(container: &Container, line: &str) -> u64 {
    let text = container.exec(&["cat", "/proc/meminfo"]).success().stdout;
    let found = text
        .lines()
        .find_map(|each| each.strip_prefix(line)?.strip_prefix(':'));
    found
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .unwrap()
        << 10
}

fn memory_follows_the_limit() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("trap 'exit 0' TERM; while :; do sleep 0.1; done");
    vm.bundle
        .set("/linux/resources/memory", json!({ "limit": 128 << 20 }));
    vm.bundle
        .push("/linux/namespaces", json!({ "type": "cgroup" }));
    let container = vm.create(&["--vm-memory", "320m", "--vm-memory-max", "800m"]);
    container.start();
    let update = |size: &str| vm.bundle.call(&["update", "--memory", size, &vm.bundle.id]);
    let limit = || {
        container
            .exec(&["cat", "/sys/fs/cgroup/memory.max"])
            .success()
            .stdout
            .trim()
            .to_owned()
    };
    let hosts = || {
        let stats: Value =
            serde_json::from_str(&container.call(&["events", "--stats"]).success().stdout).unwrap();
        stats["data"][REPORT]["memory"]["usage"].clone()
    };
    let allocate = |size: &str| {
        container.exec(&[
            "dd",
            "if=/dev/zero",
            "of=/dev/null",
            "count=1",
            &format!("bs={size}"),
        ])
    };
    let (boot, host) = (
        memory(&container, "MemTotal"),
        hosts()["limit"].as_u64().unwrap(),
    );
    assert!(boot < 320 << 20 && allocate("400M").status != 0, "{boot}");

    // Up: when update returns, the guest has the memory, and both limits are higher.
    update("600m").success();
    let grown = memory(&container, "MemTotal");
    assert!(grown >= boot + (400 << 20), "{boot} became {grown}");
    assert_eq!(limit(), (600 << 20).to_string());
    allocate("500M").success();
    let raised = hosts();
    assert!(
        raised["limit"].as_u64().unwrap() >= host + (400 << 20),
        "{host} became {raised}"
    );
    assert!(raised["usage"].as_u64().unwrap() > 300 << 20, "{raised}");

    // Down: the guest gives back what was plugged in, and the balloon takes memory of the boot.
    let free = memory(&container, "MemFree");
    update("64m").success();
    until("the guest to give back the plugged memory", || {
        memory(&container, "MemTotal") <= boot
    });
    until("the balloon to take memory", || {
        memory(&container, "MemFree") < free - (500 << 20)
    });
    until("the host to have the memory back", || {
        hosts()["usage"].as_u64().unwrap() < raised["usage"].as_u64().unwrap() - (200 << 20)
    });
    // Up again: when update returns, the guest has what the balloon took.
    let left = memory(&container, "MemFree");
    update("192m").success();
    let free = memory(&container, "MemFree");
    assert!(free > left + (100 << 20), "{left} became {free}");
    assert_eq!(limit(), (192 << 20).to_string());

    let much = update("900m").failure();
    assert_has!(
        much,
        "memory limit 943718400: the guest was made to grow to 838860800 bytes at most"
    );
    assert_eq!(limit(), (192 << 20).to_string());
    container.kill("TERM").success();
    container.wait_for("stopped");
}

/// A balloon so large that the guest needs longer to deflate it than to start a program.
fn update_returns_after_the_balloon_has_given_back() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("trap 'exit 0' TERM; while :; do sleep 0.1; done");
    vm.bundle
        .set("/linux/resources/memory", json!({ "limit": 896 << 20 }));
    let container = vm.create(&["--vm-memory", "1g"]);
    container.start();
    let update = |size: &str| {
        vm.bundle
            .call(&["update", "--memory", size, &vm.bundle.id])
            .success()
    };
    let free = memory(&container, "MemFree");
    update("64m");
    until("the balloon to take memory", || {
        memory(&container, "MemFree") < free - (780 << 20)
    });
    update("896m");
    let now = memory(&container, "MemFree");
    assert!(now > free - (80 << 20), "{free} became {now}");
    container.kill("TERM").success();
    container.wait_for("stopped");
}
