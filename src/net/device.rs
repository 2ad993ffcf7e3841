//! `linux.netDevices`: a host's device goes into the container with its addresses, and comes back
//! at the end.

use super::netlink::{Link, Namespace, Socket};
use super::trace::{self, Moved};
use super::{address, link};
use crate::{Context, Error, Result};
use std::path::Path;

/// Moves a device of hull's network namespace into another, under a new name, with its lasting
/// global addresses, and brings it up there (config-linux.md, Network Devices; the addresses that
/// move are those that runc moves).
///
/// The namespace is pinned in the container's directory first: a namespace that ends gives a physical
/// card to the first namespace, which need not be hull's, and destroys a virtual one.
///
/// # Errors
/// There is no such device; the name is taken in the container; the kernel refuses.
pub fn move_device(host: &str, name: &str, namespace: &Namespace, directory: &Path) -> Result<()> {
    let mut here = Socket::here()?;
    let device = here.link(host)?.ok_or_else(|| {
        Error::new(format!(
            "move network device {host}: no such network device"
        ))
    })?;
    let addresses = address::of_link(&mut here, device.index)?;
    let mut inside = Socket::inside(namespace)?;
    // The kernel moves first and renames after, and would leave the device there under its old
    // name.
    if inside.link(name)?.is_some() {
        return Err(Error::new(format!(
            "move network device {host} into the container as {name}: file exists"
        )));
    }
    trace::pin(directory, namespace)?;
    let moved = Moved {
        host: host.to_owned(),
        name: name.to_owned(),
        kind: device.kind.clone(),
        up: device.up,
        addresses,
    };
    trace::change(directory, |trace| trace.devices.push(moved.clone()))?;
    let what = format!("move network device {host} into the container as {name}");
    if device.up {
        // A device that is up keeps its name (kernels before 6.1).
        here.execute(&[link::set_up(
            device.index,
            false,
            format!("take down network device {host}"),
        )])?;
    }
    if let Err(error) = here.execute(&[link::move_to(device.index, name, &namespace.0, what)]) {
        if here.link(host)?.is_some() {
            revive(&mut here, &device, &moved)?;
        }
        return Err(error);
    }
    let device = inside
        .link(name)?
        .ok_or_else(|| Error::new(format!("network device {name} is gone from the container")))?;
    let what =
        |address: &address::Prefix| format!("give network device {name} the address {address}");
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
    inside.execute(&requests)
}

/// Brings a device that did not move to the state it was in.
fn revive(here: &mut Socket, device: &Link, moved: &Moved) -> Result<()> {
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
    here.execute(&requests)
}

/// Takes a moved device back out of a namespace, as it was. One that the container removed or
/// renamed is not searched for.
///
/// # Errors
/// The kernel's; the name is taken on the host by now: then the device comes back under the name
/// that it had in the container.
pub fn give_back(moved: &Moved, pinned: &Namespace) -> Result<()> {
    let mut here = Socket::here()?;
    let mut inside = Socket::inside(pinned)?;
    let mut found = None;
    for name in [&moved.name, &moved.host] {
        found = found.or(inside
            .link(name)?
            .filter(|link| link.kind == moved.kind && link.index != 1));
    }
    let Some(device) = found else { return Ok(()) };
    let taken = here.link(&moved.host)?.is_some();
    let name = if taken { &moved.name } else { &moved.host };
    let own = Namespace::own()?;
    let what = format!(
        "give network device {} back to the host as {name}",
        device.name
    );
    inside.execute(&[
        link::set_up(
            device.index,
            false,
            format!("take down network device {}", device.name),
        ),
        link::move_to(device.index, name, &own.0, what),
    ])?;
    let device = here
        .link(name)?
        .ok_or_else(|| Error::new(format!("network device {name} did not come back")))?;
    revive(&mut here, &device, moved).map_err(|error| error.within("restore a network device"))?;
    match taken {
        true => Err(Error::new(format!(
            "network device {} is back as {name}: its own name is taken",
            moved.host
        ))),
        false => Ok(()),
    }
}

/// Whether two namespace files are the same namespace.
///
/// # Errors
/// The kernel's.
pub fn same(a: &Namespace, b: &Namespace) -> Result<bool> {
    let identity = |n: &Namespace| {
        crate::sys::file::fstat(n.0.0)
            .map(|stat| (stat.st_dev, stat.st_ino))
            .on("stat", "a network namespace")
    };
    Ok(identity(a)? == identity(b)?)
}
