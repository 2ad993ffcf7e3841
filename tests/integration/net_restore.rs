//! The networks of a restored container or a clone: hull's own code attaches them from the record
//! that a checkpoint keeps. (`checkpoint_net` tests the same by the commands, with criu.)

use crate::support::network::{HOST, World, eventually, ip, links, reaches, rules, start, within};
use crate::support::{fixture, leaks, until};
use hull::net;
use hull::net::netlink::Namespace;
use hull::net::saved::{self, Identity, SavedNetworks};
use hull::net::setup::Setup;
use hull::store::Store;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

tests![
    a_restored_container_has_its_network,
    a_clone_has_a_network_of_its_own,
    a_missing_network_is_made_again
];

/// Runs code of hull that starts programs in the test's own process. The harness reaps no orphan
/// meanwhile: it would take these programs for orphans.
fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let _reaper_waits = leaks::own();
    work()
}

/// A namespace that stands for a restored container: it is on the container's networks, and has a
/// state directory.
struct Restored {
    namespace: Namespace,
    directory: PathBuf,
    setup: Setup,
}

impl Restored {
    fn new(
        saved: &SavedNetworks,
        state: &Path,
        id: &str,
        identity: Identity,
    ) -> hull::Result<Self> {
        let directory = state.join(id);
        std::fs::create_dir_all(&directory).unwrap();
        let setup = saved.setup(&Store::new(state.to_owned()), id, identity)?;
        setup.prepare_files(&directory)?;
        let restored = Self {
            namespace: saved::new_namespace()?,
            directory,
            setup,
        };
        undisturbed(|| {
            net::attach::attach(
                &restored.setup,
                id,
                &restored.namespace,
                std::process::id().cast_signed(),
                &restored.directory,
            )
        })?;
        Ok(restored)
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.0.0)
    }

    fn shown(&self) -> String {
        crate::support::network::run(
            "nsenter",
            &format!("--net={} ip addr show dev eth0", self.path()),
        )
        .success()
        .stdout
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        undisturbed(|| net::release::release(&self.directory)).expect("it cannot be released");
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

/// The record of a container's networks, which survives its text form.
fn saved(w: &World, id: &str) -> SavedNetworks {
    let saved = SavedNetworks::of(&w.state().join(id))
        .unwrap()
        .expect("the container has no network");
    let text = serde_json::to_string(&saved).unwrap();
    assert_eq!(serde_json::from_str::<SavedNetworks>(&text).unwrap(), saved);
    saved
}

fn a_restored_container_has_its_network() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let (server, client) = (w.server(), w.bundle("sleep 1000"));
    let c = start(&client, &["--network", "default"]);
    let s = start(
        &server,
        &[
            "--network",
            "default",
            "-p",
            "8080:80",
            "--network-alias",
            "www",
            "--net-rate",
            "50mbit",
        ],
    );
    let before = s
        .exec(&["ip", "addr", "show", "dev", "eth0"])
        .success()
        .stdout;
    let addresses = w.addresses("default", &server.id);
    let saved = saved(&w, &server.id);
    drop(s);
    until("the old link is gone", || links().len() == 2);
    let restored = Restored::new(&saved, w.state(), "again", Identity::Same).unwrap();
    assert_eq!(w.addresses("default", "again"), addresses);
    let mac = before
        .split("link/ether ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    for part in addresses.iter().chain([&mac]) {
        assert_has!(restored.shown(), part);
    }
    let listener = within(&restored.path(), || TcpListener::bind("[::]:80").unwrap());
    std::thread::spawn(move || {
        listener
            .incoming()
            .for_each(|stream| stream.unwrap().write_all(b"back").unwrap())
    });
    assert_eq!(
        eventually("the published port", || w.external_reaches(HOST[0], 8080)),
        "back"
    );
    for name in ["www", "again"] {
        assert_eq!(eventually(name, || reaches(&c, name, 80)), "back");
    }
    assert!(
        !c.exec(&["cat", "/etc/hosts"]).stdout.contains(&server.id),
        "the old id is still a name"
    );
    neighbours_learn_the_address(&w, &restored, &addresses, &mac);
    // The addresses belong to the first process of the restored container from now on.
    let mut init = leaks::spawn(std::process::Command::new("sleep").arg("1000")).unwrap();
    saved::adopt(&restored.directory, "again", init.id().cast_signed()).unwrap();
    let record =
        std::fs::read_to_string(w.state().join("@networks/default/endpoints/again")).unwrap();
    assert_has!(record, format!("\"pid\":{},", init.id()));
    init.kill().unwrap();
    init.wait().unwrap();
    leaks::forget(&init);
    drop((restored, c));
    assert_eq!(rules(), "");
}

/// Asserts that the restored container announces its addresses: a neighbour with another hardware
/// address in its table takes the new one over.
fn neighbours_learn_the_address(w: &World, restored: &Restored, addresses: &[String], mac: &str) {
    let link = w.inspect("default")["link"].as_str().unwrap().to_owned();
    for address in addresses {
        ip(&format!(
            "neigh replace {address} lladdr 02:00:00:00:00:bd dev {link} nud stale"
        ));
    }
    saved::announce(&restored.setup, "again", &restored.namespace).unwrap();
    for address in addresses {
        until("the neighbour's table", || {
            ip(&format!("neigh show {address} dev {link}")).contains(mac)
        });
    }
}

fn a_clone_has_a_network_of_its_own() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let server = w.server();
    let _s = start(&server, &["--network", "default", "-p", "8080:80"]);
    let saved = saved(&w, &server.id);
    let again = Restored::new(&saved, w.state(), "again", Identity::Same);
    assert_has!(
        again
            .err()
            .expect("two containers have one address")
            .to_string(),
        "the port is container"
    );
    let clone = Restored::new(&saved, w.state(), "clone", Identity::New).unwrap();
    let addresses = w.addresses("default", "clone");
    let of_source = w.addresses("default", &server.id);
    assert!(
        addresses
            .iter()
            .all(|address| !of_source.contains(address) && clone.shown().contains(address)),
        "{addresses:?}"
    );
    assert_eq!(
        w.inspect("default")["containers"].as_array().unwrap().len(),
        2
    );
    eventually("the source is published still", || {
        w.external_reaches(HOST[0], 8080)
    });
}

fn a_missing_network_is_made_again() {
    only_hull!("networks are hull's own");
    let w = World::new();
    w.hull(&[
        "network",
        "create",
        "--subnet",
        "10.77.0.0/24",
        "--subnet",
        "fd77::/64",
        "--mtu",
        "1400",
        "blue",
    ])
    .success();
    let client = w.bundle("sleep 1000");
    let c = start(&client, &["--network", "blue:ip=10.77.0.9"]);
    let saved = saved(&w, &client.id);
    drop(c);
    w.hull(&["network", "remove", "blue"]).success();
    until("the links are gone", || links().is_empty());
    // Another state directory stands for another host.
    let other = fixture::new_dir("other").join("state");
    let there = Restored::new(&saved, &other, "moved", Identity::Same).unwrap();
    for part in ["10.77.0.9/24", "fd77::", "mtu 1400"] {
        assert_has!(there.shown(), part);
    }
    drop(there);
    let hull = crate::support::runtime::Runtime::new(other.clone());
    hull.call(&["network", "remove", "blue"]).success();
    hull.call(&["network", "create", "--subnet", "10.78.0.0/24", "blue"])
        .success();
    let refused = Restored::new(&saved, &other, "moved", Identity::Same);
    assert_has!(
        refused
            .err()
            .expect("the network has other addresses")
            .to_string(),
        "has other subnets here"
    );
}
