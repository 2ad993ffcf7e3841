//! A container's network as data: what the plan holds, and what it makes of the config.

use super::endpoint::host_link;
use super::link::{mac_of, mac_text};
use super::names;
use super::network::{DEFAULT, Driver, Network, Networks};
use super::ports::Port;
use super::request::{self, Attach, Choice, Options, Request};
use super::rootless::{self, Carrier};
use super::shape::Rate;
use super::subnets;
use crate::spec::Spec;
use crate::spec::config::{Linux, Mount, Namespace};
use crate::store::Store;
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// One network that the container is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The link's name in the container.
    pub interface: String,
    /// The link's other end on the host; empty for macvlan.
    pub host: String,
    /// Its hardware address: the one asked, or one that the id gives.
    pub mac: String,
    /// Fixed addresses; of every other subnet a free one is taken when the plan is executed.
    pub fixed: Vec<IpAddr>,
    /// Packets are forwarded between this network and others: switched on where it is off.
    pub forwarding: bool,
    /// The network; the one that makes itself is as it would be made now.
    pub network: Network,
    /// The network must have these very subnets: the container had addresses in them before it was
    /// saved.
    #[serde(default)]
    pub kept: bool,
}

/// A container's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The networks' directory.
    pub networks: Networks,
    /// In the order of `eth0`, `eth1`; the first has the default route.
    pub attachments: Vec<Attachment>,
    /// The program that carries an ordinary user's packets, in place of networks of hull's.
    pub carrier: Option<Carrier>,
    /// Published ports, by way of the first network.
    pub ports: Vec<Port>,
    /// The names by which neighbours find it.
    pub names: Vec<String>,
    /// Lines of the hosts file.
    pub hosts: Vec<(String, IpAddr)>,
    /// Name servers in place of the host's.
    pub dns: Vec<IpAddr>,
    /// Search domains in place of the host's.
    pub search: Vec<String>,
    /// Shaping, of each link.
    pub rate: Option<Rate>,
    /// Forward chains of others that drop, in which the bridges are accepted while somebody is on
    /// them: those that are there when the plan is printed. Executed, it is those that are there
    /// then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opened: Vec<String>,
}

impl Setup {
    /// What it does to the container and the host, a line each.
    pub fn in_words(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for one in &self.attachments {
            let Attachment {
                interface,
                mac,
                network,
                ..
            } = one;
            let subnets: Vec<String> = network
                .subnets
                .iter()
                .map(|subnet| subnet.prefix.to_string())
                .collect();
            let how = if network.driver == Driver::Bridge {
                "bridge"
            } else {
                "macvlan on"
            };
            lines.push(format!(
                "{interface} ({mac}) is on network {}: {how} {}, {}",
                network.name,
                network.link,
                subnets.join(" and ")
            ));
            if one.forwarding {
                lines.push(format!(
                    "forwarding is switched on, and what leaves {} is masqueraded",
                    network.link
                ));
            }
            if network.driver == Driver::Bridge {
                lines.extend(self.opened.iter().map(|chain| {
                    format!(
                        "{} is accepted in {chain} while somebody is on it",
                        network.link
                    )
                }));
            }
        }
        lines.extend(self.carrier.iter().map(|carrier| {
            format!(
                "an ordinary user's packets are carried by {}",
                carrier.program().display()
            )
        }));
        lines.extend(
            self.ports
                .iter()
                .map(|port| format!("port {port} is published")),
        );
        lines.extend(self.rate.iter().map(|rate| {
            format!(
                "{} bit/s in and {} bit/s out, {} bytes at once",
                rate.down, rate.up, rate.burst
            )
        }));
        lines
    }
}

/// What was asked, as it was given.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The command line's options.
    pub options: Options,
    /// The config's annotations count where no option is given.
    pub annotations: bool,
    /// The plan is only printed: what is decided when it is executed is looked up now.
    pub preview: bool,
}

impl Asked {
    /// Understands the options and puts them into effect: see [`apply`].
    ///
    /// # Errors
    /// An option that is malformed, or cannot be.
    pub fn apply(
        &self,
        store: &Store,
        id: &str,
        spec: &Spec,
        of_container: NamespaceOf,
    ) -> Result<(Spec, Option<Setup>)> {
        let given = self.options != Options::default();
        let request = match self.annotations && !given {
            true => request::parse(&request::from_annotations(&spec.config().annotations)?)?,
            false => request::parse(&self.options)?,
        };
        let (spec, mut setup) = apply(&request, store, id, spec.clone(), of_container)?;
        if let Some(setup) = setup.as_mut().filter(|setup| {
            self.preview
                && setup
                    .attachments
                    .iter()
                    .any(|one| one.network.driver == Driver::Bridge)
        }) {
            setup.opened = super::foreign::opened()?;
        }
        Ok((spec, setup))
    }
}

/// Finds the path of another container's network namespace, for `--network container:ID`.
pub type NamespaceOf<'a> = &'a dyn Fn(&str) -> Result<String>;

/// The container's network namespace in the config, by the choice, and the setup where hull wires
/// it itself.
///
/// # Errors
/// A network that does not exist; a container that does not run; a config that contradicts.
pub fn apply(
    request: &Request,
    store: &Store,
    id: &str,
    spec: Spec,
    of_container: NamespaceOf,
) -> Result<(Spec, Option<Setup>)> {
    let mut config = spec.config().clone();
    let linux = config.linux.get_or_insert_with(Linux::default);
    let mut place = |path: Option<Option<String>>| {
        linux
            .namespaces
            .retain(|namespace| namespace.typ != Some(LinuxNamespaceType::Network));
        linux.namespaces.extend(path.map(|path| Namespace {
            typ: Some(LinuxNamespaceType::Network),
            path,
        }));
    };
    let mut setup = None;
    match &request.choice {
        Choice::Untouched => return Ok((spec, None)),
        Choice::None => place(Some(None)),
        Choice::Host => place(None),
        Choice::Path(path) => place(Some(Some(path.clone()))),
        Choice::Container(other) => place(Some(Some(of_container(other)?))),
        Choice::Networks(_) => {
            place(Some(None));
            setup = Some(prepare(request, store, id, config.hostname.as_deref())?);
            let directory =
                std::path::absolute(store.directory(id)).on("find", store.root().display())?;
            for (destination, source) in [
                ("/etc/hosts", names::hosts_path(&directory)),
                ("/etc/resolv.conf", names::resolv_path(&directory)),
            ] {
                if !config
                    .mounts
                    .iter()
                    .any(|mount| mount.destination == destination)
                {
                    config.mounts.push(bind(destination, source));
                }
            }
        }
    }
    Ok((Spec::check(config, spec.bundle().to_owned())?, setup))
}

fn bind(destination: &str, source: PathBuf) -> Mount {
    Mount {
        destination: destination.to_owned(),
        typ: Some("bind".to_owned()),
        source: Some(source.to_string_lossy().into_owned()),
        options: ["bind", "rprivate", "nosuid", "noexec", "nodev"]
            .map(str::to_owned)
            .to_vec(),
        ..Mount::default()
    }
}

/// Whether hull may make links on the host: CAP_NET_ADMIN (12), and not in a user namespace, where
/// it counts for nothing there.
fn may_wire() -> Result<bool> {
    Ok(crate::security::caps::held()? & (1 << 12) != 0 && !crate::facts::in_user_namespace())
}

/// An ordinary user has the default network alone, and no say over addresses.
fn ordinary(request: &Request, list: &[Attach]) -> Result<Carrier> {
    let plain = matches!(list, [only] if only.network == DEFAULT && only.addresses.is_empty() && only.mac.is_none());
    if !plain || request.rate.is_some() {
        return Err(Error::new(
            "an ordinary user has the network default, none or host: others, fixed addresses and \
                shaping need privileges",
        ));
    }
    rootless::find()
}

fn prepare(request: &Request, store: &Store, id: &str, hostname: Option<&str>) -> Result<Setup> {
    let Choice::Networks(list) = &request.choice else {
        return Err(Error::new("no network was asked for"));
    };
    let networks = Networks::of(store);
    let carrier = if may_wire()? {
        None
    } else {
        Some(ordinary(request, list)?)
    };
    let mut attachments = Vec::new();
    let list = if carrier.is_some() { &[][..] } else { list };
    for (number, asked) in list.iter().enumerate() {
        let network = match networks.find(&asked.network)? {
            Some(network) => network,
            None if asked.network == DEFAULT => subnets::default_network(&networks)?,
            None => {
                return Err(Error::new(format!(
                    "network {} does not exist",
                    asked.network
                )));
            }
        };
        if network.driver == Driver::Macvlan
            && (!request.ports.is_empty() || request.rate.is_some())
        {
            return Err(Error::new(format!(
                "network {}: a macvlan passes hull's host by, and can neither publish ports nor \
                    be shaped",
                network.name
            )));
        }
        if number == 0 && network.internal && !request.ports.is_empty() {
            return Err(Error::new(format!(
                "network {} is internal: nothing of it can be published",
                network.name
            )));
        }
        let host = match network.driver {
            Driver::Bridge => host_link(networks.directory(), &network.name, id, 'v'),
            Driver::Macvlan => String::new(),
        };
        let mac = asked
            .mac
            .unwrap_or_else(|| mac_of(&format!("{id}\0{}", network.name)));
        attachments.push(Attachment {
            interface: format!("eth{number}"),
            host,
            mac: mac_text(&mac),
            fixed: asked.addresses.clone(),
            forwarding: network.driver == Driver::Bridge && !network.internal,
            network,
            kept: false,
        });
    }
    let mut names = vec![id.to_owned()];
    names.extend(hostname.filter(|name| *name != id).map(str::to_owned));
    names.extend(request.aliases.iter().cloned());
    let Request {
        ports,
        hosts,
        dns,
        search,
        rate,
        ..
    } = request.clone();
    Ok(Setup {
        networks,
        attachments,
        carrier,
        ports,
        names,
        hosts,
        dns,
        search,
        rate,
        opened: Vec::new(),
    })
}
