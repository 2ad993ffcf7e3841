//! hull's own nftables tables, as text: translated and published ports, what may pass between networks, and what a container may send.
//!
//! The whole of both tables is written anew at each change, in one transaction: what a killed hull or a reload left out comes back with
//! the next one. nft's text is used and not its JSON, which cannot declare the maps to `addr . port`.

use super::address::Prefix;
use super::endpoint::Endpoint;
use super::network::{Driver, Network};
use super::ports::Port;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

/// One network with who is on it.
pub struct Populated {
    /// The network.
    pub network: Network,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// An element of one of the maps of published ports, in nft's own words.
pub type Element = (&'static str, String);

/// The elements of the maps of published ports. The first to take a port keeps it.
pub fn published(networks: &[Populated]) -> Vec<Element> {
    let mut list: Vec<Element> = Vec::new();
    for endpoint in networks.iter().flat_map(|one| &one.endpoints) {
        for port in &endpoint.ports {
            for v4 in [true, false] {
                if let Some(address) = endpoint.address(v4).filter(|_| port.ip.is_none_or(|ip| ip.is_ipv4() == v4)) {
                    list.extend(elements(port, address));
                }
            }
        }
    }
    list
}

fn elements(port: &Port, address: IpAddr) -> impl Iterator<Item = Element> + use<> {
    let (ip, protocol) = (port.ip, port.protocol.word());
    port.pairs().map(move |(host, container)| match (ip, address) {
        (None, IpAddr::V4(_)) => ("publish4", format!("{protocol} . {host} : {address} . {container}")),
        (None, IpAddr::V6(_)) => ("publish6", format!("{protocol} . {host} : {address} . {container}")),
        (Some(ip), IpAddr::V4(_)) => ("publish4at", format!("{ip} . {protocol} . {host} : {address} . {container}")),
        (Some(ip), IpAddr::V6(_)) => ("publish6at", format!("{ip} . {protocol} . {host} : {address} . {container}")),
    })
}

const MAPS: [(&str, &str); 4] = [
    ("publish4", "inet_proto . inet_service : ipv4_addr . inet_service"),
    ("publish6", "inet_proto . inet_service : ipv6_addr . inet_service"),
    ("publish4at", "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"),
    ("publish6at", "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service"),
];

/// The transaction that makes both tables what they should be; without endpoints it removes them.
pub fn ruleset(table: &str, networks: &[Populated]) -> String {
    let mut text = format!("table inet {table} {{}}\ndelete table inet {table}\ntable bridge {table} {{}}\ndelete table bridge {table}\n");
    let live: Vec<&Populated> = networks.iter().filter(|one| !one.endpoints.is_empty() && one.network.driver == Driver::Bridge).collect();
    if live.is_empty() {
        return text;
    }
    let _ = writeln!(text, "table inet {table} {{");
    let elements = published(networks);
    for (name, kind) in MAPS {
        let mine: Vec<&str> = elements.iter().filter(|(map, _)| *map == name).map(|(_, element)| element.as_str()).collect();
        let list = if mine.is_empty() { String::new() } else { format!("elements = {{ {} }}", mine.join(", ")) };
        let _ = writeln!(text, "  map {name} {{ type {kind}; {list} }}");
    }
    let bridges: Vec<String> = live.iter().map(|one| format!("\"{}\"", one.network.link)).collect();
    let _ = writeln!(text, "  set bridges {{ type ifname; elements = {{ {} }} }}", bridges.join(", "));
    text.push_str(HEAD);
    translation(&mut text, &live);
    forward(&mut text, &live);
    text.push_str("}\n");
    guard(&mut text, table, &live);
    text
}

/// What comes from elsewhere to 127.0.0.0/8 is nobody's but an attacker's: the bridges route it, so that the host's own loopback reaches
/// published ports (CVE-2020-8558).
const HEAD: &str = "  chain martians { type filter hook prerouting priority raw; policy accept; iifname != \"lo\" ip daddr 127.0.0.0/8 drop; }
  chain prerouting { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump publish; }
  chain output { type nat hook output priority -100; policy accept; fib daddr type local jump publish; }
  chain publish {
    dnat ip to ip daddr . meta l4proto . th dport map @publish4at
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6at
    dnat ip to meta l4proto . th dport map @publish4
    dnat ip6 to meta l4proto . th dport map @publish6
  }
";

fn word(prefix: &Prefix) -> &'static str {
    if prefix.address.is_ipv4() { "ip" } else { "ip6" }
}

/// Where a packet's source must become the host's: on its way out; from the host's loopback, which no container could answer; and back
/// into the bridge it came from, since the answer would otherwise go straight to the neighbour, who asked somebody else.
fn translation(text: &mut String, live: &[&Populated]) {
    text.push_str("  chain postrouting { type nat hook postrouting priority srcnat; policy accept;\n");
    text.push_str("    ip saddr 127.0.0.0/8 oifname @bridges masquerade\n    ip6 saddr ::1 oifname @bridges masquerade\n");
    for one in live {
        for subnet in &one.network.subnets {
            let (family, prefix, link) = (word(&subnet.prefix), subnet.prefix, &one.network.link);
            let _ = writeln!(text, "    {family} saddr {prefix} {family} daddr {prefix} ct status dnat masquerade");
            if !one.network.internal {
                let _ = writeln!(text, "    {family} saddr {prefix} oifname != \"{link}\" masquerade");
            }
        }
    }
    text.push_str("  }\n");
}

/// Into a network comes what answers, what was published, and what the network's own send each other (where the bridge hands its packets
/// to netfilter); nothing else, and so no other network.
fn forward(text: &mut String, live: &[&Populated]) {
    text.push_str("  chain forward { type filter hook forward priority filter; policy accept;\n");
    for one in live {
        let link = &one.network.link;
        let _ = writeln!(text, "    iifname \"{link}\" oifname \"{link}\" accept");
        if one.network.internal {
            let _ = writeln!(text, "    iifname \"{link}\" drop\n    oifname \"{link}\" drop");
        } else {
            let _ = writeln!(text, "    oifname \"{link}\" ct state established,related accept");
            let _ = writeln!(text, "    oifname \"{link}\" ct status dnat accept\n    oifname \"{link}\" drop");
        }
    }
    text.push_str("  }\n");
}

/// The link-local address that the kernel makes from a hardware address (RFC 4291, appendix A).
pub fn link_local(mac: &[u8; 6]) -> Ipv6Addr {
    let word = |a: u8, b: u8| (u16::from(a) << 8) | u16::from(b);
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(mac[0] ^ 2, mac[1]), word(mac[2], 0xff), word(0xfe, mac[3]), word(mac[4], mac[5]))
}

/// What a container may send: only its own addresses, in frames, ARP and neighbour advertisements; it is no router and no DHCP server.
/// Nothing but IP and ARP straight in Ethernet: a tag of VLAN 0 or a SNAP header before them would hide them from the rules, and receivers
/// take off the tag (CVE-2021-27853, CVE-2021-27862).
fn guard(text: &mut String, table: &str, live: &[&Populated]) {
    let (mut ports, mut macs, mut v4, mut v6, mut adverts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), String::new());
    for endpoint in live.iter().flat_map(|one| &one.endpoints) {
        let host = &endpoint.host;
        ports.push(format!("\"{host}\""));
        macs.push(format!("\"{host}\" . {}", endpoint.mac));
        v4.extend(endpoint.address(true).map(|address| format!("\"{host}\" . {address}")));
        let own = super::link::parse_mac(&endpoint.mac).ok().map(|mac| IpAddr::V6(link_local(&mac)));
        let own: Vec<IpAddr> = own.into_iter().chain(endpoint.address(false)).collect();
        v6.extend(own.iter().map(|address| format!("\"{host}\" . {address}")));
        let numbers: Vec<String> = own.iter().map(|address| format!("{:#034x}", super::address::number(*address))).collect();
        let _ = writeln!(adverts, "    iifname \"{host}\" icmpv6 type nd-neighbor-advert @th,64,128 != {{ {} }} drop", numbers.join(", "));
    }
    let set = |name: &str, kind: &str, elements: &[String]| {
        let list = if elements.is_empty() { String::new() } else { format!("elements = {{ {} }}", elements.join(", ")) };
        format!("  set {name} {{ type {kind}; {list} }}\n")
    };
    let _ = writeln!(text, "table bridge {table} {{");
    text.push_str(&set("ports", "ifname", &ports));
    text.push_str(&set("macs", "ifname . ether_addr", &macs));
    text.push_str(&set("v4", "ifname . ipv4_addr", &v4));
    text.push_str(&set("v6", "ifname . ipv6_addr", &v6));
    text.push_str("  chain prerouting { type filter hook prerouting priority -300; policy accept; iifname @ports jump guard; }\n  chain guard {\n");
    text.push_str("    ether type != { ip, arp, ip6 } drop\n");
    text.push_str("    iifname . ether saddr != @macs drop\n    ether type ip iifname . ip saddr != @v4 drop\n");
    text.push_str("    ether type arp iifname . arp saddr ip != @v4 drop\n    ether type arp iifname . arp saddr ether != @macs drop\n");
    text.push_str("    udp sport 67 drop\n    icmpv6 type nd-router-advert drop\n");
    text.push_str(&adverts);
    text.push_str("    ether type ip6 ip6 saddr != :: iifname . ip6 saddr != @v6 drop\n  }\n}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses() {
        assert_eq!(link_local(&[0x02, 0x42, 0xac, 0x11, 0, 2]).to_string(), "fe80::42:acff:fe11:2");
    }

    #[test]
    fn nobody_there_leaves_no_table() {
        let text = ruleset("hull", &[]);
        assert!(text.lines().all(|line| line.ends_with("{}") || line.starts_with("delete table")), "{text}");
    }

    #[test]
    fn ports_are_published_where_they_were_asked() {
        let endpoint = Endpoint {
            addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            ports: vec!["80-81:8080-8081".parse().unwrap(), "127.0.0.1:53:53/udp".parse().unwrap()],
            ..Endpoint::default()
        };
        let list: Vec<String> = endpoint.ports.iter().flat_map(|port| {
            [true, false].into_iter().flat_map(|v4| {
                let address = endpoint.address(v4).filter(|_| port.ip.is_none_or(|ip| ip.is_ipv4() == v4));
                address.into_iter().flat_map(|address| elements(port, address)).collect::<Vec<_>>()
            }).map(|(map, element)| format!("{map} {element}")).collect::<Vec<_>>()
        }).collect();
        assert_eq!(list, [
            "publish4 tcp . 80 : 10.0.0.2 . 8080",
            "publish4 tcp . 81 : 10.0.0.2 . 8081",
            "publish6 tcp . 80 : fd00::2 . 8080",
            "publish6 tcp . 81 : fd00::2 . 8081",
            "publish4at 127.0.0.1 . udp . 53 : 10.0.0.2 . 53",
        ]);
    }
}
