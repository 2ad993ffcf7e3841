//! Reads which containers are on which network, and frees the addresses of those that have ended.

use super::endpoint::{self, Endpoint, Populated};
use super::link;
use super::netlink::{Link, Socket};
use super::store::{Guard, NetworkStore};
use crate::Result;

/// Reads all networks with their endpoints, and removes the endpoints of containers that no longer
/// exist. `links` are the host's links.
///
/// # Errors
/// A record cannot be read, or an outdated one not removed; RTM_DELLINK fails.
pub fn survey(
    networks: &NetworkStore,
    guard: &Guard,
    host: &mut Socket,
    links: &[Link],
) -> Result<Vec<Populated>> {
    let names = endpoint::link_names(links);
    let boot_id = crate::sys::procfs::boot_id();
    let mut all = Vec::new();
    for network in networks.all()? {
        networks.remove_partial_files(guard, &network.name)?;
        let (endpoints, outdated): (Vec<_>, Vec<_>) = networks
            .endpoints(&network.name)?
            .into_iter()
            .partition(|one| one.is_alive(&boot_id, &names));
        for endpoint in outdated {
            networks.remove_endpoint(guard, &network.name, &endpoint.id)?;
            remove_ifb(networks, host, &endpoint)?;
        }
        all.push(Populated { network, endpoints });
    }
    Ok(all)
}

/// Removes the ifb device of an endpoint: it is in hull's network namespace, and so does not go
/// with the container's.
///
/// # Errors
/// RTM_DELLINK fails.
pub fn remove_ifb(networks: &NetworkStore, host: &mut Socket, endpoint: &Endpoint) -> Result<()> {
    let name = endpoint::ifb_name(networks.directory(), &endpoint.network, &endpoint.id);
    match host.link(&name)? {
        Some(link) => host.execute(&[link::remove(
            link.index,
            format!("remove network device {name}"),
        )]),
        None => Ok(()),
    }
}
