//! The host's part of a machine's network: every interface that is in the container's network
//! namespace (an engine put it there, or hull's own networks did) gets a tap beside it, and all
//! that arrives on the one is sent out of the other. The guest's interface has the hardware
//! address, the addresses and the routes that the namespace's has; nothing there answers in its
//! place, for nothing arrives.

use super::engine::Tap;
use crate::net::link::{self, mac_text};
use crate::net::netlink::{Link, Socket};
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

/// Taps are named by this and a number.
pub const TAP: &str = "hulltap";

/// Carries the interfaces of this process's network namespace into a machine.
///
/// # Errors
/// Another machine has them. The kernel's: it may lack tun or the u32 filter.
pub fn carry_in() -> Result<Vec<(Tap, Interface)>> {
    let mut here = Socket::open()?;
    let mut found = Vec::new();
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
        found.push((beside(&mut here, link, number)?, interface));
    }
    Ok(found)
}

/// Takes back what was put on the interfaces of this process's network namespace: the taps end with
/// the machine.
pub fn let_go() {
    let undone = Socket::open().and_then(|mut here| {
        let links = here.links()?;
        let carried = links
            .iter()
            .filter(|link| link.ethernet && !link.name.starts_with(TAP));
        here.attempt(
            &carried
                .map(|link| {
                    shape::no_ingress(
                        link.index,
                        format!("forget what was watched on {}", link.name),
                    )
                })
                .collect::<Vec<_>>(),
        )
    });
    if let Err(error) = undone {
        crate::log::debug(|| format!("the interfaces are still watched: {error}"));
    }
}

/// A tap, and the two ways between it and the interface.
fn beside(here: &mut Socket, device: &Link, number: usize) -> Result<Tap> {
    let name = format!("{TAP}{number}");
    let fd = match netns::open_tap(&name).map(Fd) {
        // Not the tap's own want.
        Err(Errno::ENOENT) => {
            return Err(Error::new(
                "open /dev/net/tun: no such file or directory: the kernel's module tun is not \
                    loaded",
            ));
        }
        other => other.on("make tap", &name)?,
    };
    let tap = here
        .link(&name)?
        .ok_or_else(|| Error::new(format!("tap {name} is gone")))?;
    // A machine that was here before, of a container that an engine starts anew in its pod, left
    // its filters: its tap is gone.
    here.attempt(&[shape::no_ingress(
        device.index,
        format!("forget what was watched on {}", device.name),
    )])?;
    here.execute(&[
        link::set_up(tap.index, true, format!("bring up {name}")),
        link::set_up(device.index, true, format!("bring up {}", device.name)),
        shape::ingress(
            device.index,
            format!("watch what arrives on {}", device.name),
        ),
        shape::redirect(
            device.index,
            tap.index,
            format!("send what arrives on {} through {name}", device.name),
        ),
        shape::ingress(tap.index, format!("watch what arrives on {name}")),
        shape::redirect(
            tap.index,
            device.index,
            format!("send what arrives on {name} through {}", device.name),
        ),
    ])?;
    Ok(Tap {
        fd,
        hardware: mac_text(&device.mac),
    })
}

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
        let mut asked = RouteMessage::default();
        asked.header.address_family = family;
        for answer in here.dump(RouteNetlinkMessage::GetRoute(asked))? {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                interface.routes.extend(route(&message, device.index));
            }
        }
    }
    // A gateway that is reached by a route of its own comes after that.
    interface
        .routes
        .sort_by_key(|(_, gateway)| gateway.is_some());
    Ok(interface)
}

/// An address with its prefix; link-local ones the guest makes by itself.
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

/// A route of the main table by this interface that somebody made: those of the addresses come with
/// them.
fn route(message: &RouteMessage, index: u32) -> Option<(String, Option<String>)> {
    let header = &message.header;
    let by_hand = header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && header.protocol != RouteProtocol::Kernel;
    let over = message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Oif(oif) if *oif == index));
    if !by_hand || !over {
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
