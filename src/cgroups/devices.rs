//! Device rules (config-linux.md, Allowed Device list): the config's rules, the devices that every
//! container has, and how the two files of cgroup v1 hold them. For v2 see `bpf.rs`.

use crate::spec::config::DeviceRule;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Making a node (`BPF_DEVCG_ACC_MKNOD`).
pub const MKNOD: u8 = 1;
/// Opening for reading (`BPF_DEVCG_ACC_READ`).
pub const READ: u8 = 2;
/// Opening for writing (`BPF_DEVCG_ACC_WRITE`).
pub const WRITE: u8 = 4;
/// All three accesses.
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

/// Which devices a rule is for; no number is every number. (In records it is a list of the three.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "DeviceList", into = "DeviceList")]
pub struct Device {
    /// Block or character devices.
    pub kind: Kind,
    /// The major number.
    pub major: Option<u32>,
    /// The minor number.
    pub minor: Option<u32>,
}

type DeviceList = (Kind, Option<u32>, Option<u32>);

impl From<DeviceList> for Device {
    fn from((kind, major, minor): DeviceList) -> Self {
        Self { kind, major, minor }
    }
}

impl From<Device> for DeviceList {
    fn from(device: Device) -> Self {
        (device.kind, device.major, device.minor)
    }
}

impl Device {
    /// A character device, or several of them.
    pub(super) const fn char(major: Option<u32>, minor: Option<u32>) -> Self {
        Self {
            kind: Kind::Char,
            major,
            minor,
        }
    }

    /// A block device, or several of them.
    pub(super) const fn block(major: Option<u32>, minor: Option<u32>) -> Self {
        Self {
            kind: Kind::Block,
            major,
            minor,
        }
    }

    /// Whether every device of the other is one of these.
    fn covers(&self, other: &Self) -> bool {
        let covers = |wide: Option<u32>, narrow: Option<u32>| wide.is_none() || wide == narrow;
        self.kind == other.kind
            && covers(self.major, other.major)
            && covers(self.minor, other.minor)
    }
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Whether the rule allows or denies.
    pub allow: bool,
    /// The devices that it is for.
    pub device: Device,
    /// The accesses that it is for: bits of [`ALL`].
    pub access: u8,
}

/// Rules in their order: the last one that matches an access decides on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// What is decided where no rule matches.
    pub default_allow: bool,
    /// The rules, the last of which counts most.
    pub rules: Vec<Rule>,
}

/// What a v1 devices cgroup can hold: a default, and exceptions from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What is decided for a device that is not an exception.
    pub default_allow: bool,
    /// The accesses for which a device is an exception, bits of [`ALL`].
    pub exceptions: BTreeMap<Device, u8>,
}

/// The devices that every container may use, whatever the config's rules are (config-linux.md,
/// Default Devices; runc's list): making any node, and null, zero, full, random, urandom, tty, ptmx
/// and the terminals of devpts.
const DEFAULTS: [(Device, u8); 11] = [
    (Device::char(None, None), MKNOD),
    (Device::block(None, None), MKNOD),
    (Device::char(Some(1), Some(3)), ALL),
    (Device::char(Some(1), Some(8)), ALL),
    (Device::char(Some(1), Some(7)), ALL),
    (Device::char(Some(5), Some(0)), ALL),
    (Device::char(Some(1), Some(5)), ALL),
    (Device::char(Some(1), Some(9)), ALL),
    (Device::char(Some(136), None), ALL),
    (Device::char(Some(5), Some(2)), ALL),
    // /dev/net/tun: VPNs in containers rely on it (runc 1.2.4 gave it back).
    (Device::char(Some(10), Some(200)), ALL),
];

impl Rules {
    /// The config's rules, with the default devices after them. Before the first rule nothing is
    /// allowed.
    ///
    /// # Errors
    /// A rule's type, number or access is not valid.
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
                // A rule for all accesses to all devices: the rules before it have no effect.
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
            device: Device { kind, major, minor },
            access,
        }));
        Ok(())
    }

    /// The rules as a v1 cgroup can hold them.
    ///
    /// # Errors
    /// A rule is an exception from an exception, which v1 does not have.
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

    /// The writes (file, value) for a new v1 cgroup, in the order in which the config names the
    /// devices; the default devices come last.
    ///
    /// # Errors
    /// As [`Rules::table`].
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
    /// Removes the exceptions that a rule covers.
    fn take_back(&mut self, rule: &Rule) -> Result<()> {
        for (device, access) in &mut self.exceptions {
            if rule.device.covers(device) {
                *access &= !rule.access;
            } else if device.covers(&rule.device) && *access & rule.access != 0 {
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

    /// Parses `devices.list` of a cgroup.
    ///
    /// # Errors
    /// A line is not of the kernel's form.
    pub fn parse(list: &str) -> Result<Self> {
        let mut table = Self {
            default_allow: false,
            exceptions: BTreeMap::new(),
        };
        for line in list.lines() {
            let bad = || Error::new(format!("devices.list: unknown line \"{line}\""));
            let mut fields = line.split([' ', ':']);
            let kind = match fields.next() {
                // Of a cgroup that allows by default the list has only this line, and not the
                // exceptions.
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
            let device = Device {
                kind,
                major: number()?,
                minor: number()?,
            };
            *table.exceptions.entry(device).or_default() |=
                accesses(fields.next().ok_or_else(bad)?)?;
        }
        Ok(table)
    }

    /// The writes (file, value) that give a cgroup this table, whatever it has.
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

    /// The writes (file, value) that change a cgroup from another table to this one. What both
    /// tables allow stays allowed in between.
    pub fn writes_from(&self, old: &Self) -> Vec<(&'static str, String)> {
        // The kernel does not list the exceptions of a cgroup that allows by default.
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

/// Parses `rwm` and parts of it; an empty text is all. Other letters have no meaning, as in runc:
/// engines' users write `rwa`.
fn accesses(text: &str) -> Result<u8> {
    let bit = |c| match c {
        'r' => READ,
        'w' => WRITE,
        'm' => MKNOD,
        _ => 0,
    };
    match text.chars().fold(0, |all, c| all | bit(c)) {
        0 if text.is_empty() => Ok(ALL),
        0 => Err(Error::new(format!("invalid device access \"{text}\""))),
        all => Ok(all),
    }
}

/// Devices and accesses in the form of v1's files: `c 1:3 rwm`.
struct Show<'a>(&'a Device, u8);

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(&Device { kind, major, minor }, access) = *self;
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
