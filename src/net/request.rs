//! The network flags of the command line, or the annotations that stand for them, parsed.

use super::link::{Mac, parse_mac};
use super::network::{DEFAULT, check_name};
use super::ports::PortMapping;
use super::shape::Rate;
use crate::{Error, Result};
use std::net::IpAddr;

/// A network that the container is to be attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// The name of the network.
    pub network: String,
    /// Fixed addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// A fixed hardware address.
    pub mac: Option<Mac>,
}

/// Which network namespace the container gets (`--network`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// The one that the config says; hull changes nothing.
    FromConfig,
    /// A new one with nothing but its loopback.
    None,
    /// The one that hull runs in.
    Host,
    /// That of another container, by its id.
    Container(String),
    /// The one at a path.
    Path(String),
    /// A new one, attached to these networks.
    Networks(Vec<AttachRequest>),
}

/// The flags as they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkFlags {
    /// `--network`.
    pub network: Vec<String>,
    /// `--publish`.
    pub publish: Vec<String>,
    /// `--dns`.
    pub dns: Vec<String>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--add-host`.
    pub add_host: Vec<String>,
    /// `--network-alias`.
    pub alias: Vec<String>,
    /// `--net-rate`.
    pub rate: Option<String>,
    /// `--net-burst`.
    pub burst: Option<String>,
}

/// The flags, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRequest {
    /// The network namespace and the networks.
    pub mode: NetworkMode,
    /// Published ports, of the container's first network.
    pub ports: Vec<PortMapping>,
    /// The name servers that replace the host's.
    pub dns: Vec<IpAddr>,
    /// The search domains that replace the host's.
    pub search: Vec<String>,
    /// Additional lines of the container's hosts file: a name and its address.
    pub hosts: Vec<(String, IpAddr)>,
    /// Additional names under which other containers find this one.
    pub aliases: Vec<String>,
    /// How fast the container may send and receive.
    pub rate: Option<Rate>,
}

/// Parses the flags.
///
/// # Errors
/// A value is malformed; a flag needs another one that was not given.
pub fn parse(flags: &NetworkFlags) -> Result<NetworkRequest> {
    let mode = mode(&flags.network)?;
    let mut ports: Vec<PortMapping> = Vec::new();
    for text in &flags.publish {
        let port: PortMapping = text.parse().map_err(Error::new)?;
        if ports.iter().any(|other| other.collides(&port)) {
            return Err(Error::new(format!("published port {port} is given twice")));
        }
        ports.push(port);
    }
    let dns = flags.dns.iter().map(|text| {
        text.parse()
            .map_err(|_| Error::new(format!("--dns {text}: not an address")))
    });
    let request = NetworkRequest {
        ports,
        dns: dns.collect::<Result<_>>()?,
        search: flags.dns_search.clone(),
        hosts: flags
            .add_host
            .iter()
            .map(|text| host_line(text))
            .collect::<Result<_>>()?,
        aliases: flags.alias.clone(),
        rate: flags
            .rate
            .as_deref()
            .map(|rate| Rate::parse(rate, flags.burst.as_deref()))
            .transpose()?,
        mode,
    };
    if flags.burst.is_some() && flags.rate.is_none() {
        return Err(Error::new("--net-burst needs --net-rate"));
    }
    for name in request.aliases.iter().chain(&request.search) {
        check_host(name)?;
    }
    let has_networks = matches!(request.mode, NetworkMode::Networks(_));
    if !has_networks
        && (!request.ports.is_empty() || request.rate.is_some() || !request.aliases.is_empty())
    {
        return Err(Error::new(
            "--publish, --network-alias and --net-rate need a network (--network NAME)",
        ));
    }
    Ok(request)
}

fn mode(given: &[String]) -> Result<NetworkMode> {
    let alone = |mode: NetworkMode| match given.len() {
        1 => Ok(mode),
        _ => Err(Error::new(
            "--network none, host, container:ID and ns:PATH cannot be combined with others",
        )),
    };
    let mut list: Vec<AttachRequest> = Vec::new();
    for text in given {
        match text.split_once(':').unwrap_or((text, "")) {
            ("none", "") => return alone(NetworkMode::None),
            ("host", "") => return alone(NetworkMode::Host),
            ("container", id) => {
                crate::store::check_id(id)?;
                return alone(NetworkMode::Container(id.to_owned()));
            }
            ("ns", path) if path.starts_with('/') => {
                return alone(NetworkMode::Path(path.to_owned()));
            }
            ("ns", _) => {
                return Err(Error::new(format!(
                    "--network {text}: the namespace's path must be absolute"
                )));
            }
            (name, rest) => list.push(attach(text, name, rest)?),
        }
        if let Some((last, others)) = list.split_last()
            && others.iter().any(|other| other.network == last.network)
        {
            return Err(Error::new(format!(
                "--network {}: given twice",
                last.network
            )));
        }
    }
    Ok(if list.is_empty() {
        NetworkMode::FromConfig
    } else {
        NetworkMode::Networks(list)
    })
}

fn attach(text: &str, name: &str, rest: &str) -> Result<AttachRequest> {
    let name = if name.is_empty() { DEFAULT } else { name };
    check_name(name)?;
    let mut attach = AttachRequest {
        network: name.to_owned(),
        ..AttachRequest::default()
    };
    for option in rest.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("ip" | "ip6", value) => {
                let address: IpAddr = value.parse().map_err(|_| {
                    Error::new(format!("--network {text}: {value:?} is not an address"))
                })?;
                if attach
                    .addresses
                    .iter()
                    .any(|other| other.is_ipv4() == address.is_ipv4())
                {
                    return Err(Error::new(format!(
                        "--network {text}: two addresses of one family"
                    )));
                }
                attach.addresses.push(address);
            }
            ("mac", value) => {
                attach.mac = Some(
                    parse_mac(value)
                        .map_err(|why| Error::new(format!("--network {text}: {why}")))?,
                )
            }
            (key, _) => {
                return Err(Error::new(format!(
                    "--network {text}: unknown option {key:?} (known: ip, ip6, mac)"
                )));
            }
        }
    }
    Ok(attach)
}

fn host_line(text: &str) -> Result<(String, IpAddr)> {
    let wrong = || Error::new(format!("--add-host {text}: the form is NAME:ADDRESS"));
    let (name, address) = text.split_once(':').ok_or_else(wrong)?;
    let address = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    check_host(name)?;
    Ok((name.to_owned(), address.parse().map_err(|_| wrong())?))
}

/// Refuses names with characters that would end a line or a field of the hosts file.
///
/// # Errors
/// The name has other characters than letters, digits, `-`, `.` and `_`, or is empty or too long.
pub fn check_host(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || name.len() > 253 || !name.chars().all(plain) {
        return Err(Error::new(format!("{name:?} is not a host name")));
    }
    Ok(())
}

/// The front of the annotations that stand for flags. Blanks separate the entries of a list.
const PREFIX: &str = "hull.network.";

/// Reads the flags from a bundle's annotations, such as `hull.network.name`. An image's author may
/// have written them: hull reads them only with `--network-annotations`, and they cannot ask for
/// the host's, another container's or a named namespace (`host`, `container:`, `ns:`).
///
/// # Errors
/// An annotation below `hull.network.` is unknown, or asks for one of those namespaces.
pub fn from_annotations(
    annotations: &std::collections::BTreeMap<String, String>,
) -> Result<NetworkFlags> {
    let mut flags = NetworkFlags::default();
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let list = || {
            value
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        match name {
            "name" => flags.network = list(),
            "publish" => flags.publish = list(),
            "dns" => flags.dns = list(),
            "dns-search" => flags.dns_search = list(),
            "add-host" => flags.add_host = list(),
            "alias" => flags.alias = list(),
            "rate" => flags.rate = Some(value.clone()),
            "burst" => flags.burst = Some(value.clone()),
            _ => return Err(Error::new(format!("annotation {key}: unknown"))),
        }
    }
    let refused = |text: &&String| {
        text.as_str() == "host" || text.starts_with("container:") || text.starts_with("ns:")
    };
    match flags.network.iter().find(refused) {
        Some(text) => Err(Error::new(format!(
            "annotation {PREFIX}name: {text} can only be given on the command line"
        ))),
        None => Ok(flags),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(network: &[&str]) -> Result<NetworkRequest> {
        parse(&NetworkFlags {
            network: network.iter().map(|s| (*s).to_owned()).collect(),
            ..NetworkFlags::default()
        })
    }

    #[test]
    fn modes() {
        assert_eq!(with(&[]).unwrap().mode, NetworkMode::FromConfig);
        assert_eq!(with(&["none"]).unwrap().mode, NetworkMode::None);
        assert_eq!(
            with(&["container:a"]).unwrap().mode,
            NetworkMode::Container("a".into())
        );
        assert_eq!(
            with(&["ns:/run/netns/x"]).unwrap().mode,
            NetworkMode::Path("/run/netns/x".into())
        );
        let two = with(&["a:ip=10.0.0.5,ip6=fd00::5,mac=02:00:00:00:00:01", "b"])
            .unwrap()
            .mode;
        let NetworkMode::Networks(list) = two else {
            panic!("{two:?}")
        };
        assert_eq!(
            (
                list[0].addresses.len(),
                list[0].mac,
                list[1].network.as_str()
            ),
            (2, Some([2, 0, 0, 0, 0, 1]), "b")
        );
        for bad in [
            &["none", "a"][..],
            &["a", "a"],
            &["ns:x"],
            &["container:../x"],
            &["a:ip=x"],
            &["a:x=y"],
            &["a/b"],
            &["a:ip=1.1.1.1,ip=1.1.1.2"],
        ] {
            assert!(with(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn malformed_hosts_lines_are_refused() {
        let host = |text: &str| {
            parse(&NetworkFlags {
                add_host: vec![text.to_owned()],
                ..NetworkFlags::default()
            })
        };
        assert!(host("db:10.0.0.1").is_ok());
        assert!(host("db:[fd00::1]").is_ok());
        for bad in ["db", "db:", "d b:10.0.0.1", "db\n:10.0.0.1", "db:x"] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
        let publish = parse(&NetworkFlags {
            publish: vec!["80:80".into()],
            ..NetworkFlags::default()
        });
        assert!(publish.is_err(), "a port without a network");
    }

    #[test]
    fn annotations_cannot_reach_into_other_namespaces() {
        let of =
            |key: &str, value: &str| from_annotations(&[(key.to_owned(), value.to_owned())].into());
        assert_eq!(of("hull.network.name", "a b").unwrap().network, ["a", "b"]);
        assert!(of("hull.network.name", "host").is_err());
        assert!(of("hull.network.name", "container:x").is_err());
        assert!(of("hull.network.typo", "x").is_err());
        assert!(of("other", "x").unwrap().network.is_empty());
    }
}
