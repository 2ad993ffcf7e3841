//! Two questions to nf_tables that need no program: the number of its state, and whether a table is
//! there.
//!
//! The number grows by one with each transaction, whoever makes it. So hull knows that nobody has
//! touched the firewall since, without reading it.

use crate::{Context, Result};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

/// NFNL_SUBSYS_NFTABLES of linux/netfilter/nfnetlink.h, and the messages of nf_tables.h.
const NFTABLES: u16 = 10 << 8;
const GETTABLE: u16 = NFTABLES | 1;
const NEWGEN: u16 = NFTABLES | 15;
const GETGEN: u16 = NFTABLES | 16;
/// NFPROTO_INET and NFPROTO_BRIDGE of linux/netfilter.h.
const FAMILIES: [u8; 2] = [1, 7];
const NLMSG_ERROR: u16 = 2;

/// Asks. Closed before nft deletes something: the kernel lets a socket's closing wait until what
/// was deleted is freed, for tens of milliseconds (nft_rcv_nl_event).
pub struct Questions {
    socket: Socket,
}

impl Questions {
    /// Asks about this network namespace.
    ///
    /// # Errors
    /// No netlink socket can be had.
    pub fn new() -> Result<Self> {
        Ok(Self {
            socket: Socket::new(NETLINK_NETFILTER).on("open", "a netlink socket")?,
        })
    }

    /// The number of the state. None where the kernel does not tell: then nothing is known.
    pub fn generation(&self) -> Option<u32> {
        let answer = self.ask(GETGEN, 0, &[])?;
        // The first attribute is NFTA_GEN_ID.
        let value = answer.get(24..28)?.try_into().ok()?;
        (kind(&answer)? == NEWGEN && answer.get(22..24)? == 1_u16.to_ne_bytes())
            .then(|| u32::from_be_bytes(value))
    }

    /// Whether neither of hull's two tables is there. What cannot be known is no.
    pub fn lacks(&self, table: &str) -> bool {
        // NFTA_TABLE_NAME, a string that ends with a zero byte.
        let mut attribute = Vec::new();
        attribute.extend((table.len() as u16 + 5).to_ne_bytes());
        attribute.extend(1_u16.to_ne_bytes());
        attribute.extend(table.as_bytes());
        attribute.resize((attribute.len() + 1).next_multiple_of(4), 0);
        let missing = (-(Errno::ENOENT as i32)).to_ne_bytes();
        FAMILIES
            .iter()
            .all(|family| match self.ask(GETTABLE, *family, &attribute) {
                Some(answer) => {
                    kind(&answer) == Some(NLMSG_ERROR) && answer.get(16..20) == Some(&missing[..])
                }
                None => false,
            })
    }

    fn ask(&self, kind: u16, family: u8, attributes: &[u8]) -> Option<Vec<u8>> {
        // struct nlmsghdr: length, type, NLM_F_REQUEST, sequence and port; struct nfgenmsg: family,
        // version and resource 0.
        let mut message = (20 + attributes.len() as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(1_u16.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([family, 0, 0, 0]);
        message.extend(attributes);
        self.socket
            .send_to(&message, &SocketAddr::new(0, 0), 0)
            .ok()?;
        self.socket.recv_from_full().ok().map(|(answer, _)| answer)
    }
}

fn kind(answer: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?))
}
