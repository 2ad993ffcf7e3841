//! The five capability sets (config.md, `capabilities`): from names to masks.
//!
//! What happens with a capability that the process cannot get:
//!
//! | in the config | what hull does |
//! |---|---|
//! | a name in another form than `CAP_KILL`, or not in the kernel | warns, skips it (1) |
//! | permitted, effective or bounding, but not hull's own | warns, clears it in these sets (2) |
//! | effective and not permitted, inheritable and not bounding | fails, as capset(2) does (2) |
//! | ambient, and not both permitted and inheritable | clears it, remarks it in the log (1) |
//!
//! (1) in [`masks`]; (2) in `process::plan`, which also clears it in the inheritable set.
#![forbid(unsafe_code)]

use crate::spec::config::Capabilities;
use crate::{Context, Error, Result};
use caps::{CapSet, Capability};
use std::str::FromStr;

/// The five sets as masks; bit n is capability number n of linux/capability.h.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // named as in capabilities(7)
pub struct Masks {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

/// Capabilities of a config that hull left out, one sentence for each reason.
#[derive(Debug, Default, PartialEq)]
pub struct LeftOut {
    /// The process does not get something that the config asks for.
    pub warnings: Vec<String>,
    /// The config asks for an ambient capability that the kernel cannot raise, as the default
    /// configs of runc and buildah do. The process is the same without it.
    pub remarks: Vec<String>,
}

/// The masks of the sets that a config asks for, and what was left out of them. An absent section
/// is five empty sets. `last` is the number of the kernel's last capability ([`last_cap`]).
pub fn masks(sets: &Capabilities, last: u8) -> (Masks, LeftOut) {
    let Capabilities {
        bounding,
        effective,
        inheritable,
        permitted,
        ambient,
    } = sets;
    let mut unknown: Vec<&str> = Vec::new();
    let mut mask = |names| mask(names, last, &mut unknown);
    let mut masks = Masks {
        bounding: mask(bounding),
        effective: mask(effective),
        inheritable: mask(inheritable),
        permitted: mask(permitted),
        ambient: mask(ambient),
    };
    unknown.sort_unstable();
    unknown.dedup();
    let mut left_out = LeftOut::default();
    if !unknown.is_empty() {
        left_out.warnings.push(format!(
            "ignoring unknown or unavailable capabilities: [{}]",
            unknown.join(" ")
        ));
    }
    let raisable = masks.permitted & masks.inheritable;
    let lonely = names(masks.ambient & !raisable);
    if !lonely.is_empty() {
        left_out.remarks.push(format!(
            "can't raise ambient {}: not both permitted and inheritable",
            lonely.join(" ")
        ));
    }
    masks.ambient &= raisable;
    (masks, left_out)
}

/// The mask of the known names; the others are added to `unknown`.
fn mask<'a>(names: &'a [String], last: u8, unknown: &mut Vec<&'a str>) -> u64 {
    let mut bits = 0;
    for name in names {
        match number(name) {
            Some(number) if number <= last => bits |= 1 << number,
            _ => unknown.push(name),
        }
    }
    bits
}

/// The number of a capability by its name in the form of the spec (`CAP_KILL`).
pub fn number(name: &str) -> Option<u8> {
    Capability::from_str(name)
        .ok()
        .map(|capability| capability.index())
}

/// The mask that a flag's value names: `net_admin`, `NET_ADMIN`, `cap_net_admin`, or `all` for
/// every capability up to number `last`. None where there is no such capability.
pub fn from_flag(name: &str, last: u8) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Some(all(last));
    }
    let number = number(&upper).or_else(|| number(&format!("CAP_{upper}")))?;
    (number <= last).then_some(1 << number)
}

/// The mask of every capability up to number `last`.
pub fn all(last: u8) -> u64 {
    u64::MAX >> (63 - last.min(63))
}

/// The names of the capabilities in a mask, in the order of their numbers; one that hull has no
/// name for is `CAP_41` and so on.
pub fn names(mask: u64) -> Vec<String> {
    let known = caps::all();
    let name = |number: u8| {
        known
            .iter()
            .find(|capability| capability.index() == number)
            .map(ToString::to_string)
    };
    (0..64)
        .filter(|bit| mask & (1 << bit) != 0)
        .map(|bit| name(bit).unwrap_or_else(|| format!("CAP_{bit}")))
        .collect()
}

/// The number of the kernel's last capability (40 since Linux 5.9).
///
/// # Errors
/// `/proc/sys/kernel/cap_last_cap` cannot be read, or is not a number.
pub fn last_cap() -> Result<u8> {
    const PATH: &str = "/proc/sys/kernel/cap_last_cap";
    let text = std::fs::read_to_string(PATH).on("read", PATH)?;
    text.trim()
        .parse()
        .map_err(|_| Error::new(format!("read {PATH}: not a capability number: {text:?}")))
}

/// The permitted set of the calling thread.
///
/// # Errors
/// capget(2) fails, which it does not for the calling thread.
pub fn held() -> Result<u64> {
    let set = caps::read(None, CapSet::Permitted)
        .map_err(|e| Error::new(format!("read own capabilities: {e}")))?;
    Ok(set
        .into_iter()
        .fold(0, |mask, capability| mask | 1 << capability.index()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: u64 = 1 << 5;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_the_kernels_numbers() {
        // linux/capability.h
        for (name, expected) in [
            ("CAP_CHOWN", 0),
            ("CAP_KILL", 5),
            ("CAP_SYS_ADMIN", 21),
            ("CAP_MAC_OVERRIDE", 32),
            ("CAP_CHECKPOINT_RESTORE", 40),
        ] {
            assert_eq!(number(name), Some(expected));
        }
        assert_eq!(names(all(40)).len(), 41);
        assert_eq!(names(1 << 41 | 1), ["CAP_CHOWN", "CAP_41"]);
        assert_eq!(all(63), u64::MAX);
        assert_eq!(all(40), (1 << 41) - 1);
    }

    #[test]
    fn unknown_unprefixed_lower_case_and_newer_names_are_warned_of() {
        let sets = Capabilities {
            bounding: list(&["CAP_KILL", "CAP_FOO", "CAP_BPF"]),
            permitted: list(&["KILL", "CAP_FOO"]),
            effective: list(&["cap_kill"]),
            ..Capabilities::default()
        };
        let (masks, left_out) = masks(&sets, 38);
        assert_eq!(
            masks,
            Masks {
                bounding: KILL,
                ..Masks::default()
            }
        );
        assert_eq!(
            left_out.warnings,
            ["ignoring unknown or unavailable capabilities: [CAP_BPF CAP_FOO KILL cap_kill]"]
        );
    }

    #[test]
    fn inheritable_is_empty_unless_asked_for() {
        let sets = Capabilities {
            bounding: list(&["CAP_KILL"]),
            effective: list(&["CAP_KILL"]),
            permitted: list(&["CAP_KILL"]),
            ..Capabilities::default()
        };
        let (masks, left_out) = masks(&sets, 40);
        assert_eq!(
            masks,
            Masks {
                bounding: KILL,
                effective: KILL,
                permitted: KILL,
                inheritable: 0,
                ambient: 0
            }
        );
        assert_eq!(left_out, LeftOut::default());
    }

    #[test]
    fn ambient_needs_permitted_and_inheritable() {
        let mut sets = Capabilities {
            permitted: list(&["CAP_KILL"]),
            ambient: list(&["CAP_KILL"]),
            ..Capabilities::default()
        };
        let (without, left_out) = masks(&sets, 40);
        assert_eq!(without.ambient, 0);
        assert_eq!(
            left_out.remarks,
            ["can't raise ambient CAP_KILL: not both permitted and inheritable"]
        );
        sets.inheritable = list(&["CAP_KILL"]);
        let (with, left_out) = masks(&sets, 40);
        assert_eq!(with.ambient, KILL);
        assert_eq!(left_out, LeftOut::default());
    }

    #[test]
    fn a_flag_takes_names_in_several_forms() {
        for name in ["kill", "KILL", "cap_kill", "CAP_KILL", "Cap_Kill"] {
            assert_eq!(from_flag(name, 40), Some(KILL));
        }
        assert_eq!(from_flag("all", 40), Some(all(40)));
        assert_eq!(from_flag("bpf", 38), None);
        assert_eq!(from_flag("", 40), None);
    }

    #[test]
    fn the_own_sets_are_what_procfs_says() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("CapPrm:"))
            .unwrap();
        assert_eq!(
            held().unwrap(),
            u64::from_str_radix(line.trim(), 16).unwrap() & all(40)
        );
        assert!((36..64).contains(&last_cap().unwrap()));
    }
}
