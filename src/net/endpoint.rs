//! A container's place on a network: its addresses, which hull assigns without a daemon, and
//! whether the container still exists.

use super::address::nth;
use super::link;
use super::netlink::Link;
use super::network::{Network, Subnet};
use super::ports::PortMapping;
use super::shape::Rate;
use crate::{Error, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// A process id with what makes it unique, since the kernel reuses process ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process id, in the pid namespace that hull runs in.
    pub pid: i32,
    /// The time when the process started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
    /// The boot that the process belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The identity of the process that has this id now.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: i32) -> Result<Self> {
        let (_, start_time) = crate::sys::procfs::process_stat(pid)
            .ok_or_else(|| Error::new("the container's process has ended"))?;
        Ok(Self {
            pid,
            start_time,
            boot_id: crate::sys::procfs::boot_id(),
        })
    }

    /// Whether the process exists and is not a zombie. `boot_id` is that of the current boot.
    pub fn is_alive(&self, boot_id: &str) -> bool {
        let same = |(state, started): (char, u64)| {
            started == self.start_time && !matches!(state, 'Z' | 'X')
        };
        self.boot_id == boot_id && crate::sys::procfs::process_stat(self.pid).is_some_and(same)
    }
}

/// A container on a network: the record of its reserved addresses and published ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The id of the container.
    pub id: String,
    /// The name of the network.
    pub network: String,
    /// The process that the addresses are reserved for: the container's first process, or hull's
    /// own while it restores the container.
    #[serde(rename = "holder")]
    pub owner: ProcessIdentity,
    /// The name of the container's link in the container, such as `eth0`.
    pub interface: String,
    /// The name of the end of the veth pair on the host; empty for macvlan.
    pub host: String,
    /// The hardware address of the container's link.
    pub mac: String,
    /// At most one address of each family, with the prefix length of the network's subnet.
    pub addresses: Vec<IpNet>,
    /// The published ports; on the container's first network only.
    pub ports: Vec<PortMapping>,
    /// The names under which the other containers of the network find it in their hosts files.
    pub names: Vec<String>,
    /// The path on the host of the container's `/etc/hosts`, which hull rewrites when a container
    /// of the network comes or goes.
    pub hosts: Option<PathBuf>,
    /// Lines of that file that `--add-host` gave.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// The limits that `--net-rate` gave.
    pub rate: Option<Rate>,
}

impl Endpoint {
    /// Whether the container still exists. Its first process may have ended while others live: then
    /// the link is still there, which goes with the last process of the network namespace.
    /// `boot_id` is that of the current boot, `links` are the names of the host's links.
    pub fn is_alive(&self, boot_id: &str, links: &HashSet<String>) -> bool {
        self.owner.is_alive(boot_id)
            || (!self.host.is_empty()
                && self.owner.boot_id == boot_id
                && links.contains(&self.host))
    }

    /// The container's IPv4 address.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpNet::V4(v4) => Some(v4.addr()),
            IpNet::V6(_) => None,
        })
    }

    /// The container's IPv6 address.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpNet::V4(_) => None,
            IpNet::V6(v6) => Some(v6.addr()),
        })
    }
}

/// A network with its endpoints.
#[derive(Clone)]
pub struct Populated {
    /// The record of the network.
    pub network: Network,
    /// The endpoints of the containers that exist.
    pub endpoints: Vec<Endpoint>,
}

impl Populated {
    /// The same network with only those containers whose id `which` accepts.
    #[must_use]
    pub fn with(&self, which: impl Fn(&str) -> bool) -> Self {
        let endpoints = self
            .endpoints
            .iter()
            .filter(|endpoint| which(&endpoint.id))
            .cloned()
            .collect();
        Self {
            network: self.network.clone(),
            endpoints,
        }
    }
}

/// The names of these links, for [`Endpoint::is_alive`].
pub fn link_names(links: &[Link]) -> HashSet<String> {
    links.iter().map(|link| link.name.clone()).collect()
}

/// The name of the end of the container's veth pair on the host. `directory` is that of the network
/// store.
pub fn veth_name(directory: &Path, network: &str, id: &str) -> String {
    device_name('v', directory, network, id)
}

/// The name of the ifb device that shapes what the container sends. `directory` is that of the
/// network store.
pub fn ifb_name(directory: &Path, network: &str, id: &str) -> String {
    device_name('i', directory, network, id)
}

/// The same container, network and store always give the same name, and a length that the kernel
/// takes (IFNAMSIZ).
fn device_name(kind: char, directory: &Path, network: &str, id: &str) -> String {
    let hash = link::hash(&format!("{}\0{network}\0{id}", directory.display()));
    format!("h{kind}{:012x}", hash & 0xffff_ffff_ffff)
}

/// Chooses a container's addresses: the fixed ones, and from each other subnet a free one. The
/// search begins at an address that depends on the id, so that a container tends to get the same
/// address again, and the address of a removed container is not assigned to another one soon.
///
/// # Errors
/// A fixed address is in none of the subnets, in use, or the gateway's; a subnet has no free
/// address.
pub fn choose(
    network: &Network,
    others: &[Endpoint],
    id: &str,
    fixed: &[IpAddr],
) -> Result<Vec<IpNet>> {
    let taken: HashSet<IpAddr> = others
        .iter()
        .flat_map(|other| other.addresses.iter().map(IpNet::addr))
        .collect();
    for address in fixed {
        let is_in_network = network
            .subnets
            .iter()
            .any(|subnet| subnet.prefix.contains(address));
        if !is_in_network {
            return Err(Error::new(format!(
                "address {address} is not in network {}",
                network.name
            )));
        }
    }
    let one = |subnet: &Subnet| {
        let fixed = fixed
            .iter()
            .find(|address| subnet.prefix.contains(*address));
        let address = match fixed {
            Some(address) => check_fixed(network, subnet, &taken, *address)?,
            None => free(subnet, &taken, id).ok_or_else(|| {
                Error::new(format!(
                    "network {} has no free address in {}",
                    network.name, subnet.prefix
                ))
            })?,
        };
        Ok(subnet.with_length(address))
    };
    network.subnets.iter().map(one).collect()
}

/// Refuses the addresses of the gateway, of the subnet itself and its broadcast address.
fn check_fixed(
    network: &Network,
    subnet: &Subnet,
    taken: &HashSet<IpAddr>,
    address: IpAddr,
) -> Result<IpAddr> {
    let edge = address == subnet.prefix.network()
        || (address.is_ipv4() && address == subnet.prefix.broadcast());
    if address == subnet.gateway || edge {
        return Err(Error::new(format!(
            "address {address} of network {} is reserved",
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
    let prefix = subnet.prefix;
    let size = 1_u128
        .checked_shl((prefix.max_prefix_len() - prefix.prefix_len()).into())
        .unwrap_or(u128::MAX);
    // Without the network's own address and, in IPv4, the last one, which is the broadcast address.
    // 65,535 addresses of an IPv6 network are enough.
    let count = match prefix {
        IpNet::V4(_) => size.checked_sub(2)?,
        IpNet::V6(_) => (size - 1).min(0xffff),
    };
    let start = u128::from(link::hash(id)).checked_rem(count)?;
    (0..count)
        .map(|step| nth(&prefix, 1 + (start + step) % count))
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
            !["192.0.2.0", "192.0.2.1", "192.0.2.15"].contains(&p.addr().to_string().as_str())
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
