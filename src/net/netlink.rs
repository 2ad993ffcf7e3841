//! Requests about links, addresses and routes (rtnetlink(7)). hull sends several in one message,
//! and the kernel acknowledges each.

use crate::sys::fd::Fd;
use crate::sys::netns;
use crate::{Context, Error, Result};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

/// A network namespace, as an open descriptor of its nsfs file.
pub struct Namespace(pub Fd);

impl Namespace {
    /// The namespace of a process.
    ///
    /// # Errors
    /// open(2) of `/proc/PID/ns/net` fails: the process has ended, or hull may not trace it.
    pub fn of_process(pid: i32) -> Result<Self> {
        Self::at(&format!("/proc/{pid}/ns/net"))
    }

    /// The namespace that hull runs in; for hull's networks that is the host's.
    ///
    /// # Errors
    /// open(2) of `/proc/self/ns/net` fails: procfs is not mounted.
    pub fn current() -> Result<Self> {
        Self::at("/proc/self/ns/net")
    }

    /// The namespace at a path.
    ///
    /// # Errors
    /// open(2) fails: the path is missing or not readable.
    pub fn at(path: &str) -> Result<Self> {
        crate::sys::namespace::open(path).map(Self)
    }
}

/// A request to the kernel.
pub struct Request {
    /// The message, with its attributes.
    pub message: RouteNetlinkMessage,
    /// The flags `NLM_F_*`, without NLM_F_REQUEST and NLM_F_ACK, which [`Socket`] adds.
    pub flags: u16,
    /// What the request does, as `operation object`, for the error message.
    pub what: String,
}

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// The index in its network namespace.
    pub index: u32,
    /// The name, of at most 15 bytes.
    pub name: String,
    /// The kind (IFLA_INFO_KIND), such as `bridge`; empty for a physical device.
    pub kind: String,
    /// Whether the link is up (IFF_UP).
    pub up: bool,
    /// The hardware address.
    pub mac: Vec<u8>,
    /// Length of the longest packet, in bytes.
    pub mtu: u32,
    /// The index of the bridge that the link is a port of (IFLA_MASTER).
    pub master: Option<u32>,
    /// Whether it is an Ethernet device (ARPHRD_ETHER).
    pub ethernet: bool,
}

/// A netlink socket in one network namespace.
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the network namespace that hull runs in.
    ///
    /// # Errors
    /// socket(2) fails.
    pub fn open() -> Result<Self> {
        let socket = netlink_sys::Socket::new(NETLINK_ROUTE).on("open", "a netlink socket")?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Opens a socket in another network namespace, without joining that namespace.
    ///
    /// # Errors
    /// setns(2) or socket(2) fails: EPERM where hull has no CAP_SYS_ADMIN in the user namespace
    /// that owns the network namespace.
    pub fn open_in(namespace: &Namespace) -> Result<Self> {
        let opened = netns::socket_in(
            namespace.0.0,
            libc::AF_NETLINK,
            libc::SOCK_RAW,
            libc::NETLINK_ROUTE,
        );
        let socket = netns::netlink_socket(opened.on(
            "open a netlink socket in",
            "the container's network namespace",
        )?);
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends requests in one message and reads every acknowledgement. The kernel executes all of
    /// them, even those after one that fails.
    ///
    /// # Errors
    /// The error of the first request that failed; as of [`Socket::attempt`].
    pub fn execute(&mut self, requests: &[Request]) -> Result<()> {
        match self.attempt(requests)?.into_iter().next() {
            Some((index, errno)) => {
                let (operation, object) = requests[index]
                    .what
                    .split_once(' ')
                    .unwrap_or(("change", &requests[index].what));
                Err(Error::sys(operation, object, errno))
            }
            None => Ok(()),
        }
    }

    /// Sends requests in one message; returns the indices of those that failed, with their errors.
    ///
    /// # Errors
    /// sendto(2) or recvfrom(2) fails; an answer cannot be parsed.
    pub fn attempt(&mut self, requests: &[Request]) -> Result<Vec<(usize, Errno)>> {
        let first = self.sequence + 1;
        let mut bytes = Vec::with_capacity(requests.len() * 128);
        for request in requests {
            self.put(
                &mut bytes,
                request.message.clone(),
                request.flags | NLM_F_ACK,
            );
        }
        self.send(&bytes)?;
        let mut failed = Vec::new();
        let mut left = requests.len();
        while left > 0 {
            self.receive(|message| {
                if let NetlinkPayload::Error(answer) = message.payload {
                    left = left.saturating_sub(1);
                    if let Some(code) = answer.code {
                        failed.push((
                            (message.header.sequence_number.wrapping_sub(first)) as usize,
                            Errno::from_raw(-code.get()),
                        ));
                    }
                }
                true
            })?;
        }
        failed.retain(|(index, _)| *index < requests.len());
        failed.sort_by_key(|(index, _)| *index);
        Ok(failed)
    }

    /// Reads a whole table (NLM_F_DUMP).
    ///
    /// # Errors
    /// The kernel refuses; sendto(2) or recvfrom(2) fails; an answer cannot be parsed.
    pub fn dump(&mut self, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        match self.query(request, NLM_F_DUMP, |answer| answers.push(answer))? {
            Some(errno) => Err(Error::sys("list", "the kernel's network tables", errno)),
            None => Ok(answers),
        }
    }

    /// Looks up a link by its name; `None` where there is no such link.
    ///
    /// # Errors
    /// As of [`Socket::dump`].
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut request = LinkMessage::default();
        request
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        // The kernel would cut a longer name, and could find another link.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        let mut found = None;
        let failed = self.query(RouteNetlinkMessage::GetLink(request), NLM_F_ACK, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some(describe(link));
            }
        })?;
        match failed {
            Some(Errno::ENODEV) | None => Ok(found),
            Some(errno) => Err(Error::sys("look up network device", name, errno)),
        }
    }

    /// Reads all links.
    ///
    /// # Errors
    /// As of [`Socket::dump`].
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let answers = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let links = answers.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(describe(link)),
            _ => None,
        });
        Ok(links.collect())
    }

    /// Sends one request and passes each answer to `each`; returns the kernel's error, if it
    /// refuses.
    fn query(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<Option<Errno>> {
        let mut bytes = Vec::new();
        self.put(&mut bytes, request, flags);
        self.send(&bytes)?;
        let mut refused = None;
        let mut done = false;
        while !done {
            self.receive(|message| {
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => each(answer),
                    NetlinkPayload::Done(_) => done = true,
                    NetlinkPayload::Error(answer) => {
                        done = true;
                        refused = answer.code.map(|code| Errno::from_raw(-code.get()));
                    }
                    _ => {}
                }
                !done
            })?;
        }
        Ok(refused)
    }

    fn put(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut whole = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        whole.finalize();
        let at = bytes.len();
        bytes.resize(at + whole.buffer_len().next_multiple_of(4), 0);
        whole.serialize(&mut bytes[at..]);
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        self.socket
            .send_to(bytes, &SocketAddr::new(0, 0), 0)
            .on("ask", "the kernel's network tables")
            .map(drop)
    }

    /// Receives a datagram and passes its messages to `each` until that returns false.
    fn receive(
        &self,
        mut each: impl FnMut(NetlinkMessage<RouteNetlinkMessage>) -> bool,
    ) -> Result<()> {
        let (bytes, _) = self
            .socket
            .recv_from_full()
            .on("read", "the kernel's network tables")?;
        let mut rest = bytes.as_slice();
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let Some(one) = rest.get(..length.max(16)) else {
                break;
            };
            let message = NetlinkMessage::deserialize(one).map_err(|error| {
                Error::new(format!("read the kernel's network tables: {error}"))
            })?;
            if !each(message) {
                return Ok(());
            }
            rest = rest
                .get(length.next_multiple_of(4).max(16)..)
                .unwrap_or_default();
        }
        Ok(())
    }
}

fn describe(message: LinkMessage) -> Link {
    let ethernet =
        message.header.link_layer_type == netlink_packet_route::link::LinkLayerType::Ether;
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ethernet,
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}
