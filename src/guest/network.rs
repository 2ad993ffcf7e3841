//! The guest's network interfaces: found by their hardware addresses, named, addressed, brought up
//! and given their routes.

use crate::net::address;
use crate::net::link::{self, mac_text};
use crate::net::netlink::{Link, Namespace, Request, Socket};
use crate::step::host::Interface;
use crate::sys::fd::Fd;
use crate::sys::netns;
use crate::{Context, Error, Result};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::{SockaddrIn, SockaddrIn6};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::time::Duration;

/// Sets one interface up.
///
/// # Errors
/// It does not come; the kernel refuses a value.
pub fn set_up(interface: &Interface) -> Result<()> {
    set_up_in(&mut Socket::open()?, interface)
}

/// Moves one interface into a network namespace, and sets it up there.
///
/// # Errors
/// It does not come; the kernel refuses a value.
pub fn move_into(interface: &Interface, namespace: &Namespace) -> Result<()> {
    let mut here = Socket::open()?;
    let device = find(&mut here, &interface.hardware)?;
    here.execute(&[link::move_to(
        device.index,
        &interface.name,
        &namespace.0,
        format!("move {} into the container", interface.name),
    )])?;
    set_up_in(&mut Socket::open_in(namespace)?, interface)
}

/// Begins a connection in the network namespace of a process, given by its pidfd.
///
/// # Errors
/// Nobody listens there.
pub fn connect(process: &Fd, address: SocketAddr) -> Result<Fd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let socket = netns::socket_in(
        process.0,
        family,
        libc::SOCK_STREAM | libc::SOCK_NONBLOCK,
        0,
    )
    .on("make", "a socket")?;
    let began = match address {
        SocketAddr::V4(v4) => nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn6::from(v6)),
    };
    match began {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(Fd(socket.into_raw_fd())),
        Err(errno) => Err(Error::sys("connect to", address, errno)),
    }
}

fn set_up_in(here: &mut Socket, interface: &Interface) -> Result<()> {
    let device = find(here, &interface.hardware)?;
    let name = &interface.name;
    let mut requests = Vec::new();
    // The kernel names what it finds in its own order: another interface may have the name for now,
    // and gets its own later.
    if let Some(other) = here.link(name)?.filter(|other| other.index != device.index) {
        requests.push(renamed(&other, format!("hull{}", other.index)));
    }
    requests.push(named(&device, interface));
    for text in &interface.addresses {
        let prefix = address::parse_prefix(text)?;
        requests.push(address::add(
            device.index,
            prefix,
            format!("give {name} the address {text}"),
        ));
    }
    requests.push(link::set_up(device.index, true, format!("bring up {name}")));
    for (destination, gateway) in &interface.routes {
        requests.push(route(device.index, destination, gateway.as_deref())?);
    }
    here.execute(&requests)
}

/// The driver may bring it a moment later.
fn find(here: &mut Socket, hardware: &str) -> Result<Link> {
    for _ in 0..1000 {
        if let Some(link) = here
            .links()?
            .into_iter()
            .find(|link| mac_text(&link.mac) == hardware)
        {
            return Ok(link);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::new(format!(
        "the machine has no network interface {hardware}"
    )))
}

fn renamed(device: &Link, name: String) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = device.index;
    let what = format!("name {name}");
    message.attributes.push(LinkAttribute::IfName(name));
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: 0,
        what,
    }
}

fn named(device: &Link, interface: &Interface) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = device.index;
    if device.name != interface.name {
        message
            .attributes
            .push(LinkAttribute::IfName(interface.name.clone()));
    }
    message.attributes.push(LinkAttribute::Mtu(interface.mtu));
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: 0,
        what: format!("name {}", interface.name),
    }
}

fn route(index: u32, destination: &str, gateway: Option<&str>) -> Result<Request> {
    let prefix = address::parse_prefix(destination)?;
    let of = |address: IpAddr| match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = if prefix.addr().is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if gateway.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    message.attributes.push(RouteAttribute::Oif(index));
    if prefix.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(of(prefix.addr())));
    }
    if let Some(gateway) = gateway {
        let gateway: IpAddr = gateway
            .parse()
            .map_err(|_| Error::new(format!("{gateway} is no address")))?;
        message
            .attributes
            .push(RouteAttribute::Gateway(of(gateway)));
    }
    let what = format!("route {destination} by {}", gateway.unwrap_or("the link"));
    Ok(Request {
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        what,
    })
}
