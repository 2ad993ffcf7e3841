//! `hull network`, and the network options of the commands that make containers.

use crate::cli::Global;
use crate::cli::table::Table;
use crate::container::Container;
use crate::net::netlink::Namespace;
use crate::net::network::{Driver, Network};
use crate::net::store::NetworkStore;
use crate::net::{self, manage};
use crate::stdio::output::{print, print_line};
use crate::{Error, Result};
use clap::{Subcommand, ValueEnum};
use serde_json::json;

/// Network options of `create`, `run` and `plan`.
#[derive(clap::Args, Clone, Default)]
#[command(next_help_heading = "Network options")]
pub struct Wiring {
    /// Networks to be on, NAME[:ip=ADDRESS,ip6=ADDRESS,mac=ADDRESS], or one of none, host,
    /// container:ID, ns:PATH
    #[arg(long, value_name = "NETWORK")]
    network: Vec<String>,
    /// Publish ports of the container on the host: [IP:]HOST[-LAST]:CONTAINER[-LAST][/tcp|udp|sctp]
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<String>,
    /// Name server in place of the host's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Search domain in place of the host's
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Line of the container's hosts file
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Another name by which its neighbours find the container
    #[arg(long, value_name = "NAME")]
    network_alias: Vec<String>,
    /// How fast the container may receive, and send after a colon, as 50mbit:10mbit
    #[arg(long, value_name = "DOWN[:UP]")]
    net_rate: Option<String>,
    /// Bytes that may pass at once after silence, as 64k
    #[arg(long, value_name = "BYTES")]
    net_burst: Option<String>,
    /// Take these options from the config's annotations (hull.network.name and the like) where none
    /// are given
    #[arg(long)]
    network_annotations: bool,
}

impl Wiring {
    /// The options for the library.
    pub fn asked(&self) -> net::setup::NetworkOptions {
        let flags = net::request::NetworkFlags {
            network: self.network.clone(),
            publish: self.publish.clone(),
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            add_host: self.add_host.clone(),
            alias: self.network_alias.clone(),
            rate: self.net_rate.clone(),
            burst: self.net_burst.clone(),
        };
        net::setup::NetworkOptions {
            flags,
            annotations: self.network_annotations,
            preview: false,
        }
    }
}

/// Options of `network`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a network
    Create(Create),
    /// List networks
    #[command(visible_alias = "ls")]
    List {
        /// Only their names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print a network and who is on it, as JSON
    Inspect {
        /// The network
        name: String,
    },
    /// Remove networks that nobody is on
    #[command(visible_alias = "rm")]
    Remove {
        /// The networks
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Write a container's traffic as pcap, until it ends or ^C
    Capture {
        /// The container's id
        id: String,
        /// The file; - is stdout
        #[arg(default_value = "-")]
        file: String,
        /// The container's network device
        #[arg(long, default_value = "eth0")]
        interface: String,
    },
}

#[derive(clap::Args)]
struct Create {
    /// Its name
    name: String,
    /// How containers are attached
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: DriverName,
    /// Addresses to give out, such as 10.1.2.0/24; at most one of each family [default: chosen,
    /// both families]
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    /// The gateway's address in a subnet [default: the subnet's first address]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// The host's card (driver macvlan)
    #[arg(long, value_name = "DEVICE")]
    parent: Option<String>,
    /// No way out
    #[arg(long)]
    internal: bool,
    /// Containers do not reach each other
    #[arg(long)]
    isolated: bool,
    /// Bytes of the longest packet
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=65535))]
    mtu: u32,
    /// How fast each container may receive, and send after a colon
    #[arg(long, value_name = "DOWN[:UP]")]
    net_rate: Option<String>,
    /// Bytes that may pass at once after silence
    #[arg(long, value_name = "BYTES", requires = "net_rate")]
    net_burst: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DriverName {
    Bridge,
    Macvlan,
}

/// Carries the command out.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let networks = NetworkStore::of(&global.store());
    match &args.verb {
        Verb::Create(create) => {
            let network = manage::create(&networks, &new_network(create)?)?;
            print_line(network.name)?;
        }
        Verb::List { quiet } => list(&networks, *quiet)?,
        Verb::Inspect { name } => inspect(&networks, name)?,
        Verb::Remove { names } => {
            for name in names {
                manage::remove(&networks, name)?;
                print_line(name)?;
            }
        }
        Verb::Capture {
            id,
            file,
            interface,
        } => capture(global, id, interface, file)?,
    }
    Ok(0)
}

fn new_network(create: &Create) -> Result<manage::NewNetwork> {
    let address = |text: &String| {
        text.parse()
            .map_err(|_| Error::new(format!("--gateway {text}: not an address")))
    };
    Ok(manage::NewNetwork {
        name: create.name.clone(),
        driver: match create.driver {
            DriverName::Bridge => Driver::Bridge,
            DriverName::Macvlan => Driver::Macvlan,
        },
        subnets: create
            .subnet
            .iter()
            .map(|text| net::address::parse_prefix(text))
            .collect::<Result<_>>()?,
        gateways: create.gateway.iter().map(address).collect::<Result<_>>()?,
        parent: create.parent.clone(),
        internal: create.internal,
        isolated: create.isolated,
        mtu: create.mtu,
        rate: create
            .net_rate
            .as_deref()
            .map(|rate| net::shape::Rate::parse(rate, create.net_burst.as_deref()))
            .transpose()?,
    })
}

fn list(networks: &NetworkStore, quiet: bool) -> Result<()> {
    net::enforce::recover(networks)?;
    if quiet {
        return networks.names()?.iter().try_for_each(print_line);
    }
    let mut table = Table::new(&["NAME", "DRIVER", "SUBNETS", "DEVICE", "CONTAINERS"]);
    for network in networks.all()? {
        let subnets: Vec<String> = network
            .subnets
            .iter()
            .map(|subnet| subnet.prefix.to_string())
            .collect();
        let count = networks.endpoints(&network.name)?.len();
        table.row(vec![
            network.name.clone(),
            driver(&network).to_owned(),
            subnets.join(" "),
            network.link.clone(),
            count.to_string(),
        ]);
    }
    print(table)
}

fn driver(network: &Network) -> &'static str {
    match network.driver {
        Driver::Bridge => "bridge",
        Driver::Macvlan => "macvlan",
    }
}

fn inspect(networks: &NetworkStore, name: &str) -> Result<()> {
    let network = networks.get(name)?;
    net::enforce::recover(networks)?;
    let endpoints: Vec<_> = networks
        .endpoints(name)?
        .into_iter()
        .map(|one| {
            let ports: Vec<String> = one.ports.iter().map(ToString::to_string).collect();
            json!({
                "id": one.id, "interface": one.interface, "hostInterface": one.host, "mac": one.mac, "addresses": one.addresses,
                "ports": ports, "names": one.names,
            })
        })
        .collect();
    let mut document = serde_json::to_value(&network)
        .map_err(|error| Error::new(format!("print network {name}: {error}")))?;
    document["containers"] = json!(endpoints);
    print_line(super::state::pretty(&document)?)
}

fn capture(global: &Global, id: &str, interface: &str, file: &str) -> Result<()> {
    let container = Container::open(&global.store(), id)?;
    let pidfd = container.pidfd()?;
    let namespace = Namespace::of_process(container.pid())?;
    let target = net::capture::Target {
        id,
        pidfd: &pidfd,
        namespace: &namespace,
    };
    net::capture::capture(&target, interface, file)
}
