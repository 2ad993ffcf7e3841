//! `hull network`, and the network flags of the commands that create containers.

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

/// Network flags of `create`, `run` and `plan`.
#[derive(clap::Args, Clone, Default)]
#[command(next_help_heading = "Network options")]
pub struct NetworkArgs {
    /// Attach the container to a network: NAME[:ip=ADDRESS,ip6=ADDRESS,mac=ADDRESS]; or use the
    /// network namespace none, host, container:ID or ns:PATH
    #[arg(long, value_name = "NETWORK")]
    network: Vec<String>,
    /// Publish ports on the host: [IP:]HOST[-LAST]:CONTAINER[-LAST][/tcp|udp|sctp]
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<String>,
    /// Name server, instead of the host's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Search domain, instead of the host's
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Add a line to the container's /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Another name of the container on its networks
    #[arg(long, value_name = "NAME")]
    network_alias: Vec<String>,
    /// Limit how fast the container receives and sends, such as 50mbit:10mbit
    #[arg(long, value_name = "DOWN[:UP]")]
    net_rate: Option<String>,
    /// Size of a burst above that limit, such as 64k
    #[arg(long, value_name = "BYTES")]
    net_burst: Option<String>,
    /// Without these flags, use the annotations hull.network.* of the config
    #[arg(long)]
    network_annotations: bool,
}

impl NetworkArgs {
    /// The options as the library takes them.
    pub fn options(&self) -> net::setup::NetworkOptions {
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
    /// Create a network
    Create(Create),
    /// List networks
    #[command(visible_alias = "ls")]
    List {
        /// Print names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print a network and its containers as JSON
    Inspect {
        /// Name of the network
        name: String,
    },
    /// Remove networks without containers
    #[command(visible_alias = "rm")]
    Remove {
        /// Names of the networks
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Capture a container's packets in pcap format, until it ends or hull is interrupted
    Capture {
        /// Id of the container
        id: String,
        /// File to write; - is stdout
        #[arg(default_value = "-")]
        file: String,
        /// Network device of the container
        #[arg(long, default_value = "eth0")]
        interface: String,
    },
}

#[derive(clap::Args)]
struct Create {
    /// Name of the network
    name: String,
    /// Kind of link that containers get
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: DriverName,
    /// Subnet, such as 10.1.2.0/24; at most one IPv4 and one IPv6 [default: hull chooses both]
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    /// Gateway in a subnet [default: the first address of the subnet]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// Network device of the host, for driver macvlan
    #[arg(long, value_name = "DEVICE")]
    parent: Option<String>,
    /// Allow no packets to or from other networks
    #[arg(long)]
    internal: bool,
    /// Allow no packets between the containers
    #[arg(long)]
    isolated: bool,
    /// Maximum transmission unit, in bytes
    #[arg(
        long,
        default_value_t = 1500,
        value_parser = clap::value_parser!(u32).range(1280..=65535)
    )]
    mtu: u32,
    /// Limit how fast each container receives and sends, such as 50mbit:10mbit
    #[arg(long, value_name = "DOWN[:UP]")]
    net_rate: Option<String>,
    /// Size of a burst above that limit, such as 64k
    #[arg(long, value_name = "BYTES", requires = "net_rate")]
    net_burst: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DriverName {
    Bridge,
    Macvlan,
}

/// Executes the command.
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
                "id": one.id,
                "interface": one.interface,
                "hostInterface": one.host,
                "mac": one.mac,
                "addresses": one.addresses,
                "ports": ports,
                "names": one.names,
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
