//! hull's own nftables tables, as scripts for nft(8): address translation and published ports,
//! which packets may pass between networks, and what a container may send.
//!
//! hull writes both tables anew, in one transaction, unless it knows what they contain, and so
//! restores what a killed hull or a reload of the firewall left out. To known tables it adds the
//! elements of a new container. The scripts are nft's text and not its JSON, which cannot declare
//! maps to `addr . port` (nft 1.0.6).

use super::endpoint::{Endpoint, Populated};
use super::network::{Driver, Network};
use super::ports::PortMapping;
use ipnet::IpNet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

/// An element of one of the maps of published ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The name of the map.
    pub map: &'static str,
    /// The element `key : value`, as nft prints it.
    pub text: String,
}

/// The elements of the maps of published ports, for the containers whose id `which` accepts.
pub fn published(networks: &[Populated], which: impl Fn(&str) -> bool) -> Vec<Element> {
    let mut list: Vec<Element> = Vec::new();
    for endpoint in networks
        .iter()
        .flat_map(|one| &one.endpoints)
        .filter(|endpoint| which(&endpoint.id))
    {
        for port in &endpoint.ports {
            list.extend(elements(port, endpoint));
        }
    }
    list
}

/// The elements of one published port: of each family that the container has an address of and that
/// the host's address, if one was given, is of.
fn elements(port: &PortMapping, endpoint: &Endpoint) -> Vec<Element> {
    let addresses = [
        endpoint.ipv4().map(IpAddr::V4),
        endpoint.ipv6().map(IpAddr::V6),
    ];
    addresses
        .into_iter()
        .flatten()
        .filter(|address| port.ip.is_none_or(|ip| ip.is_ipv4() == address.is_ipv4()))
        .flat_map(|address| elements_to(port, address))
        .collect()
}

fn elements_to(port: &PortMapping, address: IpAddr) -> impl Iterator<Item = Element> + use<> {
    let (ip, protocol) = (port.ip, port.protocol.word());
    port.pairs().map(move |(host, container)| {
        let text = format!("{protocol} . {host} : {address} . {container}");
        let (map, text) = match (ip, address) {
            (None, IpAddr::V4(_)) => ("publish4", text),
            (None, IpAddr::V6(_)) => ("publish6", text),
            (Some(ip), IpAddr::V4(_)) => ("publish4at", format!("{ip} . {text}")),
            (Some(ip), IpAddr::V6(_)) => ("publish6at", format!("{ip} . {text}")),
        };
        Element { map, text }
    })
}

/// The maps of published ports with their types: of each family, for ports of all addresses of the
/// host and for ports of one address.
const MAPS: [(&str, &str); 4] = [
    (
        "publish4",
        "inet_proto . inet_service : ipv4_addr . inet_service",
    ),
    (
        "publish6",
        "inet_proto . inet_service : ipv6_addr . inet_service",
    ),
    (
        "publish4at",
        "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    ),
    (
        "publish6at",
        "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service",
    ),
];

/// The networks that have rules: bridges with containers.
fn active(networks: &[Populated]) -> Vec<&Populated> {
    networks
        .iter()
        .filter(|one| !one.endpoints.is_empty() && one.network.driver == Driver::Bridge)
        .collect()
}

/// The script that removes both tables, whether they exist or not.
pub fn removal(table: &str) -> String {
    ["inet", "bridge"]
        .map(|family| format!("table {family} {table} {{}}\ndelete table {family} {table}\n"))
        .concat()
}

/// The script that creates both tables, which must not exist. Empty where no container is on a
/// network.
pub fn definition(table: &str, networks: &[Populated]) -> String {
    let active = active(networks);
    if active.is_empty() {
        return String::new();
    }
    let mut text = format!("table inet {table} {{\n");
    let elements = published(networks, |_| true);
    for (name, kind) in MAPS {
        let texts: Vec<String> = elements
            .iter()
            .filter(|element| element.map == name)
            .map(|element| element.text.clone())
            .collect();
        text.push_str(&set("map", name, kind, &texts));
    }
    let members: Vec<Members> = active.iter().map(|one| Members::of(&one.network)).collect();
    let all = |pick: fn(&Members) -> &Vec<String>| {
        members
            .iter()
            .flat_map(|one| pick(one).clone())
            .collect::<Vec<String>>()
    };
    text.push_str(&set("set", "bridges", "ifname", &all(|one| &one.bridges)));
    text.push_str(&set("set", "external", "ifname", &all(|one| &one.external)));
    text.push_str(&set("set", "internal", "ifname", &all(|one| &one.internal)));
    text.push_str(&set(
        "set",
        "same_bridge",
        "ifname . ifname",
        &all(|one| &one.same_bridge),
    ));
    text.push_str(HEAD);
    all(|one| &one.masquerade)
        .iter()
        .for_each(|rule| text.extend(["    ", rule, "\n"]));
    text.push_str("  }\n}\n");
    guard_table(&mut text, table, &active);
    text
}

/// The script that adds the new containers to tables that have all the others. `is_new` tells
/// whether the container of an id is new.
pub fn addition(table: &str, networks: &[Populated], is_new: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let mut add = |family: &str, set: &str, elements: &[String]| {
        if !elements.is_empty() {
            let _ = writeln!(
                text,
                "add element {family} {table} {set} {{ {} }}",
                elements.join(", ")
            );
        }
    };
    for Element { map, text } in published(networks, &is_new) {
        add("inet", map, &[text]);
    }
    let (mut masquerade, mut adverts) = (Vec::new(), Vec::new());
    for one in active(networks) {
        let new: Vec<&Endpoint> = one
            .endpoints
            .iter()
            .filter(|endpoint| is_new(&endpoint.id))
            .collect();
        if new.len() == one.endpoints.len() {
            let members = Members::of(&one.network);
            let sets = [
                ("bridges", &members.bridges),
                ("external", &members.external),
                ("internal", &members.internal),
                ("same_bridge", &members.same_bridge),
            ];
            sets.into_iter()
                .for_each(|(name, elements)| add("inet", name, elements));
            masquerade.extend(members.masquerade);
        }
        for endpoint in new {
            let allowed = Allowed::of(endpoint);
            let sets = [
                ("ports", &allowed.ports),
                ("macs", &allowed.macs),
                ("v4", &allowed.v4),
                ("v6", &allowed.v6),
            ];
            sets.into_iter()
                .for_each(|(name, elements)| add("bridge", name, elements));
            adverts.push(allowed.advert);
        }
    }
    // Each of these rules drops or translates on its own, so their order does not matter.
    for rule in masquerade {
        let _ = writeln!(text, "add rule inet {table} postrouting {rule}");
    }
    for rule in adverts {
        let _ = writeln!(text, "add rule bridge {table} guard {rule}");
    }
    text
}

/// A declaration of a set or map with its elements.
fn set(what: &str, name: &str, kind: &str, elements: &[String]) -> String {
    let list = if elements.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }}", elements.join(", "))
    };
    format!("  {what} {name} {{ type {kind}; {list} }}\n")
}

/// What the inet table has for a network: elements of its sets, and rules.
struct Members {
    bridges: Vec<String>,
    /// Bridges of networks with access to others.
    external: Vec<String>,
    /// Bridges of networks that are `--internal`.
    internal: Vec<String>,
    /// Pairs of a bridge with itself, for packets between its own containers.
    same_bridge: Vec<String>,
    /// Rules of the chain postrouting.
    masquerade: Vec<String>,
}

impl Members {
    /// The source address becomes the host's for packets that leave the network, and for packets to
    /// a published port that go back into the bridge they came from: otherwise the container would
    /// answer its neighbour directly, from an address that the neighbour did not connect to.
    fn of(network: &Network) -> Self {
        let link = format!("\"{}\"", network.link);
        let (mut external, mut internal, mut masquerade) = (Vec::new(), Vec::new(), Vec::new());
        for subnet in &network.subnets {
            let (family, prefix) = (word(&subnet.prefix), subnet.prefix);
            masquerade.push(format!(
                "{family} saddr {prefix} {family} daddr {prefix} ct status dnat masquerade"
            ));
            if !network.internal {
                masquerade.push(format!(
                    "{family} saddr {prefix} oifname != {link} masquerade"
                ));
            }
        }
        if network.internal {
            internal.push(link.clone())
        } else {
            external.push(link.clone())
        }
        Self {
            bridges: vec![link.clone()],
            external,
            internal,
            same_bridge: vec![format!("{link} . {link}")],
            masquerade,
        }
    }
}

/// The chains of the inet table, up to the rules of single networks.
///
/// - martians: packets to 127.0.0.0/8 from elsewhere are dropped. Without this the bridges would
///   route them (CVE-2020-8558), since they have route_localnet for the host's own 127.0.0.1.
/// - forward: into a network pass replies, packets to published ports, and packets between its own
///   containers (netfilter sees these where bridge-nf-call-iptables is on). Everything else is
///   dropped, so also packets of other networks. An internal network passes nothing in or out.
/// - postrouting: packets from the host's loopback get the host's address on the bridge, since no
///   container could answer 127.0.0.1. The rules of the networks follow.
const HEAD: &str = "  chain martians { type filter hook prerouting priority raw; policy accept; \
    iifname != \"lo\" ip daddr 127.0.0.0/8 drop; }
  chain prerouting { type nat hook prerouting priority dstnat; policy accept; fib daddr type \
  local jump publish; }
  chain output { type nat hook output priority -100; policy accept; fib daddr type local jump \
  publish; }
  chain publish {
    dnat ip to ip daddr . meta l4proto . th dport map @publish4at
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6at
    dnat ip to meta l4proto . th dport map @publish4
    dnat ip6 to meta l4proto . th dport map @publish6
  }
  chain forward { type filter hook forward priority filter; policy accept;
    iifname . oifname @same_bridge accept
    iifname @internal drop
    oifname @internal drop
    oifname @external ct state established,related accept
    oifname @external ct status dnat accept
    oifname @external drop
  }
  chain postrouting { type nat hook postrouting priority srcnat; policy accept;
    ip saddr 127.0.0.0/8 oifname @bridges masquerade
    ip6 saddr ::1 oifname @bridges masquerade
";

fn word(prefix: &IpNet) -> &'static str {
    match prefix {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    }
}

/// The link-local address that the kernel makes from a hardware address (RFC 4291, appendix A).
pub fn link_local(mac: &[u8; 6]) -> Ipv6Addr {
    let word = |a: u8, b: u8| (u16::from(a) << 8) | u16::from(b);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        word(mac[0] ^ 2, mac[1]),
        word(mac[2], 0xff),
        word(0xfe, mac[3]),
        word(mac[4], mac[5]),
    )
}

/// The bridge table: what a container may send. In frames, ARP and neighbour advertisements it may
/// use its own addresses only, and it may act neither as a router nor as a DHCP server. Frames
/// carry IP or ARP directly: a tag of VLAN 0 or a SNAP header before these would hide them from the
/// rules, and receivers remove the tag (CVE-2021-27853, CVE-2021-27862).
fn guard_table(text: &mut String, table: &str, active: &[&Populated]) {
    let allowed: Vec<Allowed> = active
        .iter()
        .flat_map(|one| &one.endpoints)
        .map(Allowed::of)
        .collect();
    let all = |pick: fn(&Allowed) -> &Vec<String>| {
        allowed
            .iter()
            .flat_map(|one| pick(one).clone())
            .collect::<Vec<String>>()
    };
    let _ = writeln!(text, "table bridge {table} {{");
    text.push_str(&set("set", "ports", "ifname", &all(|one| &one.ports)));
    text.push_str(&set(
        "set",
        "macs",
        "ifname . ether_addr",
        &all(|one| &one.macs),
    ));
    text.push_str(&set("set", "v4", "ifname . ipv4_addr", &all(|one| &one.v4)));
    text.push_str(&set("set", "v6", "ifname . ipv6_addr", &all(|one| &one.v6)));
    text.push_str(
        "  chain prerouting { type filter hook prerouting priority -300; policy accept; \
        iifname @ports jump guard; }\n  chain guard {\n",
    );
    text.push_str("    ether type != { ip, arp, ip6 } drop\n");
    text.push_str(
        "    iifname . ether saddr != @macs drop\n    ether type ip iifname . ip saddr \
        != @v4 drop\n",
    );
    text.push_str(
        "    ether type arp iifname . arp saddr ip != @v4 drop\n    ether type arp \
        iifname . arp saddr ether != @macs drop\n",
    );
    text.push_str("    udp sport 67 drop\n    icmpv6 type nd-router-advert drop\n");
    text.push_str("    ether type ip6 ip6 saddr != :: iifname . ip6 saddr != @v6 drop\n");
    allowed
        .iter()
        .for_each(|one| text.extend(["    ", &one.advert, "\n"]));
    text.push_str("  }\n}\n");
}

/// What a container may send: elements of the bridge table's sets, and a rule for neighbour
/// advertisements, whose target address nft cannot look up in a set.
struct Allowed {
    ports: Vec<String>,
    macs: Vec<String>,
    v4: Vec<String>,
    v6: Vec<String>,
    advert: String,
}

impl Allowed {
    fn of(endpoint: &Endpoint) -> Self {
        let host = format!("\"{}\"", endpoint.host);
        let local = super::link::parse_mac(&endpoint.mac)
            .ok()
            .map(|mac| link_local(&mac));
        let own: Vec<Ipv6Addr> = local.into_iter().chain(endpoint.ipv6()).collect();
        let numbers: Vec<String> = own
            .iter()
            .map(|address| format!("{:#034x}", u128::from(*address)))
            .collect();
        Self {
            macs: vec![format!("{host} . {}", endpoint.mac)],
            v4: endpoint
                .ipv4()
                .map(|address| format!("{host} . {address}"))
                .into_iter()
                .collect(),
            v6: own
                .iter()
                .map(|address| format!("{host} . {address}"))
                .collect(),
            advert: format!(
                "iifname {host} icmpv6 type nd-neighbor-advert @th,64,128 != {{ {} }} drop",
                numbers.join(", ")
            ),
            ports: vec![host],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses() {
        assert_eq!(
            link_local(&[0x02, 0x42, 0xac, 0x11, 0, 2]).to_string(),
            "fe80::42:acff:fe11:2"
        );
    }

    #[test]
    fn without_containers_there_is_no_table() {
        assert_eq!(definition("hull", &[]), "");
        let text = removal("hull");
        assert!(
            text.lines()
                .all(|line| line.ends_with("{}") || line.starts_with("delete table")),
            "{text}"
        );
    }

    #[test]
    fn ports_are_published_on_the_given_addresses() {
        let endpoint = Endpoint {
            addresses: vec![
                "10.0.0.2/24".parse().unwrap(),
                "fd00::2/64".parse().unwrap(),
            ],
            ports: vec![
                "80-81:8080-8081".parse().unwrap(),
                "127.0.0.1:53:53/udp".parse().unwrap(),
            ],
            ..Endpoint::default()
        };
        let list: Vec<String> = endpoint
            .ports
            .iter()
            .flat_map(|port| elements(port, &endpoint))
            .map(|element| format!("{} {}", element.map, element.text))
            .collect();
        assert_eq!(
            list,
            [
                "publish4 tcp . 80 : 10.0.0.2 . 8080",
                "publish4 tcp . 81 : 10.0.0.2 . 8081",
                "publish6 tcp . 80 : fd00::2 . 8080",
                "publish6 tcp . 81 : fd00::2 . 8081",
                "publish4at 127.0.0.1 . udp . 53 : 10.0.0.2 . 53",
            ]
        );
    }
}
