//! Forward chains of other programs that drop packets: Docker's, firewalld's, an administrator's.
//!
//! A packet passes only if every table accepts it: an accept in hull's table does not help against
//! a drop in another. So hull adds rules that accept its bridges, at the beginning of such a chain
//! or in `DOCKER-USER`, which Docker reserves for the rules of others. Each rule carries a comment
//! of hull's and is removed with the network's last container. hull's own table still decides what
//! may pass, since its drops count whatever other tables accept. hull does not touch the chains of
//! the legacy iptables, which nft cannot see.

use super::nft;
use super::store::{Guard, NetworkStore};
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::path::PathBuf;

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chain {
    family: String,
    table: String,
    name: String,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            family,
            table,
            name,
        } = self;
        write!(f, "{family} {table} {name}")
    }
}

fn known_path(networks: &NetworkStore) -> PathBuf {
    networks.directory().join("known")
}

/// What hull knows about the ruleset since its last transaction. It is valid until somebody else
/// commits one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The boot that this was written in.
    boot: String,
    /// The generation of the ruleset after hull's last transaction.
    generation: u32,
    /// A hash of the script that creates hull's tables as they are.
    pub rules: u64,
    /// The ids of the containers that the tables have elements for.
    pub containers: BTreeSet<String>,
    /// The state of the chains of others.
    pub accepted: Accepted,
}

/// The bridges that hull's rules accept in the chains of others; `None` where no such chain drops.
pub type Accepted = Option<Vec<String>>;

impl Known {
    /// What hull knows in this boot, at this generation of the ruleset.
    pub fn new(
        generation: u32,
        rules: u64,
        containers: BTreeSet<String>,
        accepted: Accepted,
    ) -> Self {
        Self {
            boot: crate::sys::procfs::boot_id(),
            generation,
            rules,
            containers,
            accepted,
        }
    }
}

/// Writes what hull knows to the store.
///
/// # Errors
/// The file cannot be written.
pub fn remember(networks: &NetworkStore, known: &Known) -> Result<()> {
    let path = known_path(networks);
    let text = serde_json::to_vec(known)
        .map_err(|error| Error::new(format!("write {}: {error}", path.display())))?;
    std::fs::write(&path, text).on("write", path.display())
}

/// Reads what hull knows, if it is still valid: written in this boot and at this generation.
pub fn known(networks: &NetworkStore, generation: Option<u32>) -> Option<Known> {
    let text = std::fs::read(known_path(networks)).ok()?;
    let known: Known = serde_json::from_slice(&text).ok()?;
    (Some(known.generation) == generation && known.boot == crate::sys::procfs::boot_id())
        .then_some(known)
}

/// Accepts these bridges, and no other bridges of hull's, in every chain of others that would drop
/// their packets. `accepted` is the state now, if hull knows it: then it reads the chains only
/// where the bridges differ. Returns the new state, and whether nft committed a transaction.
///
/// # Errors
/// As of [`nft::list`] and [`nft::apply`].
pub fn sync(
    guard: &Guard,
    table: &str,
    bridges: &[String],
    accepted: Option<Accepted>,
) -> Result<(Accepted, bool)> {
    match accepted {
        Some(accepted) if accepted.as_ref().is_none_or(|accepted| accepted == bridges) => {
            Ok((accepted, false))
        }
        _ => {
            let ruleset = nft::list(&["list", "ruleset"])?;
            let text = changes(&ruleset, table, bridges)?;
            if !text.is_empty() {
                nft::apply(guard, &text)?;
            }
            let (chains, rules) = parts(&ruleset)?;
            let none_drops = targets(&chains, &rules).is_empty();
            Ok(((!none_drops).then(|| bridges.to_vec()), !text.is_empty()))
        }
    }
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The chain that an object of nft's JSON is (`name` is "name") or belongs to ("chain").
fn chain_of(value: &Value, name: &str) -> Chain {
    Chain {
        family: word(value, "family").to_owned(),
        table: word(value, "table").to_owned(),
        name: word(value, name).to_owned(),
    }
}

/// The chains and the rules of a ruleset in nft's JSON.
fn parts(ruleset: &Value) -> Result<(Vec<&Value>, Vec<&Value>)> {
    let objects = ruleset["nftables"]
        .as_array()
        .ok_or_else(|| Error::new("parse the output of nft: no array nftables"))?;
    Ok((
        objects
            .iter()
            .filter_map(|object| object.get("chain"))
            .collect(),
        objects
            .iter()
            .filter_map(|object| object.get("rule"))
            .collect(),
    ))
}

/// Whether a rule drops or rejects packets: by an nft statement, or by the iptables target REJECT.
fn drops(rule: &Value) -> bool {
    let ends = |part: &Value| {
        part.get("drop").is_some() || part.get("reject").is_some() || part["xt"]["name"] == "REJECT"
    };
    rule["expr"]
        .as_array()
        .is_some_and(|expr| expr.iter().any(ends))
}

/// The chains of others that must accept hull's bridges, because packets are dropped there.
fn targets(chains: &[&Value], rules: &[&Value]) -> BTreeSet<Chain> {
    let is_foreign = |chain: &&&Value| {
        !word(chain, "table").starts_with("hull")
            && ["ip", "ip6", "inet"].contains(&word(chain, "family"))
    };
    let mut targets = BTreeSet::new();
    for chain in chains
        .iter()
        .filter(is_foreign)
        .filter(|chain| word(chain, "hook") == "forward")
    {
        let own = chain_of(chain, "name");
        let user = Chain {
            name: "DOCKER-USER".to_owned(),
            ..own.clone()
        };
        let docker = chains.iter().any(|other| chain_of(other, "name") == user);
        if docker
            || word(chain, "policy") == "drop"
            || rules
                .iter()
                .any(|rule| chain_of(rule, "chain") == own && drops(rule))
        {
            targets.insert(if docker { user } else { own });
        }
    }
    targets
}

/// The chains of others to which hull would add rules now, as `family table chain`, for `hull
/// plan`.
///
/// # Errors
/// As of [`nft::list`].
pub fn opened() -> Result<Vec<String>> {
    let ruleset = nft::list(&["list", "ruleset"])?;
    let (chains, rules) = parts(&ruleset)?;
    Ok(targets(&chains, &rules)
        .iter()
        .map(ToString::to_string)
        .collect())
}

/// The script that removes hull's outdated rules from a ruleset and adds the missing ones.
fn changes(ruleset: &Value, table: &str, bridges: &[String]) -> Result<String> {
    let (chains, rules) = parts(ruleset)?;
    let targets = targets(&chains, &rules);
    let mut wanted: BTreeSet<(Chain, String)> = BTreeSet::new();
    for chain in &targets {
        for bridge in bridges {
            wanted.extend(
                ["iifname", "oifname"]
                    .map(|key| (chain.clone(), format!("{table} {key} {bridge}"))),
            );
        }
    }
    let mut text = String::new();
    let prefix = format!("{table} ");
    for rule in rules
        .iter()
        .filter(|rule| word(rule, "comment").starts_with(&prefix))
    {
        let existing = (chain_of(rule, "chain"), word(rule, "comment").to_owned());
        if !wanted.remove(&existing) {
            let _ = writeln!(text, "delete rule {} handle {}", existing.0, rule["handle"]);
        }
    }
    for (chain, comment) in wanted {
        let mut words = comment.split(' ').skip(1);
        let (key, bridge) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let _ = writeln!(
            text,
            "insert rule {chain} {key} \"{bridge}\" counter accept comment \"{comment}\""
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ruleset(rules: Value) -> Value {
        let chain = |family: &str, table: &str, name: &str, policy: &str| {
            json!({"chain": {
                "family": family, "table": table, "name": name, "hook": "forward", "policy": policy
            }})
        };
        let mut list = vec![
            chain("ip", "filter", "FORWARD", "drop"),
            chain("ip", "other", "fwd", "accept"),
            chain("inet", "hull", "forward", "drop"),
        ];
        list.extend(rules.as_array().unwrap().clone());
        json!({ "nftables": list })
    }

    #[test]
    fn only_chains_that_drop_are_touched_and_once() {
        let text = changes(&ruleset(json!([])), "hull", &["b0".to_owned()]).unwrap();
        assert_eq!(
            text,
            "insert rule ip filter FORWARD iifname \"b0\" counter accept comment \"hull iifname \
                b0\"\n\
            insert rule ip filter FORWARD oifname \"b0\" counter accept comment \"hull oifname \
            b0\"\n"
        );
        let rule = |handle: u32, comment: &str| {
            json!({"rule": {
                "family": "ip", "table": "filter", "chain": "FORWARD",
                "handle": handle, "comment": comment, "expr": []
            }})
        };
        let there = json!([
            rule(7, "hull iifname b0"),
            rule(8, "hull oifname b0"),
            rule(9, "hullabaloo"),
        ]);
        assert_eq!(
            changes(&ruleset(there.clone()), "hull", &["b0".to_owned()]).unwrap(),
            ""
        );
        assert_eq!(
            changes(&ruleset(there), "hull", &[]).unwrap(),
            "delete rule ip filter FORWARD handle 7\ndelete rule ip filter FORWARD handle 8\n"
        );
    }

    #[test]
    fn docker_user_is_preferred() {
        let docker = json!([{"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}}]);
        let text = changes(&ruleset(docker), "hull", &["b0".to_owned()]).unwrap();
        assert!(
            text.lines()
                .all(|line| line.starts_with("insert rule ip filter DOCKER-USER ")),
            "{text}"
        );
    }
}
