//! The network part of a plan, made from the network flags, and what it changes in the config.

use super::endpoint::veth_name;
use super::link::{mac_of, mac_text};
use super::names;
use super::network::{DEFAULT, Driver, Network};
use super::ports::PortMapping;
use super::request::{self, AttachRequest, NetworkFlags, NetworkMode, NetworkRequest, check_host};
use super::rootless;
use super::shape::Rate;
use super::store::NetworkStore;
use super::subnets;
use crate::spec::Spec;
use crate::spec::config::{Config, Mount, Namespace};
use crate::store::Store;
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A network that the container is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The name of the link in the container: `eth0`, `eth1`, and so on.
    pub interface: String,
    /// The name of the end of the veth pair on the host; empty for macvlan.
    pub host: String,
    /// The hardware address: the one that `mac=` gave, or one derived from the container's id.
    pub mac: String,
    /// The fixed addresses. From the other subnets hull chooses an address when it executes the
    /// plan.
    pub fixed: Vec<IpAddr>,
    /// Whether hull enables IP forwarding for this network.
    pub forwarding: bool,
    /// The record of the network. Where the network `default` does not exist yet, this is what hull
    /// would create now.
    pub network: Network,
    /// Whether the network must have exactly these subnets, because the container had addresses in
    /// them at its checkpoint.
    #[serde(default)]
    pub kept: bool,
}

/// The whole network setup of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The store of the networks.
    pub networks: NetworkStore,
    /// The networks in the order of `eth0`, `eth1`. The default route leads over the first one that
    /// is not internal.
    pub attachments: Vec<Attachment>,
    /// The program that forwards the packets of an unprivileged user's container; there are no
    /// attachments then.
    #[serde(rename = "carrier")]
    pub rootless: Option<rootless::Program>,
    /// Published ports of the first network.
    pub ports: Vec<PortMapping>,
    /// The names under which the other containers of a network find this one.
    pub names: Vec<String>,
    /// Additional lines of the container's hosts file.
    pub hosts: Vec<(String, IpAddr)>,
    /// The name servers that replace the host's.
    pub dns: Vec<IpAddr>,
    /// The search domains that replace the host's.
    pub search: Vec<String>,
    /// How fast the container may send and receive over each link.
    pub rate: Option<Rate>,
    /// The forward chains of others to which hull adds rules that accept its bridges. Filled in for
    /// `hull plan` only; the execution looks at the chains that exist then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opened: Vec<String>,
}

impl Setup {
    /// Makes the container's `/etc/hosts` and `/etc/resolv.conf` in its directory.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub fn prepare_files(&self, directory: &Path) -> Result<()> {
        names::prepare(directory, &self.hosts, &self.dns, &self.search)
    }

    /// What the setup does to the container and the host, one line each.
    pub fn describe(&self) -> Vec<String> {
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
                    "IP forwarding is enabled, and packets that leave {} are masqueraded",
                    network.link
                ));
            }
            if network.driver == Driver::Bridge {
                lines.extend(self.opened.iter().map(|chain| {
                    format!(
                        "packets of {} are accepted in {chain} while a container is on it",
                        network.link
                    )
                }));
            }
        }
        lines.extend(self.rootless.iter().map(|program| {
            format!(
                "the packets of the unprivileged user's container are forwarded by {}",
                program.path().display()
            )
        }));
        lines.extend(
            self.ports
                .iter()
                .map(|port| format!("port {port} is published")),
        );
        lines.extend(self.rate.iter().map(|rate| {
            format!(
                "{} bit/s in and {} bit/s out, bursts of {} bytes",
                rate.down, rate.up, rate.burst
            )
        }));
        lines
    }
}

/// The network options of the commands that create containers.
#[derive(Clone, Debug, Default)]
pub struct NetworkOptions {
    /// The flags of the command line.
    pub flags: NetworkFlags,
    /// Whether the config's annotations count where no flag is given.
    pub annotations: bool,
    /// Whether the plan is only printed: hull then looks up now what it would decide at execution.
    pub preview: bool,
}

impl NetworkOptions {
    /// Parses the flags and applies them to the config: see [`apply`].
    ///
    /// # Errors
    /// A flag is malformed; as of [`apply`].
    pub fn apply(
        &self,
        store: &Store,
        id: &str,
        spec: &Spec,
        of_container: NamespaceOf,
    ) -> Result<(Spec, Option<Setup>)> {
        let given = self.flags != NetworkFlags::default();
        let request = match self.annotations && !given {
            true => request::parse(&request::from_annotations(&spec.config().annotations)?)?,
            false => request::parse(&self.flags)?,
        };
        let (spec, mut setup) = apply(&request, store, id, spec.clone(), of_container)?;
        if let Some(setup) = setup.as_mut().filter(|setup| {
            self.preview
                && setup
                    .attachments
                    .iter()
                    .any(|one| one.network.driver == Driver::Bridge)
        }) {
            setup.opened = super::forward_chains::opened()?;
        }
        Ok((spec, setup))
    }
}

/// Finds the path of another container's network namespace, for `--network container:ID`.
pub type NamespaceOf<'a> = &'a dyn Fn(&str) -> Result<String>;

/// Sets the network namespace in the config as the flags say. Returns the config, and the setup
/// where the container is attached to networks of hull's. `of_container` is for `container:ID`.
///
/// # Errors
/// A network does not exist; the container of `container:ID` does not run; the flags contradict
/// each other or the config.
pub fn apply(
    request: &NetworkRequest,
    store: &Store,
    id: &str,
    spec: Spec,
    of_container: NamespaceOf,
) -> Result<(Spec, Option<Setup>)> {
    let mut config = spec.config().clone();
    let mut setup = None;
    match &request.mode {
        NetworkMode::FromConfig => return Ok((spec, None)),
        NetworkMode::None => set_namespace(&mut config, Some(None)),
        NetworkMode::Host => set_namespace(&mut config, None),
        NetworkMode::Path(path) => set_namespace(&mut config, Some(Some(path.clone()))),
        NetworkMode::Container(other) => {
            set_namespace(&mut config, Some(Some(of_container(other)?)))
        }
        NetworkMode::Networks(_) => {
            set_namespace(&mut config, Some(None));
            setup = Some(prepare(request, store, id, config.hostname.as_deref())?);
            mount_files(&mut config, store, id)?;
        }
    }
    Ok((Spec::check(config, spec.bundle().to_owned())?, setup))
}

/// Mounts the hosts and resolv.conf that hull writes, unless the config mounts there itself.
fn mount_files(config: &mut Config, store: &Store, id: &str) -> Result<()> {
    let directory = std::path::absolute(store.directory(id)).on("find", store.root().display())?;
    for (destination, source) in [
        ("/etc/hosts", names::hosts_path(&directory)),
        ("/etc/resolv.conf", names::resolv_path(&directory)),
    ] {
        let mut mounts = config.mounts.iter();
        if !mounts.any(|mount| mount.destination == destination) {
            config.mounts.push(bind(destination, source));
        }
    }
    Ok(())
}

/// The config for a container that hull puts on its own networks again, at a restore: hull creates
/// the network namespace, and mounts the hosts and resolv.conf that it writes.
///
/// # Errors
/// The config becomes invalid by that.
pub fn on_own_networks(store: &Store, id: &str, spec: &Spec) -> Result<Spec> {
    let mut config = spec.config().clone();
    set_namespace(&mut config, Some(None));
    mount_files(&mut config, store, id)?;
    Spec::check(config, spec.bundle().to_owned())
}

/// Replaces the config's network namespace: none, a new one (`Some(None)`), or the one at a path.
fn set_namespace(config: &mut Config, path: Option<Option<String>>) {
    let linux = config.linux.get_or_insert_default();
    linux
        .namespaces
        .retain(|namespace| namespace.typ != Some(LinuxNamespaceType::Network));
    linux.namespaces.extend(path.map(|path| Namespace {
        typ: Some(LinuxNamespaceType::Network),
        path,
    }));
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

/// Whether hull may create links on the host: it needs CAP_NET_ADMIN (12) in the first user
/// namespace.
fn may_create_links() -> Result<bool> {
    Ok(crate::security::caps::held()? & (1 << 12) != 0 && !crate::facts::in_user_namespace())
}

/// The program that forwards an unprivileged user's packets. Such a user has the default network
/// only, and cannot choose addresses.
fn for_unprivileged_user(
    request: &NetworkRequest,
    list: &[AttachRequest],
) -> Result<rootless::Program> {
    let is_plain = |only: &AttachRequest| {
        only.network == DEFAULT && only.addresses.is_empty() && only.mac.is_none()
    };
    if !matches!(list, [only] if is_plain(only)) || request.rate.is_some() {
        return Err(Error::new(
            "an unprivileged user can use --network default, none or host: other networks, fixed \
                addresses and --net-rate need privileges",
        ));
    }
    rootless::find()
}

fn prepare(
    request: &NetworkRequest,
    store: &Store,
    id: &str,
    hostname: Option<&str>,
) -> Result<Setup> {
    let NetworkMode::Networks(list) = &request.mode else {
        return Err(Error::new("no network was given"));
    };
    let networks = NetworkStore::of(store);
    let rootless = if may_create_links()? {
        None
    } else {
        Some(for_unprivileged_user(request, list)?)
    };
    let mut attachments = Vec::new();
    let list = if rootless.is_some() { &[][..] } else { list };
    for (number, wanted) in list.iter().enumerate() {
        let network = match networks.find(&wanted.network)? {
            Some(network) => network,
            None if wanted.network == DEFAULT => subnets::default_network(&networks)?,
            None => {
                return Err(Error::new(format!(
                    "network {} does not exist",
                    wanted.network
                )));
            }
        };
        if network.driver == Driver::Macvlan
            && (!request.ports.is_empty() || request.rate.is_some())
        {
            return Err(Error::new(format!(
                "network {}: a macvlan network can neither publish ports nor limit rates: its \
                 packets do not pass the host",
                network.name
            )));
        }
        if number == 0 && network.internal && !request.ports.is_empty() {
            return Err(Error::new(format!(
                "network {} is internal: its containers cannot publish ports",
                network.name
            )));
        }
        let host = match network.driver {
            Driver::Bridge => veth_name(networks.directory(), &network.name, id),
            Driver::Macvlan => String::new(),
        };
        let mac = wanted
            .mac
            .unwrap_or_else(|| mac_of(&format!("{id}\0{}", network.name)));
        attachments.push(Attachment {
            interface: format!("eth{number}"),
            host,
            mac: mac_text(&mac),
            fixed: wanted.addresses.clone(),
            forwarding: network.driver == Driver::Bridge && !network.internal,
            network,
            kept: false,
        });
    }
    let mut names = vec![id.to_owned()];
    if let Some(name) = hostname.filter(|name| !name.is_empty() && *name != id) {
        // It will be in the hosts files of the neighbours.
        check_host(name).map_err(|error| error.within("hostname"))?;
        names.push(name.to_owned());
    }
    names.extend(request.aliases.iter().cloned());
    let NetworkRequest {
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
        rootless,
        ports,
        names,
        hosts,
        dns,
        search,
        rate,
        opened: Vec::new(),
    })
}
