//! The number that the kernel gives the state of all nftables: it grows by one with each transaction, whoever makes it. So hull knows
//! that nobody has touched the firewall since, without reading it.

use crate::{Context, Result};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// NFNL_SUBSYS_NFTABLES and NFT_MSG_GETGEN of linux/netfilter/nfnetlink.h and nf_tables.h.
const GET: u16 = 10 << 8 | 16;
const NEW: u16 = 10 << 8 | 15;

/// The number now, of this network namespace. None where the kernel does not tell: then nothing is known.
///
/// # Errors
/// No netlink socket can be had.
pub fn now() -> Result<Option<u32>> {
    let socket = Socket::new(NETLINK_NETFILTER).on("open", "a netlink socket")?;
    // struct nlmsghdr: length, type, NLM_F_REQUEST, sequence and port; struct nfgenmsg: family, version and resource 0.
    let mut message = 20_u32.to_ne_bytes().to_vec();
    message.extend(GET.to_ne_bytes());
    message.extend(1_u16.to_ne_bytes());
    message.extend([0; 12]);
    if socket.send_to(&message, &SocketAddr::new(0, 0), 0).is_err() {
        return Ok(None);
    }
    Ok(socket.recv_from_full().ok().and_then(|(answer, _)| read(&answer)))
}

/// The attribute NFTA_GEN_ID, the first of the answer.
fn read(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let attribute = u16::from_ne_bytes(answer.get(22..24)?.try_into().ok()?);
    let value = answer.get(24..28)?.try_into().ok()?;
    (kind == NEW && attribute == 1).then(|| u32::from_be_bytes(value))
}
