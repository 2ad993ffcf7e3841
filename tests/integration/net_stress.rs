//! hull's own networks under load and with faults: a hundred starts at once, and SIGKILL of hull at
//! any point.

use crate::support::network::{World, ip, links, rules, shell, start};
use crate::support::{Bundle, Container, leaks, runtime, until};
use std::collections::BTreeSet;
use std::time::Duration;

tests![
    a_hundred_parallel_starts_have_distinct_addresses,
    a_kill_at_any_point_leaves_nothing,
    a_kill_before_each_call_leaves_nothing,
    addresses_of_ended_containers_are_given_out_again
];

fn a_hundred_parallel_starts_have_distinct_addresses() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let bundles: Vec<_> = (0..100).map(|_| w.bundle("sleep 1000")).collect();
    let mut children = Vec::new();
    for b in &bundles {
        b.write();
        let mut command = b.runtime.command(&[
            "run",
            "-d",
            "--bundle",
            b.dir.to_str().unwrap(),
            "--network",
            "default",
            &b.id,
        ]);
        children.push(leaks::spawn(&mut command).unwrap());
    }
    let guards: Vec<_> = bundles.iter().map(Container::new).collect();
    for child in children {
        assert_eq!(runtime::wait(child, Duration::from_secs(120)), 0);
    }
    let document = w.inspect("default");
    let containers = document["containers"].as_array().unwrap();
    let all: BTreeSet<String> = containers
        .iter()
        .flat_map(|c| c["addresses"].as_array().unwrap())
        .map(|a| a.to_string())
        .collect();
    assert_eq!((containers.len(), all.len()), (100, 200));
    let hosts = guards[0].exec(&["cat", "/etc/hosts"]).success().stdout;
    assert!(
        bundles.iter().all(|b| hosts.contains(&b.id)),
        "a neighbour's name is missing:\n{hosts}"
    );
    drop(guards);
    assert_eq!(
        w.inspect("default")["containers"].as_array().unwrap().len(),
        0
    );
    assert_eq!(rules(), "");
    until("the links are gone", || links().len() == 1);
}

/// The arguments that create a container with everything that hull makes for a network.
fn create_flags(b: &Bundle) -> [&str; 10] {
    [
        "create",
        "--bundle",
        b.dir.to_str().unwrap(),
        "--network",
        "default",
        "-p",
        "8080:80",
        "--net-rate",
        "10mbit",
        &b.id,
    ]
}

fn a_kill_at_any_point_leaves_nothing() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let b = w.bundle("sleep 1000");
    b.write();
    for step in 0..60_u64 {
        let flags = create_flags(&b);
        let mut child = leaks::spawn(&mut b.runtime.command(&flags)).unwrap();
        std::thread::sleep(Duration::from_micros(step * 1200));
        child.kill().ok();
        child.wait().unwrap();
        leaks::forget(&child);
        nothing_is_left(&w, &b, &format!("killed after {} us", step * 1200));
    }
    assert!(ip("-br link").lines().count() <= 3);
}

/// Asserts that `delete --force` removes what a killed `create` made.
fn nothing_is_left(w: &World, b: &Bundle, when: &str) {
    b.call(&["delete", "--force", &b.id]).success();
    until("the links are gone", || {
        leaks::reap_orphans();
        links().iter().all(|link| link.starts_with("hull-"))
    });
    assert_eq!(rules(), "", "{when}");
    let endpoints = w.state().join("@networks/default/endpoints");
    let left: Vec<_> = std::fs::read_dir(&endpoints)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.is_empty(), "{when}: addresses are held by {left:?}");
}

/// strace kills hull before each system call by which it changes something else, one run each: a
/// kill at a given time hits some of them only by chance.
fn a_kill_before_each_call_leaves_nothing() {
    only_hull!("networks are hull's own");
    if shell("command -v strace").status != 0 {
        skip!("strace is not installed");
    }
    let w = World::new();
    let b = w.bundle("sleep 1000");
    b.write();
    let mut killed = 0;
    for call in [
        "rename",
        "sendto",
        "flock",
        "unlink",
        "write",
        "clone3,clone,vfork,fork",
    ] {
        for number in 1.. {
            let inject = format!("inject={call}:signal=KILL:when={number}");
            let flags = create_flags(&b);
            let hull = b.runtime.command(&flags);
            let mut command = std::process::Command::new("strace");
            command
                .args(["-qq", "-o", "/dev/null", "-e", &inject])
                .arg(hull.get_program())
                .args(hull.get_args());
            command.stdin(std::process::Stdio::null()).envs(
                hull.get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            );
            let status = runtime::finish(command, runtime::LIMIT).status;
            nothing_is_left(&w, &b, &format!("killed before {call} number {number}"));
            assert!(
                [0, 137].contains(&status),
                "{call} number {number}: status {status}"
            );
            if status == 0 {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 20, "only {killed} kills");
}

fn addresses_of_ended_containers_are_given_out_again() {
    only_hull!("networks are hull's own");
    let w = World::new();
    w.hull(&["network", "create", "--subnet", "10.77.0.0/30", "tiny"])
        .success();
    let (first, second) = (w.bundle("sleep 1000"), w.bundle("sleep 1000"));
    let c = start(&first, &["--network", "tiny"]);
    let (_none, out) = second.try_create(&["--network", "tiny"]);
    assert_has!(out.failure(), "has no free address");
    // Without `delete`: the process is killed, and its network namespace ends.
    c.kill("KILL").success();
    c.wait_for("stopped");
    until("the address is free", || {
        second.run_with(&["--detach", "--network", "tiny"]).status == 0
    });
    let _d = Container::new(&second);
    assert_eq!(w.addresses("tiny", &second.id), ["10.77.0.2"]);
}
