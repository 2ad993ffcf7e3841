//! Requests that create, change and remove links: bridges, veth pairs, macvlans, ifb devices. Also
//! hardware addresses and the hash that names are made of.

use super::netlink::Request;
use crate::sys::fd::Fd;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};

/// A hardware address (MAC).
pub type Mac = [u8; 6];

/// Derives a hardware address from a text: always the same from the same text, locally administered
/// and individual (IEEE 802, 8.2).
pub fn mac_of(text: &str) -> Mac {
    let hash = hash(text).to_be_bytes();
    [
        (hash[0] | 0x02) & 0xfe,
        hash[1],
        hash[2],
        hash[3],
        hash[4],
        hash[5],
    ]
}

/// FNV-1a of 64 bits with the final mix of MurmurHash3, for names that must not change between
/// versions of hull: the standard library does not promise that for its hasher.
pub fn hash(text: &str) -> u64 {
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Writes a hardware address as `02:00:00:00:00:01`.
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

/// Parses a hardware address of the form `02:00:00:00:00:01`.
///
/// # Errors
/// The text is malformed, or a group address or all zeros: then a sentence that says so.
pub fn parse_mac(text: &str) -> Result<Mac, String> {
    let wrong = || format!("{text:?} is not a hardware address, such as 02:00:00:00:00:01");
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<_, _>>()
        .map_err(|_| wrong())?;
    let mac: Mac = bytes.try_into().map_err(|_| wrong())?;
    if mac[0] & 1 == 1 || mac == [0; 6] {
        Err(wrong())
    } else {
        Ok(mac)
    }
}

fn create(message: LinkMessage, what: String) -> Request {
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        what,
    }
}

fn up(message: &mut LinkMessage) {
    message.header.flags |= LinkFlags::Up;
    message.header.change_mask |= LinkFlags::Up;
}

/// Creates a bridge and brings it up. It gets a hardware address of its own: otherwise it would
/// take the lowest one of its ports, and change it when ports come and go.
pub fn bridge(name: &str, mac: Mac, mtu: u32) -> Request {
    let mut message = LinkMessage::default();
    up(&mut message);
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message
        .attributes
        .push(LinkAttribute::Address(mac.to_vec()));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    // No forwarding delay: the network cannot have loops, so ports need not learn first.
    let data = InfoData::Bridge(vec![InfoBridge::ForwardDelay(0)]);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(data),
    ]));
    create(message, format!("create bridge {name}"))
}

/// A veth pair: one end in the socket's network namespace, up and a port of a bridge, the other end
/// in the container's.
pub struct VethPair<'a> {
    /// The name of the end on the host.
    pub host: &'a str,
    /// The index of the bridge.
    pub bridge: u32,
    /// The name of the container's end.
    pub name: &'a str,
    /// The hardware address of the container's end.
    pub mac: Mac,
    /// Length of the longest packet of both ends, in bytes.
    pub mtu: u32,
    /// The container's network namespace.
    pub namespace: &'a Fd,
}

/// Creates a veth pair: one request creates both ends, each in its namespace.
pub fn veth(pair: &VethPair) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes
        .push(LinkAttribute::IfName(pair.name.to_owned()));
    peer.attributes
        .push(LinkAttribute::Address(pair.mac.to_vec()));
    peer.attributes.push(LinkAttribute::Mtu(pair.mtu));
    peer.attributes
        .push(LinkAttribute::NetNsFd(pair.namespace.0));
    let mut message = LinkMessage::default();
    up(&mut message);
    message
        .attributes
        .push(LinkAttribute::IfName(pair.host.to_owned()));
    message.attributes.push(LinkAttribute::Mtu(pair.mtu));
    message
        .attributes
        .push(LinkAttribute::Controller(pair.bridge));
    let data = InfoData::Veth(InfoVeth::Peer(peer));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(data),
    ]));
    create(
        message,
        format!(
            "create the veth pair {} and {} of the container",
            pair.host, pair.name
        ),
    )
}

/// Sets the options of a bridge port. In hairpin mode the bridge sends a packet back through the
/// port that it came from, as a container's packets to its own published port need. An isolated
/// port cannot send to other isolated ports.
pub fn bridge_port(name: &str, hairpin: bool, isolated: bool) -> Request {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    let data = InfoPortData::BridgePort(vec![
        InfoBridgePort::HairpinMode(hairpin),
        InfoBridgePort::Isolated(isolated),
    ]);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(data),
    ]));
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: 0,
        what: format!("set up bridge port {name}"),
    }
}

/// A macvlan in bridge mode on a device of the host, created in the container's network namespace.
pub struct Macvlan<'a> {
    /// Index of the host's device.
    pub parent: u32,
    /// The macvlan's name in the container.
    pub name: &'a str,
    /// The macvlan's hardware address.
    pub mac: Mac,
    /// Length of the longest packet, in bytes.
    pub mtu: u32,
    /// The container's network namespace.
    pub namespace: &'a Fd,
}

/// Creates a macvlan.
pub fn macvlan(macvlan: &Macvlan) -> Request {
    let Macvlan {
        parent,
        name,
        mac,
        mtu,
        namespace,
    } = *macvlan;
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message
        .attributes
        .push(LinkAttribute::Address(mac.to_vec()));
    message.attributes.push(LinkAttribute::Link(parent));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message.attributes.push(LinkAttribute::NetNsFd(namespace.0));
    let data = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::MacVlan),
        LinkInfo::Data(data),
    ]));
    create(message, format!("create macvlan {name} of the container"))
}

/// Creates an ifb device (intermediate functional block): packets that are redirected to it pass
/// its queueing discipline.
pub fn ifb(name: &str) -> Request {
    let mut message = LinkMessage::default();
    up(&mut message);
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
    create(message, format!("create ifb device {name}"))
}

/// Brings a link up or down.
pub fn set_up(index: u32, is_up: bool, what: String) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    if is_up {
        message.header.flags = LinkFlags::Up;
    }
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: 0,
        what,
    }
}

/// Moves a link to another network namespace under another name.
pub fn move_to(index: u32, name: &str, namespace: &Fd, what: String) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::NetNsFd(namespace.0));
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: 0,
        what,
    }
}

/// Removes a link.
pub fn remove(index: u32, what: String) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request {
        message: RouteNetlinkMessage::DelLink(message),
        flags: 0,
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_local_and_individual() {
        for text in ["a", "b", "web-1", ""] {
            let mac = mac_of(text);
            assert_eq!(mac[0] & 3, 2, "{mac:?}");
            assert_eq!(mac, mac_of(text));
            assert_eq!(parse_mac(&mac_text(&mac)), Ok(mac));
        }
        assert_ne!(mac_of("a"), mac_of("b"));
        for bad in [
            "",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
            "02:00",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:00:00",
        ] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}
