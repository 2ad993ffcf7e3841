//! Spoofed frames: a container with every capability over its network sends them to its neighbours
//! and to the host, and hull's rules drop them. Each test removes hull's rule and sends the frame
//! again: it must arrive then, or the test would prove nothing.

use crate::support::network::{World, ip, run, start};
use crate::support::{Container, until};
use hull::net::netlink::Namespace;
use hull::net::netlink::Socket;
use hull::sys::{netns, socket};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

tests![
    a_neighbours_packet_for_127_0_0_1_is_dropped,
    a_source_address_of_another_is_dropped,
    arp_and_neighbour_discovery_spoofing_is_dropped,
    the_gateways_address_cannot_be_taken,
    a_vlan_tag_does_not_pass_the_rules,
];

type Mac = [u8; 6];

/// A container, and the addresses that its frames are made of.
struct Sender<'a> {
    container: Container<'a>,
    link: String,
    mac: Mac,
    gateway_mac: Mac,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    gateway: [IpAddr; 2],
}

impl<'a> Sender<'a> {
    fn new(w: &World, bundle: &'a crate::support::Bundle, flags: &[&str]) -> Self {
        let container = start(bundle, &[&["--network", "default"], flags].concat());
        let document = w.inspect("default");
        let link = document["link"].as_str().unwrap().to_owned();
        let gateway = [0, 1].map(|n: usize| {
            document["subnets"][n]["gateway"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        });
        let one = document["containers"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["id"] == bundle.id)
            .unwrap()
            .clone();
        let address = |n: usize| {
            one["addresses"][n]
                .as_str()
                .unwrap()
                .split('/')
                .next()
                .unwrap()
                .to_owned()
        };
        let gateway_mac = mac(
            std::fs::read_to_string(format!("/sys/class/net/{link}/address"))
                .unwrap_or_else(|_| link_mac(&link))
                .trim(),
        );
        Self {
            mac: mac(one["mac"].as_str().unwrap()),
            v4: address(0).parse().unwrap(),
            v6: address(1).parse().unwrap(),
            container,
            link,
            gateway_mac,
            gateway,
        }
    }

    fn send(&self, frame: &[u8]) {
        let namespace = Namespace::at(&format!("/proc/{}/ns/net", self.container.pid())).unwrap();
        let index = Socket::open_in(&namespace)
            .unwrap()
            .link("eth0")
            .unwrap()
            .unwrap()
            .index;
        let packets = netns::socket_in(namespace.0.0, libc::AF_PACKET, libc::SOCK_RAW, 0).unwrap();
        netns::bind_packet(packets.as_raw_fd(), index).unwrap();
        socket::send(packets.as_raw_fd(), frame).unwrap();
    }

    fn udp(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        ethernet(self.gateway_mac, self.mac, &datagram(source, destination))
    }
}

/// The hardware address of a link of the test's network namespace: the mounted sysfs may be that of
/// another namespace.
fn link_mac(link: &str) -> String {
    let shown = ip(&format!("-o link show dev {link}"));
    shown
        .split("link/ether ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

fn mac(text: &str) -> Mac {
    hull::net::link::parse_mac(text).unwrap()
}

/// A frame. The payload begins with its EtherType.
fn ethernet(to: Mac, from: Mac, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, payload].concat()
}

/// The frame with a tag of VLAN 0, as in CVE-2021-27862.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 0], &frame[12..]].concat()
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0)))
        .sum()
}

fn folded(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A datagram `x` from port 9999 to port 7777, after its EtherType.
fn datagram(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let udp = |addresses: &[u8]| {
        let mut udp = [
            9999_u16.to_be_bytes(),
            7777_u16.to_be_bytes(),
            [0, 9],
            [0, 0],
        ]
        .concat();
        udp.push(b'x');
        let check = folded(sum(addresses) + 17 + 9 + sum(&udp));
        udp[6..8].copy_from_slice(&check);
        udp
    };
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let addresses = [source.octets(), destination.octets()].concat();
            let mut head = vec![0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0];
            head.extend(&addresses);
            let check = folded(sum(&head));
            head[10..12].copy_from_slice(&check);
            [&[8, 0][..], &head, &udp(&addresses)].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let addresses = [source.octets(), destination.octets()].concat();
            [
                &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 9, 17, 64][..],
                &addresses,
                &udp(&addresses),
            ]
            .concat()
        }
        _ => panic!("two families"),
    }
}

/// A gratuitous ARP request or an unsolicited neighbour advertisement that claims an address.
fn claim(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => {
            let arp = [
                &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..],
                &mac,
                &ip.octets(),
                &[0; 6],
                &ip.octets(),
            ]
            .concat();
            ethernet([0xff; 6], mac, &arp)
        }
        IpAddr::V6(ip) => {
            let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
            let mut message = [
                &[136, 0, 0, 0, 0x20, 0, 0, 0][..],
                &ip.octets(),
                &[2, 1],
                &mac,
            ]
            .concat();
            let check = folded(
                sum(&ip.octets())
                    + sum(&all_nodes.octets())
                    + 58
                    + message.len() as u32
                    + sum(&message),
            );
            message[2..4].copy_from_slice(&check);
            let head = [
                &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255][..],
                &ip.octets(),
                &all_nodes.octets(),
            ]
            .concat();
            ethernet([0x33, 0x33, 0, 0, 0, 1], mac, &[head, message].concat())
        }
    }
}

/// Another address of the same network, which is neither the broadcast address nor the gateway's.
fn other(address: IpAddr) -> IpAddr {
    let flip = |last: u8| {
        if [0, 1, 255].contains(&(last ^ 0x40)) {
            0x20_u8
        } else {
            0x40_u8
        }
    };
    match address {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(
            u32::from(ip) ^ u32::from(flip(ip.octets()[3])),
        )),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(
            u128::from(ip) ^ u128::from(flip(ip.octets()[15])),
        )),
    }
}

/// Removes hull's rules from one of its chains.
fn without(family: &str, chain: &str) {
    let tables = run("nft", &format!("list tables {family}"))
        .success()
        .stdout;
    let table = tables
        .split_whitespace()
        .find(|word| word.starts_with("hull_"))
        .expect("hull has no table")
        .to_owned();
    run("nft", &format!("flush chain {family} {table} {chain}")).success();
}

/// A socket of the host that waits for a short time.
fn listen(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 7777)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    socket
}

fn arrives(socket: &UdpSocket) -> bool {
    socket.recv_from(&mut [0; 8]).is_ok()
}

// Attack: CVE-2020-8558
fn a_neighbours_packet_for_127_0_0_1_is_dropped() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let bundle = w.bundle("sleep 1000");
    // A published port switches route_localnet on, which is what CVE-2020-8558 needs.
    let sender = Sender::new(&w, &bundle, &["-p", "8080:80"]);
    assert_eq!(
        std::fs::read_to_string(format!(
            "/proc/sys/net/ipv4/conf/{}/route_localnet",
            sender.link
        ))
        .unwrap()
        .trim(),
        "1"
    );
    let loopback = listen(Ipv4Addr::LOCALHOST.into());
    let frame = sender.udp(sender.v4.into(), Ipv4Addr::LOCALHOST.into());
    sender.send(&frame);
    assert!(
        !arrives(&loopback),
        "a container reaches the host's loopback"
    );
    without("inet", "martians");
    until("without the rule it arrives", || {
        sender.send(&frame);
        arrives(&loopback)
    });
    // ::1 needs no rule: the kernel itself drops such packets from an interface.
    let loopback = listen(Ipv6Addr::LOCALHOST.into());
    sender.send(&sender.udp(sender.v6.into(), Ipv6Addr::LOCALHOST.into()));
    assert!(!arrives(&loopback), "a container reaches the host's ::1");
}

// Attack: CVE-2020-8558
fn a_source_address_of_another_is_dropped() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let bundle = w.bundle("sleep 1000");
    let sender = Sender::new(&w, &bundle, &[]);
    let sockets = sender.gateway.map(listen);
    for (own, (gateway, socket)) in [IpAddr::from(sender.v4), IpAddr::from(sender.v6)]
        .into_iter()
        .zip(sender.gateway.into_iter().zip(&sockets))
    {
        until("its own address passes", || {
            sender.send(&sender.udp(own, gateway));
            arrives(socket)
        });
        sender.send(&sender.udp(other(own), gateway));
        assert!(!arrives(socket), "another container's address passes");
        let stolen = ethernet(
            sender.gateway_mac,
            [2, 0, 0, 0, 0, 0x99],
            &datagram(own, gateway),
        );
        sender.send(&stolen);
        assert!(
            !arrives(socket),
            "another container's hardware address passes"
        );
    }
    without("bridge", "guard");
    for (own, (gateway, socket)) in [IpAddr::from(sender.v4), IpAddr::from(sender.v6)]
        .into_iter()
        .zip(sender.gateway.into_iter().zip(&sockets))
    {
        until("without the rules it arrives", || {
            sender.send(&sender.udp(other(own), gateway));
            arrives(socket)
        });
    }
}

/// Whether the host takes a hardware address for an address over from a claim.
fn believes(sender: &Sender, address: IpAddr, frame: &[u8]) -> bool {
    ip(&format!(
        "neigh replace {address} lladdr 02:00:00:00:00:aa dev {} nud stale",
        sender.link
    ));
    sender.send(frame);
    std::thread::sleep(Duration::from_millis(100));
    !ip(&format!("neigh show {address} dev {}", sender.link)).contains("02:00:00:00:00:aa")
}

// Attack: CVE-2020-8558
fn arp_and_neighbour_discovery_spoofing_is_dropped() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let bundle = w.bundle("sleep 1000");
    let sender = Sender::new(&w, &bundle, &[]);
    let victims = [other(sender.v4.into()), other(sender.v6.into())];
    for victim in victims {
        assert!(
            !believes(&sender, victim, &claim(victim, sender.mac)),
            "{victim} is taken over"
        );
    }
    without("bridge", "guard");
    for victim in victims {
        until("without the rules it is believed", || {
            believes(&sender, victim, &claim(victim, sender.mac))
        });
    }
}

// Attack: CVE-2020-8558
fn the_gateways_address_cannot_be_taken() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let (bundle, neighbour) = (w.bundle("sleep 1000"), w.bundle("sleep 1000"));
    let sender = Sender::new(&w, &bundle, &[]);
    let victim = start(&neighbour, &["--network", "default"]);
    let believed = |gateway: IpAddr| {
        let right = sender
            .gateway_mac
            .map(|byte| format!("{byte:02x}"))
            .join(":");
        let neighbours = |line: &str| {
            run(
                "nsenter",
                &format!("--net=/proc/{}/ns/net ip neigh {line}", victim.pid()),
            )
            .success()
            .stdout
        };
        neighbours(&format!(
            "replace {gateway} lladdr {right} dev eth0 nud stale"
        ));
        sender.send(&claim(gateway, sender.mac));
        std::thread::sleep(Duration::from_millis(100));
        !neighbours(&format!("show {gateway}")).contains(&right)
    };
    for gateway in sender.gateway {
        assert!(!believed(gateway), "{gateway} is taken over");
    }
    without("bridge", "guard");
    for gateway in sender.gateway {
        until("without the rules it is believed", || believed(gateway));
    }
}

// Attack: CVE-2020-8558
fn a_vlan_tag_does_not_pass_the_rules() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let bundle = w.bundle("sleep 1000");
    let sender = Sender::new(&w, &bundle, &[]);
    let victim = other(sender.v4.into());
    let frame = tagged(&claim(victim, sender.mac));
    assert!(
        !believes(&sender, victim, &frame),
        "a tag of VLAN 0 gets past the rules"
    );
    without("bridge", "guard");
    until("without the rules it is believed", || {
        believes(&sender, victim, &frame)
    });
}
