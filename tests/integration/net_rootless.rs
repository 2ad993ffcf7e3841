//! The network of an ordinary user's container, by pasta or slirp4netns.

use crate::support::network::{EXTERNAL, HOST, World, eventually, hide, reaches, shell, start};
use crate::support::{Bundle, fixture, users};
use serde_json::json;

tests![
    pasta_forwards_packets_and_ports,
    slirp4netns_forwards_packets_and_ports,
    without_either_it_is_an_error
];

/// Lets everyone open the device that both programs need: a usual host allows it, but not every
/// container that the tests run in.
pub fn open_tun() {
    users::private_mounts();
    let copy = fixture::new_dir("tun").join("tun");
    let made = shell(&format!(
        "mknod {0} c 10 200 && chmod 666 {0} && mount --bind {0} /dev/net/tun",
        copy.display()
    ));
    if made.status != 0 {
        skip!(
            "ordinary users cannot open /dev/net/tun here: {}",
            made.stderr.trim()
        );
    }
}

fn server() -> Bundle {
    let mut b = Bundle::of_ordinary_user();
    b.args(&[
        "/bin/sh",
        "-c",
        "while true; do hostname | nc -l -p 80; done",
    ]);
    b.set("/hostname", json!(b.id.clone()));
    b
}

/// Packets pass in both directions, and a port is published, by this program.
fn forwards(program: &str) {
    let w = World::new();
    open_tun();
    let found = shell(&format!("command -v {program}"));
    if found.status != 0 {
        skip!("{program} is not installed");
    }
    let _hidden = hide(if program == "pasta" {
        &["slirp4netns"]
    } else {
        &["pasta"]
    });
    let dir = fixture::new_dir("path");
    std::os::unix::fs::symlink(found.stdout.trim(), dir.join(program)).unwrap();
    let mut b = server();
    b.runtime
        .env
        .push(("PATH".into(), dir.display().to_string()));
    let c = start(&b, &["--network", "default", "-p", "8080:80"]);
    assert_eq!(
        eventually("published", || w.external_reaches(HOST[0], 8080)),
        b.id
    );
    let namespace = w.external_namespace();
    let answering = std::thread::spawn(move || {
        shell(&format!(
            "for i in 1 2 3 4 5; do echo external | timeout 5 nsenter --net={namespace} busybox nc \
                -l -p 9000; done"
        ))
    });
    assert_eq!(
        eventually("the way out", || reaches(&c, EXTERNAL[0], 9000)),
        "external"
    );
    drop(c);
    answering.join().unwrap();
    // Where the container ends by itself, the program ends with it or at `delete`: the harness
    // looks for processes that are left behind.
    b.args(&["true"]);
    b.run_with(&["--network", "default"]).success();
}

fn pasta_forwards_packets_and_ports() {
    only_hull!("networks are hull's own");
    forwards("pasta");
}

fn slirp4netns_forwards_packets_and_ports() {
    only_hull!("networks are hull's own");
    forwards("slirp4netns");
}

fn without_either_it_is_an_error() {
    only_hull!("networks are hull's own");
    let _w = World::new();
    let mut b = server();
    b.args(&["true"]);
    b.runtime.env.push(("PATH".into(), "/nonexistent".into()));
    let _hidden = hide(&["pasta", "slirp4netns"]);
    let (_c, out) = b.try_create(&["--network", "default"]);
    assert_has!(
        out.failure(),
        "needs pasta (package passt) or slirp4netns, and neither is installed"
    );
    let (_c, out) = b.try_create(&["--network", "blue"]);
    assert_has!(out.failure(), "need privileges");
    let (_c, out) = b.try_create(&["--network", "default:ip=10.0.0.9"]);
    assert_has!(out.failure(), "need privileges");
    b.run_with(&["--network", "none"]).success();
}
