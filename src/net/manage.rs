//! Making and removing networks.

use super::address::Prefix;
use super::netlink::Socket;
use super::network::{Driver, Network, Networks, Subnet, check_name};
use super::shape::Rate;
use super::{link, subnets};
use crate::net::attach::survey;
use crate::{Error, Result};
use std::net::IpAddr;

/// What was asked.
pub struct Wish {
    /// The network's name.
    pub name: String,
    /// How containers are attached.
    pub driver: Driver,
    /// At most one of each family; none means that hull chooses.
    pub subnets: Vec<Prefix>,
    /// Each in one of the subnets.
    pub gateways: Vec<IpAddr>,
    /// The host's card, for macvlan.
    pub parent: Option<String>,
    /// No way out.
    pub internal: bool,
    /// Containers do not reach each other.
    pub isolated: bool,
    /// Bytes of the longest packet.
    pub mtu: u32,
    /// Shaping of each container.
    pub rate: Option<Rate>,
}

/// Makes a network. Its bridge is made with the first container.
///
/// # Errors
/// The name is taken; a subnet collides, is too small, or missing where it must be given.
pub fn create(networks: &Networks, wish: &Wish) -> Result<Network> {
    check_name(&wish.name)?;
    let guard = networks.lock()?;
    if networks.find(&wish.name)?.is_some() {
        return Err(Error::new(format!("network {} already exists", wish.name)));
    }
    let mut here = Socket::here()?;
    let network = Network {
        name: wish.name.clone(),
        driver: wish.driver,
        subnets: choose(networks, wish, &mut here)?,
        link: device(networks, wish, &mut here)?,
        internal: wish.internal,
        isolated: wish.isolated,
        mtu: wish.mtu,
        rate: wish.rate,
        chosen: wish.subnets.is_empty(),
    };
    networks.write(&guard, &network)?;
    Ok(network)
}

fn choose(networks: &Networks, wish: &Wish, here: &mut Socket) -> Result<Vec<Subnet>> {
    let occupied = match wish.driver {
        Driver::Bridge => subnets::occupied(here, None)?,
        // The card's own network is what a macvlan is on.
        Driver::Macvlan => Vec::new(),
    };
    if wish.subnets.is_empty() {
        return match wish.driver {
            Driver::Bridge if wish.gateways.is_empty() => {
                subnets::choose(networks, &occupied, true)
            }
            Driver::Bridge => Err(Error::new("--gateway needs --subnet")),
            Driver::Macvlan => Err(Error::new(
                "a macvlan is on a real network: say its addresses with --subnet and --gateway",
            )),
        };
    }
    let mut list: Vec<Subnet> = Vec::new();
    for prefix in &wish.subnets {
        if list
            .iter()
            .any(|subnet| subnet.prefix.address.is_ipv4() == prefix.address.is_ipv4())
        {
            return Err(Error::new(format!(
                "subnet {prefix}: there is another of the same family"
            )));
        }
        let mut subnet = subnets::with_gateway(*prefix);
        if let Some(gateway) = wish
            .gateways
            .iter()
            .find(|gateway| gateway.is_ipv4() == prefix.address.is_ipv4())
        {
            subnet.gateway = *gateway;
        }
        let others = if wish.driver == Driver::Bridge {
            networks.all()?
        } else {
            Vec::new()
        };
        subnets::check(&subnet, &occupied, &others)?;
        list.push(subnet);
    }
    match wish
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

fn device(networks: &Networks, wish: &Wish, here: &mut Socket) -> Result<String> {
    match (wish.driver, &wish.parent) {
        (Driver::Bridge, None) => Ok(subnets::bridge_name(networks, &wish.name, &here.links()?)),
        (Driver::Bridge, Some(_)) => Err(Error::new("--parent is for driver macvlan")),
        (Driver::Macvlan, None) => {
            Err(Error::new("driver macvlan needs --parent, the host's card"))
        }
        (Driver::Macvlan, Some(_)) if wish.internal || wish.isolated || wish.rate.is_some() => {
            Err(Error::new(
                "a macvlan passes the host by: it can be neither internal nor isolated nor shaped",
            ))
        }
        (Driver::Macvlan, Some(parent)) => match here.link(parent)? {
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
/// It does not exist; containers are on it.
pub fn remove(networks: &Networks, name: &str) -> Result<()> {
    let network = networks.get(name)?;
    let guard = networks.lock()?;
    let mut here = Socket::here()?;
    let links = here.links()?;
    let there = survey(networks, &guard, &mut here, &links)?;
    let ids: Vec<&str> = there
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
        here.execute(&[link::remove(
            bridge.index,
            format!("remove bridge {}", bridge.name),
        )])?;
    }
    networks.forget(&guard, name)
}
