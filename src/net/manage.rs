//! Creates and removes networks.

use super::netlink::Socket;
use super::network::{Driver, Network, Subnet, check_name};
use super::shape::Rate;
use super::store::NetworkStore;
use super::survey::survey;
use super::{link, subnets};
use crate::{Error, Result};
use ipnet::IpNet;
use std::net::IpAddr;

/// The options of `hull network create`.
pub struct NewNetwork {
    /// The name of the network.
    pub name: String,
    /// The kind of link that containers get.
    pub driver: Driver,
    /// At most one IPv4 and one IPv6 subnet; where there is none, hull chooses.
    pub subnets: Vec<IpNet>,
    /// The gateways, each in one of the subnets.
    pub gateways: Vec<IpAddr>,
    /// The host's network device, for macvlan.
    pub parent: Option<String>,
    /// The containers reach each other and the host, and nothing else.
    pub internal: bool,
    /// The containers do not reach each other.
    pub isolated: bool,
    /// Length of the longest packet, in bytes.
    pub mtu: u32,
    /// How fast each container may send and receive.
    pub rate: Option<Rate>,
}

/// Creates a network. hull makes its bridge when the first container is attached.
///
/// # Errors
/// The name is invalid or in use; a subnet collides with another network or a route of the host, is
/// too small, or is missing for a macvlan; an option does not fit the driver; the store or a
/// netlink request fails.
pub fn create(networks: &NetworkStore, new: &NewNetwork) -> Result<Network> {
    check_name(&new.name)?;
    let guard = networks.lock()?;
    if networks.find(&new.name)?.is_some() {
        return Err(Error::new(format!("network {} already exists", new.name)));
    }
    let mut host = Socket::open()?;
    let network = Network {
        name: new.name.clone(),
        driver: new.driver,
        subnets: choose_subnets(networks, new, &mut host)?,
        link: choose_device(networks, new, &mut host)?,
        internal: new.internal,
        isolated: new.isolated,
        mtu: new.mtu,
        rate: new.rate,
        chosen: new.subnets.is_empty(),
    };
    networks.write_network(&guard, &network)?;
    Ok(network)
}

fn choose_subnets(
    networks: &NetworkStore,
    new: &NewNetwork,
    host: &mut Socket,
) -> Result<Vec<Subnet>> {
    let occupied = match new.driver {
        Driver::Bridge => subnets::occupied(host, None)?,
        // The containers of a macvlan are on the network that the host's device is on.
        Driver::Macvlan => Vec::new(),
    };
    if new.subnets.is_empty() {
        return match new.driver {
            Driver::Bridge if new.gateways.is_empty() => subnets::choose(networks, &occupied, true),
            Driver::Bridge => Err(Error::new("--gateway needs --subnet")),
            Driver::Macvlan => Err(Error::new(
                "driver macvlan needs --subnet and --gateway: those of the network of --parent",
            )),
        };
    }
    let mut list: Vec<Subnet> = Vec::new();
    for prefix in &new.subnets {
        if list
            .iter()
            .any(|subnet| subnet.is_ipv4() == prefix.addr().is_ipv4())
        {
            return Err(Error::new(format!(
                "subnet {prefix}: a network has at most one subnet of each address family"
            )));
        }
        let mut subnet = subnets::with_gateway(*prefix);
        if let Some(gateway) = new
            .gateways
            .iter()
            .find(|gateway| gateway.is_ipv4() == prefix.addr().is_ipv4())
        {
            subnet.gateway = *gateway;
        }
        let others = if new.driver == Driver::Bridge {
            networks.all()?
        } else {
            Vec::new()
        };
        subnets::check(&subnet, &occupied, &others)?;
        list.push(subnet);
    }
    match new
        .gateways
        .iter()
        .find(|gateway| !list.iter().any(|subnet| subnet.gateway == **gateway))
    {
        Some(gateway) => Err(Error::new(format!(
            "gateway {gateway} is in none of the subnets"
        ))),
        None => Ok(list),
    }
}

fn choose_device(networks: &NetworkStore, new: &NewNetwork, host: &mut Socket) -> Result<String> {
    match (new.driver, &new.parent) {
        (Driver::Bridge, None) => Ok(subnets::bridge_name(networks, &new.name, &host.links()?)),
        (Driver::Bridge, Some(_)) => Err(Error::new("--parent is for driver macvlan")),
        (Driver::Macvlan, None) => Err(Error::new(
            "driver macvlan needs --parent, a network device of the host",
        )),
        (Driver::Macvlan, Some(_)) if new.internal || new.isolated || new.rate.is_some() => {
            Err(Error::new(
                "--internal, --isolated and --net-rate need driver bridge: packets of a macvlan do \
                not pass the host",
            ))
        }
        (Driver::Macvlan, Some(parent)) => match host.link(parent)? {
            Some(link) if link.ethernet => Ok(parent.clone()),
            Some(_) => Err(Error::new(format!(
                "network device {parent} is not Ethernet"
            ))),
            None => Err(Error::new(format!("there is no network device {parent}"))),
        },
    }
}

/// Removes a network and its bridge.
///
/// # Errors
/// The network does not exist, or containers are attached to it; the store or a netlink request
/// fails.
pub fn remove(networks: &NetworkStore, name: &str) -> Result<()> {
    let network = networks.get(name)?;
    let guard = networks.lock()?;
    let mut host = Socket::open()?;
    let links = host.links()?;
    let existing = survey(networks, &guard, &mut host, &links)?;
    let ids: Vec<&str> = existing
        .iter()
        .filter(|one| one.network.name == name)
        .flat_map(|one| &one.endpoints)
        .map(|one| one.id.as_str())
        .collect();
    if !ids.is_empty() {
        return Err(Error::new(format!(
            "network {name} is in use by {}",
            ids.join(", ")
        )));
    }
    if let Some(bridge) = links.iter().find(|link| {
        link.name == network.link && network.driver == Driver::Bridge && link.kind == "bridge"
    }) {
        host.execute(&[link::remove(
            bridge.index,
            format!("remove bridge {}", bridge.name),
        )])?;
    }
    networks.remove_network(&guard, name)
}
