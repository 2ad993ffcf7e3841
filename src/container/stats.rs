//! What a container uses: the cgroup's counters and those of its network interfaces.

use super::Container;
use crate::cgroups::oom::{Oom, OomEvents};
use crate::cgroups::stats::types::{NetworkInterface, Stats};
use crate::sys::event;
use crate::sys::fd::Fd;
use crate::vm::channel::client;
use crate::vm::channel::message::FromGuest;
use crate::vm::network::TAP;
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::os::fd::{AsFd, AsRawFd};

/// Who tells of kills for lack of memory.
pub enum OomKills {
    /// This kernel.
    Cgroup(OomEvents),
    /// The monitor of a VM.
    Vm(Fd),
}

impl OomKills {
    /// For poll(2).
    pub fn descriptor(&self) -> i32 {
        match self {
            OomKills::Cgroup(events) => events.as_fd().as_raw_fd(),
            OomKills::Vm(socket) => socket.0,
        }
    }

    /// Whether the monitor of a VM reports the kills.
    pub fn is_vm(&self) -> bool {
        matches!(self, OomKills::Vm(_))
    }

    /// What happened since the last time; does not wait.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self) -> Result<Oom> {
        match self {
            OomKills::Cgroup(events) => events.read(),
            OomKills::Vm(socket) => {
                let mut fds = [libc::pollfd {
                    fd: socket.0,
                    events: libc::POLLIN,
                    revents: 0,
                }];
                if event::poll(&mut fds, Some(0)).on("look at", "the monitor's socket")? == 0 {
                    return Ok(Oom::Nothing);
                }
                // A monitor that was killed resets the connection: it is gone all the same.
                match client::receive::<FromGuest>(socket) {
                    Ok(Some((FromGuest::Oom(count), _))) => Ok(Oom::Kills(count)),
                    Ok(Some(_)) => Ok(Oom::Nothing),
                    Ok(None) | Err(_) => Ok(Oom::Gone),
                }
            }
        }
    }
}

impl Container {
    /// The counters as they stand. Interfaces are told where the container has a network namespace
    /// of its own with more than loopback in it, and counted from its side: received is what came
    /// in.
    ///
    /// # Errors
    /// It has no cgroup; a counter cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        if self.record.vm.is_some() {
            let mut stats = self.vm().stats()?;
            // The guest's interface receives what arrives at the host's. An ordinary user may not
            // look at the monitor's.
            stats.network_interfaces = self.interfaces().unwrap_or_default();
            return Ok(stats);
        }
        let mut stats = self.needed_group()?.stats()?;
        stats.network_interfaces = self.interfaces()?;
        Ok(stats)
    }

    /// What a container's virtual machine costs the host: its monitor, its share server and QEMU,
    /// with the guest's memory; none with the namespace backend.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn monitor_stats(&self) -> Result<Option<Stats>> {
        if self.record.vm.is_none() {
            return Ok(None);
        }
        self.group()?.map(|group| group.stats()).transpose()
    }

    /// Tells of kills for lack of memory from here on, those of the container's own cgroup,
    /// wherever that is.
    ///
    /// # Errors
    /// The container has no memory controller; it is not running.
    pub fn oom_kills(&self) -> Result<OomKills> {
        if self.record.vm.is_none() {
            return self.needed_group()?.oom_events().map(OomKills::Cgroup);
        }
        let socket = client::connect(&self.directory())?;
        client::send(&socket, &client::MonitorRequest::Watch, &[])?;
        match client::receive::<FromGuest>(&socket)? {
            Some((FromGuest::Done, _)) => Ok(OomKills::Vm(socket)),
            Some((FromGuest::Refused(why), _)) => Err(Error::new(why)),
            _ => Err(Error::new("container not running")),
        }
    }

    fn interfaces(&self) -> Result<Option<Vec<NetworkInterface>>> {
        if self
            .record
            .spec
            .namespace(LinuxNamespaceType::Network)
            .is_none()
        {
            return Ok(None);
        }
        let path = format!("/proc/{}/net/dev", self.record.pid);
        match std::fs::read_to_string(&path) {
            // The number may have become another process's meanwhile.
            Ok(text) if self.pid() != 0 => {
                let list = parse(&text)
                    .ok_or_else(|| Error::new(format!("parse {path}: not the form of proc(5)")))?;
                Ok(Some(list).filter(|list| !list.is_empty()))
            }
            Ok(_) => Ok(None),
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::EINVAL) =>
            {
                Ok(None)
            }
            Err(error) => Err(Error::io("read", path, &error)),
        }
    }
}

/// `/proc/net/dev`: two lines of heading, then a name, eight numbers of receiving and eight of
/// sending.
fn parse(text: &str) -> Option<Vec<NetworkInterface>> {
    let mut list = Vec::new();
    for line in text.lines().skip(2) {
        let (name, numbers) = line.rsplit_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()
            .ok()?;
        let [
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            _,
            _,
            _,
            _,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
            ..,
        ] = numbers[..]
        else {
            return None;
        };
        if name.trim() != "lo" && !name.trim().starts_with(TAP) {
            let name = name.trim().to_owned();
            list.push(NetworkInterface {
                name,
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
            });
        }
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_without_loopback() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    \
                    packets errs drop fifo colls carrier compressed\n    \
                    lo: 11 1 0 0 0 0 0 0 11 1 0 0 0 0 0 0\n  \
                    eth0: 1200 12 3 4 0 0 0 0 3400 34 5 6 0 0 0 0\n";
        let list = parse(text).unwrap();
        assert_eq!(list.len(), 1);
        let NetworkInterface {
            name,
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        } = &list[0];
        assert_eq!(name, "eth0");
        assert_eq!(
            [
                rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors,
                tx_dropped
            ],
            [&1200, &12, &3, &4, &3400, &34, &5, &6]
        );
        assert!(parse("a\nb\nnonsense\n").is_none());
    }
}
