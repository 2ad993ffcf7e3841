//! A container on a network: its address, given out without a daemon, and whether it is still
//! there.

use super::address::{self, Prefix};
use super::link;
use super::netlink::Link;
use super::network::{Network, Subnet};
use super::ports::Port;
use super::shape::Rate;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;

/// A process that cannot be mistaken for another: of this boot, with this start time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: i32,
    /// In clock ticks since boot (proc(5), stat field 22).
    pub start_time: u64,
    /// The kernel's boot id.
    pub boot_id: String,
}

impl Holder {
    /// The process that has this id now.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(pid: i32) -> Result<Self> {
        let (_, start_time) = crate::sys::procfs::process_stat(pid)
            .ok_or_else(|| Error::new("the container's process is gone"))?;
        Ok(Self {
            pid,
            start_time,
            boot_id: crate::sys::procfs::boot_id(),
        })
    }

    /// Whether it is there, and no zombie.
    pub fn lives(&self, boot_id: &str) -> bool {
        let same = |(letter, started): (char, u64)| {
            started == self.start_time && !matches!(letter, 'Z' | 'X')
        };
        self.boot_id == boot_id && crate::sys::procfs::process_stat(self.pid).is_some_and(same)
    }
}

/// A container on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container's id.
    pub id: String,
    /// The network's name.
    pub network: String,
    /// The container's first process.
    pub holder: Holder,
    /// The link's name in the container.
    pub interface: String,
    /// The link's other end on the host; empty for macvlan.
    pub host: String,
    /// The link's hardware address.
    pub mac: String,
    /// At most one of each family, with the network's prefix length.
    pub addresses: Vec<Prefix>,
    /// Published ports.
    pub ports: Vec<Port>,
    /// The names by which its neighbours find it.
    pub names: Vec<String>,
    /// The container's hosts file on the host, kept current.
    pub hosts: Option<PathBuf>,
    /// Lines of that file that are the container's own.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Shaping.
    pub rate: Option<Rate>,
}

impl Endpoint {
    /// Whether the container is there: its process, or its link, which goes with the last process
    /// of its network namespace.
    pub fn lives(&self, boot_id: &str, links: &HashSet<String>) -> bool {
        self.holder.lives(boot_id)
            || (!self.host.is_empty()
                && self.holder.boot_id == boot_id
                && links.contains(&self.host))
    }

    /// Its address of a family.
    pub fn address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .map(|prefix| prefix.address)
            .find(|address| address.is_ipv4() == v4)
    }
}

/// The names of all links, to ask which endpoints are there.
pub fn link_names(links: &[Link]) -> HashSet<String> {
    links.iter().map(|link| link.name.clone()).collect()
}

/// Name of the host's end of a container's link: the same for the same container, network and
/// directory, and no longer than the kernel takes.
pub fn host_link(directory: &std::path::Path, network: &str, id: &str, kind: char) -> String {
    let hash = link::hash(&format!("{}\0{network}\0{id}", directory.display()));
    format!("h{kind}{:012x}", hash & 0xffff_ffff_ffff)
}

/// Chooses a container's addresses: the fixed ones that were asked, and of each other subnet one
/// that is free, beginning at a place that the id gives, so that a container tends to get the same
/// one again and an old one is not soon another's.
///
/// # Errors
/// A fixed address is outside of the network, taken, or the gateway's; the network is full.
pub fn choose(
    network: &Network,
    others: &[Endpoint],
    id: &str,
    fixed: &[IpAddr],
) -> Result<Vec<Prefix>> {
    let taken: HashSet<IpAddr> = others
        .iter()
        .flat_map(|other| other.addresses.iter().map(|prefix| prefix.address))
        .collect();
    for address in fixed {
        let inside = network
            .subnets
            .iter()
            .any(|subnet| subnet.prefix.contains(*address));
        if !inside {
            return Err(Error::new(format!(
                "address {address} is not in network {}",
                network.name
            )));
        }
    }
    let one = |subnet: &Subnet| {
        let fixed = fixed
            .iter()
            .find(|address| subnet.prefix.contains(**address));
        let address = match fixed {
            Some(address) => check_fixed(network, subnet, &taken, *address)?,
            None => free(subnet, &taken, id).ok_or_else(|| {
                Error::new(format!(
                    "network {} has no free address in {}",
                    network.name, subnet.prefix
                ))
            })?,
        };
        Ok(Prefix {
            address,
            length: subnet.prefix.length,
        })
    };
    network.subnets.iter().map(one).collect()
}

fn check_fixed(
    network: &Network,
    subnet: &Subnet,
    taken: &HashSet<IpAddr>,
    address: IpAddr,
) -> Result<IpAddr> {
    let number = address::number(address);
    let edge = number == subnet.prefix.network().number()
        || (address.is_ipv4() && number == subnet.prefix.last());
    if address == subnet.gateway || edge {
        return Err(Error::new(format!(
            "address {address} is not a container's in network {}",
            network.name
        )));
    }
    if taken.contains(&address) {
        return Err(Error::new(format!(
            "address {address} of network {} is in use",
            network.name
        )));
    }
    Ok(address)
}

fn free(subnet: &Subnet, taken: &HashSet<IpAddr>, id: &str) -> Option<IpAddr> {
    let first = subnet.prefix.network().number() + 1;
    // The last address of an IPv4 network is its broadcast address. 64 thousand are enough of an
    // IPv6 one.
    let last = if subnet.prefix.address.is_ipv4() {
        subnet.prefix.last().checked_sub(1)?
    } else {
        subnet.prefix.last().min(first + 0xfffe)
    };
    let count = last.checked_sub(first)? + 1;
    let start = u128::from(link::hash(id)) % count;
    (0..count)
        .map(|step| subnet.prefix.with(first + (start + step) % count))
        .find(|address| *address != subnet.gateway && !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::network::Driver;

    fn network(prefix: &str, gateway: &str) -> Network {
        Network {
            name: "n".into(),
            driver: Driver::Bridge,
            subnets: vec![Subnet {
                prefix: prefix.parse().unwrap(),
                gateway: gateway.parse().unwrap(),
            }],
            link: "hull-n".into(),
            internal: false,
            isolated: false,
            mtu: 1500,
            rate: None,
            chosen: false,
        }
    }

    #[test]
    fn a_small_network_gives_out_every_address_once_and_then_says_that_it_is_full() {
        let network = network("192.0.2.0/28", "192.0.2.1");
        let mut others: Vec<Endpoint> = Vec::new();
        for n in 0..13 {
            let id = format!("c{n}");
            let addresses = choose(&network, &others, &id, &[]).unwrap();
            others.push(Endpoint {
                id,
                addresses,
                ..Endpoint::default()
            });
        }
        let all: HashSet<_> = others.iter().flat_map(|e| &e.addresses).collect();
        assert_eq!(all.len(), 13);
        assert!(all.iter().all(|p| {
            !["192.0.2.0", "192.0.2.1", "192.0.2.15"].contains(&p.address.to_string().as_str())
        }));
        assert_eq!(
            choose(&network, &others, "x", &[]).unwrap_err().to_string(),
            "network n has no free address in 192.0.2.0/28"
        );
    }

    #[test]
    fn fixed_addresses_are_checked() {
        let network = network("192.0.2.0/24", "192.0.2.1");
        let fixed = |text: &str| {
            choose(&network, &[], "x", &[text.parse().unwrap()]).map(|list| list[0].to_string())
        };
        assert_eq!(fixed("192.0.2.9").unwrap(), "192.0.2.9/24");
        for bad in [
            "192.0.2.1",
            "192.0.2.0",
            "192.0.2.255",
            "192.0.3.2",
            "fd00::1",
        ] {
            assert!(fixed(bad).is_err(), "{bad}");
        }
        let other = Endpoint {
            addresses: vec!["192.0.2.9/24".parse().unwrap()],
            ..Endpoint::default()
        };
        assert!(choose(&network, &[other], "x", &["192.0.2.9".parse().unwrap()]).is_err());
    }
}
