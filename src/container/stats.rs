//! What a container uses: the cgroup's counters and those of its network interfaces.

use super::Container;
use crate::cgroups::stats::{NetworkInterface, Stats};
use crate::{Error, Result};
use oci_spec::runtime::LinuxNamespaceType;

impl Container {
    /// The counters as they stand. Interfaces are told where the container has a network namespace of its own with more than
    /// loopback in it, and counted from its side: received is what came in.
    ///
    /// # Errors
    /// It has no cgroup; a counter cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        if self.record.vm.is_some() {
            return self.machine_stats();
        }
        let mut stats = self.needed_group()?.stats()?;
        stats.network_interfaces = self.interfaces()?;
        Ok(stats)
    }

    fn interfaces(&self) -> Result<Option<Vec<NetworkInterface>>> {
        if self.record.spec.namespace(LinuxNamespaceType::Network).is_none() {
            return Ok(None);
        }
        let path = format!("/proc/{}/net/dev", self.record.pid);
        match std::fs::read_to_string(&path) {
            // The number may have become another process's meanwhile.
            Ok(text) if self.pid() != 0 => {
                let list = parse(&text).ok_or_else(|| Error::new(format!("parse {path}: not the form of proc(5)")))?;
                Ok(Some(list).filter(|list| !list.is_empty()))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(Error::io("read", path, &error)),
        }
    }
}

/// `/proc/net/dev`: two lines of heading, then a name, eight numbers of receiving and eight of sending.
fn parse(text: &str) -> Option<Vec<NetworkInterface>> {
    let mut list = Vec::new();
    for line in text.lines().skip(2) {
        let (name, numbers) = line.rsplit_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = numbers[..] else { return None };
        if name.trim() != "lo" {
            let name = name.trim().to_owned();
            list.push(NetworkInterface { name, rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped });
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
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                    lo: 11 1 0 0 0 0 0 0 11 1 0 0 0 0 0 0\n  \
                    eth0: 1200 12 3 4 0 0 0 0 3400 34 5 6 0 0 0 0\n";
        let list = parse(text).unwrap();
        assert_eq!(list.len(), 1);
        let NetworkInterface { name, rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped } = &list[0];
        assert_eq!(name, "eth0");
        assert_eq!([rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped], [&1200, &12, &3, &4, &3400, &34, &5, &6]);
        assert!(parse("a\nb\nnonsense\n").is_none());
    }
}
