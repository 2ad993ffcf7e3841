//! A container's networks in its checkpoint images: the restored container gets the same addresses,
//! hardware addresses, names and ports.
//!
//! The order of the calls:
//!
//! ```text
//! checkpoint  saved = SavedNetworks::of(directory)        before the container ends
//! restore     setup = saved.setup(store, id, identity)    refuses what this host does not have
//!             setup.prepare_files(directory)              hosts and resolv.conf
//!             namespace = new_namespace()                 the restored processes join it
//!             attach(&setup, id, &namespace, pid, directory)
//!             ... criu restores the processes ...
//!             adopt(directory, id, init)                  the addresses belong to init from now on
//!             announce(&setup, id, &namespace)            the neighbours learn the new place
//! on failure  release(directory)                          as for any container
//! ```
//! `pid` is a process that lives until `adopt`, such as hull itself.
//!
//! The images contain the JSON of [`SavedNetworks`]; a newer hull reads that of an older one.

use super::endpoint::{Endpoint, ProcessIdentity, veth_name};
use super::link::{Mac, mac_of, mac_text, parse_mac};
use super::netlink::{Namespace, Socket};
use super::network::Driver;
use super::setup::{Attachment, Setup};
use super::store::NetworkStore;
use super::{link, record, rootless, subnets};
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::sys::{netns, socket};
use crate::{Context, Error, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;

/// The networks of a container at its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedNetworks {
    setup: Setup,
    /// The container's id, which is one of its names on the networks.
    id: String,
}

/// Which container the restored one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The one of the checkpoint, perhaps under another id: it gets the same addresses, hardware
    /// addresses, names and ports.
    Same,
    /// A copy that runs beside it: it gets other addresses and hardware addresses, and no alias or
    /// published port, since those belong to the first one.
    New,
}

impl SavedNetworks {
    /// The networks that a container is attached to now; `None` where hull has not attached it to
    /// any.
    ///
    /// # Errors
    /// A record cannot be read or parsed; a network does not exist any more.
    pub fn of(directory: &Path) -> Result<Option<Self>> {
        let record = record::read(directory)?;
        let (Some(mut setup), Some(id)) = (record.setup, directory.file_name()) else {
            return Ok(None);
        };
        let id = id.to_string_lossy().into_owned();
        for attachment in &mut setup.attachments {
            let name = attachment.network.name.clone();
            // The network may have been created after the plan was made.
            attachment.network = setup.networks.get(&name)?;
            if let Some(endpoint) = setup
                .networks
                .endpoints(&name)?
                .into_iter()
                .find(|endpoint| endpoint.id == id)
            {
                attachment.fixed = endpoint.addresses.iter().map(IpNet::addr).collect();
            }
        }
        Ok(Some(Self { setup, id }))
    }

    /// The setup for a restore on this host.
    ///
    /// # Errors
    /// This host lacks the program that an unprivileged user needs, or the network device of a
    /// macvlan; a copy needs a network that does not exist.
    pub fn setup(&self, store: &Store, id: &str, identity: Identity) -> Result<Setup> {
        let mut setup = self.setup.clone();
        setup.networks = NetworkStore::of(store);
        if setup.rootless.is_some() {
            setup.rootless = Some(rootless::find()?);
        }
        let Setup {
            networks,
            attachments,
            ..
        } = &mut setup;
        for attachment in attachments {
            adapt(attachment, networks, id, identity)?;
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

/// Changes an attachment for this host, id and identity.
fn adapt(
    attachment: &mut Attachment,
    networks: &NetworkStore,
    id: &str,
    identity: Identity,
) -> Result<()> {
    let name = attachment.network.name.clone();
    match attachment.network.driver {
        Driver::Bridge => attachment.host = veth_name(networks.directory(), &name, id),
        Driver::Macvlan => {
            let parent = &attachment.network.link;
            if networks.find(&name)?.is_none() && Socket::open()?.link(parent)?.is_none() {
                return Err(Error::new(format!(
                    "network {name}: this host has no network device {parent}"
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

/// Creates a network namespace and brings its loopback device up; hull does not join it. It ends
/// with its last process and open descriptor.
///
/// # Errors
/// unshare(2) fails in the child that creates it; a netlink request fails.
pub fn new_namespace() -> Result<Namespace> {
    let made = netns::new_namespace().on("make", "a network namespace")?;
    let namespace = Namespace(Fd(made.into_raw_fd()));
    let up = link::set_up(
        1,
        true,
        "bring up the loopback of a network namespace".to_owned(),
    );
    Socket::open_in(&namespace)?.execute(&[up])?;
    Ok(namespace)
}

/// Reserves a container's addresses for its restored first process from now on.
///
/// # Errors
/// The process has ended; a record cannot be read or written.
pub fn adopt(directory: &Path, id: &str, pid: i32) -> Result<()> {
    let record = record::read(directory)?;
    let Some(networks) = &record.networks else {
        return Ok(());
    };
    let owner = ProcessIdentity::of(pid)?;
    let guard = networks.lock()?;
    for name in &record.attached {
        for endpoint in networks
            .endpoints(name)?
            .into_iter()
            .filter(|endpoint| endpoint.id == id)
        {
            networks.write_endpoint(
                &guard,
                &Endpoint {
                    owner: owner.clone(),
                    ..endpoint
                },
            )?;
        }
    }
    Ok(())
}

/// Tells the neighbours where a container's addresses are now: sends a gratuitous ARP request (RFC
/// 5227, 2.3) and an unsolicited neighbour advertisement (RFC 4861, 7.2.6) over each of its links.
///
/// # Errors
/// The container has no such link; a packet socket cannot be opened; sendto(2) fails.
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
        let device = Socket::open_in(namespace)?.link(name)?;
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
        for address in endpoint.addresses.iter().map(IpNet::addr) {
            socket::send(packets.as_raw_fd(), &announcement(address, mac))
                .on("announce address", address)?;
        }
    }
    Ok(())
}

/// The Ethernet frame that announces an address.
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
            let sum = checksum(ip.into(), &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            frame.extend(message);
        }
    }
    frame
}

/// The checksum of an ICMPv6 message to all nodes (RFC 4443, 2.3; RFC 8200, 8.1).
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
