//! Traffic shaping (tc(8)): limits how fast a container receives and sends. The queueing
//! disciplines are on the host's end of the veth pair, which the container cannot change.
//!
//! What the container receives leaves the host's end through a token bucket filter (tbf). What it
//! sends arrives at the host's end; a filter redirects it through an ifb device, on which there is
//! another tbf. Policing at the ingress would need no ifb, but it drops packets where a tbf queues
//! them: measured, it gave 73 Mbit/s for a limit of 50.

use super::link;
use super::netlink::{Request, Socket};
use crate::{Error, Result};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use serde::{Deserialize, Serialize};

/// How fast a container may receive and send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Limit of what the container receives, in bits per second.
    pub down: u64,
    /// Limit of what the container sends, in bits per second.
    pub up: u64,
    /// Size of the token bucket: what may pass at full speed after a pause, in bytes.
    pub burst: u32,
}

impl Rate {
    /// Parses `DOWN[:UP]`, such as `50mbit` or `50mbit:10mbit`, and a burst in bytes, such as
    /// `64k`.
    ///
    /// # Errors
    /// A value is malformed or out of range.
    pub fn parse(rate: &str, burst: Option<&str>) -> Result<Self> {
        let (down, up) = rate.split_once(':').unwrap_or((rate, rate));
        let read = |text: &str| {
            bits(text).ok_or_else(|| {
                Error::new(format!(
                    "--net-rate {rate}: the form is DOWN[:UP], such as 50mbit or 1gbit:100mbit"
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
            // 10 ms of the faster direction, but at least one packet of the size that segmentation
            // offload makes (64 KiB).
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
    // At less than 8 kbit/s one full packet takes more than a second.
    (8000..=1_000_000_000_000).contains(&rate).then_some(rate)
}

fn bytes(text: &str) -> Option<u32> {
    let count = crate::spec::size::parse(text).ok()?;
    u32::try_from(count).ok().filter(|count| *count >= 2048)
}

/// Handle of the ingress qdisc, and parent of its filters (`ffff:`).
const INGRESS: u32 = 0xffff_0000;
/// Parent of a root qdisc (TC_H_ROOT).
const ROOT: u32 = 0xffff_ffff;

/// Shapes a container's link. `device` is the host's end of the veth pair, `ifb` the name of the
/// ifb device to create.
///
/// # Errors
/// The kernel refuses a request, for instance because it has no tbf, ifb, u32 or mirred.
pub fn shape(host: &mut Socket, device: &str, ifb: &str, rate: &Rate) -> Result<()> {
    host.execute(&[link::ifb(ifb)])?;
    let index = |host: &mut Socket, name: &str| {
        host.link(name)?
            .map(|link| link.index)
            .ok_or_else(|| Error::new(format!("network device {name} is gone")))
    };
    let (device_index, ifb_index) = (index(host, device)?, index(host, ifb)?);
    host.execute(&[
        tbf(
            device_index,
            rate.down,
            rate.burst,
            format!("limit what is received over {device}"),
        ),
        tbf(
            ifb_index,
            rate.up,
            rate.burst,
            format!("limit what is sent over {device}"),
        ),
        ingress(device_index, format!("add an ingress qdisc to {device}")),
        redirect(
            device_index,
            ifb_index,
            format!("redirect what arrives on {device} to {ifb}"),
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

/// Appends a netlink attribute.
fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Adds a token bucket filter as root qdisc. `struct tc_tbf_qopt` of linux/pkt_sched.h: a rate (12
/// bytes), a peak rate (12), limit, buffer and mtu.
fn tbf(index: u32, rate: u64, burst: u32, what: String) -> Request {
    let per_second = rate / 8;
    let mut options = Vec::new();
    let mut parameters = Vec::new();
    // struct tc_ratespec: cell_log, linklayer (1 is Ethernet), overhead, cell_align, mpu, rate.
    let short = u32::try_from(per_second).unwrap_or(u32::MAX);
    parameters.extend([0_u8, 1, 0, 0, 0, 0, 0, 0]);
    parameters.extend(short.to_ne_bytes());
    parameters.extend([0_u8; 12]);
    // The queue: 50 ms at the rate, and a burst.
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
    // TCA_TBF_BURST gives the burst in bytes; the kernel then needs no table of rates (sch_tbf.c,
    // tbf_change).
    put(&mut options, 6, &burst.to_ne_bytes());
    request(
        message(index, ROOT, 0x0001_0000, "tbf", options),
        false,
        what,
    )
}

/// Adds an ingress qdisc, which filters of arriving packets need.
pub fn ingress(index: u32, what: String) -> Request {
    request(
        message(index, 0xffff_fff1, INGRESS, "ingress", Vec::new()),
        false,
        what,
    )
}

/// Removes the ingress qdisc with its filters.
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

/// Adds a u32 filter that matches every arriving packet, with the action to send it out of another
/// device (mirred).
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
