//! Addresses and routes, as requests.

use super::netlink::{Request, Socket};
use crate::Result;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// An address and the length of its network's prefix, such as `10.0.0.2/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of the prefix.
    pub length: u8,
}

impl Prefix {
    /// Bits of an address of this family.
    pub fn bits(&self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The address as a number.
    pub fn number(&self) -> u128 {
        number(self.address)
    }

    fn mask(&self) -> u128 {
        let host = u32::from(self.bits() - self.length);
        let all = if self.address.is_ipv4() {
            u128::from(u32::MAX)
        } else {
            u128::MAX
        };
        all & u128::MAX.checked_shl(host).unwrap_or(0)
    }

    /// The network's own address, its host bits zero.
    #[must_use]
    pub fn network(&self) -> Self {
        Self {
            address: self.with(self.number() & self.mask()),
            length: self.length,
        }
    }

    /// An address of the same family.
    pub fn with(&self, number: u128) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
            IpAddr::V6(_) => IpAddr::V6(number.into()),
        }
    }

    /// Whether an address lies in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && number(address) & self.mask() == self.number() & self.mask()
    }

    /// Whether two networks share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }

    /// The last address.
    pub fn last(&self) -> u128 {
        let all = if self.address.is_ipv4() {
            u128::from(u32::MAX)
        } else {
            u128::MAX
        };
        (self.number() & self.mask()) | (all & !self.mask())
    }
}

/// An address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => v6.into(),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:?} is no address with a prefix length, such as 10.0.0.0/24");
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        let prefix = Self { address, length };
        if length > prefix.bits() {
            Err(wrong())
        } else {
            Ok(prefix)
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// Gives a link an address. An IPv6 one is usable at once: who gives it out knows that it is no
/// duplicate, and the check would hold back the program's first second (RFC 4862, 5.4).
pub fn add(index: u32, prefix: Prefix, what: String) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(prefix.address);
    message.header.prefix_len = prefix.length;
    message.header.index = index;
    message
        .attributes
        .push(AddressAttribute::Local(prefix.address));
    message
        .attributes
        .push(AddressAttribute::Address(prefix.address));
    match prefix.address {
        IpAddr::V4(_) if prefix.length < 31 => {
            message
                .attributes
                .push(AddressAttribute::Broadcast(Ipv4Addr::from(
                    prefix.last() as u32
                )));
        }
        IpAddr::V4(_) => {}
        IpAddr::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
    }
    Request {
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        what,
    }
}

/// The default route, by a gateway on the link.
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

/// The lasting global addresses of a link: those that an administrator gave it. Leased and
/// link-local ones belong to the place that the link is in.
///
/// # Errors
/// The kernel's.
pub fn of_link(socket: &mut Socket, index: u32) -> Result<Vec<Prefix>> {
    let mut list = Vec::new();
    for message in socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            continue;
        };
        let lasting = message.header.flags.contains(AddressHeaderFlags::Permanent)
            || message.attributes.iter().any(|a| matches!(a, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Permanent)));
        if message.header.index != index
            || !lasting
            || message.header.scope != AddressScope::Universe
        {
            continue;
        }
        let local = message.attributes.iter().find_map(|a| {
            if let AddressAttribute::Local(address) = a {
                Some(*address)
            } else {
                None
            }
        });
        let other = message.attributes.iter().find_map(|a| {
            if let AddressAttribute::Address(address) = a {
                Some(*address)
            } else {
                None
            }
        });
        if let Some(address) = local.or(other) {
            list.push(Prefix {
                address,
                length: message.header.prefix_len,
            });
        }
    }
    Ok(list)
}

/// The networks that the main table has routes to (not the default ones), with the link of each.
///
/// # Errors
/// The kernel's.
pub fn routes(socket: &mut Socket) -> Result<Vec<(Prefix, Option<u32>)>> {
    let mut list = Vec::new();
    for message in socket.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))? {
        let RouteNetlinkMessage::NewRoute(message) = message else {
            continue;
        };
        let length = message.header.destination_prefix_length;
        if message.header.table != RouteHeader::RT_TABLE_MAIN || length == 0 {
            continue;
        }
        let link = message.attributes.iter().find_map(|a| {
            if let RouteAttribute::Oif(index) = a {
                Some(*index)
            } else {
                None
            }
        });
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => list.push((
                    Prefix {
                        address: (*v4).into(),
                        length,
                    },
                    link,
                )),
                RouteAttribute::Destination(RouteAddress::Inet6(v6)) => list.push((
                    Prefix {
                        address: (*v6).into(),
                        length,
                    },
                    link,
                )),
                _ => {}
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_know_their_network() {
        let prefix: Prefix = "10.1.2.3/22".parse().unwrap();
        assert_eq!(prefix.network().to_string(), "10.1.0.0/22");
        assert_eq!(prefix.with(prefix.last()).to_string(), "10.1.3.255");
        assert!(prefix.contains("10.1.3.255".parse().unwrap()));
        assert!(!prefix.contains("10.1.4.0".parse().unwrap()));
        assert!(prefix.overlaps(&"10.0.0.0/8".parse().unwrap()));
        assert!(!prefix.overlaps(&"::/0".parse().unwrap()));
        let all: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Prefix>().is_err());
        assert!("fd00::1".parse::<Prefix>().is_err());
    }
}
