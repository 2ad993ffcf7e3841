//! Device rules: what the spec says, the devices that every container has, and what v1's two files
//! make of them. (v2: `bpf.rs`.)

use crate::spec::config::DeviceRule;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Reading, writing and making of nodes, as bits of the kernel's (`BPF_DEVCG_ACC_*`).
pub const MKNOD: u8 = 1;
/// Opening for reading.
pub const READ: u8 = 2;
/// Opening for writing.
pub const WRITE: u8 = 4;
/// All three.
pub const ALL: u8 = MKNOD | READ | WRITE;

/// Block or character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// `b`
    #[serde(rename = "b")]
    Block,
    /// `c`
    #[serde(rename = "c")]
    Char,
}

/// Which devices: a kind and numbers, none meaning any.
pub type Device = (Kind, Option<u32>, Option<u32>);

/// One rule for one kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Grants or takes away.
    pub allow: bool,
    /// What it is about.
    pub device: Device,
    /// Which accesses, bits of [`ALL`].
    pub access: u8,
}

/// Rules in order: of those that match an access, the last decides; none matching, `default_allow`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// What holds where no rule matches.
    pub default_allow: bool,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// v1's view: a default, and exceptions to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What holds for a device that is no exception.
    pub default_allow: bool,
    /// The accesses in which a device differs from that.
    pub exceptions: BTreeMap<Device, u8>,
}

/// The devices that runc gives to every container, whatever the rules say: any node may be made,
/// and null, zero, full, random, urandom, tty, ptmx and the terminals of devpts may be used
/// (runtime spec, config-linux.md, Default Devices).
const DEFAULTS: [(Device, u8); 10] = [
    ((Kind::Char, None, None), MKNOD),
    ((Kind::Block, None, None), MKNOD),
    ((Kind::Char, Some(1), Some(3)), ALL),
    ((Kind::Char, Some(1), Some(8)), ALL),
    ((Kind::Char, Some(1), Some(7)), ALL),
    ((Kind::Char, Some(5), Some(0)), ALL),
    ((Kind::Char, Some(1), Some(5)), ALL),
    ((Kind::Char, Some(1), Some(9)), ALL),
    ((Kind::Char, Some(136), None), ALL),
    ((Kind::Char, Some(5), Some(2)), ALL),
];

impl Rules {
    /// The spec's rules on top of "nothing", the defaults on top of them.
    ///
    /// # Errors
    /// A rule of no known type, number or access.
    pub fn new(spec: &[DeviceRule]) -> Result<Self> {
        let mut all = Self {
            default_allow: false,
            rules: Vec::new(),
        };
        for (index, rule) in spec.iter().enumerate() {
            all.add(rule)
                .map_err(|e| e.within(format_args!("linux.resources.devices[{index}]")))?;
        }
        if !all.default_allow || !all.rules.is_empty() {
            all.rules.extend(DEFAULTS.map(|(device, access)| Rule {
                allow: true,
                device,
                access,
            }));
        }
        Ok(all)
    }

    fn add(&mut self, rule: &DeviceRule) -> Result<()> {
        let DeviceRule {
            allow,
            typ,
            major,
            minor,
            access,
        } = rule;
        let number = |n: &Option<i64>| match n {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(*n)
                .map(Some)
                .map_err(|_| Error::new(format!("invalid device number {n}"))),
        };
        let (major, minor) = (number(major)?, number(minor)?);
        let access = accesses(access.as_deref().unwrap_or(""))?;
        let kinds: &[Kind] = match typ.as_deref().unwrap_or("") {
            "" | "a" if (major, minor, access) == (None, None, ALL) => {
                // All of all: what was said before no longer matters.
                *self = Self {
                    default_allow: *allow,
                    rules: Vec::new(),
                };
                return Ok(());
            }
            "" | "a" => &[Kind::Block, Kind::Char],
            "b" => &[Kind::Block],
            "c" | "u" => &[Kind::Char],
            other => {
                return Err(Error::new(format!(
                    "invalid cgroup device type \"{other}\""
                )));
            }
        };
        self.rules.extend(kinds.iter().map(|&kind| Rule {
            allow: *allow,
            device: (kind, major, minor),
            access,
        }));
        Ok(())
    }

    /// The same as v1 can hold it.
    ///
    /// # Errors
    /// A hole in a wider rule: v1 has none.
    pub fn table(&self) -> Result<Table> {
        let mut table = Table {
            default_allow: self.default_allow,
            exceptions: BTreeMap::new(),
        };
        for rule in &self.rules {
            if rule.allow == table.default_allow {
                table.take_back(rule)?;
            } else {
                *table.exceptions.entry(rule.device).or_default() |= rule.access;
            }
        }
        Ok(table)
    }
}

impl Rules {
    /// The writes for a new v1 cgroup, in the order in which the config names the devices, the
    /// defaults last.
    ///
    /// # Errors
    /// A hole in a wider rule: v1 has none.
    pub fn writes(&self) -> Result<Vec<(&'static str, String)>> {
        let table = self.table()?;
        let (reset, except) = table.files();
        let mut exceptions: Vec<_> = table.exceptions.iter().collect();
        exceptions
            .sort_by_key(|(device, _)| self.rules.iter().position(|rule| rule.device == **device));
        let all = std::iter::once((reset, "a".to_owned()));
        Ok(all
            .chain(
                exceptions
                    .into_iter()
                    .map(|(device, access)| (except, Show(device, *access).to_string())),
            )
            .collect())
    }
}

impl Table {
    /// Undoes exceptions that the rule covers.
    fn take_back(&mut self, rule: &Rule) -> Result<()> {
        for (device, access) in &mut self.exceptions {
            if covers(&rule.device, device) {
                *access &= !rule.access;
            } else if covers(device, &rule.device) && *access & rule.access != 0 {
                let verb = if rule.allow { "allowed" } else { "denied" };
                return Err(Error::new(format!(
                    "device rules (linux.resources.devices): {} cannot be {verb} within {}: \
                        cgroup v1 has no exception to an exception",
                    Show(&rule.device, rule.access),
                    Show(device, *access)
                )));
            }
        }
        self.exceptions.retain(|_, access| *access != 0);
        Ok(())
    }

    /// What `devices.list` shows of a cgroup.
    ///
    /// # Errors
    /// A line that is none of the kernel's.
    pub fn parse(list: &str) -> Result<Self> {
        let mut table = Self {
            default_allow: false,
            exceptions: BTreeMap::new(),
        };
        for line in list.lines() {
            let bad = || Error::new(format!("devices.list: unknown line \"{line}\""));
            let mut fields = line.split([' ', ':']);
            let kind = match fields.next() {
                // The list of a cgroup that allows by default has this line alone; its exceptions
                // are not shown.
                Some("a") => {
                    return Ok(Self {
                        default_allow: true,
                        exceptions: BTreeMap::new(),
                    });
                }
                Some("b") => Kind::Block,
                Some("c") => Kind::Char,
                _ => return Err(bad()),
            };
            let mut number = || match fields.next() {
                Some("*") => Ok(None),
                Some(n) => n.parse().map(Some).map_err(|_| bad()),
                None => Err(bad()),
            };
            let device = (kind, number()?, number()?);
            *table.exceptions.entry(device).or_default() |=
                accesses(fields.next().ok_or_else(bad)?)?;
        }
        Ok(table)
    }

    /// The writes (file, value) that bring a cgroup from nothing known to this table.
    pub fn writes(&self) -> Vec<(&'static str, String)> {
        let (reset, except) = self.files();
        let all = std::iter::once((reset, "a".to_owned()));
        all.chain(
            self.exceptions
                .iter()
                .map(|(device, access)| (except, Show(device, *access).to_string())),
        )
        .collect()
    }

    /// The writes that bring a cgroup from another table to this one without taking away, in
    /// between, what both allow.
    pub fn writes_from(&self, old: &Self) -> Vec<(&'static str, String)> {
        // The exceptions of a cgroup that allows by default cannot be read.
        if old.default_allow || self.default_allow {
            return if old == self && self.exceptions.is_empty() {
                Vec::new()
            } else {
                self.writes()
            };
        }
        let (reset, except) = self.files();
        let difference =
            |a: &BTreeMap<Device, u8>, b: &BTreeMap<Device, u8>, file: &'static str| {
                let rest = a.iter().map(|(device, access)| {
                    (device, access & !b.get(device).copied().unwrap_or(0))
                });
                rest.filter(|(_, access)| *access != 0)
                    .map(|(d, access)| (file, Show(d, access).to_string()))
                    .collect::<Vec<_>>()
            };
        let mut writes = difference(&self.exceptions, &old.exceptions, except);
        writes.extend(difference(&old.exceptions, &self.exceptions, reset));
        writes
    }

    /// The file that resets to the default, and the one that makes an exception.
    fn files(&self) -> (&'static str, &'static str) {
        if self.default_allow {
            ("devices.allow", "devices.deny")
        } else {
            ("devices.deny", "devices.allow")
        }
    }
}

fn covers(wide: &Device, narrow: &Device) -> bool {
    let number = |wide: Option<u32>, narrow: Option<u32>| wide.is_none() || wide == narrow;
    wide.0 == narrow.0 && number(wide.1, narrow.1) && number(wide.2, narrow.2)
}

/// `rwm` and parts of it; nothing said is all.
fn accesses(text: &str) -> Result<u8> {
    let bit = |c| match c {
        'r' => Ok(READ),
        'w' => Ok(WRITE),
        'm' => Ok(MKNOD),
        _ => Err(Error::new(format!("invalid device access \"{text}\""))),
    };
    if text.is_empty() {
        return Ok(ALL);
    }
    text.chars().try_fold(0, |all, c| Ok(all | bit(c)?))
}

/// A rule as v1's files have it: `c 1:3 rwm`.
struct Show<'a>(&'a Device, u8);

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(&(kind, major, minor), access) = *self;
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
        let letters: String = letters
            .iter()
            .filter(|(bit, _)| access & bit != 0)
            .map(|(_, c)| *c)
            .collect();
        let kind = if kind == Kind::Block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{} {letters}", number(major), number(minor))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            if self.allow { "allow" } else { "deny" },
            Show(&self.device, self.access)
        )
    }
}
