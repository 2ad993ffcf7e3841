//! Connections from the network namespace on the host to its own addresses. A CRI's port-forward,
//! rootless Podman's ports and pasta's ports connect to the pod from within its network namespace,
//! where no program of the container listens. An nftables rule redirects these connections to the
//! monitor, and the channel forwards them to the same address in the guest. TCP only.

use crate::net::nft;
use crate::sys::socket;
use crate::{Context, Error, Result};
use nix::sys::socket::{SockaddrIn, SockaddrIn6, getsockopt, sockopt};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

/// The nftables table with the rule.
const TABLE: &str = "inet hull_vm";

/// The listeners to which the rule redirects: IPv4, and IPv6 if the namespace has it.
pub(super) struct Forward {
    listeners: Vec<TcpListener>,
}

impl Forward {
    /// Redirects the connections of this process's network namespace. Returns `None` if the host's
    /// kernel or nft(8) cannot do it: the kernel then refuses the connections, as for a port on
    /// which no program listens.
    pub fn open() -> Option<Self> {
        let opened = Self::try_open();
        opened
            .map_err(|error| {
                crate::log::debug(|| {
                    format!(
                        "connections from within the network namespace do not reach the guest: \
                            {error}"
                    )
                })
            })
            .ok()
    }

    fn try_open() -> Result<Self> {
        socket::loopback_up().on("bring up", "lo")?;
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).on("listen on", "127.0.0.1")?;
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok();
        let mut rules = String::new();
        for (family, listener) in [("ipv4", Some(&v4)), ("ipv6", v6.as_ref())] {
            if let Some(listener) = listener {
                listener.set_nonblocking(true).on("use", "a listener")?;
                let port = listener.local_addr().on("query", "a listener")?.port();
                rules.push_str(&format!(
                    "meta nfproto {family} meta l4proto tcp fib daddr type \
                    local redirect to :{port}\n"
                ));
            }
        }
        // When a container engine restarts a container in its pod, the VM before may have left its
        // table.
        let chain = "chain output { type nat hook output priority -100; policy accept;";
        nft::script(&format!(
            "add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n{chain}\n{rules}}}\n}}\n"
        ))?;
        Ok(Self {
            listeners: [Some(v4), v6].into_iter().flatten().collect(),
        })
    }

    /// Removes the rule.
    pub fn close(self) {
        if let Err(error) = nft::script(&format!("delete table {TABLE}\n")) {
            crate::log::debug(|| format!("nftables table {TABLE} is not removed: {error}"));
        }
    }

    /// The listeners' descriptors, for poll(2).
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.listeners.iter().map(AsRawFd::as_raw_fd)
    }

    /// Accepts one connection from each listener that has any.
    pub fn accept(&self) -> Vec<TcpStream> {
        self.listeners
            .iter()
            .filter_map(|listener| Some(listener.accept().ok()?.0))
            .collect()
    }
}

/// The address to which a connection was made, before the redirection.
///
/// # Errors
/// getsockopt(2) fails (SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST).
pub(super) fn dialled_address(connection: &TcpStream) -> Result<SocketAddr> {
    let address = if connection
        .local_addr()
        .is_ok_and(|address| address.is_ipv4())
    {
        getsockopt(connection, sockopt::OriginalDst)
            .map(|address| SocketAddr::V4(SockaddrIn::from(address).into()))
    } else {
        getsockopt(connection, sockopt::Ip6tOriginalDst)
            .map(|address| SocketAddr::V6(SockaddrIn6::from(address).into()))
    };
    address.map_err(|errno| Error::sys("get the destination of", "a connection", errno))
}
