//! hull's own nftables tables, as text: translated and published ports, what may pass between
//! networks, and what a container may send.
//!
//! Both tables are written anew, in one transaction, whenever hull cannot be sure what they are:
//! what a killed hull or a reload left out comes back with the next one. A container that comes to
//! known tables is added. nft's text is used and not its JSON, which cannot declare the maps to
//! `addr . port`.

use super::endpoint::{Endpoint, Populated};
use super::network::{Driver, Network};
use super::ports::Port;
use ipnet::IpNet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

/// An element of one of the maps of published ports, in nft's own words.
pub type Element = (&'static str, String);

/// The elements of the maps of published ports, of some of the containers.
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
fn elements(port: &Port, endpoint: &Endpoint) -> Vec<Element> {
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

fn elements_to(port: &Port, address: IpAddr) -> impl Iterator<Item = Element> + use<> {
    let (ip, protocol) = (port.ip, port.protocol.word());
    port.pairs()
        .map(move |(host, container)| match (ip, address) {
            (None, IpAddr::V4(_)) => (
                "publish4",
                format!("{protocol} . {host} : {address} . {container}"),
            ),
            (None, IpAddr::V6(_)) => (
                "publish6",
                format!("{protocol} . {host} : {address} . {container}"),
            ),
            (Some(ip), IpAddr::V4(_)) => (
                "publish4at",
                format!("{ip} . {protocol} . {host} : {address} . {container}"),
            ),
            (Some(ip), IpAddr::V6(_)) => (
                "publish6at",
                format!("{ip} . {protocol} . {host} : {address} . {container}"),
            ),
        })
}

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

/// The networks that have rules.
fn live(networks: &[Populated]) -> Vec<&Populated> {
    networks
        .iter()
        .filter(|one| !one.endpoints.is_empty() && one.network.driver == Driver::Bridge)
        .collect()
}

/// Removes both tables, whether they are there or not.
pub fn removal(table: &str) -> String {
    ["inet", "bridge"]
        .map(|family| format!("table {family} {table} {{}}\ndelete table {family} {table}\n"))
        .concat()
}

/// Both tables, which must not be there; nothing where nobody is on a network.
pub fn definition(table: &str, networks: &[Populated]) -> String {
    let live = live(networks);
    if live.is_empty() {
        return String::new();
    }
    let mut text = format!("table inet {table} {{\n");
    let elements = published(networks, |_| true);
    for (name, kind) in MAPS {
        let mine: Vec<String> = elements
            .iter()
            .filter(|(map, _)| *map == name)
            .map(|(_, element)| element.clone())
            .collect();
        text.push_str(&set("map", name, kind, &mine));
    }
    let members: Vec<Members> = live.iter().map(|one| Members::of(&one.network)).collect();
    let all = |pick: fn(&Members) -> &Vec<String>| {
        members
            .iter()
            .flat_map(|one| pick(one).clone())
            .collect::<Vec<String>>()
    };
    text.push_str(&set("set", "bridges", "ifname", &all(|one| &one.bridges)));
    text.push_str(&set("set", "open", "ifname", &all(|one| &one.open)));
    text.push_str(&set("set", "inner", "ifname", &all(|one| &one.inner)));
    text.push_str(&set(
        "set",
        "within",
        "ifname . ifname",
        &all(|one| &one.within),
    ));
    text.push_str(HEAD);
    all(|one| &one.translated)
        .iter()
        .for_each(|rule| text.extend(["    ", rule, "\n"]));
    text.push_str("  }\n}\n");
    guard(&mut text, table, &live);
    text
}

/// What makes the tables those of all containers, where they are already those of all but the new
/// ones.
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
    for (map, element) in published(networks, &is_new) {
        add("inet", map, &[element]);
    }
    let (mut translated, mut adverts) = (Vec::new(), Vec::new());
    for one in live(networks) {
        let mine: Vec<&Endpoint> = one
            .endpoints
            .iter()
            .filter(|endpoint| is_new(&endpoint.id))
            .collect();
        if mine.len() == one.endpoints.len() {
            let members = Members::of(&one.network);
            let sets = [
                ("bridges", &members.bridges),
                ("open", &members.open),
                ("inner", &members.inner),
                ("within", &members.within),
            ];
            sets.into_iter()
                .for_each(|(name, elements)| add("inet", name, elements));
            translated.extend(members.translated);
        }
        for endpoint in mine {
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
    // Each of these rules drops or translates by itself: their order among each other means
    // nothing.
    for rule in translated {
        let _ = writeln!(text, "add rule inet {table} postrouting {rule}");
    }
    for rule in adverts {
        let _ = writeln!(text, "add rule bridge {table} guard {rule}");
    }
    text
}

fn set(what: &str, name: &str, kind: &str, elements: &[String]) -> String {
    let list = if elements.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }}", elements.join(", "))
    };
    format!("  {what} {name} {{ type {kind}; {list} }}\n")
}

/// What a network is in the tables: members of sets, and rules.
struct Members {
    bridges: Vec<String>,
    open: Vec<String>,
    inner: Vec<String>,
    within: Vec<String>,
    translated: Vec<String>,
}

impl Members {
    /// Where a packet's source must become the host's: on its way out, and back into the bridge it
    /// came from, since the answer would otherwise go straight to the neighbour, who asked somebody
    /// else.
    fn of(network: &Network) -> Self {
        let link = format!("\"{}\"", network.link);
        let (mut open, mut inner, mut translated) = (Vec::new(), Vec::new(), Vec::new());
        for subnet in &network.subnets {
            let (family, prefix) = (word(&subnet.prefix), subnet.prefix);
            translated.push(format!(
                "{family} saddr {prefix} {family} daddr {prefix} ct status dnat masquerade"
            ));
            if !network.internal {
                translated.push(format!(
                    "{family} saddr {prefix} oifname != {link} masquerade"
                ));
            }
        }
        if network.internal {
            inner.push(link.clone())
        } else {
            open.push(link.clone())
        }
        Self {
            bridges: vec![link.clone()],
            open,
            inner,
            within: vec![format!("{link} . {link}")],
            translated,
        }
    }
}

/// What comes from elsewhere to 127.0.0.0/8 is nobody's but an attacker's: the bridges route it, so
/// that the host's own loopback reaches published ports (CVE-2020-8558). Into a network comes what
/// answers, what was published, and what its own send each other (where the bridge hands its
/// packets to netfilter); nothing else, and so no other network; into and out of an internal one
/// nothing at all. The host's loopback, which no container could answer, is translated too; the
/// networks' own translations follow.
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
    iifname . oifname @within accept
    iifname @inner drop
    oifname @inner drop
    oifname @open ct state established,related accept
    oifname @open ct status dnat accept
    oifname @open drop
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

/// What a container may send: only its own addresses, in frames, ARP and neighbour advertisements;
/// it is no router and no DHCP server. Nothing but IP and ARP straight in Ethernet: a tag of VLAN 0
/// or a SNAP header before them would hide them from the rules, and receivers take off the tag
/// (CVE-2021-27853, CVE-2021-27862).
fn guard(text: &mut String, table: &str, live: &[&Populated]) {
    let allowed: Vec<Allowed> = live
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

/// What a container may send, as members of sets, and the rule for neighbour advertisements, whose
/// target no set can be asked for.
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
    fn nobody_there_leaves_no_table() {
        assert_eq!(definition("hull", &[]), "");
        let text = removal("hull");
        assert!(
            text.lines()
                .all(|line| line.ends_with("{}") || line.starts_with("delete table")),
            "{text}"
        );
    }

    #[test]
    fn ports_are_published_where_they_were_asked() {
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
            .map(|(map, element)| format!("{map} {element}"))
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
