//! Checkpoint and restore of a container on hull's own networks: its addresses, published ports,
//! names, and open TCP connections.

use crate::support::checkpoint::{Checkpoint, criu, started_with, version};
use crate::support::network::{World, eventually, host_reaches, rules};
use crate::support::{Bundle, Container, until};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

tests![
    a_connection_survives_restore,
    a_connection_is_closed_by_tcp_close,
    an_open_connection_is_refused,
    address_ports_and_names_are_restored,
    a_clone_has_an_address_of_its_own,
];

fn echo(w: &World) -> Bundle {
    let mut b = w.bundle("");
    b.args(&["/bin/probe", "--probe", "echo", "7"]);
    b.runtime.global = vec!["--criu".into(), criu().to_str().unwrap().into()];
    b.set("/root/readonly", json!(false));
    b
}

fn serve<'a>(w: &World, b: &'a Bundle) -> (Container<'a>, TcpStream) {
    let c = started_with(b, &["--network", "default", "-p", "7007:7"]);
    let address = w.addresses("default", &b.id)[0].clone();
    let mut stream = None;
    until("the server", || {
        stream = TcpStream::connect((address.as_str(), 7)).ok();
        stream.is_some()
    });
    let stream = stream.unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(40)))
        .unwrap();
    (c, stream)
}

/// Sends bytes and receives the same bytes.
#[track_caller]
fn talk(stream: &mut TcpStream, number: u8) {
    let sent: Vec<u8> = (0..3000_u32).map(|n| (n % 251) as u8 ^ number).collect();
    stream.write_all(&sent).unwrap();
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, sent);
}

fn a_connection_survives_restore() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let b = echo(&w);
    let (c, mut stream) = serve(&w, &b);
    talk(&mut stream, 1);
    for number in 2..4 {
        let checkpoint = Checkpoint::new();
        checkpoint.dumped(&b, &["--tcp-established"]);
        // Sent while the container does not exist.
        stream.write_all(b"meanwhile").unwrap();
        checkpoint.restored(&b, &["--tcp-established"]);
        let mut back = [0; 9];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"meanwhile");
        talk(&mut stream, number);
    }
    // A failed checkpoint leaves no rule that drops packets.
    let bad = Checkpoint {
        images: "/proc/hull".into(),
        ..Checkpoint::new()
    };
    bad.dump(&b, &["--tcp-established"]).failure();
    talk(&mut stream, 9);
    assert!(!rules().contains("CRIU"), "{}", rules());
    assert_eq!(c.status(), "running");
}

fn a_connection_is_closed_by_tcp_close() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let b = echo(&w);
    let (_c, mut stream) = serve(&w, &b);
    talk(&mut stream, 1);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &["--tcp-close"]);
    checkpoint.restored(&b, &["--tcp-close"]);
    let address = w.addresses("default", &b.id)[0].clone();
    // The old connection is reset at the next byte; the server accepts new ones.
    let ends = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(b"x").is_err() || matches!(stream.take_error(), Ok(Some(_)))
    });
    assert!(ends, "the old connection is still open");
    talk(&mut TcpStream::connect((address.as_str(), 7)).unwrap(), 3);
}

fn an_open_connection_is_refused() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let b = echo(&w);
    let (c, mut stream) = serve(&w, &b);
    talk(&mut stream, 1);
    let said = Checkpoint::new().dump(&b, &[]).failure();
    for part in ["tcp", "--tcp-close", "dump.log", &version()] {
        assert_has!(said, part);
    }
    assert_eq!(c.status(), "running");
    talk(&mut stream, 2);
}

fn address_ports_and_names_are_restored() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let mut b = w.server();
    b.runtime.global = vec!["--criu".into(), criu().to_str().unwrap().into()];
    let c = started_with(&b, &["--network", "default", "-p", "8080:80"]);
    let link = || {
        c.exec(&["ip", "addr", "show", "dev", "eth0"])
            .success()
            .stdout
            .lines()
            .filter(|line| line.contains("scope global") || line.contains("ether"))
            .map(|line| line.trim().to_owned())
            .collect::<Vec<_>>()
    };
    let (before, hosts) = (link(), c.exec(&["cat", "/etc/hosts"]).success().stdout);
    eventually("the port", || host_reaches("198.51.100.1", 8080));
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &["--tcp-close"]);
    assert!(
        w.inspect("default")["containers"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    checkpoint.restored(&b, &["--tcp-close"]);
    assert_eq!(
        (link(), c.exec(&["cat", "/etc/hosts"]).success().stdout),
        (before, hosts)
    );
    assert_eq!(
        eventually("the port", || host_reaches("198.51.100.1", 8080)),
        b.id
    );
}

/// A client talks to the source before and after, and another one to the clone.
fn a_clone_has_an_address_of_its_own() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let b = echo(&w);
    let (c, mut stream) = serve(&w, &b);
    talk(&mut stream, 1);
    let mut copy = b.clone();
    copy.id.push_str("-copy");
    copy.cgroup.push_str("-copy");
    let copied = Container::new(&copy);
    b.call(&["clone", "--share-volumes", &b.id, &copy.id])
        .success();
    talk(&mut stream, 2);
    let address = |b: &Bundle| w.addresses("default", &b.id)[0].clone();
    assert_ne!(address(&b), address(&copy));
    let mut other = TcpStream::connect((address(&copy).as_str(), 7)).unwrap();
    other
        .set_read_timeout(Some(Duration::from_secs(40)))
        .unwrap();
    talk(&mut other, 3);
    talk(&mut stream, 4);
    let hardware = |c: &Container| {
        c.exec(&["cat", "/sys/class/net/eth0/address"])
            .success()
            .stdout
    };
    assert_ne!(hardware(&c), hardware(&copied));
}
