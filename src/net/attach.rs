//! Attaches a container to its networks, and detaches it.
//!
//! ```text
//! lock ── reserve addresses (a file each), create networks and bridges ── unlock
//! create the links, with addresses and routes in the container's network namespace
//! lock ── firewall rules, hosts files ── unlock
//! ```
//! Each reserved address names a process that is alive when the reservation is written. If hull is
//! killed, that process ends too, and the next hull frees the address.

use super::endpoint::{self, Endpoint, Populated, ProcessIdentity};
use super::link::{self, Macvlan, VethPair, parse_mac};
use super::netlink::{Namespace, Request, Socket};
use super::network::{Driver, Network};
use super::ports::{PortMapping, Protocol};
use super::provision::provision;
use super::setup::Setup;
use super::store::NetworkStore;
use super::survey::{remove_ifb, survey};
use super::{address, enforce, names, record, rootless, shape};
use crate::{Context, Error, Result};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::Path;

/// Attaches a container to its networks. `pid` is the container's process, which waits at a barrier
/// meanwhile, and `directory` the container's directory.
///
/// # Errors
/// An address, a hardware address or a published port is in use; a network has no free address, or
/// its subnet collides with a route of the host; nft, a netlink request or the store fails. The
/// caller then calls [`super::release::release`], which removes what was made.
pub fn attach(
    setup: &Setup,
    id: &str,
    namespace: &Namespace,
    pid: i32,
    directory: &Path,
) -> Result<()> {
    if let Some(program) = &setup.rootless {
        record::change(directory, |record| {
            record.rootless = Some(program.clone());
            record.setup = Some(setup.clone());
        })?;
        return rootless::start(program, &setup.ports, pid, directory);
    }
    let mut host = Socket::open()?;
    let reserved = reserve(setup, id, pid, directory, &mut host)?;
    let mut sockets = Sockets {
        host,
        container: Socket::open_in(namespace)?,
    };
    let mut routed = false;
    for (attachment, (network, endpoint)) in setup.attachments.iter().zip(&reserved) {
        let route = !routed && !network.internal;
        routed |= route;
        create_link(&mut sockets, namespace, network, endpoint)?;
        set_up_link(&mut sockets.container, network, endpoint, route)?;
        if let Some(rate) = setup
            .rate
            .or(attachment.network.rate)
            .filter(|_| network.driver == Driver::Bridge)
        {
            shape::shape(
                &mut sockets.host,
                &endpoint.host,
                &endpoint::ifb_name(setup.networks.directory(), &network.name, id),
                &rate,
            )?;
        }
    }
    let guard = setup.networks.lock()?;
    let changed = reserved
        .iter()
        .map(|(network, _)| network.name.clone())
        .collect();
    enforce::enforce(&setup.networks, &guard, &mut sockets.host, &changed)
}

/// Netlink sockets in the two namespaces.
struct Sockets {
    host: Socket,
    container: Socket,
}

/// Reserves the container's addresses and creates its networks where they do not exist.
fn reserve(
    setup: &Setup,
    id: &str,
    pid: i32,
    directory: &Path,
    host: &mut Socket,
) -> Result<Vec<(Network, Endpoint)>> {
    let networks = &setup.networks;
    let owner = ProcessIdentity::of(pid)?;
    let guard = networks.lock()?;
    let attached: Vec<String> = setup
        .attachments
        .iter()
        .map(|one| one.network.name.clone())
        .collect();
    record::change(directory, |record| {
        record.networks = Some(networks.clone());
        record.attached = attached;
        record.setup = Some(setup.clone());
    })?;
    let links = host.links()?;
    let existing = survey(networks, &guard, host, &links)?;
    let mut reserved = Vec::new();
    for (number, attachment) in setup.attachments.iter().enumerate() {
        let ports = if number == 0 {
            setup.ports.clone()
        } else {
            Vec::new()
        };
        check_ports(&ports, &existing)?;
        let others = existing
            .iter()
            .find(|one| one.network.name == attachment.network.name)
            .map_or(&[][..], |one| &one.endpoints);
        let network = provision(networks, &guard, host, attachment, others.is_empty())?;
        if others.iter().any(|other| other.mac == attachment.mac) {
            return Err(Error::new(format!(
                "hardware address {} of network {} is in use",
                attachment.mac, network.name
            )));
        }
        let endpoint = Endpoint {
            id: id.to_owned(),
            network: network.name.clone(),
            owner: owner.clone(),
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
        networks.write_endpoint(&guard, &endpoint)?;
        reserved.push((network, endpoint));
    }
    Ok(reserved)
}

/// Refuses a port that another container publishes, or that a program of the host listens on: the
/// rules would divert its packets.
fn check_ports(ports: &[PortMapping], networks: &[Populated]) -> Result<()> {
    for port in ports {
        let endpoints = networks.iter().flat_map(|one| &one.endpoints);
        if let Some(other) = endpoints
            .into_iter()
            .find(|endpoint| endpoint.ports.iter().any(|other| other.collides(port)))
        {
            return Err(Error::new(format!(
                "publish {port}: container {} publishes the port already",
                other.id
            )));
        }
        for (host, _) in port.pairs() {
            let ip = port.ip.unwrap_or(IpAddr::from([0, 0, 0, 0]));
            let free = match port.protocol {
                Protocol::Tcp => TcpListener::bind((ip, host)).map(drop),
                Protocol::Udp => UdpSocket::bind((ip, host)).map(drop),
                Protocol::Sctp => Ok(()),
            };
            free.on("publish", port)?;
        }
    }
    Ok(())
}

/// Creates the container's link: a veth pair with one end on the bridge, or a macvlan.
fn create_link(
    sockets: &mut Sockets,
    namespace: &Namespace,
    network: &Network,
    endpoint: &Endpoint,
) -> Result<()> {
    let host = &mut sockets.host;
    let mac = parse_mac(&endpoint.mac).map_err(Error::new)?;
    let parent = host.link(&network.link)?.ok_or_else(|| {
        Error::new(format!(
            "network {}: there is no network device {}",
            network.name, network.link
        ))
    })?;
    let name = &endpoint.interface;
    let requests = match network.driver {
        Driver::Bridge => {
            // A link of that name belongs to a container that has ended: the kernel destroys a
            // network namespace with its links some time after the last process.
            if let Some(old) = host.link(&endpoint.host)? {
                host.attempt(&[link::remove(
                    old.index,
                    format!("remove network device {}", old.name),
                )])?;
            }
            let pair = VethPair {
                host: &endpoint.host,
                bridge: parent.index,
                name,
                mac,
                mtu: network.mtu,
                namespace: &namespace.0,
            };
            vec![
                link::veth(&pair),
                link::bridge_port(&endpoint.host, true, network.isolated),
            ]
        }
        Driver::Macvlan => vec![link::macvlan(&Macvlan {
            parent: parent.index,
            name,
            mac,
            mtu: network.mtu,
            namespace: &namespace.0,
        })],
    };
    host.execute(&requests)
}

/// Gives the container's link its addresses, brings it up and, with `route`, adds the default
/// routes over it.
fn set_up_link(
    container: &mut Socket,
    network: &Network,
    endpoint: &Endpoint,
    route: bool,
) -> Result<()> {
    let name = &endpoint.interface;
    let device = container
        .link(name)?
        .ok_or_else(|| Error::new(format!("network device {name} is gone from the container")))?;
    let what = |address: &IpNet| format!("give the container's {name} the address {address}");
    let mut requests: Vec<Request> = endpoint
        .addresses
        .iter()
        .map(|address| address::add(device.index, *address, what(address)))
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
    container.execute(&requests)
}

/// Removes the container's links to bridges, so that no packet reaches its network namespace any
/// more even if something keeps that namespace alive.
///
/// # Errors
/// An endpoint cannot be read; RTM_DELLINK fails.
pub fn unplug(networks: &NetworkStore, attached: &[String], id: &str) -> Result<()> {
    let mut host = Socket::open()?;
    for name in attached {
        for endpoint in networks
            .endpoints(name)?
            .iter()
            .filter(|endpoint| endpoint.id == id && !endpoint.host.is_empty())
        {
            if let Some(link) = host.link(&endpoint.host)? {
                host.execute(&[link::remove(
                    link.index,
                    format!("remove network device {}", link.name),
                )])?;
            }
        }
    }
    Ok(())
}

/// Detaches a container from its networks: frees its addresses and ports, removes its ifb devices
/// and its rules. Its links go with its network namespace.
///
/// # Errors
/// An endpoint cannot be read or removed; RTM_DELLINK fails; [`enforce::enforce`] fails.
pub fn detach(networks: &NetworkStore, attached: &[String], id: &str) -> Result<()> {
    let guard = networks.lock()?;
    let mut host = Socket::open()?;
    for name in attached {
        for endpoint in networks
            .endpoints(name)?
            .iter()
            .filter(|endpoint| endpoint.id == id)
        {
            remove_ifb(networks, &mut host, endpoint)?;
        }
        networks.remove_endpoint(&guard, name, id)?;
    }
    let changed: BTreeSet<String> = attached.iter().cloned().collect();
    enforce::enforce(networks, &guard, &mut host, &changed)
}
