//! A network as it was asked for.

use super::shape::Rate;
use crate::{Error, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// How containers are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of hull's own, with the host as the gateway.
    Bridge,
    /// Addresses on the real network of one of the host's cards.
    Macvlan,
}

/// Addresses to give out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The network.
    pub prefix: IpNet,
    /// Where everything else is reached; the bridge's own address.
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

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// How containers are attached.
    pub driver: Driver,
    /// At most one of each family.
    pub subnets: Vec<Subnet>,
    /// The bridge; for macvlan the host's card.
    pub link: String,
    /// No way out and none in but from the host.
    pub internal: bool,
    /// Its containers do not reach each other.
    pub isolated: bool,
    /// Bytes of the longest packet.
    pub mtu: u32,
    /// Shaping of each container, unless it brings its own.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// The subnets were chosen by hull, and may be moved where they collide.
    #[serde(default)]
    pub chosen: bool,
}

/// The name of the network that makes itself.
pub const DEFAULT: &str = "default";

/// Checks a network's name: it is a directory's name, and not an option's word.
///
/// # Errors
/// A sentence.
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
