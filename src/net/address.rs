//! Addresses and routes: reading them from text and from the kernel, and requests that set them.

use super::netlink::{Request, Socket};
use crate::{Error, Result};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

/// Reads an address with a prefix length, such as `10.0.0.2/24`. The standard library reads the
/// address: unlike ipnet it refuses numbers with leading zeros, which inet_aton(3) takes as octal.
///
/// # Errors
/// The text has no `/`, or one of its two parts is malformed.
pub fn parse_prefix(text: &str) -> Result<IpNet> {
    let parsed = text
        .split_once('/')
        .and_then(|(address, length)| IpNet::new(address.parse().ok()?, length.parse().ok()?).ok());
    parsed.ok_or_else(|| {
        Error::new(format!(
            "{text:?} is not an address with a prefix length, such as 10.0.0.0/24"
        ))
    })
}

/// Whether two networks have an address in common.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The address at this distance from the network's own address. The distance is less than the
/// number of the network's addresses.
pub fn nth(network: &IpNet, distance: u128) -> IpAddr {
    match network {
        IpNet::V4(v4) => IpAddr::V4((u32::from(v4.network()).wrapping_add(distance as u32)).into()),
        IpNet::V6(v6) => IpAddr::V6((u128::from(v6.network()).wrapping_add(distance)).into()),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// Adds an address to the link with this index. An IPv6 address is usable at once, without
/// duplicate address detection (RFC 4862, 5.4): hull's store of networks already gives each address
/// to one container only, and the detection would delay the program by a second.
pub fn add(index: u32, address: IpNet, what: String) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message
        .attributes
        .push(AddressAttribute::Local(address.addr()));
    message
        .attributes
        .push(AddressAttribute::Address(address.addr()));
    match address {
        IpNet::V4(v4) if v4.prefix_len() < 31 => message
            .attributes
            .push(AddressAttribute::Broadcast(v4.broadcast())),
        IpNet::V4(_) => {}
        IpNet::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
    }
    Request {
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        what,
    }
}

/// Adds a default route over the link with this index, by way of a gateway.
pub fn default_route(index: u32, gateway: IpAddr, what: String) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(RouteAttribute::Gateway(gateway.into()));
    message.attributes.push(RouteAttribute::Oif(index));
    Request {
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        what,
    }
}

/// The permanent addresses of global scope that the link with this index has. These are the ones
/// that an administrator assigned; leased and link-local addresses belong to the network that the
/// link is connected to.
///
/// # Errors
/// The dump of the kernel's addresses fails (RTM_GETADDR).
pub fn of_link(socket: &mut Socket, index: u32) -> Result<Vec<IpNet>> {
    let mut list = Vec::new();
    for message in socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            continue;
        };
        if message.header.index != index
            || message.header.scope != AddressScope::Universe
            || !is_permanent(&message)
        {
            continue;
        }
        let local = message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Local(address) = attribute {
                Some(*address)
            } else {
                None
            }
        });
        let other = message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute {
                Some(*address)
            } else {
                None
            }
        });
        list.extend(
            local
                .or(other)
                .and_then(|address| IpNet::new(address, message.header.prefix_len).ok()),
        );
    }
    Ok(list)
}

/// IFA_F_PERMANENT is in the header, or in IFA_FLAGS where the flags need more than 8 bits.
fn is_permanent(message: &AddressMessage) -> bool {
    let in_attribute = |attribute: &AddressAttribute| {
        matches!(attribute, AddressAttribute::Flags(flags)
            if flags.contains(AddressFlags::Permanent))
    };
    message.header.flags.contains(AddressHeaderFlags::Permanent)
        || message.attributes.iter().any(in_attribute)
}

/// A route of the host, of any table.
pub struct Route {
    /// The network that it leads to.
    pub destination: IpNet,
    /// Index of the link that it leads over.
    pub link: Option<u32>,
}

/// The routes of all tables, without the default routes. Policy rules select a table by mark, by
/// source or always (tailscale has its routes in table 52), and the table `local` has each address of
/// the host, also one that no network belongs to.
///
/// # Errors
/// The dump of the kernel's routes fails (RTM_GETROUTE).
pub fn routes(socket: &mut Socket) -> Result<Vec<Route>> {
    let mut list = Vec::new();
    for message in socket.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))? {
        let RouteNetlinkMessage::NewRoute(message) = message else {
            continue;
        };
        let length = message.header.destination_prefix_length;
        // An IPv6 address has a route outside of the table `local` too, and some kernels say of
        // the one in it that it leads over lo, so that a bridge's own address would look foreign.
        let header = &message.header;
        let repeated =
            header.table == libc::RT_TABLE_LOCAL && header.address_family == AddressFamily::Inet6;
        if repeated || length == 0 {
            continue;
        }
        let link = message.attributes.iter().find_map(|attribute| {
            if let RouteAttribute::Oif(index) = attribute {
                Some(*index)
            } else {
                None
            }
        });
        let destinations = message.attributes.iter().filter_map(|attribute| {
            let address = match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => IpAddr::V4(*v4),
                RouteAttribute::Destination(RouteAddress::Inet6(v6)) => IpAddr::V6(*v6),
                _ => return None,
            };
            IpNet::new(address, length).ok()
        });
        list.extend(destinations.map(|destination| Route { destination, link }));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let network = |text: &str| parse_prefix(text).unwrap();
        assert_eq!(nth(&network("10.1.2.3/22"), 255).to_string(), "10.1.0.255");
        assert_eq!(nth(&network("fd00::9/64"), 1).to_string(), "fd00::1");
        assert!(overlap(&network("10.1.0.0/22"), &network("10.0.0.0/8")));
        assert!(overlap(&network("10.1.2.3/22"), &network("10.1.3.9/32")));
        assert!(!overlap(&network("10.1.0.0/22"), &network("::/0")));
        for bad in ["10.0.0.0/33", "fd00::1", "10.0.0.010/24", "10.0.0.0/", "/8"] {
            assert!(parse_prefix(bad).is_err(), "{bad}");
        }
    }
}
