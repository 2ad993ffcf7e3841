//! `linux.netDevices`: hull moves a network device of the host into the container with its
//! addresses, and back when the container has ended.

use super::netlink::{Link, Namespace, Socket};
use super::record::{self, MovedDevice};
use super::{address, link};
use crate::{Error, Result};
use ipnet::IpNet;
use std::path::Path;

/// Moves a network device of the host into the container's network namespace, under the name `name`
/// and with its permanent global addresses, and brings it up there (config-linux.md, Network
/// Devices; runc moves the same addresses).
///
/// hull first pins the namespace in the container's directory: when a network namespace ends, the
/// kernel gives a physical device to the first namespace, which need not be hull's, and destroys a
/// virtual one.
///
/// # Errors
/// There is no device `host`, or there is a device `name` in the container already; the network
/// record cannot be written; a netlink request fails.
pub fn move_device(host: &str, name: &str, namespace: &Namespace, directory: &Path) -> Result<()> {
    let mut host_socket = Socket::open()?;
    let device = host_socket.link(host)?.ok_or_else(|| {
        Error::new(format!(
            "move network device {host}: no such network device"
        ))
    })?;
    let addresses = address::of_link(&mut host_socket, device.index)?;
    let mut container = Socket::open_in(namespace)?;
    // The kernel moves the device first and renames it then: after an error it would be in the
    // container under its old name.
    if container.link(name)?.is_some() {
        return Err(Error::new(format!(
            "move network device {host} into the container as {name}: file exists"
        )));
    }
    record::pin(directory, namespace)?;
    let moved = MovedDevice {
        host: host.to_owned(),
        name: name.to_owned(),
        kind: device.kind.clone(),
        up: device.up,
        addresses,
    };
    record::change(directory, |record| record.devices.push(moved.clone()))?;
    let what = format!("move network device {host} into the container as {name}");
    if device.up {
        // Kernels before 6.1 cannot rename a device that is up.
        host_socket.execute(&[link::set_up(
            device.index,
            false,
            format!("take down network device {host}"),
        )])?;
    }
    if let Err(error) =
        host_socket.execute(&[link::move_to(device.index, name, &namespace.0, what)])
    {
        if host_socket.link(host)?.is_some() {
            restore(&mut host_socket, &device, &moved)?;
        }
        return Err(error);
    }
    let device = container
        .link(name)?
        .ok_or_else(|| Error::new(format!("network device {name} is gone from the container")))?;
    let what = |address: &IpNet| format!("give network device {name} the address {address}");
    let mut requests: Vec<_> = moved
        .addresses
        .iter()
        .map(|a| address::add(device.index, *a, what(a)))
        .collect();
    requests.push(link::set_up(
        device.index,
        true,
        format!("bring up network device {name}"),
    ));
    container.execute(&requests)
}

/// Brings a device of the host up and gives it its addresses, as they were before the move.
fn restore(host: &mut Socket, device: &Link, moved: &MovedDevice) -> Result<()> {
    let mut requests = Vec::new();
    if moved.up {
        requests.push(link::set_up(
            device.index,
            true,
            format!("bring up network device {}", moved.host),
        ));
    }
    requests.extend(moved.addresses.iter().map(|a| {
        address::add(
            device.index,
            *a,
            format!("give {} the address {a}", moved.host),
        )
    }));
    host.execute(&requests)
}

/// Moves a device from the container's network namespace back to the host, with its name and
/// addresses. hull does not search for a device that the container removed or renamed.
///
/// # Errors
/// A netlink request fails. Another device has the name on the host by now: then the device is back
/// under the name that it had in the container.
pub fn give_back(moved: &MovedDevice, pinned: &Namespace) -> Result<()> {
    let mut host_socket = Socket::open()?;
    let mut container = Socket::open_in(pinned)?;
    let mut found = None;
    for name in [&moved.name, &moved.host] {
        found = found.or(container
            .link(name)?
            .filter(|link| link.kind == moved.kind && link.index != 1));
    }
    let Some(device) = found else { return Ok(()) };
    let taken = host_socket.link(&moved.host)?.is_some();
    let name = if taken { &moved.name } else { &moved.host };
    let current = Namespace::current()?;
    let what = format!(
        "give network device {} back to the host as {name}",
        device.name
    );
    container.execute(&[
        link::set_up(
            device.index,
            false,
            format!("take down network device {}", device.name),
        ),
        link::move_to(device.index, name, &current.0, what),
    ])?;
    let device = host_socket
        .link(name)?
        .ok_or_else(|| Error::new(format!("network device {name} did not come back")))?;
    restore(&mut host_socket, &device, moved)
        .map_err(|error| error.within("restore a network device"))?;
    match taken {
        true => Err(Error::new(format!(
            "network device {} is back under the name {name}: another device has its former name",
            moved.host
        ))),
        false => Ok(()),
    }
}
