//! Brings the kernel to the state that the store of networks describes: hull's nftables tables, the
//! forward chains of others, kernel settings, and the containers' hosts files.

use super::endpoint::Populated;
use super::firewall::{self, Element};
use super::forward_chains::{self, Known};
use super::netlink::Socket;
use super::network::Driver;
use super::nfnetlink::NfTables;
use super::store::{Guard, NetworkStore};
use super::survey::survey;
use super::{link, names, nft, sysctl};
use crate::{Context, Error, Result};
use std::collections::BTreeSet;
use std::path::Path;

/// The name of hull's tables. Each store of networks has its own tables; those of the default store
/// are named `hull`.
pub fn table(networks: &NetworkStore) -> String {
    match networks.directory() == Path::new("/var/lib/hull/networks") {
        true => "hull".to_owned(),
        false => format!(
            "hull_{:010x}",
            link::hash(&networks.directory().to_string_lossy()) & 0xff_ffff_ffff
        ),
    }
}

/// Applies the records. `changed` are the networks whose containers' hosts files are rewritten.
///
/// # Errors
/// nft is not installed or refuses the rules; the kernel did not notify all of them; a kernel
/// setting, a record or a hosts file cannot be written.
pub fn enforce(
    networks: &NetworkStore,
    guard: &Guard,
    host: &mut Socket,
    changed: &BTreeSet<String>,
) -> Result<()> {
    let links = host.links()?;
    let all = survey(networks, guard, host, &links)?;
    let bridges: Vec<String> = active(&all).map(|one| one.network.link.clone()).collect();
    let applied = networks.directory().join("applied");
    // Where no rules exist and none are needed, nft need not be installed.
    if !bridges.is_empty() || applied.exists() {
        std::fs::write(&applied, b"").on("write", applied.display())?;
        apply_rules(networks, guard, &all, &bridges)?;
        apply_settings(&all)?;
        if bridges.is_empty() {
            std::fs::remove_file(&applied).on("remove", applied.display())?;
        }
    }
    let endpoints: Vec<_> = all.into_iter().flat_map(|one| one.endpoints).collect();
    names::refresh(&endpoints, changed)
}

/// Applies hull's tables and the rules in the chains of others. Where hull knows the tables that
/// exist, it adds the elements of new containers to them: a transaction that deletes something
/// makes nft wait at its end until the kernel has freed it (nft_rcv_nl_event), for tens of
/// milliseconds.
fn apply_rules(
    networks: &NetworkStore,
    guard: &Guard,
    all: &[Populated],
    bridges: &[String],
) -> Result<()> {
    let table = table(networks);
    let (before, missing) = {
        let nf_tables = NfTables::new()?;
        (nf_tables.generation(), nf_tables.lacks_tables(&table))
    };
    let known = forward_chains::known(networks, before);
    let whole = firewall::definition(&table, all);
    // Set where the tables that exist are those of the containers that hull remembers.
    let intact = known.as_ref().filter(|known| {
        let only: Vec<Populated> = all
            .iter()
            .map(|one| one.with(|id| known.containers.contains(id)))
            .collect();
        known.rules == link::hash(&firewall::definition(&table, &only))
            && missing == only.iter().all(|one| one.endpoints.is_empty())
    });
    let is_new = |id: &str| intact.is_none_or(|known| !known.containers.contains(id));
    let text = match intact {
        _ if missing => whole.clone(),
        Some(_) => firewall::addition(&table, all, is_new),
        None => firewall::removal(&table) + &whole,
    };
    let mut transactions = 0;
    if !text.is_empty() {
        read_back(
            &table,
            &nft::apply(guard, &text)?,
            &firewall::published(all, |id| missing || is_new(id)),
        )?;
        transactions += 1;
    }
    let containers = all
        .iter()
        .flat_map(|one| &one.endpoints)
        .map(|endpoint| endpoint.id.clone())
        .collect();
    let (accepted, more) =
        forward_chains::sync(guard, &table, bridges, known.map(|known| known.accepted))?;
    transactions += u32::from(more);
    // The expected generation, and not the current one: if somebody else committed a transaction
    // meanwhile, the two differ, and the next hull reads the ruleset.
    match before {
        Some(before) => forward_chains::remember(
            networks,
            &Known::new(
                before.wrapping_add(transactions),
                link::hash(&whole),
                containers,
                accepted,
            ),
        ),
        None => Ok(()),
    }
}

fn active(all: &[Populated]) -> impl Iterator<Item = &Populated> {
    all.iter()
        .filter(|one| one.network.driver == Driver::Bridge && !one.endpoints.is_empty())
}

/// Applies the records again, after a reload of the firewall or a killed hull removed rules.
///
/// # Errors
/// As of [`enforce`].
pub fn recover(networks: &NetworkStore) -> Result<()> {
    if !networks.directory().exists() {
        return Ok(());
    }
    let guard = networks.lock()?;
    let changed = networks.names()?.into_iter().collect();
    enforce(networks, &guard, &mut Socket::open()?, &changed)
}

/// Calls [`recover`] where networks are in use and somebody else has changed the ruleset since
/// hull's last transaction. Any command may call it: the check costs one netlink request, or one
/// stat(2) where no network is in use.
///
/// # Errors
/// As of [`enforce`].
pub fn recover_if_touched(networks: &NetworkStore) -> Result<()> {
    let applied = crate::sys::fd::c_path(networks.directory().join("applied"))?;
    if crate::sys::file::stat(&applied).is_err()
        || forward_chains::known(networks, NfTables::new()?.generation()).is_some()
    {
        return Ok(());
    }
    recover(networks)
}

/// Checks that the kernel notified every published port: nft 1.0.6 exits with status 0 after some
/// commands that it did not execute.
fn read_back(table: &str, notified: &str, wanted: &[Element]) -> Result<()> {
    let prefix = format!("add element inet {table} ");
    let made: BTreeSet<&str> = notified
        .lines()
        .filter_map(|line| line.trim().strip_prefix(&prefix))
        .collect();
    match wanted
        .iter()
        .map(|element| format!("{} {{ {} }}", element.map, element.text))
        .find(|line| !made.contains(line.as_str()))
    {
        Some(missing) => Err(Error::new(format!(
            "publish {missing}: nft reported success, and the kernel has no such element"
        ))),
        None => Ok(()),
    }
}

/// Enables IP forwarding where a network is not internal, and `route_localnet` on bridges whose
/// containers publish ports, so that the host reaches these over 127.0.0.1.
fn apply_settings(all: &[Populated]) -> Result<()> {
    let forwarding: Vec<_> = active(all).filter(|one| !one.network.internal).collect();
    let has_subnet = |v4: bool| {
        forwarding.iter().any(|one| {
            one.network
                .subnets
                .iter()
                .any(|subnet| subnet.is_ipv4() == v4)
        })
    };
    if has_subnet(true) {
        sysctl::write("net/ipv4/ip_forward", "1")?;
    }
    if has_subnet(false) && sysctl::read("net/ipv6/conf/all/forwarding") == "0" {
        // A host that forwards ignores router advertisements, from which it may have its own
        // default route, unless accept_ra is 2 (ip-sysctl.rst).
        for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf")
            .into_iter()
            .flatten()
            .flatten()
        {
            let key = format!(
                "net/ipv6/conf/{}/accept_ra",
                entry.file_name().to_string_lossy()
            );
            if sysctl::read(&key) == "1" {
                sysctl::write(&key, "2")?;
            }
        }
        sysctl::write("net/ipv6/conf/all/forwarding", "1")?;
    }
    for one in all
        .iter()
        .filter(|one| one.network.driver == Driver::Bridge)
    {
        let publishes = one
            .endpoints
            .iter()
            .any(|endpoint| !endpoint.ports.is_empty());
        sysctl::write_if_present(
            &format!("net/ipv4/conf/{}/route_localnet", one.network.link),
            if publishes { "1" } else { "0" },
        )?;
    }
    Ok(())
}
