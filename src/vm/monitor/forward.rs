//! Connections that begin in the network namespace on the host's side and lead to its own
//! addresses: what forwards ports by dialling the pod from within (a CRI's port-forward, rootless
//! Podman's ports, pasta's from this host) would find nobody there. A rule sends them to the
//! monitor, and the channel carries them to the same address in the guest. TCP alone.

use super::Monitor;
use crate::net::nft;
use crate::sys::fd::Fd;
use crate::sys::socket;
use crate::vm::channel::message::{MACHINE, ToGuest};
use crate::vm::channel::mux::{STDIN, STDOUT, stream};
use crate::{Context, Error, Result};
use nix::sys::socket::{SockaddrIn, SockaddrIn6, getsockopt, sockopt};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};

/// More than these at once wait to be taken: each has two descriptors, of which hull may have a
/// thousand.
const MOST: usize = 128;
/// Where the rule is.
const TABLE: &str = "inet hull_vm";

/// Where connections arrive: of IPv4, and of IPv6 where there is any.
pub struct Forward {
    listeners: Vec<TcpListener>,
}

impl Forward {
    /// Takes the connections of this process's network namespace; nothing where the host's kernel
    /// or nft cannot: then they are refused, as by a port where nobody listens.
    pub fn open() -> Option<Self> {
        let opened = Self::try_open();
        opened
            .map_err(|error| {
                crate::log::debug(|| {
                    format!(
                        "connections from within the network \
            namespace do not reach the guest: {error}"
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
                let port = listener.local_addr().on("look at", "a listener")?.port();
                rules.push_str(&format!(
                    "meta nfproto {family} meta l4proto tcp fib daddr type \
                    local redirect to :{port}\n"
                ));
            }
        }
        // A machine that was here before, of a container that an engine starts anew in its pod,
        // left its table.
        let chain = "chain output { type nat hook output priority -100; policy accept;";
        nft::script(&format!(
            "add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n{chain}\n{rules}}}\n}}\n"
        ))?;
        Ok(Self {
            listeners: [Some(v4), v6].into_iter().flatten().collect(),
        })
    }

    /// Takes the rule back.
    pub fn close(self) {
        if let Err(error) = nft::script(&format!("delete table {TABLE}\n")) {
            crate::log::debug(|| {
                format!("the rule for connections from within the network namespace stays: {error}")
            });
        }
    }

    /// For poll(2).
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.listeners.iter().map(AsRawFd::as_raw_fd)
    }
}

impl Monitor {
    /// Takes what has arrived.
    pub(super) fn forward(&mut self) -> Result<()> {
        let Some(forward) = &self.forward else {
            return Ok(());
        };
        let arrived: Vec<TcpStream> = forward
            .listeners
            .iter()
            .filter_map(|listener| Some(listener.accept().ok()?.0))
            .collect();
        for connection in arrived {
            // Its end tells whoever dialled.
            let Ok(address) = dialled(&connection) else {
                continue;
            };
            let session = self.job.next_session();
            // One that cannot be carried ends, and nothing else does.
            match self.streams.connect(
                (stream(session, STDIN), stream(session, STDOUT)),
                Fd(connection.into_raw_fd()),
            ) {
                Ok(()) => self
                    .channel
                    .message(MACHINE, &ToGuest::Connect(session, address))?,
                Err(_) => self.streams.forget(session),
            }
        }
        Ok(())
    }

    /// Whether more can be carried.
    pub(super) fn may_forward(&self) -> bool {
        self.streams.connections() < MOST
    }
}

/// The address that was dialled, before the rule.
fn dialled(connection: &TcpStream) -> Result<SocketAddr> {
    let asked = if connection
        .local_addr()
        .is_ok_and(|address| address.is_ipv4())
    {
        getsockopt(connection, sockopt::OriginalDst)
            .map(|address| SocketAddr::V4(SockaddrIn::from(address).into()))
    } else {
        getsockopt(connection, sockopt::Ip6tOriginalDst)
            .map(|address| SocketAddr::V6(SockaddrIn6::from(address).into()))
    };
    asked.map_err(|errno| Error::sys("ask where", "a connection was to go", errno))
}
