//! Forward chains of others that drop: Docker's, firewalld's, an administrator's.
//!
//! A packet passes only if every table lets it: an accept in hull's table does not help against a
//! drop in another's. So hull's bridges are accepted there, at the chain's beginning or in
//! `DOCKER-USER`, which Docker leaves to others; each rule carries hull's comment and is removed
//! with the network's last container. What may really pass is decided in hull's own table, whose
//! drops count whatever others accept. Chains of the legacy iptables, which nft cannot see, are not
//! touched.

use super::enforce::{nft, nft_list};
use super::network::{Guard, Networks};
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

/// A chain, by family, table and name.
type Chain = (String, String, String);

fn memory(networks: &Networks) -> PathBuf {
    networks.directory().join("known")
}

/// What hull knows of the firewall since it wrote there last, which holds as long as nobody else
/// has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    boot: String,
    generation: u32,
    /// A hash of the text that makes hull's own tables as they are.
    pub rules: u64,
    /// The containers in them.
    pub containers: BTreeSet<String>,
    /// Others' chains.
    pub accepted: Accepted,
}

/// The bridges that are accepted in others' chains; none where nobody's chain drops.
pub type Accepted = Option<Vec<String>>;

impl Known {
    /// Of this boot, at a number of the firewall's state.
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

/// Keeps what hull knows.
///
/// # Errors
/// A full disk, and the like.
pub fn remember(networks: &Networks, known: &Known) -> Result<()> {
    let path = memory(networks);
    let text = serde_json::to_vec(known)
        .map_err(|error| Error::new(format!("write {}: {error}", path.display())))?;
    std::fs::write(&path, text).on("write", path.display())
}

/// What hull knows, if it still holds: in this boot, and at this number of the firewall's state.
pub fn known(networks: &Networks, generation: Option<u32>) -> Option<Known> {
    let text = std::fs::read(memory(networks)).ok()?;
    let known: Known = serde_json::from_slice(&text).ok()?;
    (Some(known.generation) == generation && known.boot == crate::sys::procfs::boot_id())
        .then_some(known)
}

/// Accepts these bridges in every foreign chain that would drop, and no others. `accepted` is where
/// that stands, if it is known: then the chains are looked at only where the bridges are others.
/// Answers where it stands now, and whether nft made a transaction.
///
/// # Errors
/// nft refuses.
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
            let ruleset = nft_list(&["list", "ruleset"])?;
            let text = changes(&ruleset, table, bridges)?;
            if !text.is_empty() {
                nft(guard, &text)?;
            }
            let (chains, rules) = parts(&ruleset)?;
            let nobody = targets(&chains, &rules).is_empty();
            Ok((
                if nobody { None } else { Some(bridges.to_vec()) },
                !text.is_empty(),
            ))
        }
    }
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn chain_of(value: &Value, name: &str) -> Chain {
    (
        word(value, "family").to_owned(),
        word(value, "table").to_owned(),
        word(value, name).to_owned(),
    )
}

/// The chains and the rules of a ruleset.
fn parts(ruleset: &Value) -> Result<(Vec<&Value>, Vec<&Value>)> {
    let objects = ruleset["nftables"]
        .as_array()
        .ok_or_else(|| Error::new("read what nft lists: there is no list"))?;
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

/// Whether a rule drops or rejects: nft's own words, or the target of iptables.
fn drops(rule: &Value) -> bool {
    let ends = |part: &Value| {
        part.get("drop").is_some() || part.get("reject").is_some() || part["xt"]["name"] == "REJECT"
    };
    rule["expr"]
        .as_array()
        .is_some_and(|expr| expr.iter().any(ends))
}

/// The chains of others where a bridge's packets would be dropped, and so are accepted.
fn targets(chains: &[&Value], rules: &[&Value]) -> BTreeSet<Chain> {
    let foreign = |chain: &&&Value| {
        !word(chain, "table").starts_with("hull")
            && ["ip", "ip6", "inet"].contains(&word(chain, "family"))
    };
    let mut targets = BTreeSet::new();
    for chain in chains
        .iter()
        .filter(foreign)
        .filter(|chain| word(chain, "hook") == "forward")
    {
        let own = chain_of(chain, "name");
        let user = (own.0.clone(), own.1.clone(), "DOCKER-USER".to_owned());
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

/// The chains of others that would be opened now, as `family table chain`, for the plan.
///
/// # Errors
/// nft is not installed, or refuses.
pub fn opened() -> Result<Vec<String>> {
    let ruleset = nft_list(&["list", "ruleset"])?;
    let (chains, rules) = parts(&ruleset)?;
    Ok(targets(&chains, &rules)
        .into_iter()
        .map(|(family, table, name)| format!("{family} {table} {name}"))
        .collect())
}

/// What must be removed from and added to a ruleset.
fn changes(ruleset: &Value, table: &str, bridges: &[String]) -> Result<String> {
    let (chains, rules) = parts(ruleset)?;
    let targets = targets(&chains, &rules);
    let mut wanted: BTreeSet<(Chain, String)> = BTreeSet::new();
    for chain in &targets {
        for bridge in bridges {
            wanted.extend(
                ["iifname", "oifname"]
                    .map(|way| (chain.clone(), format!("{table} {way} {bridge}"))),
            );
        }
    }
    let mut text = String::new();
    let prefix = format!("{table} ");
    for rule in rules
        .iter()
        .filter(|rule| word(rule, "comment").starts_with(&prefix))
    {
        let key = (chain_of(rule, "chain"), word(rule, "comment").to_owned());
        if !wanted.remove(&key) {
            let (family, table, chain) = key.0;
            let _ = writeln!(
                text,
                "delete rule {family} {table} {chain} handle {}",
                rule["handle"]
            );
        }
    }
    for ((family, table, chain), comment) in wanted {
        let mut words = comment.split(' ').skip(1);
        let (way, bridge) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let _ = writeln!(
            text,
            "insert rule {family} {table} {chain} {way} \"{bridge}\" counter accept comment \
                \"{comment}\""
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ruleset(rules: Value) -> Value {
        let mut list = vec![
            json!({"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}}),
            json!({"chain": {"family": "ip", "table": "other", "name": "fwd", "hook": "forward", "policy": "accept"}}),
            json!({"chain": {"family": "inet", "table": "hull", "name": "forward", "hook": "forward", "policy": "drop"}}),
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
        let there = json!([
            {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 7, "comment": "hull iifname b0", "expr": []}},
            {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 8, "comment": "hull oifname b0", "expr": []}},
            {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 9, "comment": "hullabaloo", "expr": []}},
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
    fn docker_leaves_a_chain_to_others() {
        let docker = json!([{"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}}]);
        let text = changes(&ruleset(docker), "hull", &["b0".to_owned()]).unwrap();
        assert!(
            text.lines()
                .all(|line| line.starts_with("insert rule ip filter DOCKER-USER ")),
            "{text}"
        );
    }
}
