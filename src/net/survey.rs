//! All networks with the containers that are on them.

use super::endpoint::{self, Endpoint, Populated};
use super::link;
use super::netlink::{Link, Socket};
use super::store::{Guard, NetworkStore};
use crate::Result;

/// All networks with those who are on them; who is gone is forgotten.
///
/// # Errors
/// A record that cannot be read.
pub fn survey(
    networks: &NetworkStore,
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

/// Name of the ifb device that shapes what a container sends.
pub fn ifb_name(networks: &NetworkStore, endpoint: &Endpoint) -> String {
    endpoint::host_link(networks.directory(), &endpoint.network, &endpoint.id, 'i')
}

/// The device that shaped what a container sent does not go with its namespace.
pub fn drop_ifb(networks: &NetworkStore, here: &mut Socket, endpoint: &Endpoint) -> Result<()> {
    let name = ifb_name(networks, endpoint);
    match here.link(&name)? {
        Some(link) => here.execute(&[link::remove(
            link.index,
            format!("remove network device {name}"),
        )]),
        None => Ok(()),
    }
}
