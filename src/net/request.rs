//! What a command line or an annotation asks of the network.

use super::link::{Mac, parse_mac};
use super::network::{DEFAULT, check_name};
use super::ports::Port;
use super::shape::Rate;
use crate::{Error, Result};
use std::net::IpAddr;

/// One network to be on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// The network's name.
    pub network: String,
    /// Fixed addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// A fixed hardware address.
    pub mac: Option<Mac>,
}

/// Where a container's network namespace comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The config says it, and hull adds nothing.
    Untouched,
    /// A new one with nothing but its loopback.
    None,
    /// hull's own.
    Host,
    /// Another container's.
    Container(String),
    /// The one at a path.
    Path(String),
    /// A new one on these networks.
    Networks(Vec<Attach>),
}

/// The options as they are given; each may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
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

/// The options, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The namespace.
    pub choice: Choice,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Name servers in place of the host's.
    pub dns: Vec<IpAddr>,
    /// Search domains in place of the host's.
    pub search: Vec<String>,
    /// More lines of the hosts file.
    pub hosts: Vec<(String, IpAddr)>,
    /// More names for its neighbours.
    pub aliases: Vec<String>,
    /// Shaping.
    pub rate: Option<Rate>,
}

/// Understands the options.
///
/// # Errors
/// A sentence that names the option's value.
pub fn parse(options: &Options) -> Result<Request> {
    let choice = choice(&options.network)?;
    let mut ports: Vec<Port> = Vec::new();
    for text in &options.publish {
        let port: Port = text.parse().map_err(Error::new)?;
        if ports.iter().any(|other| other.collides(&port)) {
            return Err(Error::new(format!("published port {port} is given twice")));
        }
        ports.push(port);
    }
    let dns = options.dns.iter().map(|text| {
        text.parse()
            .map_err(|_| Error::new(format!("--dns {text}: not an address")))
    });
    let request = Request {
        ports,
        dns: dns.collect::<Result<_>>()?,
        search: options.dns_search.clone(),
        hosts: options
            .add_host
            .iter()
            .map(|text| host_line(text))
            .collect::<Result<_>>()?,
        aliases: options.alias.clone(),
        rate: options
            .rate
            .as_deref()
            .map(|rate| Rate::parse(rate, options.burst.as_deref()))
            .transpose()?,
        choice,
    };
    if options.burst.is_some() && options.rate.is_none() {
        return Err(Error::new("--net-burst needs --net-rate"));
    }
    for name in request.aliases.iter().chain(&request.search) {
        check_host(name)?;
    }
    let wired = matches!(request.choice, Choice::Networks(_));
    if !wired
        && (!request.ports.is_empty() || request.rate.is_some() || !request.aliases.is_empty())
    {
        return Err(Error::new(
            "--publish, --network-alias and --net-rate need a network of hull's (--network NAME)",
        ));
    }
    Ok(request)
}

fn choice(given: &[String]) -> Result<Choice> {
    let alone = |choice: Choice| match given.len() {
        1 => Ok(choice),
        _ => Err(Error::new(
            "--network none, host, container:ID and ns:PATH stand alone",
        )),
    };
    let mut list: Vec<Attach> = Vec::new();
    for text in given {
        match text.split_once(':').unwrap_or((text, "")) {
            ("none", "") => return alone(Choice::None),
            ("host", "") => return alone(Choice::Host),
            ("container", id) => {
                crate::store::check_id(id)?;
                return alone(Choice::Container(id.to_owned()));
            }
            ("ns", path) if path.starts_with('/') => return alone(Choice::Path(path.to_owned())),
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
        Choice::Untouched
    } else {
        Choice::Networks(list)
    })
}

fn attach(text: &str, name: &str, rest: &str) -> Result<Attach> {
    let name = if name.is_empty() { DEFAULT } else { name };
    check_name(name)?;
    let mut attach = Attach {
        network: name.to_owned(),
        ..Attach::default()
    };
    for option in rest.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("ip" | "ip6", value) => {
                let address: IpAddr = value.parse().map_err(|_| {
                    Error::new(format!("--network {text}: {value:?} is no address"))
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

/// A name that can stand in a hosts file: nothing that would end its line or field.
fn check_host(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || name.len() > 253 || !name.chars().all(plain) {
        return Err(Error::new(format!("{name:?} is no host's name")));
    }
    Ok(())
}

/// The annotations that stand for options, each with a comma-free list separated by blanks.
const PREFIX: &str = "hull.network.";

/// Reads the options out of a bundle's annotations, such as `hull.network.name`. They come with an
/// image, and so from anyone: a caller asks for this, and namespaces of others (`host`,
/// `container:`, `ns:`) cannot be had by it.
///
/// # Errors
/// An unknown annotation below the prefix; a namespace of another.
pub fn from_annotations(
    annotations: &std::collections::BTreeMap<String, String>,
) -> Result<Options> {
    let mut options = Options::default();
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
            "name" => options.network = list(),
            "publish" => options.publish = list(),
            "dns" => options.dns = list(),
            "dns-search" => options.dns_search = list(),
            "add-host" => options.add_host = list(),
            "alias" => options.alias = list(),
            "rate" => options.rate = Some(value.clone()),
            "burst" => options.burst = Some(value.clone()),
            _ => return Err(Error::new(format!("annotation {key}: unknown"))),
        }
    }
    let foreign = |text: &&String| {
        text.as_str() == "host" || text.starts_with("container:") || text.starts_with("ns:")
    };
    match options.network.iter().find(foreign) {
        Some(text) => Err(Error::new(format!(
            "annotation {PREFIX}name: {text} can only be given on the command line"
        ))),
        None => Ok(options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(network: &[&str]) -> Result<Request> {
        parse(&Options {
            network: network.iter().map(|s| (*s).to_owned()).collect(),
            ..Options::default()
        })
    }

    #[test]
    fn choices() {
        assert_eq!(with(&[]).unwrap().choice, Choice::Untouched);
        assert_eq!(with(&["none"]).unwrap().choice, Choice::None);
        assert_eq!(
            with(&["container:a"]).unwrap().choice,
            Choice::Container("a".into())
        );
        assert_eq!(
            with(&["ns:/run/netns/x"]).unwrap().choice,
            Choice::Path("/run/netns/x".into())
        );
        let two = with(&["a:ip=10.0.0.5,ip6=fd00::5,mac=02:00:00:00:00:01", "b"])
            .unwrap()
            .choice;
        let Choice::Networks(list) = two else {
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
    fn what_would_break_a_file_is_refused() {
        let host = |text: &str| {
            parse(&Options {
                add_host: vec![text.to_owned()],
                ..Options::default()
            })
        };
        assert!(host("db:10.0.0.1").is_ok());
        assert!(host("db:[fd00::1]").is_ok());
        for bad in ["db", "db:", "d b:10.0.0.1", "db\n:10.0.0.1", "db:x"] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
        let publish = parse(&Options {
            publish: vec!["80:80".into()],
            ..Options::default()
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
