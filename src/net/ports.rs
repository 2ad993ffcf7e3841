//! Published ports: `[IP:]HOST[-LAST]:CONTAINER[-LAST][/tcp|udp|sctp]`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
    /// SCTP (RFC 9260).
    Sctp,
}

impl Protocol {
    /// The name in lower case.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// A range of ports of the host, each mapped to a port of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The address of the host that the ports are published on; `None` means all addresses.
    pub ip: Option<IpAddr>,
    /// The first port of the host.
    pub host: u16,
    /// The first port of the container.
    pub container: u16,
    /// The number of ports, at least 1.
    pub count: u16,
    /// The protocol of all these ports.
    pub protocol: Protocol,
}

impl PortMapping {
    /// The pairs of a port of the host and the port of the container that it is mapped to.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (host, container) = (self.host, self.container);
        (0..self.count).map(move |n| (host + n, container + n))
    }

    /// Whether both publish the same port on the same address.
    pub fn collides(&self, other: &Self) -> bool {
        let addresses = match (self.ip, other.ip) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        let (last, other_last) = (
            u32::from(self.host) + u32::from(self.count),
            u32::from(other.host) + u32::from(other.count),
        );
        addresses
            && self.protocol == other.protocol
            && u32::from(self.host) < other_last
            && u32::from(other.host) < last
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(ip) => write!(f, "{ip}:")?,
            None => {}
        }
        let run = |first: u16| {
            if self.count == 1 {
                first.to_string()
            } else {
                format!("{first}-{}", first + (self.count - 1))
            }
        };
        write!(
            f,
            "{}:{}/{}",
            run(self.host),
            run(self.container),
            self.protocol.word()
        )
    }
}

impl FromStr for PortMapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "published port {text:?}: {why}; the form is \
                    [IP:]HOST[-LAST]:CONTAINER[-LAST][/tcp|udp|sctp]"
            )
        };
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(wrong(&format!("unknown protocol {other:?}"))),
        };
        let (rest, container) = ports
            .rsplit_once(':')
            .ok_or_else(|| wrong("the container's port is missing"))?;
        let (ip, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((ip, host)) => {
                let ip = ip
                    .strip_prefix('[')
                    .and_then(|ip| ip.strip_suffix(']'))
                    .unwrap_or(ip);
                (
                    Some(
                        ip.parse::<IpAddr>()
                            .map_err(|_| wrong("the address is malformed"))?,
                    ),
                    host,
                )
            }
        };
        // The unspecified address (0.0.0.0 or ::) means all addresses of the host.
        let ip = ip.filter(|ip| !ip.is_unspecified());
        let (host, host_count) = run(host).ok_or_else(|| wrong("the host's port is malformed"))?;
        let (container, count) =
            run(container).ok_or_else(|| wrong("the container's port is malformed"))?;
        if count != host_count {
            return Err(wrong("the two ranges differ in length"));
        }
        Ok(Self {
            ip,
            host,
            container,
            count,
            protocol,
        })
    }
}

fn run(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && last >= first && last - first < u16::MAX).then(|| (first, last - first + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_published_port() {
        let show = |text: &str| text.parse::<PortMapping>().map(|port| port.to_string());
        assert_eq!(show("80:8080").unwrap(), "80:8080/tcp");
        assert_eq!(
            show("127.0.0.1:80:8080/udp").unwrap(),
            "127.0.0.1:80:8080/udp"
        );
        assert_eq!(show("[fd00::1]:80:8080").unwrap(), "[fd00::1]:80:8080/tcp");
        assert_eq!(show("0.0.0.0:80:8080/sctp").unwrap(), "80:8080/sctp");
        assert_eq!(
            show("1000-1002:2000-2002").unwrap(),
            "1000-1002:2000-2002/tcp"
        );
        for bad in [
            "80",
            "",
            ":",
            "0:1",
            "1:0",
            "80:80/icmp",
            "1-2:3-5",
            "2-1:2-1",
            "x:80:80",
            "65536:1",
            "1.2.3:80:80",
        ] {
            assert!(show(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn collisions() {
        let port = |text: &str| text.parse::<PortMapping>().unwrap();
        assert!(port("80:1").collides(&port("80:2")));
        assert!(port("70-90:1-21").collides(&port("1.2.3.4:80:2")));
        assert!(!port("80:1").collides(&port("80:1/udp")));
        assert!(!port("1.2.3.4:80:1").collides(&port("1.2.3.5:80:1")));
        assert!(!port("80:1").collides(&port("81:1")));
        assert!(port("65535:1").collides(&port("65535:2")));
    }
}
