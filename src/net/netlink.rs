//! Requests to the kernel's routing tables (rtnetlink(7)): several in one message, each
//! acknowledged.

use crate::sys::fd::Fd;
use crate::sys::{file, netns};
use crate::{Context, Error, Result};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use std::ffi::CString;

/// A network namespace, by its open file.
pub struct Namespace(pub Fd);

impl Namespace {
    /// A process's.
    ///
    /// # Errors
    /// The process is gone.
    pub fn of_process(pid: i32) -> Result<Self> {
        Self::at(&format!("/proc/{pid}/ns/net"))
    }

    /// hull's own, which is the host's for all that is made here.
    ///
    /// # Errors
    /// procfs is not there.
    pub fn own() -> Result<Self> {
        Self::at("/proc/self/ns/net")
    }

    /// A new one, with its loopback up; hull itself does not join it. It ends with its last process
    /// and open file.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> Result<Self> {
        let made = netns::new_namespace().on("make", "a network namespace")?;
        let namespace = Self(Fd(std::os::fd::IntoRawFd::into_raw_fd(made)));
        let up = super::link::set_up(
            1,
            true,
            "bring up the loopback of a network namespace".to_owned(),
        );
        Socket::inside(&namespace)?.execute(&[up])?;
        Ok(namespace)
    }

    /// The one at a path.
    ///
    /// # Errors
    /// The kernel's.
    pub fn at(path: &str) -> Result<Self> {
        let name = CString::new(path)
            .map_err(|_| Error::new("network namespace path contains a NUL byte"))?;
        file::openat(libc::AT_FDCWD, &name, libc::O_RDONLY, 0)
            .map(Fd)
            .on("open network namespace", path)
            .map(Self)
    }
}

/// A request, and what it does, for the error's words.
pub struct Request {
    /// The message.
    pub message: RouteNetlinkMessage,
    /// `NLM_F_*` besides REQUEST and ACK.
    pub flags: u16,
    /// `operation object`.
    pub what: String,
}

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is made of, such as `bridge`; empty for a card.
    pub kind: String,
    /// It is up.
    pub up: bool,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// Bytes of its longest packet.
    pub mtu: u32,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Its hardware type is Ethernet's.
    pub ethernet: bool,
}

/// A socket for requests.
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    /// A socket in hull's own network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn here() -> Result<Self> {
        let socket = netlink_sys::Socket::new(NETLINK_ROUTE).on("open", "a netlink socket")?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// A socket in another network namespace.
    ///
    /// # Errors
    /// The kernel's: EPERM for a namespace of others.
    pub fn inside(namespace: &Namespace) -> Result<Self> {
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

    /// Sends requests in one message and reads every acknowledgement.
    ///
    /// # Errors
    /// Of the first request that failed.
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

    /// The same; answers which requests failed and why.
    ///
    /// # Errors
    /// The socket's own.
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

    /// Asks for a whole table.
    ///
    /// # Errors
    /// The kernel's; an answer that cannot be read.
    pub fn dump(&mut self, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        match self.ask(request, NLM_F_DUMP, |answer| answers.push(answer))? {
            Some(errno) => Err(Error::sys("list", "the kernel's network tables", errno)),
            None => Ok(answers),
        }
    }

    /// Asks for one link by its name.
    ///
    /// # Errors
    /// The socket's own; an answer that cannot be read.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut asked = LinkMessage::default();
        asked
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        // A name longer than the kernel takes would be cut to another's.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        let mut found = None;
        let failed = self.ask(RouteNetlinkMessage::GetLink(asked), NLM_F_ACK, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some(describe(link));
            }
        })?;
        match failed {
            Some(Errno::ENODEV) | None => Ok(found),
            Some(errno) => Err(Error::sys("look up network device", name, errno)),
        }
    }

    /// All links.
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

    /// Sends one request and takes its answers until the kernel says that there are no more;
    /// answers the kernel's refusal.
    fn ask(
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

    /// One datagram's messages, as long as `each` wants more.
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
