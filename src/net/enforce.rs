//! Makes the kernel's rules what the records say: hull's tables, foreign forward chains, kernel
//! settings, hosts files.

use super::firewall::{self, Element, Populated};
use super::foreign::Known;
use super::netlink::Socket;
use super::network::{Driver, Guard, Networks};
use super::nfnetlink::Questions;
use super::{foreign, link, names};
use crate::net::attach::survey;
use crate::{Context, Error, Result};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// hull's table: the default directory's has the plain name, and no other store's hull touches it.
pub fn table(networks: &Networks) -> String {
    match networks.directory() == Path::new("/var/lib/hull/networks") {
        true => "hull".to_owned(),
        false => format!(
            "hull_{:010x}",
            link::hash(&networks.directory().to_string_lossy()) & 0xff_ffff_ffff
        ),
    }
}

/// Makes everything what the records say. `changed` are the networks whose containers' hosts files
/// are written anew.
///
/// # Errors
/// nft is not installed or refuses; what it did is not what was asked.
pub fn enforce(
    networks: &Networks,
    guard: &Guard,
    here: &mut Socket,
    changed: &BTreeSet<String>,
) -> Result<()> {
    let links = here.links()?;
    let all = survey(networks, guard, here, &links)?;
    let bridges: Vec<String> = active(&all).map(|one| one.network.link.clone()).collect();
    let applied = networks.directory().join("applied");
    // Nothing was there and nothing will be: nft need not be installed for networks that nobody is
    // on.
    if !bridges.is_empty() || applied.exists() {
        std::fs::write(&applied, b"").on("write", applied.display())?;
        rules(networks, guard, &all, &bridges)?;
        settings(&all)?;
        if bridges.is_empty() {
            std::fs::remove_file(&applied).on("remove", applied.display())?;
        }
    }
    let endpoints: Vec<_> = all.into_iter().flat_map(|one| one.endpoints).collect();
    names::refresh(&endpoints, changed)
}

/// hull's tables, and what others' chains need. Containers that come are added to what is there,
/// where hull knows what that is: a transaction that deletes something makes nft's end wait until
/// the kernel has freed it (nft_rcv_nl_event), for tens of milliseconds.
fn rules(networks: &Networks, guard: &Guard, all: &[Populated], bridges: &[String]) -> Result<()> {
    let table = table(networks);
    let (before, lacking) = {
        let questions = Questions::new()?;
        (questions.generation(), questions.lacks(&table))
    };
    let known = foreign::known(networks, before);
    let whole = firewall::definition(&table, all);
    // What is there holds these containers and nothing else.
    let there = known.as_ref().filter(|known| {
        let only: Vec<Populated> = all
            .iter()
            .map(|one| one.with(|id| known.containers.contains(id)))
            .collect();
        known.rules == link::hash(&firewall::definition(&table, &only))
            && lacking == only.iter().all(|one| one.endpoints.is_empty())
    });
    let is_new = |id: &str| there.is_none_or(|known| !known.containers.contains(id));
    let text = match there {
        _ if lacking => whole.clone(),
        Some(_) => firewall::addition(&table, all, is_new),
        None => firewall::removal(&table) + &whole,
    };
    let mut transactions = 0;
    if !text.is_empty() {
        read_back(
            &table,
            &nft(guard, &text)?,
            &firewall::published(all, |id| lacking || is_new(id)),
        )?;
        transactions += 1;
    }
    let containers = all
        .iter()
        .flat_map(|one| &one.endpoints)
        .map(|endpoint| endpoint.id.clone())
        .collect();
    let (accepted, more) =
        foreign::sync(guard, &table, bridges, known.map(|known| known.accepted))?;
    transactions += u32::from(more);
    // The number is not asked again: had somebody come between, it would be another, and so the
    // next hull looks.
    match before {
        Some(before) => foreign::remember(
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

/// Brings back what a reload of the firewall or a killed hull took.
///
/// # Errors
/// As of [`enforce`].
pub fn recover(networks: &Networks) -> Result<()> {
    if !networks.directory().exists() {
        return Ok(());
    }
    let guard = networks.lock()?;
    let changed = networks.names()?.into_iter().collect();
    enforce(networks, &guard, &mut Socket::here()?, &changed)
}

/// The same for any command that comes along: only where networks are in use and somebody has
/// touched the firewall since, which costs one question to the kernel to know; where none are, a
/// look for a file.
///
/// # Errors
/// As of [`enforce`].
pub fn recover_if_touched(networks: &Networks) -> Result<()> {
    let applied = crate::sys::fd::c_path(&networks.directory().join("applied"))?;
    if crate::sys::file::stat(&applied).is_err()
        || foreign::known(networks, Questions::new()?.generation()).is_some()
    {
        return Ok(());
    }
    recover(networks)
}

/// Runs nft on a text; answers what the kernel says it did.
///
/// # Errors
/// nft's own words.
pub fn nft(guard: &Guard, text: &str) -> Result<String> {
    guard.share(|| run(&["--echo", "--file", "-"], text))?
}

/// Gives nft a script, in hull's own network namespace.
///
/// # Errors
/// nft's own words.
pub fn nft_script(text: &str) -> Result<()> {
    run(&["-f", "-"], text).map(drop)
}

/// Asks nft for JSON.
///
/// # Errors
/// nft's own words.
pub fn nft_list(what: &[&str]) -> Result<serde_json::Value> {
    let said = run(&[&["--json", "--handle"], what].concat(), "")?;
    serde_json::from_str(&said).map_err(|error| Error::new(format!("read what nft lists: {error}")))
}

fn run(args: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new("nft");
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/");
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            "networks of hull's own need the program nft \
            (package nftables), which is not installed",
        ),
        _ => Error::io("run", "nft", &error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A refusal closes the pipe; nft's own words say why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().on("run", "nft")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!(
        "nft refuses the rules: {}",
        said.lines().next().unwrap_or_default().trim()
    )))
}

/// Every published port must be among the kernel's own notifications: nft has answered success to
/// what it did not do.
fn read_back(table: &str, said: &str, wanted: &[Element]) -> Result<()> {
    let prefix = format!("add element inet {table} ");
    let made: BTreeSet<&str> = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix(&prefix))
        .collect();
    match wanted
        .iter()
        .map(|(map, element)| format!("{map} {{ {element} }}"))
        .find(|line| !made.contains(line.as_str()))
    {
        Some(missing) => Err(Error::new(format!(
            "publish {missing}: nft reported success, and the kernel has no such element"
        ))),
        None => Ok(()),
    }
}

/// Forwarding, where a network has a way out; the way from the host's loopback to published ports,
/// where somebody publishes.
fn settings(all: &[Populated]) -> Result<()> {
    let outward: Vec<_> = active(all).filter(|one| !one.network.internal).collect();
    let has = |v4: bool| {
        outward.iter().any(|one| {
            one.network
                .subnets
                .iter()
                .any(|subnet| subnet.prefix.address.is_ipv4() == v4)
        })
    };
    if has(true) {
        sysctl("net/ipv4/ip_forward", "1")?;
    }
    if has(false) && read_sysctl("net/ipv6/conf/all/forwarding") == "0" {
        // A router ignores the word of other routers, by which this host may have its own default
        // route, unless it is told otherwise.
        for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf")
            .into_iter()
            .flatten()
            .flatten()
        {
            let key = format!(
                "net/ipv6/conf/{}/accept_ra",
                entry.file_name().to_string_lossy()
            );
            if read_sysctl(&key) == "1" {
                sysctl(&key, "2")?;
            }
        }
        sysctl("net/ipv6/conf/all/forwarding", "1")?;
    }
    for one in all
        .iter()
        .filter(|one| one.network.driver == Driver::Bridge)
    {
        let publishes = one
            .endpoints
            .iter()
            .any(|endpoint| !endpoint.ports.is_empty());
        sysctl_if_there(
            &format!("net/ipv4/conf/{}/route_localnet", one.network.link),
            if publishes { "1" } else { "0" },
        )?;
    }
    Ok(())
}

fn read_sysctl(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/{key}"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn sysctl(key: &str, value: &str) -> Result<()> {
    if read_sysctl(key) == value {
        return Ok(());
    }
    std::fs::write(format!("/proc/sys/{key}"), value).on("set", key.replace('/', "."))
}

/// The same, where the link or the protocol may not be there.
///
/// # Errors
/// The kernel's.
pub fn sysctl_if_there(key: &str, value: &str) -> Result<()> {
    if Path::new("/proc/sys").join(key).exists() {
        sysctl(key, value)
    } else {
        Ok(())
    }
}
