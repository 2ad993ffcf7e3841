//! Shaping: how fast a container may receive and send, on hull's own end of its link and out of its
//! reach.
//!
//! What it receives leaves hull's end through a token bucket (tbf). What it sends arrives there, is
//! sent through a device of its own (ifb), and waits in a token bucket there: a policer would drop,
//! and the flow would get more or less than it was given.

use super::link;
use super::netlink::{Request, Socket};
use crate::{Error, Result};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use serde::{Deserialize, Serialize};

/// A container's share of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// What it may receive, bits a second.
    pub down: u64,
    /// What it may send, bits a second.
    pub up: u64,
    /// What may pass at once after silence, bytes.
    pub burst: u32,
}

impl Rate {
    /// Reads `RATE[:UP]`, such as `50mbit` or `50mbit:10mbit`, and a burst in bytes such as `64k`.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(rate: &str, burst: Option<&str>) -> Result<Self> {
        let (down, up) = rate.split_once(':').unwrap_or((rate, rate));
        let read = |text: &str| {
            bits(text).ok_or_else(|| {
                Error::new(format!(
                    "--net-rate {rate}: the form is RATE[:UP], such as 50mbit or 1gbit:100mbit"
                ))
            })
        };
        let (down, up) = (read(down)?, read(up)?);
        let burst = match burst {
            Some(text) => bytes(text).ok_or_else(|| {
                Error::new(format!(
                    "--net-burst {text}: the form is BYTES[k|m], at least 2k, below 4g"
                ))
            })?,
            // 10 ms of the faster direction, but never less than one large packet of segmentation
            // offload.
            None => u32::try_from((down.max(up) / 800).clamp(65_536 + 1024, 1 << 30))
                .unwrap_or(u32::MAX),
        };
        Ok(Self { down, up, burst })
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn bits(text: &str) -> Option<u64> {
    let rate = scaled(
        text,
        &[
            ("", 1),
            ("bit", 1),
            ("kbit", 1000),
            ("mbit", 1_000_000),
            ("gbit", 1_000_000_000),
        ],
    )?;
    // Below this a packet takes longer than a program waits.
    (8000..=1_000_000_000_000).contains(&rate).then_some(rate)
}

fn bytes(text: &str) -> Option<u32> {
    let count = scaled(text, &[("", 1), ("k", 1024), ("m", 1 << 20)])?;
    u32::try_from(count).ok().filter(|count| *count >= 2048)
}

const INGRESS: u32 = 0xffff_0000;
const ROOT: u32 = 0xffff_ffff;

/// Shapes a container's link: `host` is hull's end, `ifb` the name of the device for the way up.
///
/// # Errors
/// The kernel's: it may lack tbf, ifb or u32.
pub fn shape(here: &mut Socket, host: &str, ifb: &str, rate: &Rate) -> Result<()> {
    here.execute(&[link::ifb(ifb)])?;
    let index = |here: &mut Socket, name: &str| {
        here.link(name)?
            .map(|link| link.index)
            .ok_or_else(|| Error::new(format!("network device {name} is gone")))
    };
    let (host_index, ifb_index) = (index(here, host)?, index(here, ifb)?);
    here.execute(&[
        bucket(
            host_index,
            rate.down,
            rate.burst,
            format!("limit what is received over {host}"),
        ),
        bucket(
            ifb_index,
            rate.up,
            rate.burst,
            format!("limit what is sent over {host}"),
        ),
        ingress(host_index, format!("watch what is sent over {host}")),
        redirect(
            host_index,
            ifb_index,
            format!("send what arrives on {host} through {ifb}"),
        ),
    ])
}

fn request(message: TcMessage, filter: bool, what: String) -> Request {
    let message = if filter {
        RouteNetlinkMessage::NewTrafficFilter(message)
    } else {
        RouteNetlinkMessage::NewQueueDiscipline(message)
    };
    Request {
        message,
        flags: NLM_F_CREATE | NLM_F_EXCL,
        what,
    }
}

fn message(index: u32, parent: u32, handle: u32, kind: &str, options: Vec<u8>) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::from(parent);
    message.header.handle = TcHandle::from(handle);
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message
        .attributes
        .push(TcAttribute::Other(DefaultNla::new(2, options)));
    message
}

fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A token bucket filter. `struct tc_tbf_qopt` of linux/pkt_sched.h: a rate (12 bytes), a peak rate
/// (12), limit, buffer and mtu.
fn bucket(index: u32, rate: u64, burst: u32, what: String) -> Request {
    let per_second = rate / 8;
    let mut options = Vec::new();
    let mut parameters = Vec::new();
    // struct tc_ratespec: cell_log, linklayer (1 is Ethernet), overhead, cell_align, mpu, rate.
    let short = u32::try_from(per_second).unwrap_or(u32::MAX);
    parameters.extend([0_u8, 1, 0, 0, 0, 0, 0, 0]);
    parameters.extend(short.to_ne_bytes());
    parameters.extend([0_u8; 12]);
    // What waits at most: 50 ms, and a burst.
    let limit = u32::try_from(per_second / 20)
        .unwrap_or(u32::MAX)
        .max(16 * 1024)
        .saturating_add(burst);
    parameters.extend(limit.to_ne_bytes());
    // The bucket in ticks of 64 ns (PSCHED_SHIFT of net/pkt_sched.h).
    let ticks =
        u32::try_from(u128::from(burst) * 1_000_000_000 / u128::from(per_second.max(1)) / 64)
            .unwrap_or(u32::MAX);
    parameters.extend(ticks.to_ne_bytes());
    parameters.extend(0_u32.to_ne_bytes());
    put(&mut options, 1, &parameters);
    if per_second >= 1 << 32 {
        put(&mut options, 4, &per_second.to_ne_bytes());
    }
    // The kernel takes the burst in bytes from here, and needs no table of rates then (sch_tbf.c,
    // tbf_change).
    put(&mut options, 6, &burst.to_ne_bytes());
    request(
        message(index, ROOT, 0x0001_0000, "tbf", options),
        false,
        what,
    )
}

/// What arrives on a link can be looked at.
pub fn ingress(index: u32, what: String) -> Request {
    request(
        message(index, 0xffff_fff1, INGRESS, "ingress", Vec::new()),
        false,
        what,
    )
}

/// What arrives on a link is looked at no more; the filters go with it.
pub fn no_ingress(index: u32, what: String) -> Request {
    let message = RouteNetlinkMessage::DelQueueDiscipline(message(
        index,
        0xffff_fff1,
        INGRESS,
        "ingress",
        Vec::new(),
    ));
    Request {
        message,
        flags: 0,
        what,
    }
}

/// A u32 filter that every packet matches, with the action to go on through another device.
pub fn redirect(index: u32, target: u32, what: String) -> Request {
    // struct tc_u32_sel with one key: flags TERMINAL, nkeys 1, and a key with an empty mask.
    let mut selector = vec![1_u8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    selector.extend([0_u8; 16]);
    // struct tc_mirred: index, capab, action STOLEN (4), refcnt, bindcnt, eaction EGRESS_REDIR (1),
    // ifindex.
    let mut mirred = Vec::new();
    for number in [0_u32, 0, 4, 0, 0, 1, target] {
        mirred.extend(number.to_ne_bytes());
    }
    let (mut inner, mut action, mut actions, mut options) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    put(&mut inner, 2, &mirred);
    put(&mut action, 1, b"mirred\0");
    put(&mut action, 2 | 0x8000, &inner);
    put(&mut actions, 1 | 0x8000, &action);
    put(&mut options, 1, &0x0001_0001_u32.to_ne_bytes());
    put(&mut options, 5, &selector);
    put(&mut options, 7 | 0x8000, &actions);
    let mut message = message(index, INGRESS, 0, "u32", options);
    // Priority 1, every protocol (ETH_P_ALL, in network order).
    message.header.info = (1 << 16) | u32::from(3_u16.to_be());
    request(message, true, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let rate = Rate::parse("50mbit", None).unwrap();
        assert_eq!(
            (rate.down, rate.up, rate.burst),
            (50_000_000, 50_000_000, 66_560)
        );
        let rate = Rate::parse("1gbit:10mbit", Some("64k")).unwrap();
        assert_eq!(
            (rate.down, rate.up, rate.burst),
            (1_000_000_000, 10_000_000, 65_536)
        );
        for bad in ["", "mbit", "50", "50mb", "-1mbit", "1mbit:", "99999999gbit"] {
            assert!(Rate::parse(bad, None).is_err(), "{bad}");
        }
        assert!(Rate::parse("1mbit", Some("1k")).is_err());
    }
}
