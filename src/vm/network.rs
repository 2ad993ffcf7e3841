//! The network of a VM on the host. For each interface in the container's network namespace, which
//! a container engine or hull's own networks put there, hull makes a tap device and redirects all
//! incoming packets of the one to the other (traffic control, u32 filters). The guest's interface
//! gets the MAC address, the IP addresses and the routes of the interface in the namespace. The
//! host's kernel answers nothing there, since the redirection takes each packet before the IP
//! layer.

use super::vmm::Tap;
use crate::net::link::{self, mac_text};
use crate::net::netlink::{Link, Request, Socket};
use crate::net::shape;
use crate::step::host::Interface;
use crate::sys::fd::Fd;
use crate::sys::netns;
use crate::{Context, Error, Result};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use std::net::IpAddr;

/// The prefix of the tap devices' names; a number follows.
pub(crate) const TAP: &str = "hulltap";

/// An interface of the VM: its tap device on the host, and its description for the guest.
pub(crate) struct Connected {
    /// The tap device.
    pub tap: Tap,
    /// What the guest sets up.
    pub interface: Interface,
}

/// Connects the interfaces of this process's network namespace to tap devices.
///
/// # Errors
/// The interfaces are connected to another VM already; a netlink request fails, such as for lack
/// of the kernel's tun module or u32 filter.
pub(crate) fn connect() -> Result<Vec<Connected>> {
    let mut here = Socket::open()?;
    let mut connected = Vec::new();
    let links: Vec<Link> = here
        .links()?
        .into_iter()
        .filter(|link| link.ethernet && link.name != "lo")
        .collect();
    if links.iter().any(|link| link.name.starts_with(TAP)) {
        return Err(Error::new(
            "the network namespace's interfaces are in another virtual machine: the containers of \
                a pod cannot share them with this backend",
        ));
    }
    for (number, link) in links.iter().enumerate() {
        let interface = describe(&mut here, link)?;
        connected.push(Connected {
            tap: add_tap(&mut here, link, number)?,
            interface,
        });
    }
    Ok(connected)
}

/// Removes the ingress qdiscs, with their filters, from the interfaces of this process's network
/// namespace. The kernel removes the tap devices when QEMU ends.
pub(crate) fn disconnect() {
    let removed = Socket::open().and_then(|mut here| {
        let links = here.links()?;
        let requests: Vec<_> = links
            .iter()
            .filter(|link| link.ethernet && !link.name.starts_with(TAP))
            .map(remove_ingress)
            .collect();
        here.attempt(&requests)
    });
    if let Err(error) = removed {
        crate::log::debug(|| format!("the interfaces keep their ingress qdiscs: {error}"));
    }
}

fn remove_ingress(link: &Link) -> Request {
    shape::no_ingress(
        link.index,
        format!("remove the ingress qdisc of {}", link.name),
    )
}

/// Makes a tap device and redirects packets both ways between it and an interface.
fn add_tap(here: &mut Socket, device: &Link, number: usize) -> Result<Tap> {
    let name = format!("{TAP}{number}");
    let fd = match netns::open_tap(&name).map(Fd) {
        Err(Errno::ENOENT) => {
            return Err(Error::new(
                "open /dev/net/tun: no such file or directory: the kernel's module tun is not \
                    loaded",
            ));
        }
        other => other.on("create tap", &name)?,
    };
    let tap = here
        .link(&name)?
        .ok_or_else(|| Error::new(format!("tap {name} has disappeared")))?;
    // When a container engine restarts a container in its pod, the VM before may have left its
    // filters, which redirect to a tap device that no longer exists.
    here.attempt(&[remove_ingress(device)])?;
    here.execute(&[
        link::set_up(tap.index, true, format!("bring up {name}")),
        link::set_up(device.index, true, format!("bring up {}", device.name)),
        shape::ingress(
            device.index,
            format!("add an ingress qdisc to {}", device.name),
        ),
        shape::redirect(
            device.index,
            tap.index,
            format!("redirect packets from {} to {name}", device.name),
        ),
        shape::ingress(tap.index, format!("add an ingress qdisc to {name}")),
        shape::redirect(
            tap.index,
            device.index,
            format!("redirect packets from {name} to {}", device.name),
        ),
    ])?;
    Ok(Tap {
        fd,
        mac: mac_text(&device.mac),
    })
}

/// The description of an interface for the guest.
fn describe(here: &mut Socket, device: &Link) -> Result<Interface> {
    let mut interface = Interface {
        hardware: mac_text(&device.mac),
        name: device.name.clone(),
        mtu: device.mtu,
        ..Interface::default()
    };
    for answer in here.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(message) = answer
            && message.header.index == device.index
        {
            interface.addresses.extend(address(&message));
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        for answer in here.dump(RouteNetlinkMessage::GetRoute(request))? {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                interface.routes.extend(route(&message, device.index));
            }
        }
    }
    // The kernel accepts a route through a gateway only if another route leads to the gateway.
    interface
        .routes
        .sort_by_key(|(_, gateway)| gateway.is_some());
    Ok(interface)
}

/// An address with its prefix length. The guest's kernel makes link-local addresses by itself.
fn address(message: &AddressMessage) -> Option<String> {
    let find = |local: bool| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) if local => Some(*ip),
                AddressAttribute::Address(ip) if !local => Some(*ip),
                _ => None,
            })
    };
    let ip = find(true).or_else(|| find(false))?;
    let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (!link_local).then(|| format!("{ip}/{}", message.header.prefix_len))
}

/// Destination and gateway of a route of the main table over this interface. Routes of protocol
/// `kernel` are left out: the kernel makes them for each address.
fn route(message: &RouteMessage, index: u32) -> Option<(String, Option<String>)> {
    let header = &message.header;
    let configured = header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && header.protocol != RouteProtocol::Kernel;
    let over = message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Oif(oif) if *oif == index));
    if !configured || !over {
        return None;
    }
    let text = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(v4.to_string()),
        RouteAddress::Inet6(v6) if !v6.is_unicast_link_local() => Some(v6.to_string()),
        _ => None,
    };
    let find = |wanted: fn(&RouteAttribute) -> Option<&RouteAddress>| {
        message
            .attributes
            .iter()
            .find_map(|attribute| wanted(attribute).and_then(text))
    };
    let destination = find(|attribute| {
        if let RouteAttribute::Destination(address) = attribute {
            Some(address)
        } else {
            None
        }
    });
    let gateway = find(|attribute| {
        if let RouteAttribute::Gateway(address) = attribute {
            Some(address)
        } else {
            None
        }
    });
    let v6 = header.address_family == AddressFamily::Inet6;
    let destination = match destination {
        Some(address) => format!("{address}/{}", header.destination_prefix_length),
        None if header.destination_prefix_length == 0 => {
            if v6 { "::/0" } else { "0.0.0.0/0" }.to_owned()
        }
        None => return None,
    };
    Some((destination, gateway))
}
