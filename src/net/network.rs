//! The record of a network: what `hull network create` was given.

use super::shape::Rate;
use crate::{Error, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// How containers are attached to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A veth pair to a bridge that hull makes; the host is the gateway.
    Bridge,
    /// A macvlan on one of the host's network devices: the container is on that device's network.
    Macvlan,
}

/// A range of addresses that hull assigns to containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The network address and prefix length, without host bits.
    pub prefix: IpNet,
    /// The containers' default gateway; on a bridge network the address of the bridge.
    pub gateway: IpAddr,
}

impl Subnet {
    /// An address of the subnet with the subnet's prefix length.
    pub fn with_length(&self, address: IpAddr) -> IpNet {
        IpNet::new_assert(address, self.prefix.prefix_len())
    }

    /// Whether these are IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.gateway.is_ipv4()
    }
}

/// A network that containers can be attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The name of the network and of its directory in the store.
    pub name: String,
    /// The kind of link that containers get.
    pub driver: Driver,
    /// At most one IPv4 and one IPv6 subnet.
    pub subnets: Vec<Subnet>,
    /// The name of the bridge, or for macvlan of the host's network device.
    pub link: String,
    /// `--internal`: the containers reach each other and the host, and nothing else.
    pub internal: bool,
    /// `--isolated`: the containers do not reach each other.
    pub isolated: bool,
    /// Length of the longest packet, in bytes.
    pub mtu: u32,
    /// The limits of each container that has no `--net-rate` of its own.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// hull chose the subnets, and may choose others when a route of the host collides with them
    /// and no container is on the network.
    #[serde(default)]
    pub chosen: bool,
}

/// The name of the network that hull creates when a container first asks for it.
pub const DEFAULT: &str = "default";

/// Checks a network's name: it must be usable as a file name, and differ from the words that
/// `--network` gives another meaning and from the files beside the networks' directories.
///
/// # Errors
/// The name is too long, has other characters or is one of those words.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let reserved = [
        "none",
        "host",
        "container",
        "ns",
        "lock",
        "applied",
        "known",
    ]
    .contains(&name);
    if name.is_empty()
        || name.len() > 64
        || !name.chars().all(plain)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || reserved
    {
        return Err(Error::new(format!(
            "invalid network name {name:?}: letters, digits and _-. after a letter or digit, at \
                most 64"
        )));
    }
    Ok(())
}
