//! hull's own networks: who reaches whom, by which address, name and port; drivers, addresses and
//! other options of networks; `network capture`.

use crate::support::network::{
    EXTERNAL, HOST, World, eventually, hide, host_reaches, ip, links, reaches, rules, run, shell,
    start, within,
};
use crate::support::{Bundle, fixture, plan, runtime, until, users};
use serde_json::json;
use std::net::UdpSocket;

tests![
    neighbours_reach_each_other_by_address_and_name,
    published_ports_from_five_vantage_points,
    a_published_address_is_that_address_alone,
    udp_and_ranges_are_published,
    external_hosts_reach_published_ports_only,
    loopback_of_the_host_is_not_the_neighbours,
    networks_do_not_see_each_other,
    internal_and_isolated_networks,
    spoofed_addresses_are_dropped,
    macvlan_is_on_the_real_network,
    mtu_and_fixed_addresses,
    several_networks_at_once,
    network_none_and_network_by_namespace_path,
    network_of_the_host_and_of_another_container,
    annotations_count_with_network_annotations_only,
    colliding_subnets_are_refused_or_moved,
    routes_of_every_table_count_and_broad_ones_do_not,
    forward_chains_of_others_are_opened_and_closed,
    rules_are_restored_after_a_reload,
    a_port_in_use_is_refused,
    capture_is_pcap,
    shaping_is_set_on_the_hosts_side,
    nft_is_the_only_program_needed,
    the_plan_shows_the_network,
];

fn neighbours_reach_each_other_by_address_and_name() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let (server, client) = (w.server(), w.bundle("sleep 1000"));
    let s = start(&server, &["--network", "default", "--network-alias", "www"]);
    let c = start(
        &client,
        &[
            "--network",
            "default",
            "--add-host",
            "db:192.0.2.9",
            "--dns",
            "192.0.2.53",
        ],
    );
    let addresses = w.addresses("default", &server.id);
    assert_eq!(addresses.len(), 2);
    for target in [
        addresses[0].as_str(),
        addresses[1].as_str(),
        server.id.as_str(),
        "www",
    ] {
        assert_eq!(eventually(target, || reaches(&c, target, 80)), server.id);
    }
    let hosts = c.exec(&["cat", "/etc/hosts"]).success().stdout;
    assert_has!(hosts, "192.0.2.9\tdb");
    assert_eq!(
        c.exec(&["cat", "/etc/resolv.conf"])
            .success()
            .stdout
            .matches("nameserver")
            .count(),
        1
    );
    // The host masquerades: the external host has no route to the containers.
    for address in EXTERNAL {
        c.exec(&["busybox", "ping", "-c", "1", "-W", "3", address])
            .success();
    }
    drop(s);
    let hosts = c.exec(&["cat", "/etc/hosts"]).success().stdout;
    assert!(
        !hosts.contains(&server.id),
        "a name outlives its container:\n{hosts}"
    );
    drop(c);
    assert_eq!(rules(), "", "rules are left");
    w.hull(&["network", "remove", "default"]).success();
    until("the links are gone", || links().is_empty());
}

fn published_ports_from_five_vantage_points() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let (server, client) = (w.server(), w.bundle("sleep 1000"));
    let s = start(&server, &["--network", "default", "--publish", "8080:80"]);
    let c = start(&client, &["--network", "default"]);
    let id = &server.id;
    for (family, address) in HOST.into_iter().enumerate() {
        assert_eq!(
            &eventually(&format!("external, {address}"), || w
                .external_reaches(address, 8080)),
            id
        );
        assert_eq!(
            &eventually(&format!("host, {address}"), || host_reaches(address, 8080)),
            id
        );
        assert_eq!(
            &eventually(&format!("neighbour, {address}"), || reaches(
                &c, address, 8080
            )),
            id
        );
        assert_eq!(
            &eventually(&format!("itself, {address}"), || reaches(&s, address, 8080)),
            id
        );
        if family == 0 {
            assert_eq!(
                &eventually("the host's loopback", || host_reaches("127.0.0.1", 8080)),
                id
            );
        } else {
            // With IPv6 a packet for ::1 cannot leave a host: no port is published there, as the
            // documentation says.
            assert_eq!(host_reaches("::1", 8080), None);
        }
    }
}

fn a_published_address_is_that_address_alone() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let server = w.server();
    let _s = start(
        &server,
        &[
            "--network",
            "default",
            "-p",
            "127.0.0.1:8080:80",
            "-p",
            "[2001:db8:1::1]:8081:80",
        ],
    );
    eventually("loopback", || host_reaches("127.0.0.1", 8080));
    eventually("v6", || w.external_reaches(HOST[1], 8081));
    assert_eq!(w.external_reaches(HOST[0], 8080), None);
    assert_eq!(w.external_reaches(HOST[1], 8080), None);
    assert_eq!(w.external_reaches(HOST[0], 8081), None);
}

fn udp_and_ranges_are_published() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let server = w.bundle(
        "/bin/probe --probe datagrams 53 & for p in 91 92; do (while true; do \
        echo $p | nc -l -p $p; done) & done; sleep 1000",
    );
    let _s = start(
        &server,
        &[
            "--network",
            "default",
            "-p",
            "5353:53/udp",
            "-p",
            "9091-9092:91-92",
            "-p",
            "7000:7/sctp",
        ],
    );
    for port in [91, 92] {
        assert_eq!(
            eventually("range", || w.external_reaches(HOST[0], 9000 + port)),
            port.to_string()
        );
    }
    for (any, host) in [("0.0.0.0", HOST[0]), ("[::]", "[2001:db8:1::1]")] {
        let outer = within(&w.external_namespace(), move || {
            UdpSocket::bind(format!("{any}:0")).unwrap()
        });
        outer
            .set_read_timeout(Some(std::time::Duration::from_secs(1)))
            .unwrap();
        let mut buffer = [0; 16];
        let answer = eventually("an answer to a datagram", || {
            outer.send_to(b"ping", format!("{host}:5353")).unwrap();
            let (length, from) = outer.recv_from(&mut buffer).ok()?;
            Some(format!(
                "{} from {}",
                String::from_utf8_lossy(&buffer[..length]),
                from.port()
            ))
        });
        assert_eq!(
            answer, "ping from 5353",
            "the answer does not come from the published port"
        );
    }
    assert_has!(rules(), "sctp . 7000");
}

fn external_hosts_reach_published_ports_only() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let server = w.server();
    let _s = start(&server, &["--network", "default", "-p", "8080:80"]);
    let address = &w.addresses("default", &server.id)[0];
    w.run_external("ip", &format!("route add {address} via {}", HOST[0]))
        .success();
    eventually("published", || w.external_reaches(HOST[0], 8080));
    eventually("the host itself", || host_reaches(address, 80));
    assert_eq!(
        w.external_reaches(address, 80),
        None,
        "the external host reaches a port that is not published"
    );
}

fn loopback_of_the_host_is_not_the_neighbours() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let (server, client) = (w.server(), w.bundle("sleep 1000"));
    let _s = start(&server, &["--network", "default", "-p", "8080:80"]);
    let c = start(&client, &["--network", "default"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:7777").unwrap();
    listener.set_nonblocking(true).unwrap();
    let link = w.inspect("default")["link"].as_str().unwrap().to_owned();
    assert_eq!(
        std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"))
            .unwrap()
            .trim(),
        "1"
    );
    // CVE-2020-8558: the container sends packets for 127.0.0.1 to the host over its link.
    let gateway = w.inspect("default")["subnets"][0]["gateway"]
        .as_str()
        .unwrap()
        .to_owned();
    c.exec(&["ip", "link", "set", "lo", "down"]).success();
    c.exec(&["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"]);
    let routed = c.exec(&[
        "sh",
        "-c",
        &format!("ip route add 127.0.0.1/32 via {gateway} dev eth0; ip route get 127.0.0.1"),
    ]);
    assert_has!(routed.stdout, "eth0");
    let mac_of_host = ip(&format!("link show dev {link}"));
    assert_has!(mac_of_host, "ether");
    c.exec(&["timeout", "2", "nc", "127.0.0.1", "7777"]);
    assert!(
        listener.accept().is_err(),
        "a neighbour reached the host's loopback"
    );
    drop((_s, c));
    assert_eq!(
        std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"))
            .unwrap()
            .trim(),
        "0"
    );
}

fn networks_do_not_see_each_other() {
    only_hull!("networks are hull's own");
    let w = World::new();
    w.hull(&["network", "create", "blue"]).success();
    w.hull(&["network", "create", "red"]).success();
    let (server, client) = (w.server(), w.bundle("sleep 1000"));
    let _s = start(&server, &["--network", "blue", "-p", "8080:80"]);
    let c = start(&client, &["--network", "red"]);
    for address in w.addresses("blue", &server.id) {
        eventually("host", || host_reaches(&address, 80));
        assert_eq!(
            reaches(&c, &address, 80),
            None,
            "{address} is reached across networks"
        );
    }
    // Published ports are published to containers of other networks too.
    eventually("published", || reaches(&c, HOST[0], 8080));
    assert!(!c.exec(&["cat", "/etc/hosts"]).stdout.contains(&server.id));
}

fn internal_and_isolated_networks() {
    only_hull!("networks are hull's own");
    let w = World::new();
    w.hull(&["network", "create", "--internal", "inner"])
        .success();
    w.hull(&["network", "create", "--isolated", "alone"])
        .success();
    let (server, client) = (w.server(), w.bundle("sleep 1000"));
    {
        let _s = start(&server, &["--network", "inner"]);
        let c = start(&client, &["--network", "inner"]);
        eventually("neighbour", || reaches(&c, &server.id, 80));
        assert!(
            c.exec(&["busybox", "ping", "-c", "1", "-W", "1", EXTERNAL[0]])
                .status
                != 0,
            "a container of an internal network reaches the external host"
        );
        assert!(!c.exec(&["ip", "route"]).stdout.contains("default"));
    }
    let _s = start(&server, &["--network", "alone"]);
    let c = start(&client, &["--network", "alone"]);
    c.exec(&["busybox", "ping", "-c", "1", "-W", "3", EXTERNAL[0]])
        .success();
    assert_eq!(
        reaches(&c, &server.id, 80),
        None,
        "isolated containers reach each other"
    );
}

fn spoofed_addresses_are_dropped() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let client = w.bundle("sleep 1000");
    let c = start(&client, &["--network", "default"]);
    let document = w.inspect("default");
    let gateway = document["subnets"][0]["gateway"].as_str().unwrap();
    let ping = |source: &str| {
        c.exec(&[
            "busybox", "ping", "-c", "1", "-W", "1", "-I", source, gateway,
        ])
        .status
    };
    let own = w.addresses("default", &client.id);
    assert_eq!(ping(&own[0]), 0);
    let other = format!("{}.77", own[0].rsplit_once('.').unwrap().0);
    c.exec(&["ip", "addr", "add", &format!("{other}/24"), "dev", "eth0"])
        .success();
    assert!(ping(&other) != 0, "a taken address answers");
    // The host's neighbour table does not have the address either.
    assert!(
        !ip("neigh")
            .lines()
            .any(|line| line.starts_with(&format!("{other} ")) && line.contains("lladdr")),
        "{}",
        ip("neigh")
    );
    assert_eq!(ping(&own[0]), 0);
    let v6gateway = document["subnets"][1]["gateway"].as_str().unwrap();
    c.exec(&["busybox", "ping", "-c", "1", "-W", "2", v6gateway])
        .success();
    c.exec(&[
        "sh",
        "-c",
        "ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:99; ip link set eth0 up",
    ])
    .success();
    c.exec(&["ip", "route", "add", "default", "via", gateway]);
    assert!(ping(&own[0]) != 0, "a taken hardware address passes");
}

fn macvlan_is_on_the_real_network() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let args = [
        "network",
        "create",
        "-d",
        "macvlan",
        "--parent",
        "up0",
        "--subnet",
        "198.51.100.0/24",
        "--gateway",
        EXTERNAL[0],
        "lan",
    ];
    w.hull(&args).success();
    let server = w.server();
    let s = start(
        &server,
        &["--network", "lan:ip=198.51.100.40,mac=02:00:00:00:00:40"],
    );
    assert_eq!(
        eventually("external", || w.external_reaches("198.51.100.40", 80)),
        server.id
    );
    assert_has!(w.run_external("ip", "neigh").stdout, "02:00:00:00:00:40");
    s.exec(&["busybox", "ping", "-c", "1", "-W", "3", EXTERNAL[0]])
        .success();
    let second = w.bundle("true");
    let (_c, out) = second.try_create(&["--network", "lan:ip=198.51.100.40"]);
    assert_has!(out.failure(), "is in use");
    let (_c, out) = second.try_create(&["--network", "lan", "-p", "80:80"]);
    assert_has!(out.failure(), "macvlan");
}

fn mtu_and_fixed_addresses() {
    only_hull!("networks are hull's own");
    let w = World::new();
    w.hull(&[
        "network",
        "create",
        "--mtu",
        "1400",
        "--subnet",
        "10.77.0.0/24",
        "--subnet",
        "fd77::/64",
        "small",
    ])
    .success();
    let client = w.bundle("sleep 1000");
    let c = start(
        &client,
        &[
            "--network",
            "small:ip=10.77.0.9,ip6=fd77::9,mac=02:11:22:33:44:55",
        ],
    );
    let shown = c
        .exec(&["ip", "addr", "show", "dev", "eth0"])
        .success()
        .stdout;
    for part in [
        "mtu 1400",
        "10.77.0.9/24",
        "fd77::9/64",
        "02:11:22:33:44:55",
    ] {
        assert_has!(shown, part);
    }
    // Without the option, the hardware address follows from the id: it is the same again.
    let same = w.bundle("cat /sys/class/net/eth0/address");
    let [first, again] =
        [(); 2].map(|()| same.run_with(&["--network", "default"]).success().stdout);
    assert_eq!(first, again);
    let other = w.bundle("true");
    assert_eq!(
        hull::net::link::parse_mac(first.trim()).unwrap()[0] & 3,
        2,
        "{first} is not locally administered"
    );
    for (network, error) in [
        ("small:ip=10.77.0.9", "is in use"),
        ("small:ip=10.78.0.9", "is not in network"),
        ("small:ip=10.77.0.1", "is reserved"),
        ("nowhere", "does not exist"),
    ] {
        let (_c, out) = other.try_create(&["--network", network]);
        assert_has!(out.failure(), error);
    }
    assert_has!(
        w.hull(&["network", "remove", "small"]).failure(),
        "is in use by"
    );
}

fn several_networks_at_once() {
    only_hull!("networks are hull's own");
    let w = World::new();
    w.hull(&["network", "create", "blue"]).success();
    w.hull(&["network", "create", "red"]).success();
    let client = w.bundle("sleep 1000");
    let c = start(&client, &["--network", "blue", "--network", "red"]);
    let shown = c.exec(&["ip", "addr"]).success().stdout;
    assert_has!(shown, &w.addresses("blue", &client.id)[0]);
    assert_has!(shown, &w.addresses("red", &client.id)[0]);
    assert_eq!(
        c.exec(&["ip", "route"]).stdout.matches("default").count(),
        1
    );
    c.exec(&["busybox", "ping", "-c", "1", "-W", "3", EXTERNAL[0]])
        .success();
}

/// What [`LOOK`] prints in a container: the number of its links, and how many of them have the
/// host's own address.
fn seen(b: &Bundle, flags: &[&str]) -> Vec<String> {
    b.run_with(flags)
        .success()
        .stdout
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

const LOOK: &str = "ip -o link | wc -l; ip -o addr show | grep -c 198.51.100.1; true";

fn network_none_and_network_by_namespace_path() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let b = w.bundle(LOOK);
    assert_eq!(seen(&b, &["--network", "none"]), ["1", "0"]);
    let holder = users::Holder::new(&["--net"]);
    assert_eq!(
        seen(
            &b,
            &["--network", &format!("ns:{}", holder.path("net").display())]
        ),
        ["1", "0"]
    );
    assert_has!(
        b.run_with(&["--network", "container:nobody"]).failure(),
        "does not exist"
    );
    assert_has!(
        b.run_with(&["--network", "none", "-p", "80:80"]).failure(),
        "need a network"
    );
}

fn network_of_the_host_and_of_another_container() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let b = w.bundle(LOOK);
    assert_eq!(seen(&b, &["--network", "host"]), ["2", "1"]);
    let server = w.server();
    let _s = start(&server, &["--network", "default"]);
    assert_eq!(
        seen(&b, &["--network", &format!("container:{}", server.id)]),
        ["2", "0"]
    );
}

fn annotations_count_with_network_annotations_only() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let mut b = w.bundle("ip -o link | wc -l");
    b.set("/annotations", json!({ "hull.network.name": "default" }));
    assert_eq!(b.run().success().stdout.trim(), "1");
    assert_eq!(
        b.run_with(&["--network-annotations"])
            .success()
            .stdout
            .trim(),
        "2"
    );
    b.set("/annotations", json!({ "hull.network.name": "host" }));
    assert_has!(
        b.run_with(&["--network-annotations"]).failure(),
        "only be given on the command line"
    );
}

fn routes_of_every_table_count_and_broad_ones_do_not() {
    only_hull!("networks are hull's own");
    let w = World::new();
    for broad in ["0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8"] {
        ip(&format!("route add {broad} via 198.51.100.2"));
    }
    ip("route add 10.90.0.0/24 via 198.51.100.2 table 52");
    ip("addr add 10.90.1.7/32 dev lo");
    let b = w.bundle("true");
    b.run_with(&["--network", "default"]).success();
    assert_eq!(w.inspect("default")["subnets"][0]["prefix"], "10.90.2.0/24");
    b.run_with(&["--network", "default"]).success();
}

fn colliding_subnets_are_refused_or_moved() {
    only_hull!("networks are hull's own");
    let w = World::new();
    ip("route add 10.90.0.0/24 via 198.51.100.2");
    assert_has!(
        w.hull(&["network", "create", "--subnet", "10.90.0.0/16", "bad"])
            .failure(),
        "collides with the host's route"
    );
    let b = w.bundle("true");
    b.run_with(&["--network", "default"]).success();
    let first = w.inspect("default")["subnets"][0]["prefix"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(first, "10.90.1.0/24");
    // The host gets a route after the network was made: the subnet moves, as no container uses it.
    let link = w.inspect("default")["link"].as_str().unwrap().to_owned();
    ip(&format!("link del {link}"));
    ip("route add 10.90.1.0/24 via 198.51.100.2");
    b.run_with(&["--network", "default"]).success();
    assert_eq!(w.inspect("default")["subnets"][0]["prefix"], "10.90.2.0/24");
    w.hull(&["network", "create", "--subnet", "10.99.0.0/24", "fixed"])
        .success();
    ip("route add 10.99.0.0/25 via 198.51.100.2");
    assert_has!(
        b.run_with(&["--network", "fixed"]).failure(),
        "collides with the host's route to 10.99.0.0/25"
    );
}

/// Docker's chains, and one of an administrator's that drops.
const FOREIGN: &str = "
table ip filter {
  chain DOCKER-USER { counter return; }
  chain FORWARD { type filter hook forward priority filter; policy drop; counter jump DOCKER-USER; }
}
table inet admin {
  chain passing { type filter hook forward priority 10; policy drop; ct state established accept; }
}
table ip nat {
  chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr \
  172.17.0.0/16 oifname != \"docker0\" masquerade; }
}
";

fn forward_chains_of_others_are_opened_and_closed() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let file = fixture::new_dir("nft").join("foreign");
    std::fs::write(&file, FOREIGN).unwrap();
    run("nft", &format!("-f {}", file.display())).success();
    let before = rules();
    let (server, client) = (w.server(), w.bundle("sleep 1000"));
    let s = start(&server, &["--network", "default", "-p", "8080:80"]);
    let c = start(&client, &["--network", "default"]);
    assert_eq!(
        eventually("external", || w.external_reaches(HOST[0], 8080)),
        server.id
    );
    assert_eq!(
        eventually("neighbour", || reaches(&c, &server.id, 80)),
        server.id
    );
    c.exec(&["busybox", "ping", "-c", "1", "-W", "3", EXTERNAL[0]])
        .success();
    drop((s, c));
    assert_eq!(rules(), before, "the rules of others have changed");
}

fn rules_are_restored_after_a_reload() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let server = w.server();
    let _s = start(&server, &["--network", "default", "-p", "8080:80"]);
    eventually("published", || w.external_reaches(HOST[0], 8080));
    let before = rules();
    run("nft", "flush ruleset").success();
    assert_eq!(w.external_reaches(HOST[0], 8080), None);
    w.hull(&["network", "list"]).success();
    assert_eq!(rules(), before);
    eventually("published again", || w.external_reaches(HOST[0], 8080));
}

fn a_port_in_use_is_refused() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let (server, other) = (w.server(), w.bundle("true"));
    let _s = start(&server, &["--network", "default", "-p", "8080:80"]);
    let (_c, out) = other.try_create(&["--network", "default", "-p", "127.0.0.1:8080:80"]);
    assert_has!(
        out.failure(),
        &format!("container {} publishes the port already", server.id)
    );
    let _listener = std::net::TcpListener::bind("0.0.0.0:8099").unwrap();
    let (_c, out) = other.try_create(&["--network", "default", "-p", "8099:80"]);
    assert_has!(out.failure(), "address already in use");
    assert_eq!(
        w.inspect("default")["containers"].as_array().unwrap().len(),
        1,
        "the refused container has an address"
    );
}

fn capture_is_pcap() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let client = w.bundle("sleep 1000");
    let c = start(&client, &["--network", "default"]);
    let gateway = w.inspect("default")["subnets"][0]["gateway"]
        .as_str()
        .unwrap()
        .to_owned();
    let file = fixture::new_dir("pcap").join("out");
    let script = format!(
        "{} --root {} network capture {} {} & p=$!; sleep 0.5; {0} --root {1} exec {2} busybox \
            ping -c 3 -i 0.2 {gateway}; sleep 0.3; kill $p; wait $p; true",
        runtime::path().display(),
        w.state().display(),
        client.id,
        file.display(),
    );
    shell(&script).success();
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(bytes[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    let (mut at, mut echoes) = (24, 0);
    while at + 16 <= bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let packet = &bytes[at + 16..at + 16 + length];
        // ICMP over IPv4 over Ethernet.
        echoes += usize::from(packet[12..14] == [8, 0] && packet[23] == 1);
        at += 16 + length;
    }
    assert_eq!((at, echoes), (bytes.len(), 6));
    drop(c);
    if shell("command -v tcpdump").status != 0 {
        skip!("tcpdump is not installed, which must be able to read the file");
    }
    let read = shell(&format!("tcpdump -n -r {} icmp", file.display())).success();
    assert_has!(read.stderr, "link-type EN10MB (Ethernet)");
    assert_eq!(read.stdout.matches("ICMP echo request").count(), 3);
}

fn shaping_is_set_on_the_hosts_side() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let client = w.bundle("sleep 1000");
    let c = start(
        &client,
        &["--network", "default", "--net-rate", "20mbit:10mbit"],
    );
    let host = w.inspect("default")["containers"][0]["hostInterface"]
        .as_str()
        .unwrap()
        .to_owned();
    let ifb = host.replacen("hv", "hi", 1);
    let down = run("tc", &format!("qdisc show dev {host}"))
        .success()
        .stdout;
    assert_has!(down, "tbf");
    assert_has!(down, "rate 20Mbit");
    assert_has!(
        run("tc", &format!("qdisc show dev {ifb}")).success().stdout,
        "rate 10Mbit"
    );
    // Changes at the container's own end have no effect.
    let tc = |line: &str| {
        run(
            "nsenter",
            &format!("--net=/proc/{}/ns/net tc {line}", c.pid()),
        )
    };
    tc("qdisc add dev eth0 root tbf rate 1mbit burst 4k latency 50ms").success();
    tc("qdisc del dev eth0 root").success();
    assert!(!tc("qdisc show dev eth0").success().stdout.contains("tbf"));
    assert_has!(
        run("tc", &format!("qdisc show dev {host}"))
            .success()
            .stdout,
        "rate 20Mbit"
    );
    drop(c);
    assert!(!ip("-br link").contains(&ifb), "the ifb is left");
}

fn nft_is_the_only_program_needed() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let dir = fixture::new_dir("path");
    let nft = shell("command -v nft").success().stdout;
    std::os::unix::fs::symlink(nft.trim(), dir.join("nft")).unwrap();
    let mut server = w.server();
    server
        .runtime
        .env
        .push(("PATH".into(), dir.display().to_string()));
    let _s = start(
        &server,
        &[
            "--network",
            "default",
            "-p",
            "8080:80",
            "--net-rate",
            "50mbit",
        ],
    );
    assert_eq!(
        eventually("published", || w.external_reaches(HOST[0], 8080)),
        server.id
    );
    let mut without = w.bundle("true");
    without
        .runtime
        .env
        .push(("PATH".into(), "/nonexistent".into()));
    // Without it in PATH it is found where distributions have it.
    without.run_with(&["--network", "default"]).success();
    let _hidden = hide(&["nft"]);
    let (_c, out) = without.try_create(&["--network", "default"]);
    assert_has!(out.failure(), "need the program nft");
}

fn the_plan_shows_the_network() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let b = w.bundle("true");
    let plan = plan::of(&b, &["--network", "default", "-p", "8080:80"]);
    let step = plan::host_step(&plan, "Network");
    assert_eq!(step["fields"]["attachments"][0]["forwarding"], true);
    assert_eq!(step["fields"]["ports"][0]["host"], 8080);
    assert_eq!(links(), Vec::<String>::new(), "planning makes something");
    assert!(!w.state().join("@networks").exists());
}
