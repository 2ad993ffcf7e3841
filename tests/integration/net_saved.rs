//! A saved container's networks, given again to the restored one.

use crate::net_world::{HOST, World, eventually, ip, links, reaches, rules, start, within};
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
    a_restored_container_has_its_network_again,
    a_clone_has_a_network_of_its_own,
    a_network_is_made_again_where_it_is_missing
];

/// Does what starts programs, here in the test's own process, while the harness reaps no orphan: it
/// would take them for some.
fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let _reaper_waits = leaks::OWN.lock().unwrap();
    work()
}

/// Stands for a restored container: its namespace, on its networks, with a folder and a process.
struct Restored {
    namespace: Namespace,
    folder: PathBuf,
    setup: Setup,
}

impl Restored {
    fn new(
        saved: &SavedNetworks,
        state: &Path,
        id: &str,
        identity: Identity,
    ) -> hull::Result<Self> {
        let folder = state.join(id);
        std::fs::create_dir_all(&folder).unwrap();
        let setup = saved.setup(&Store::new(state.to_owned()), id, identity)?;
        setup.prepare_files(&folder)?;
        let restored = Self {
            namespace: saved::new_namespace()?,
            folder,
            setup,
        };
        undisturbed(|| {
            net::attach::attach(
                &restored.setup,
                id,
                &restored.namespace,
                std::process::id().cast_signed(),
                &restored.folder,
            )
        })?;
        Ok(restored)
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.0.0)
    }

    fn shown(&self) -> String {
        crate::net_world::run(
            "nsenter",
            &format!("--net={} ip addr show dev eth0", self.path()),
        )
        .success()
        .stdout
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        undisturbed(|| net::release::release(&self.folder)).expect("it cannot be released");
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn saved(w: &World, id: &str) -> SavedNetworks {
    let saved = SavedNetworks::of(&w.state().join(id))
        .unwrap()
        .expect("it has no network");
    let text = serde_json::to_string(&saved).unwrap();
    assert_eq!(serde_json::from_str::<SavedNetworks>(&text).unwrap(), saved);
    saved
}

fn a_restored_container_has_its_network_again() {
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
        eventually("the published port", || w.outside_reaches(HOST[0], 8080)),
        "back"
    );
    for name in ["www", "again"] {
        assert_eq!(eventually(name, || reaches(&c, name, 80)), "back");
    }
    assert!(
        !c.exec(&["cat", "/etc/hosts"]).stdout.contains(&server.id),
        "the old id is a name still"
    );
    neighbours_hear_of_it(&w, &restored, &addresses, &mac);
    // The first process of the restored container holds the addresses from now on.
    let mut init = leaks::spawn(std::process::Command::new("sleep").arg("1000")).unwrap();
    saved::adopt(&restored.folder, "again", init.id().cast_signed()).unwrap();
    let record =
        std::fs::read_to_string(w.state().join("@networks/default/endpoints/again")).unwrap();
    assert_has!(record, format!("\"pid\":{},", init.id()));
    init.kill().unwrap();
    init.wait().unwrap();
    leaks::OWN.lock().unwrap().remove(&init.id().cast_signed());
    drop((restored, c));
    assert_eq!(rules(), "");
}

/// A host that thinks the addresses to be elsewhere is set right.
fn neighbours_hear_of_it(w: &World, restored: &Restored, addresses: &[String], mac: &str) {
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
        again.err().expect("two have one address").to_string(),
        "publishes the port already"
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
        w.outside_reaches(HOST[0], 8080)
    });
}

fn a_network_is_made_again_where_it_is_missing() {
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
    // Another store stands for another host.
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
        refused.err().expect("it has other addresses").to_string(),
        "has other subnets on this host"
    );
}
