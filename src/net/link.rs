//! Links, as requests: bridges, pairs, macvlans, and what is changed on them.

use super::netlink::Request;
use crate::sys::fd::Fd;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};

/// A hardware address.
pub type Mac = [u8; 6];

/// A hardware address from a text: the same one whenever the same text is given, locally
/// administered, for one station (IEEE 802, 8.2).
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

/// FNV-1a of 64 bits with a final mix: names that must be the same next time, which the standard
/// library's hasher does not promise.
pub fn hash(text: &str) -> u64 {
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Six numbers with colons between them.
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

/// Reads what [`mac_text`] writes; no group addresses.
///
/// # Errors
/// A sentence.
pub fn parse_mac(text: &str) -> Result<Mac, String> {
    let wrong = || format!("{text:?} is no hardware address, such as 02:00:00:00:00:01");
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

/// A bridge, up. It has its own hardware address from the start: else it would take its ports'
/// lowest, and change it as they come and go.
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
    // No port is held back: there is no loop in a star.
    let data = InfoData::Bridge(vec![InfoBridge::ForwardDelay(0)]);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(data),
    ]));
    create(message, format!("make bridge {name}"))
}

/// One end of a pair in this namespace, as a port of a bridge and up; the other in the container's,
/// with its name and hardware address.
pub struct Pair<'a> {
    /// This end's name.
    pub host: &'a str,
    /// Index of the bridge.
    pub bridge: u32,
    /// The other end's name.
    pub name: &'a str,
    /// The other end's hardware address.
    pub mac: Mac,
    /// Of both.
    pub mtu: u32,
    /// Where the other end is.
    pub namespace: &'a Fd,
}

/// Makes a pair: one request makes both ends in their namespaces.
pub fn pair(pair: &Pair) -> Request {
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
            "make the pair {} and {} of the container",
            pair.host, pair.name
        ),
    )
}

/// A port of a bridge may send a packet back where it came from (to a published port of itself);
/// alone, it reaches no other such port.
pub fn port(name: &str, hairpin: bool, isolated: bool) -> Request {
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

/// A macvlan on a card of this namespace, made in the container's.
pub fn macvlan(parent: u32, name: &str, mac: Mac, mtu: u32, namespace: &Fd) -> Request {
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
    create(message, format!("make macvlan {name} of the container"))
}

/// An intermediate functional block: what a link receives is sent through it, and shaped there.
pub fn ifb(name: &str) -> Request {
    let mut message = LinkMessage::default();
    up(&mut message);
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
    create(message, format!("make ifb device {name}"))
}

/// Brings a link up, or down.
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

/// Moves a link to another namespace under another name.
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
    fn hardware_addresses_are_local_and_single() {
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
