//! Creates a network on the host when the first container is attached to it.

use super::link::{self, mac_of};
use super::netlink::{Link, Socket};
use super::network::{Driver, Network};
use super::setup::Attachment;
use super::store::{Guard, NetworkStore};
use super::{address, subnets, sysctl};
use crate::{Error, Result};

/// Creates the network of an attachment where it does not exist yet: its record, its bridge and the
/// bridge's addresses. `empty` says that no container is on the network now.
///
/// # Errors
/// A subnet of the network collides with a route of the host and hull may not choose another; the
/// bridge's name belongs to a device that is not a bridge; a netlink request or the store fails.
pub fn provision(
    networks: &NetworkStore,
    guard: &Guard,
    host: &mut Socket,
    attachment: &Attachment,
    empty: bool,
) -> Result<Network> {
    let mut network = ensure_record(networks, guard, host, attachment, empty)?;
    if network.driver == Driver::Macvlan {
        return Ok(network);
    }
    let mut bridge = host.link(&network.link)?;
    if let Some(other) = bridge.as_ref().filter(|link| link.kind != "bridge") {
        return Err(Error::new(format!(
            "network {}: {} is not a bridge but a {} device",
            network.name, other.name, other.kind
        )));
    }
    let occupied = subnets::occupied(host, bridge.as_ref().map(|link| link.index))?;
    let collides = |network: &Network| {
        occupied
            .iter()
            .find(|route| {
                network
                    .subnets
                    .iter()
                    .any(|s| subnets::collides(route, &s.prefix))
            })
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
        networks.write_network(guard, &network)?;
        remove_bridge(host, bridge.take().as_ref())?;
    }
    ensure_bridge(host, &network, bridge.map(|link| link.index))?;
    Ok(network)
}

/// Removes a bridge without containers, because its network gets other addresses.
fn remove_bridge(host: &mut Socket, bridge: Option<&Link>) -> Result<()> {
    match bridge {
        Some(link) => host.execute(&[link::remove(
            link.index,
            format!("remove bridge {}", link.name),
        )]),
        None => Ok(()),
    }
}

/// Reads the network's record, or writes one where there is none. A restored container needs the
/// subnets that it had at the checkpoint: hull creates a missing network with them, and gives them
/// to an existing network whose subnets hull chose and that has no container.
fn ensure_record(
    networks: &NetworkStore,
    guard: &Guard,
    host: &mut Socket,
    attachment: &Attachment,
    empty: bool,
) -> Result<Network> {
    let wanted = &attachment.network;
    let network = match networks.find(&wanted.name)? {
        Some(network) if !attachment.kept || same_addresses(&network, wanted) => {
            return Ok(network);
        }
        Some(network) if network.chosen && empty => {
            let bridge = host.link(&network.link)?;
            remove_bridge(host, bridge.as_ref())?;
            Network {
                subnets: wanted.subnets.clone(),
                ..network
            }
        }
        Some(network) => {
            return Err(Error::new(format!(
                "network {} has other subnets on this host than at the checkpoint",
                network.name
            )));
        }
        None if attachment.kept => Network {
            link: subnets::link_of(networks, wanted, &host.links()?),
            ..wanted.clone()
        },
        // The subnet that was free at planning may be in use by now, by another network or by the
        // bridge of another hull.
        None if wanted.chosen => subnets::default_network(networks)?,
        None => wanted.clone(),
    };
    networks.write_network(guard, &network)?;
    Ok(network)
}

fn same_addresses(a: &Network, b: &Network) -> bool {
    a.driver == b.driver && a.subnets == b.subnets
}

/// Creates the network's bridge where there is none (no `index`), brings it up and gives it its
/// addresses.
fn ensure_bridge(host: &mut Socket, network: &Network, index: Option<u32>) -> Result<()> {
    let name = &network.link;
    let index = match index {
        Some(index) => index,
        None => {
            host.execute(&[link::bridge(name, mac_of(name), network.mtu)])?;
            // hull is the router of this network, so the bridge accepts no router advertisements;
            // and no other node has the bridge's addresses, so it need not detect duplicates.
            for (key, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
                sysctl::write_if_present(&format!("net/ipv6/conf/{name}/{key}"), value)?;
            }
            host.link(name)?
                .ok_or_else(|| Error::new(format!("bridge {name} is gone")))?
                .index
        }
    };
    let mut requests = vec![link::set_up(index, true, format!("bring up bridge {name}"))];
    for subnet in &network.subnets {
        let prefix = subnet.with_length(subnet.gateway);
        requests.push(address::add(
            index,
            prefix,
            format!("give bridge {name} the address {prefix}"),
        ));
    }
    host.execute(&requests)
}
