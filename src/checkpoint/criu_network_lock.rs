//! Removes CRIU's network lock where CRIU could not do so because it was killed.
//!
//! With iptables the lock is a chain `CRIU` to which INPUT and OUTPUT jump, where CRIU dumps the
//! network namespace, or else one rule for each connection; packets with CRIU's mark pass. With
//! nftables the lock is a table `inet CRIU` or `inet CRIU-PID`.

use crate::Result;
use crate::checkpoint::network_lock::run_in_namespace;
use crate::net::netlink::Namespace;
use std::fmt::Write;

/// The mark of CRIU's own packets (`SOCCR_MARK`).
const MARK: &str = "0xc114";

/// CRIU's network locks in one network namespace.
#[derive(Default)]
pub struct CriuLocks {
    /// Rules of iptables and of ip6tables, in the format of `iptables-save`.
    rules: [Vec<String>; 2],
    /// Names of nftables tables.
    tables: Vec<String>,
}

const SAVE: [&str; 2] = ["iptables-save", "ip6tables-save"];
const RESTORE: [&str; 2] = ["iptables-restore", "ip6tables-restore"];

/// Whether a line of `iptables-save` is part of a lock.
fn is_lock(line: &str) -> bool {
    let from = line.starts_with("-A INPUT ") || line.starts_with("-A OUTPUT ");
    line.starts_with(":CRIU ")
        || from && (line.ends_with(" -j CRIU") || line.contains(MARK) && line.ends_with(" -j DROP"))
}

/// The name of the table in a line of `nft list tables`, if the table is a lock.
fn lock_table(line: &str) -> Option<String> {
    let name = line.strip_prefix("table inet ")?.trim();
    let number = name.strip_prefix("CRIU")?;
    (number.is_empty()
        || number
            .strip_prefix('-')
            .is_some_and(|rest| !rest.is_empty()))
    .then(|| name.to_owned())
}

impl CriuLocks {
    /// Finds the locks in a network namespace. A program that is not installed has made none.
    pub fn of(namespace: &Namespace) -> Self {
        let output = |program, args: &[&'static std::ffi::CStr]| {
            run_in_namespace(namespace, program, args, "").unwrap_or_default()
        };
        Self {
            rules: SAVE.map(|program| {
                output(program, &[])
                    .lines()
                    .filter(|line| is_lock(line))
                    .map(str::to_owned)
                    .collect()
            }),
            tables: output("nft", &[c"list", c"tables"])
                .lines()
                .filter_map(lock_table)
                .collect(),
        }
    }

    /// Removes these locks, except those of `before`.
    ///
    /// # Errors
    /// A program fails: the lock still drops packets.
    pub fn remove(&self, namespace: &Namespace, before: &Self) -> Result<()> {
        for (program, (now, before)) in RESTORE.iter().zip(self.rules.iter().zip(&before.rules)) {
            if let Some(commands) = removal(now, before) {
                run_in_namespace(namespace, program, &[c"--noflush"], &commands)?;
            }
        }
        let commands: String = self
            .tables
            .iter()
            .filter(|table| !before.tables.contains(table))
            .map(|table| format!("delete table inet {table}\n"))
            .collect();
        if commands.is_empty() {
            Ok(())
        } else {
            run_in_namespace(namespace, "nft", &[c"-f", c"-"], &commands).map(drop)
        }
    }
}

/// The input of `iptables-restore` that removes the new rules and then the chain, which
/// `iptables-restore` empties when it is named; `None` where nothing is new.
fn removal(now: &[String], before: &[String]) -> Option<String> {
    let new: Vec<&String> = now.iter().filter(|line| !before.contains(line)).collect();
    if new.is_empty() {
        return None;
    }
    let chain = new.iter().any(|line| line.starts_with(':'));
    let mut text = String::from("*filter\n");
    if chain {
        text.push_str(":CRIU - [0:0]\n");
    }
    for rule in new.iter().filter_map(|line| line.strip_prefix("-A ")) {
        let _ = writeln!(text, "-D {rule}");
    }
    text.push_str(if chain {
        "-X CRIU\nCOMMIT\n"
    } else {
        "COMMIT\n"
    });
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_locks_of_criu_are_removed() {
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n:CRIU - [0:0]\n-A INPUT -j CRIU\n-A INPUT -s \
            10.0.0.1/32 -p tcp -m mark ! --mark 0xc114 -j DROP\n\
            -A INPUT -p tcp -j DROP\n-A OUTPUT -j CRIU\n-A CRIU -m mark --mark 0xc114 -j \
            ACCEPT\n-A CRIU -j DROP\nCOMMIT\n";
        let now: Vec<String> = saved
            .lines()
            .filter(|line| is_lock(line))
            .map(str::to_owned)
            .collect();
        let all = "*filter\n:CRIU - [0:0]\n-D INPUT -j CRIU\n-D INPUT -s 10.0.0.1/32 -p tcp -m \
            mark ! --mark 0xc114 -j DROP\n-D OUTPUT -j CRIU\n-X CRIU\nCOMMIT\n";
        assert_eq!(removal(&now, &[]).as_deref(), Some(all));
        assert_eq!(removal(&now, &now), None);
        // A lock that existed before: of another container in the same namespace.
        assert_eq!(
            removal(&now[2..3], &now[..2]).as_deref(),
            Some(
                "*filter\n-D INPUT -s 10.0.0.1/32 -p tcp -m mark ! --mark 0xc114 -j DROP\nCOMMIT\n"
            )
        );
    }

    #[test]
    fn tables_are_known_by_their_names() {
        assert_eq!(
            lock_table("table inet CRIU-4711").as_deref(),
            Some("CRIU-4711")
        );
        assert_eq!(lock_table("table inet CRIU").as_deref(), Some("CRIU"));
        assert_eq!(lock_table("table inet CRIUS"), None);
        assert_eq!(lock_table("table ip CRIU"), None);
    }
}
