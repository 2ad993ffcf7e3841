//! Subnets that collide with nothing on the host.

use super::address::{self, Prefix};
use super::link;
use super::netlink::Socket;
use super::network::{DEFAULT, Driver, Network, Networks, Subnet};
use crate::{Context, Error, Result};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The networks that the host has routes to, but for those over one link.
///
/// # Errors
/// The kernel's.
pub fn occupied(here: &mut Socket, but: Option<u32>) -> Result<Vec<Prefix>> {
    Ok(address::routes(here)?
        .into_iter()
        .filter(|(_, link)| link.is_none() || *link != but)
        .map(|(prefix, _)| prefix)
        .collect())
}

/// Chooses an IPv4 /24 out of 10.90.0.0/15 and, by a random prefix (RFC 4193, 3.2), an IPv6 /64,
/// that neither a route of the host nor another network has.
///
/// # Errors
/// All are taken.
pub fn choose(networks: &Networks, occupied: &[Prefix], ipv6: bool) -> Result<Vec<Subnet>> {
    let mut taken = occupied.to_vec();
    taken.extend(
        networks
            .all()?
            .iter()
            .flat_map(|network| network.subnets.iter().map(|subnet| subnet.prefix)),
    );
    let free = |prefix: &Prefix| !taken.iter().any(|other| other.overlaps(prefix));
    let candidates = (0..512_u32).map(|n| Prefix {
        address: Ipv4Addr::from(0x0a5a_0000 + (n << 8)).into(),
        length: 24,
    });
    let v4 = candidates.into_iter().find(free).ok_or_else(|| {
        Error::new("choose a subnet: all of 10.90.0.0/15 collide with routes of this host")
    })?;
    let mut list = vec![with_gateway(v4)];
    if ipv6 {
        let mut random = [0_u8; 5];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .on("read", "/dev/urandom")?;
        let mut bytes = [0_u8; 16];
        bytes[0] = 0xfd;
        bytes[1..6].copy_from_slice(&random);
        let v6 = Prefix {
            address: Ipv6Addr::from(bytes).into(),
            length: 64,
        };
        if free(&v6) {
            list.push(with_gateway(v6));
        }
    }
    Ok(list)
}

/// A subnet whose gateway is its first address.
pub fn with_gateway(prefix: Prefix) -> Subnet {
    let prefix = prefix.network();
    Subnet {
        prefix,
        gateway: prefix.with(prefix.number() + 1),
    }
}

/// Refuses a subnet that is no place for containers, or that something else has.
///
/// # Errors
/// A sentence.
pub fn check(subnet: &Subnet, occupied: &[Prefix], others: &[Network]) -> Result<()> {
    let prefix = subnet.prefix;
    let room = prefix.bits() - prefix.length;
    let (loopback, multicast): (Prefix, Prefix) = match prefix.address {
        IpAddr::V4(_) => (
            Prefix {
                address: Ipv4Addr::LOCALHOST.into(),
                length: 8,
            },
            Prefix {
                address: Ipv4Addr::new(224, 0, 0, 0).into(),
                length: 4,
            },
        ),
        IpAddr::V6(_) => (
            Prefix {
                address: Ipv6Addr::LOCALHOST.into(),
                length: 128,
            },
            Prefix {
                address: Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(),
                length: 8,
            },
        ),
    };
    if room < 2 || prefix.length < 8 || prefix.overlaps(&loopback) || prefix.overlaps(&multicast) {
        return Err(Error::new(format!(
            "subnet {prefix} is no place for containers"
        )));
    }
    if !prefix.contains(subnet.gateway) {
        return Err(Error::new(format!(
            "gateway {} is not in subnet {prefix}",
            subnet.gateway
        )));
    }
    if let Some(route) = occupied.iter().find(|route| route.overlaps(&prefix)) {
        return Err(Error::new(format!(
            "subnet {prefix} collides with the host's route to {route}"
        )));
    }
    match others.iter().find(|other| {
        other
            .subnets
            .iter()
            .any(|subnet| subnet.prefix.overlaps(&prefix))
    }) {
        Some(other) => Err(Error::new(format!(
            "subnet {prefix} collides with network {}",
            other.name
        ))),
        None => Ok(()),
    }
}

/// A bridge's name for a network: readable where it fits and is free, and otherwise one that the
/// directory and the name give.
pub fn bridge_name(networks: &Networks, name: &str, links: &[super::netlink::Link]) -> String {
    let readable = format!("hull-{name}");
    if readable.len() < libc::IFNAMSIZ && !links.iter().any(|link| link.name == readable) {
        return readable;
    }
    format!(
        "hull-{:010x}",
        link::hash(&format!("{}\0{name}", networks.directory().display())) & 0xff_ffff_ffff
    )
}

/// The device of a network that comes from another directory, or another host: the card for macvlan,
/// and otherwise a bridge's name here.
pub fn link_of(networks: &Networks, network: &Network, links: &[super::netlink::Link]) -> String {
    match network.driver {
        Driver::Bridge => bridge_name(networks, &network.name, links),
        Driver::Macvlan => network.link.clone(),
    }
}

/// The network that makes itself, as it would be made now.
///
/// # Errors
/// No subnet is free.
pub fn default_network(networks: &Networks) -> Result<Network> {
    let mut here = Socket::here()?;
    let occupied = occupied(&mut here, None)?;
    let links = here.links()?;
    Ok(Network {
        name: DEFAULT.to_owned(),
        driver: Driver::Bridge,
        subnets: choose(networks, &occupied, true)?,
        link: bridge_name(networks, DEFAULT, &links),
        internal: false,
        isolated: false,
        mtu: 1500,
        rate: None,
        chosen: true,
    })
}
