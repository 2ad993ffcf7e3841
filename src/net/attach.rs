//! Puts a container on its networks, and takes it off.
//!
//! ```text
//! lock ── take addresses (written to disk), see to the bridges ── unlock
//! make the pairs, addresses and routes in the container
//! lock ── rules, hosts files ── unlock
//! ```
//! An address belongs to a process that lives from the moment it is written down; what a killed
//! hull wrote is taken back by the next one.

use super::endpoint::{self, Endpoint, Holder};
use super::firewall::Populated;
use super::link::{self, Pair, mac_of, parse_mac};
use super::netlink::{Link, Namespace, Request, Socket};
use super::network::{Driver, Guard, Network, Networks};
use super::setup::{Attachment, Setup};
use super::{address, enforce, names, shape, subnets, trace};
use crate::{Context, Error, Result};
use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::Path;

/// Puts a container on its networks; its process waits meanwhile.
///
/// # Errors
/// An address or port that is taken; a network that is full or collides; the kernel's. What was
/// made is taken back by [`crate::net::trace::release`].
pub fn attach(
    setup: &Setup,
    id: &str,
    namespace: &Namespace,
    pid: i32,
    directory: &Path,
) -> Result<()> {
    if let Some(carrier) = &setup.carrier {
        return super::rootless::attach(carrier, setup, pid, directory);
    }
    let mut here = Socket::here()?;
    let taken = take(setup, id, pid, directory, &mut here)?;
    let mut inside = Socket::inside(namespace)?;
    let mut routed = false;
    for (attachment, (network, endpoint)) in setup.attachments.iter().zip(&taken) {
        let route = !routed && !network.internal;
        routed |= route;
        wire(&mut here, &mut inside, namespace, network, endpoint, route)?;
        if let Some(rate) = setup
            .rate
            .or(attachment.network.rate)
            .filter(|_| network.driver == Driver::Bridge)
        {
            shape::shape(
                &mut here,
                &endpoint.host,
                &ifb_name(&setup.networks, endpoint),
                &rate,
            )?;
        }
    }
    let guard = setup.networks.lock()?;
    let changed = taken
        .iter()
        .map(|(network, _)| network.name.clone())
        .collect();
    enforce::enforce(&setup.networks, &guard, &mut here, &changed)
}

fn ifb_name(networks: &Networks, endpoint: &Endpoint) -> String {
    endpoint::host_link(networks.directory(), &endpoint.network, &endpoint.id, 'i')
}

/// Takes the addresses and sees to the bridges.
fn take(
    setup: &Setup,
    id: &str,
    pid: i32,
    directory: &Path,
    here: &mut Socket,
) -> Result<Vec<(Network, Endpoint)>> {
    let networks = &setup.networks;
    let holder = Holder::of(pid)?;
    let guard = networks.lock()?;
    let attached: Vec<String> = setup
        .attachments
        .iter()
        .map(|one| one.network.name.clone())
        .collect();
    trace::change(directory, |trace| {
        trace.networks = Some(networks.clone());
        trace.attached = attached;
        trace.setup = Some(setup.clone());
    })?;
    let links = here.links()?;
    let there = survey(networks, &guard, here, &links)?;
    let mut taken = Vec::new();
    for (number, attachment) in setup.attachments.iter().enumerate() {
        let ports = if number == 0 {
            setup.ports.clone()
        } else {
            Vec::new()
        };
        check_ports(&ports, &there)?;
        let others = there
            .iter()
            .find(|one| one.network.name == attachment.network.name)
            .map_or(&[][..], |one| &one.endpoints);
        let network = stand(networks, &guard, here, attachment, others.is_empty())?;
        if others.iter().any(|other| other.mac == attachment.mac) {
            return Err(Error::new(format!(
                "hardware address {} of network {} is in use",
                attachment.mac, network.name
            )));
        }
        let endpoint = Endpoint {
            id: id.to_owned(),
            network: network.name.clone(),
            holder: holder.clone(),
            interface: attachment.interface.clone(),
            host: attachment.host.clone(),
            mac: attachment.mac.clone(),
            addresses: endpoint::choose(&network, others, id, &attachment.fixed)?,
            ports,
            names: setup.names.clone(),
            hosts: Some(names::hosts_path(directory)),
            extra_hosts: setup.hosts.clone(),
            rate: setup.rate,
        };
        networks.put(&guard, &endpoint)?;
        taken.push((network, endpoint));
    }
    Ok(taken)
}

/// All networks with those who are on them; who is gone is forgotten.
///
/// # Errors
/// A record that cannot be read.
pub fn survey(
    networks: &Networks,
    guard: &Guard,
    here: &mut Socket,
    links: &[Link],
) -> Result<Vec<Populated>> {
    let names = endpoint::link_names(links);
    let boot_id = crate::sys::procfs::boot_id();
    let mut all = Vec::new();
    for network in networks.all()? {
        networks.sweep(guard, &network.name)?;
        let (endpoints, gone): (Vec<_>, Vec<_>) = networks
            .endpoints(&network.name)?
            .into_iter()
            .partition(|one| one.lives(&boot_id, &names));
        for endpoint in gone {
            networks.give_up(guard, &network.name, &endpoint.id)?;
            drop_ifb(networks, here, &endpoint)?;
        }
        all.push(Populated { network, endpoints });
    }
    Ok(all)
}

/// The device that shaped what a container sent does not go with its namespace.
fn drop_ifb(networks: &Networks, here: &mut Socket, endpoint: &Endpoint) -> Result<()> {
    let name = ifb_name(networks, endpoint);
    match here.link(&name)? {
        Some(link) => here.execute(&[link::remove(
            link.index,
            format!("remove network device {name}"),
        )]),
        None => Ok(()),
    }
}

/// A port that a process of the host listens on, or another container has, is not taken away from
/// it.
fn check_ports(ports: &[super::ports::Port], there: &[Populated]) -> Result<()> {
    for port in ports {
        let endpoints = there.iter().flat_map(|one| &one.endpoints);
        if let Some(other) = endpoints
            .into_iter()
            .find(|endpoint| endpoint.ports.iter().any(|other| other.collides(port)))
        {
            return Err(Error::new(format!(
                "publish {port}: the port is container {}'s",
                other.id
            )));
        }
        for (host, _) in port.pairs() {
            let ip = port.ip.unwrap_or(IpAddr::from([0, 0, 0, 0]));
            let free = match port.protocol {
                super::ports::Protocol::Tcp => TcpListener::bind((ip, host)).map(drop),
                super::ports::Protocol::Udp => UdpSocket::bind((ip, host)).map(drop),
                super::ports::Protocol::Sctp => Ok(()),
            };
            free.on("publish", port)?;
        }
    }
    Ok(())
}

/// Sees to it that a network is there: its record, its bridge, the bridge's addresses.
fn stand(
    networks: &Networks,
    guard: &Guard,
    here: &mut Socket,
    attachment: &Attachment,
    empty: bool,
) -> Result<Network> {
    let mut network = record(networks, guard, here, attachment, empty)?;
    if network.driver == Driver::Macvlan {
        return Ok(network);
    }
    let mut own = here.link(&network.link)?;
    if let Some(other) = own.as_ref().filter(|link| link.kind != "bridge") {
        return Err(Error::new(format!(
            "network {}: {} is no bridge but a {} device",
            network.name, other.name, other.kind
        )));
    }
    let occupied = subnets::occupied(here, own.as_ref().map(|link| link.index))?;
    let collides = |network: &Network| {
        occupied
            .iter()
            .find(|route| network.subnets.iter().any(|s| s.prefix.overlaps(route)))
            .copied()
    };
    if let Some(route) = collides(&network) {
        if !network.chosen || !empty || attachment.kept {
            return Err(Error::new(format!(
                "network {}: its subnet collides with the host's route to {route}",
                network.name
            )));
        }
        network.subnets = subnets::choose(networks, &occupied, network.subnets.len() > 1)?;
        networks.write(guard, &network)?;
        clear(here, own.take().as_ref())?;
    }
    bridge(here, &network, own.map(|link| link.index))?;
    Ok(network)
}

/// Removes a bridge that nobody is on, whose addresses are no longer its network's.
fn clear(here: &mut Socket, bridge: Option<&Link>) -> Result<()> {
    let requests: Vec<Request> = bridge
        .map(|link| link::remove(link.index, format!("remove bridge {}", link.name)))
        .into_iter()
        .collect();
    if requests.is_empty() {
        Ok(())
    } else {
        here.execute(&requests)
    }
}

/// A network's record: as it is, or made by now. A restored container needs the subnets that it
/// had: a network that is not there is made with them, and one that hull chose for itself and
/// nobody is on takes them over.
fn record(
    networks: &Networks,
    guard: &Guard,
    here: &mut Socket,
    attachment: &Attachment,
    empty: bool,
) -> Result<Network> {
    let wanted = &attachment.network;
    let network = match networks.find(&wanted.name)? {
        Some(network) if !attachment.kept || same_addresses(&network, wanted) => {
            return Ok(network);
        }
        Some(network) if network.chosen && empty => {
            let bridge = here.link(&network.link)?;
            clear(here, bridge.as_ref())?;
            Network {
                subnets: wanted.subnets.clone(),
                ..network
            }
        }
        Some(network) => {
            return Err(Error::new(format!(
                "network {} has other subnets here than where the container was saved",
                network.name
            )));
        }
        None if attachment.kept => Network {
            link: subnets::link_of(networks, wanted, &here.links()?),
            ..wanted.clone()
        },
        // Meanwhile another network, or another hull's bridge, may have what was planned.
        None if wanted.chosen => subnets::default_network(networks)?,
        None => wanted.clone(),
    };
    networks.write(guard, &network)?;
    Ok(network)
}

fn same_addresses(a: &Network, b: &Network) -> bool {
    a.driver == b.driver && a.subnets == b.subnets
}

/// Makes a network's bridge, or brings it up with its addresses where it is there.
fn bridge(here: &mut Socket, network: &Network, index: Option<u32>) -> Result<()> {
    let name = &network.link;
    let index = match index {
        Some(index) => index,
        None => {
            here.execute(&[link::bridge(name, mac_of(name), network.mtu)])?;
            // No router's word is taken on a bridge that hull is the router of, and its own
            // addresses are nobody else's.
            for (key, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
                enforce::sysctl_if_there(&format!("net/ipv6/conf/{name}/{key}"), value)?;
            }
            here.link(name)?
                .ok_or_else(|| Error::new(format!("bridge {name} is gone")))?
                .index
        }
    };
    let mut requests = vec![link::set_up(index, true, format!("bring up bridge {name}"))];
    for subnet in &network.subnets {
        let prefix = address::Prefix {
            address: subnet.gateway,
            length: subnet.prefix.length,
        };
        requests.push(address::add(
            index,
            prefix,
            format!("give bridge {name} the address {prefix}"),
        ));
    }
    here.execute(&requests)
}

/// Makes a container's link with its addresses and routes.
fn wire(
    here: &mut Socket,
    inside: &mut Socket,
    namespace: &Namespace,
    network: &Network,
    endpoint: &Endpoint,
    route: bool,
) -> Result<()> {
    let mac = parse_mac(&endpoint.mac).map_err(Error::new)?;
    let parent = here.link(&network.link)?.ok_or_else(|| {
        Error::new(format!(
            "network {}: there is no device {}",
            network.name, network.link
        ))
    })?;
    let name = &endpoint.interface;
    let requests = match network.driver {
        Driver::Bridge => {
            // A link of that name is a dead container's, whose namespace the kernel has not cleared
            // yet.
            if let Some(old) = here.link(&endpoint.host)? {
                here.attempt(&[link::remove(
                    old.index,
                    format!("remove network device {}", old.name),
                )])?;
            }
            let pair = Pair {
                host: &endpoint.host,
                bridge: parent.index,
                name,
                mac,
                mtu: network.mtu,
                namespace: &namespace.0,
            };
            vec![
                link::pair(&pair),
                link::port(&endpoint.host, true, network.isolated),
            ]
        }
        Driver::Macvlan => vec![link::macvlan(
            parent.index,
            name,
            mac,
            network.mtu,
            &namespace.0,
        )],
    };
    here.execute(&requests)?;
    let device = inside
        .link(name)?
        .ok_or_else(|| Error::new(format!("network device {name} is gone from the container")))?;
    let what =
        |prefix: &address::Prefix| format!("give the container's {name} the address {prefix}");
    let mut requests: Vec<Request> = endpoint
        .addresses
        .iter()
        .map(|prefix| address::add(device.index, *prefix, what(prefix)))
        .collect();
    requests.push(link::set_up(
        device.index,
        true,
        format!("bring up the container's {name}"),
    ));
    if route {
        let to = |gateway: IpAddr| {
            address::default_route(
                device.index,
                gateway,
                format!("route the container's packets by {gateway}"),
            )
        };
        requests.extend(network.subnets.iter().map(|subnet| to(subnet.gateway)));
    }
    inside.execute(&requests)
}

/// Removes a container's links to bridges: nothing reaches its network namespace any more, whatever
/// keeps that alive.
///
/// # Errors
/// The kernel's.
pub fn unplug(networks: &Networks, attached: &[String], id: &str) -> Result<()> {
    let mut here = Socket::here()?;
    for name in attached {
        for endpoint in networks
            .endpoints(name)?
            .iter()
            .filter(|endpoint| endpoint.id == id && !endpoint.host.is_empty())
        {
            if let Some(link) = here.link(&endpoint.host)? {
                here.execute(&[link::remove(
                    link.index,
                    format!("remove network device {}", link.name),
                )])?;
            }
        }
    }
    Ok(())
}

/// Takes a container off its networks: its addresses and ports are free, and no rule is left. Its
/// link goes with its namespace.
///
/// # Errors
/// All that failed is tried; the first is answered.
pub fn detach(networks: &Networks, attached: &[String], id: &str) -> Result<()> {
    let guard = networks.lock()?;
    let mut here = Socket::here()?;
    for name in attached {
        for endpoint in networks
            .endpoints(name)?
            .iter()
            .filter(|endpoint| endpoint.id == id)
        {
            drop_ifb(networks, &mut here, endpoint)?;
        }
        networks.give_up(&guard, name, id)?;
    }
    let changed: BTreeSet<String> = attached.iter().cloned().collect();
    enforce::enforce(networks, &guard, &mut here, &changed)
}
