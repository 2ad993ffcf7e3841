//! Two requests to nf_tables that need no nft(8): the generation of the ruleset, and whether a
//! table exists.
//!
//! The generation grows by one with each transaction, whoever commits it. While it is the one that
//! hull remembers, nobody else has changed the ruleset, and hull need not read it.

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

/// A socket for these requests. It is closed before nft deletes something: closing a socket waits
/// until the kernel has freed what was deleted, for tens of milliseconds (nft_rcv_nl_event).
pub struct NfTables {
    socket: Socket,
}

impl NfTables {
    /// Opens a socket in the network namespace that hull runs in.
    ///
    /// # Errors
    /// socket(2) fails.
    pub fn new() -> Result<Self> {
        Ok(Self {
            socket: Socket::new(NETLINK_NETFILTER).on("open", "a netlink socket")?,
        })
    }

    /// The generation of the ruleset. `None` where the kernel does not answer.
    pub fn generation(&self) -> Option<u32> {
        let answer = self.query(GETGEN, 0, &[])?;
        // The first attribute is NFTA_GEN_ID.
        let value = answer.get(24..28)?.try_into().ok()?;
        (kind(&answer)? == NEWGEN && answer.get(22..24)? == 1_u16.to_ne_bytes())
            .then(|| u32::from_be_bytes(value))
    }

    /// Whether neither of hull's two tables exists. False where the kernel does not answer.
    pub fn lacks_tables(&self, table: &str) -> bool {
        // NFTA_TABLE_NAME, a string that ends with a zero byte.
        let mut attribute = Vec::new();
        attribute.extend((table.len() as u16 + 5).to_ne_bytes());
        attribute.extend(1_u16.to_ne_bytes());
        attribute.extend(table.as_bytes());
        attribute.resize((attribute.len() + 1).next_multiple_of(4), 0);
        let missing = (-(Errno::ENOENT as i32)).to_ne_bytes();
        FAMILIES
            .iter()
            .all(|family| match self.query(GETTABLE, *family, &attribute) {
                Some(answer) => {
                    kind(&answer) == Some(NLMSG_ERROR) && answer.get(16..20) == Some(&missing[..])
                }
                None => false,
            })
    }

    fn query(&self, kind: u16, family: u8, attributes: &[u8]) -> Option<Vec<u8>> {
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
