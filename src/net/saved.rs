//! A container's networks, saved with its images and given to the restored one: address, hardware
//! address, names and ports again.
//!
//! Whoever restores calls, in this order:
//!
//! ```text
//! saving      saved = Saved::of(directory)                      while the container is there; nothing where hull wired no network
//! restoring   setup = saved.setup(store, id, identity)       refused here: what cannot be at this host
//!             names::prepare(directory, &setup)                 hosts and resolv.conf, before they are bound
//!             namespace = Namespace::new()                   its loopback is up; the restored processes join it
//!             attach(&setup, id, &namespace, holder, directory) holder: a process that lives until `adopt`, such as hull's own
//!             ... the processes are restored ...
//!             adopt(directory, id, init)                        from now on the addresses are held by init
//!             announce(&setup, id, &namespace)               neighbours learn where the address is now
//! failed      release(directory)                                as for any container
//! ```
//! The file that is saved is this structure as JSON; a newer hull reads an older one's.

use super::address::{Prefix, number};
use super::endpoint::{Endpoint, Holder, host_link};
use super::link::{Mac, mac_of, mac_text, parse_mac};
use super::netlink::{Namespace, Socket};
use super::network::{Driver, Networks};
use super::setup::{Attachment, Setup};
use super::{rootless, subnets, trace};
use crate::store::Store;
use crate::sys::{netns, socket};
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

/// A container's networks, as they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    setup: Setup,
    /// The container's id, which is one of its names.
    id: String,
}

/// Who the restored container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The saved one, perhaps under another id: it has its addresses, hardware addresses, names and
    /// ports again.
    Same,
    /// Another beside it: new addresses and hardware addresses, no alias and no published port, as
    /// those are the first one's.
    New,
}

impl Saved {
    /// What a container has now. Nothing where hull wired no network for it.
    ///
    /// # Errors
    /// Its records cannot be read.
    pub fn of(directory: &Path) -> Result<Option<Self>> {
        let trace = trace::read(directory)?;
        let (Some(mut setup), Some(id)) = (trace.setup, directory.file_name()) else {
            return Ok(None);
        };
        let id = id.to_string_lossy().into_owned();
        for attachment in &mut setup.attachments {
            let name = attachment.network.name.clone();
            // The record may have been made after the plan was.
            attachment.network = setup.networks.get(&name)?;
            if let Some(endpoint) = setup
                .networks
                .endpoints(&name)?
                .into_iter()
                .find(|endpoint| endpoint.id == id)
            {
                attachment.fixed = endpoint
                    .addresses
                    .iter()
                    .map(|prefix| prefix.address)
                    .collect();
            }
        }
        Ok(Some(Self { setup, id }))
    }

    /// The saved setup in terms of this host.
    ///
    /// # Errors
    /// An ordinary user's carrier is not installed here; the card of a macvlan is not there.
    pub fn setup(&self, store: &Store, id: &str, identity: Identity) -> Result<Setup> {
        let mut setup = self.setup.clone();
        setup.networks = Networks::of(store);
        if setup.carrier.is_some() {
            setup.carrier = Some(rootless::find()?);
        }
        let Setup {
            networks,
            attachments,
            ..
        } = &mut setup;
        for attachment in attachments {
            place(attachment, networks, id, identity)?;
        }
        match identity {
            Identity::Same => setup
                .names
                .iter_mut()
                .filter(|name| **name == self.id)
                .for_each(|name| id.clone_into(name)),
            Identity::New => {
                setup.names = vec![id.to_owned()];
                setup.ports.clear();
            }
        }
        Ok(setup)
    }
}

/// One network of a saved container, here.
fn place(
    attachment: &mut Attachment,
    networks: &Networks,
    id: &str,
    identity: Identity,
) -> Result<()> {
    let name = attachment.network.name.clone();
    match attachment.network.driver {
        Driver::Bridge => attachment.host = host_link(networks.directory(), &name, id, 'v'),
        Driver::Macvlan => {
            let parent = &attachment.network.link;
            if networks.find(&name)?.is_none() && Socket::here()?.link(parent)?.is_none() {
                return Err(Error::new(format!(
                    "network {name}: there is no network device {parent} here"
                )));
            }
        }
    }
    match identity {
        Identity::Same => attachment.kept = true,
        Identity::New => {
            attachment.fixed.clear();
            attachment.mac = mac_text(&mac_of(&format!("{id}\0{name}")));
            attachment.network = match networks.find(&name)? {
                Some(network) => network,
                None if attachment.network.chosen => subnets::default_network(networks)?,
                None => return Err(Error::new(format!("network {name} does not exist"))),
            };
        }
    }
    Ok(())
}

/// The addresses that were taken for a container are held by this process from now on: its first
/// one.
///
/// # Errors
/// The process is gone; a record that cannot be written.
pub fn adopt(directory: &Path, id: &str, pid: i32) -> Result<()> {
    let trace = trace::read(directory)?;
    let Some(networks) = &trace.networks else {
        return Ok(());
    };
    let holder = Holder::of(pid)?;
    let guard = networks.lock()?;
    for name in &trace.attached {
        for endpoint in networks
            .endpoints(name)?
            .into_iter()
            .filter(|endpoint| endpoint.id == id)
        {
            networks.put(
                &guard,
                &Endpoint {
                    holder: holder.clone(),
                    ..endpoint
                },
            )?;
        }
    }
    Ok(())
}

/// Tells the neighbours where a container's addresses are now: by a gratuitous ARP request (RFC
/// 5227, 2.3) and an unsolicited neighbour advertisement (RFC 4861, 7.2.6) over each of its links.
///
/// # Errors
/// The kernel's.
pub fn announce(setup: &Setup, id: &str, namespace: &Namespace) -> Result<()> {
    for attachment in &setup.attachments {
        let network = &attachment.network.name;
        let Some(endpoint) = setup
            .networks
            .endpoints(network)?
            .into_iter()
            .find(|endpoint| endpoint.id == id)
        else {
            continue;
        };
        let name = &attachment.interface;
        let device = Socket::inside(namespace)?.link(name)?;
        let device = device.ok_or_else(|| {
            Error::new(format!("network device {name} is gone from the container"))
        })?;
        let packets = netns::socket_in(namespace.0.0, libc::AF_PACKET, libc::SOCK_RAW, 0).on(
            "open a packet socket in",
            "the container's network namespace",
        )?;
        netns::bind_packet(packets.as_raw_fd(), device.index)
            .on("send over network device", name)?;
        let mac = parse_mac(&endpoint.mac).map_err(Error::new)?;
        for Prefix { address, .. } in endpoint.addresses {
            socket::send(packets.as_raw_fd(), &announcement(address, mac))
                .on("announce address", address)?;
        }
    }
    Ok(())
}

fn announcement(address: IpAddr, mac: Mac) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    match address {
        IpAddr::V4(ip) => {
            frame.extend([0xff; 6]);
            frame.extend(mac);
            // Ethernet type ARP; hardware Ethernet, protocol IPv4, lengths 6 and 4, a request.
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(mac);
            frame.extend(ip.octets());
            frame.extend([0; 6]);
            frame.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            frame.extend([0x33, 0x33, 0, 0, 0, 1]);
            frame.extend(mac);
            // Ethernet type IPv6; version 6, 32 bytes of payload of ICMPv6, hop limit 255; to all
            // nodes.
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
            frame.extend(ip.octets());
            frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
            message.extend(ip.octets());
            message.extend([2, 1]);
            message.extend(mac);
            let sum = checksum(number(address), &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            frame.extend(message);
        }
    }
    frame
}

/// ICMPv6's checksum of a message to all nodes (RFC 4443, 2.3; RFC 8200, 8.1).
fn checksum(source: u128, message: &[u8]) -> u16 {
    const ALL_NODES: u128 = 0xff02 << 112 | 1;
    let words = |value: u128| {
        value
            .to_be_bytes()
            .chunks_exact(2)
            .map(|two| u32::from(two[0]) << 8 | u32::from(two[1]))
            .sum::<u32>()
    };
    let body: u32 = message
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0)))
        .sum();
    let mut sum = words(source) + words(ALL_NODES) + message.len() as u32 + 58 + body;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements() {
        let mac = [2, 0, 0, 0, 0, 9];
        let arp = announcement("10.0.0.9".parse().unwrap(), mac);
        assert_eq!(
            (arp.len(), &arp[12..14], &arp[28..32], &arp[38..42]),
            (42, &[8, 6][..], &[10, 0, 0, 9][..], &[10, 0, 0, 9][..])
        );
        let advert = announcement("fd00::9".parse().unwrap(), mac);
        assert_eq!(advert.len(), 86);
        // With its checksum in place, the sum over everything is all ones.
        assert_eq!(
            checksum(
                "fd00::9".parse::<std::net::Ipv6Addr>().unwrap().into(),
                &advert[54..]
            ),
            0
        );
    }
}
