//! Subnets of networks: hull chooses them, or checks given ones, so that they collide neither with
//! a route of the host nor with another network.

use super::address::{self, nth, overlap};
use super::link;
use super::netlink::Socket;
use super::network::{DEFAULT, Driver, Network, Subnet};
use super::store::NetworkStore;
use crate::{Context, Error, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The networks that the host has routes to, without the routes over the link with the index
/// `except`.
///
/// # Errors
/// As of [`address::routes`].
pub fn occupied(host: &mut Socket, except: Option<u32>) -> Result<Vec<IpNet>> {
    Ok(address::routes(host)?
        .into_iter()
        .filter(|route| route.link.is_none() || route.link != except)
        .map(|route| route.destination)
        .collect())
}

/// The range that IPv4 subnets are chosen from.
const POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 90, 0, 0), 15);

/// Whether a route of the host leads to a part of a subnet. A less specific route that covers the
/// whole pool, or at least a /8, does not: it says where everything else goes, as a default route
/// does (a VPN's 0.0.0.0/1 and 128.0.0.0/1, a company's 10.0.0.0/8), and the subnet's own route is
/// preferred to it.
pub fn collides(route: &IpNet, subnet: &IpNet) -> bool {
    let broad = route.prefix_len() <= 8 || route.contains(&IpNet::V4(POOL));
    overlap(route, subnet) && !(broad && route.prefix_len() < subnet.prefix_len())
}

/// Chooses an IPv4 /24 from 10.90.0.0/15 and, with `ipv6`, an IPv6 /64 with a random global id (RFC
/// 4193, 3.2), which collide neither with a route of the host (`occupied`) nor with another
/// network.
///
/// # Errors
/// Every IPv4 subnet collides; a record or /dev/urandom cannot be read.
pub fn choose(networks: &NetworkStore, occupied: &[IpNet], ipv6: bool) -> Result<Vec<Subnet>> {
    let others: Vec<IpNet> = networks
        .all()?
        .iter()
        .flat_map(|network| network.subnets.iter().map(|subnet| subnet.prefix))
        .collect();
    let free = |prefix: &IpNet| {
        !occupied.iter().any(|route| collides(route, prefix))
            && !others.iter().any(|other| overlap(other, prefix))
    };
    let mut candidates = POOL.subnets(24).into_iter().flatten().map(IpNet::V4);
    let v4 = candidates.find(free).ok_or_else(|| {
        Error::new(
            "choose a subnet: every /24 of 10.90.0.0/15 collides with a route or another network",
        )
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
        let v6 = IpNet::V6(Ipv6Net::new_assert(bytes.into(), 64));
        if free(&v6) {
            list.push(with_gateway(v6));
        }
    }
    Ok(list)
}

/// The subnet of a prefix, with its first address as the gateway.
pub fn with_gateway(prefix: IpNet) -> Subnet {
    Subnet {
        prefix: prefix.trunc(),
        gateway: nth(&prefix, 1),
    }
}

/// Checks a given subnet. `occupied` are the routes of the host, `others` the other networks.
///
/// # Errors
/// The subnet has fewer than four addresses, is larger than a /8, or is a loopback or multicast
/// network; the gateway is not in it; it collides with a route or another network.
pub fn check(subnet: &Subnet, occupied: &[IpNet], others: &[Network]) -> Result<()> {
    let prefix = subnet.prefix;
    let room = prefix.max_prefix_len() - prefix.prefix_len();
    let (loopback, multicast): (IpNet, IpNet) = match prefix {
        IpNet::V4(_) => (
            Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8).into(),
            Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4).into(),
        ),
        IpNet::V6(_) => (
            Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
            Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).into(),
        ),
    };
    if room < 2
        || prefix.prefix_len() < 8
        || overlap(&prefix, &loopback)
        || overlap(&prefix, &multicast)
    {
        return Err(Error::new(format!(
            "subnet {prefix} cannot be used for containers"
        )));
    }
    if !prefix.contains(&subnet.gateway) {
        return Err(Error::new(format!(
            "gateway {} is not in subnet {prefix}",
            subnet.gateway
        )));
    }
    if let Some(route) = occupied.iter().find(|route| collides(route, &prefix)) {
        return Err(Error::new(format!(
            "subnet {prefix} collides with the host's route to {route}"
        )));
    }
    match others.iter().find(|other| {
        other
            .subnets
            .iter()
            .any(|subnet| overlap(&subnet.prefix, &prefix))
    }) {
        Some(other) => Err(Error::new(format!(
            "subnet {prefix} collides with network {}",
            other.name
        ))),
        None => Ok(()),
    }
}

/// The name of a network's bridge: `hull-NAME` where the kernel takes that length and no link has
/// the name, and otherwise a hash of the store's path and the network's name.
pub fn bridge_name(networks: &NetworkStore, name: &str, links: &[super::netlink::Link]) -> String {
    let readable = format!("hull-{name}");
    if readable.len() < libc::IFNAMSIZ && !links.iter().any(|link| link.name == readable) {
        return readable;
    }
    format!(
        "hull-{:010x}",
        link::hash(&format!("{}\0{name}", networks.directory().display())) & 0xff_ffff_ffff
    )
}

/// The device on this host of a network that comes from another store or another host: for macvlan
/// the same host device, and otherwise a bridge.
pub fn link_of(
    networks: &NetworkStore,
    network: &Network,
    links: &[super::netlink::Link],
) -> String {
    match network.driver {
        Driver::Bridge => bridge_name(networks, &network.name, links),
        Driver::Macvlan => network.link.clone(),
    }
}

/// The network `default` as hull would create it now.
///
/// # Errors
/// As of [`choose`]; a netlink request fails.
pub fn default_network(networks: &NetworkStore) -> Result<Network> {
    let mut host = Socket::open()?;
    let occupied = occupied(&mut host, None)?;
    let links = host.links()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_cover_everything_or_the_pool_are_no_collision() {
        let network = |text: &str| address::parse_prefix(text).unwrap();
        let subnet = network("10.90.0.0/24");
        for broad in ["0.0.0.0/1", "10.0.0.0/8", "10.64.0.0/10", "10.90.0.0/15"] {
            assert!(!collides(&network(broad), &subnet), "{broad}");
        }
        for taken in ["10.90.0.0/16", "10.90.0.0/24", "10.90.0.7/32"] {
            assert!(collides(&network(taken), &subnet), "{taken}");
        }
        assert!(collides(&network("10.0.0.0/8"), &network("10.0.0.0/8")));
        assert!(!collides(&network("fc00::/7"), &network("fd00:1::/64")));
        assert!(collides(&network("fd00:1::/48"), &network("fd00:1::/64")));
    }
}
