//! criu's network lock, taken back where criu cannot do it: it was killed.
//!
//! By iptables it is a chain `CRIU` that INPUT and OUTPUT jump to, in a namespace that criu saves,
//! and a rule of its own for each connection in one that it does not; packets with criu's mark
//! pass. By nftables it is a table `inet CRIU` or `inet CRIU-PID`.

use crate::Result;
use crate::checkpoint::network_lock::run;
use crate::net::netlink::Namespace;
use std::fmt::Write;

/// What criu's own packets carry (`SOCCR_MARK`).
const MARK: &str = "0xc114";

/// Rules that hold packets back, by the programs that know them.
#[derive(Default)]
pub struct Locks {
    /// Of `iptables` and of `ip6tables`, as `iptables-save` has them.
    rules: [Vec<String>; 2],
    /// Names of tables of nftables.
    tables: Vec<String>,
}

const SAVE: [&str; 2] = ["iptables-save", "ip6tables-save"];
const RESTORE: [&str; 2] = ["iptables-restore", "ip6tables-restore"];

/// A line of `iptables-save` that is part of a lock.
fn is_lock(line: &str) -> bool {
    let from = line.starts_with("-A INPUT ") || line.starts_with("-A OUTPUT ");
    line.starts_with(":CRIU ")
        || from && (line.ends_with(" -j CRIU") || line.contains(MARK) && line.ends_with(" -j DROP"))
}

/// The table that a line of `nft list tables` names, if it is a lock.
fn locking_table(line: &str) -> Option<String> {
    let name = line.strip_prefix("table inet ")?.trim();
    let number = name.strip_prefix("CRIU")?;
    (number.is_empty()
        || number
            .strip_prefix('-')
            .is_some_and(|rest| !rest.is_empty()))
    .then(|| name.to_owned())
}

impl Locks {
    /// Those of a namespace. A program that is not there has made none.
    pub fn of(namespace: &Namespace) -> Self {
        let said = |program, args: &[&'static std::ffi::CStr]| {
            run(namespace, program, args, "").unwrap_or_default()
        };
        Self {
            rules: SAVE.map(|program| {
                said(program, &[])
                    .lines()
                    .filter(|line| is_lock(line))
                    .map(str::to_owned)
                    .collect()
            }),
            tables: said("nft", &[c"list", c"tables"])
                .lines()
                .filter_map(locking_table)
                .collect(),
        }
    }

    /// Removes them, but for those that were there before.
    ///
    /// # Errors
    /// A program refuses: packets are still held back.
    pub fn remove(&self, namespace: &Namespace, before: &Self) -> Result<()> {
        for (program, (now, before)) in RESTORE.iter().zip(self.rules.iter().zip(&before.rules)) {
            if let Some(commands) = undone(now, before) {
                run(namespace, program, &[c"--noflush"], &commands)?;
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
            run(namespace, "nft", &[c"-f", c"-"], &commands).map(drop)
        }
    }
}

/// What `iptables-restore` is told: the rules first, then the chain, which it empties by naming it.
fn undone(now: &[String], before: &[String]) -> Option<String> {
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
    fn criu_alone_is_undone() {
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
        assert_eq!(undone(&now, &[]).as_deref(), Some(all));
        assert_eq!(undone(&now, &now), None);
        // Another's, who saved a container in the same namespace before.
        assert_eq!(
            undone(&now[2..3], &now[..2]).as_deref(),
            Some(
                "*filter\n-D INPUT -s 10.0.0.1/32 -p tcp -m mark ! --mark 0xc114 -j DROP\nCOMMIT\n"
            )
        );
    }

    #[test]
    fn tables_are_known_by_their_names() {
        assert_eq!(
            locking_table("table inet CRIU-4711").as_deref(),
            Some("CRIU-4711")
        );
        assert_eq!(locking_table("table inet CRIU").as_deref(), Some("CRIU"));
        assert_eq!(locking_table("table inet CRIUS"), None);
        assert_eq!(locking_table("table ip CRIU"), None);
    }
}
