//! The limits as properties of the unit: systemd writes a unit's values again when it is reloaded,
//! and they must be the same.

use super::value::{Property, Value};
use crate::cgroups::devices::{ALL, Device, Kind, MKNOD, READ, Rules, WRITE};
use crate::cgroups::values::Write;
use crate::{Error, Result};
use cgroups_rs::systemd as names;

/// The properties for the files that systemd has one for; other values are in the files alone. They
/// are made from the writes, so that `linux.resources.unified` has them too.
///
/// # Errors
/// A value is not a number, or not a list of CPUs or memory nodes.
pub(in crate::cgroups) fn of_writes(writes: &[Write]) -> Result<Vec<Property>> {
    let mut all: Vec<Property> = Vec::new();
    let mut quota = Bandwidth::default();
    for write in writes {
        let one = one(write, &mut quota).map_err(|e| e.within(&write.from))?;
        for property in one {
            // As in the file, the last value counts.
            all.retain(|p| p.name != property.name);
            all.push(property);
        }
    }
    // systemd has one property for the weight and for idle, which has no weight.
    if writes
        .iter()
        .any(|w| w.file == "cpu.idle" && w.value == "1")
    {
        all.retain(|p| p.name != names::CPU_WEIGHT);
        all.push(Property {
            since: 252,
            ..Property::new(names::CPU_WEIGHT, Value::U64(0))
        });
    }
    all.extend(quota.properties());
    Ok(all)
}

fn one(write: &Write, bandwidth: &mut Bandwidth) -> Result<Vec<Property>> {
    let value = write.value.as_str();
    let name = match write.file.as_str() {
        "memory.max" => names::MEMORY_MAX,
        "memory.low" => names::MEMORY_LOW,
        "memory.min" => "MemoryMin",
        "memory.high" => "MemoryHigh",
        "memory.swap.max" => names::MEMORY_SWAP_MAX,
        "memory.limit_in_bytes" => names::MEMORY_LIMIT,
        "pids.max" => names::TASKS_MAX,
        "cpu.weight" => names::CPU_WEIGHT,
        "cpu.shares" => names::CPU_SHARES,
        "blkio.weight" => "BlockIOWeight",
        "cpuset.cpus" | "cpuset.mems" => {
            let name = if write.file == "cpuset.cpus" {
                names::ALLOWED_CPUS
            } else {
                names::ALLOWED_MEMORY_NODES
            };
            let bits = bits(value)?.into_iter().map(Value::Byte).collect();
            return Ok(vec![Property {
                since: 244,
                ..Property::new(name, Value::Array("y".to_owned(), bits))
            }]);
        }
        "memory.oom.group" => {
            let policy = if value == "1" { "kill" } else { "continue" };
            return Ok(vec![Property {
                since: 243,
                ..Property::new("OOMPolicy", Value::Str(policy.to_owned()))
            }]);
        }
        "cpu.max" => {
            let mut words = value.split_whitespace();
            bandwidth.quota = words.next().and_then(|q| q.parse().ok());
            bandwidth.period = words.next().and_then(|p| p.parse().ok());
            bandwidth.set = true;
            return Ok(Vec::new());
        }
        "cpu.cfs_quota_us" => {
            (bandwidth.quota, bandwidth.set) = (value.parse().ok(), true);
            return Ok(Vec::new());
        }
        "cpu.cfs_period_us" => {
            (bandwidth.period, bandwidth.set) = (value.parse().ok(), true);
            return Ok(Vec::new());
        }
        _ => return Ok(Vec::new()),
    };
    let number = match value {
        "max" | "-1" => u64::MAX,
        // systemd refuses a limit of no tasks (runc sets 1 too).
        "0" if name == names::TASKS_MAX => 1,
        _ => value
            .parse()
            .map_err(|_| Error::new(format!("\"{value}\" is not a number")))?,
    };
    Ok(vec![Property::new(name, Value::U64(number))])
}

/// The CPU bandwidth: systemd has the quota in microseconds per second.
#[derive(Default)]
struct Bandwidth {
    set: bool,
    quota: Option<i64>,
    period: Option<u64>,
}

impl Bandwidth {
    fn properties(&self) -> Vec<Property> {
        if !self.set {
            return Vec::new();
        }
        let period = self.period.filter(|p| *p != 0);
        let mut all = Vec::new();
        if let Some(period) = period {
            all.push(Property {
                since: 242,
                ..Property::new(names::CPU_QUOTA_PERIOD_US, Value::U64(period))
            });
        }
        let per_second = match self
            .quota
            .and_then(|q| u64::try_from(q).ok())
            .filter(|q| *q != 0)
        {
            None => u64::MAX,
            // systemd keeps whole percents. They are rounded up, so that the exact value, which
            // hull writes afterwards, is not above systemd's.
            Some(quota) => {
                (quota * 1_000_000 / period.unwrap_or(100_000)).div_ceil(10_000) * 10_000
            }
        };
        all.push(Property::new(
            names::CPU_QUOTA_PER_SEC_US,
            Value::U64(per_second),
        ));
        all
    }
}

/// `0-2,9` as a bit mask, lowest byte first.
fn bits(list: &str) -> Result<Vec<u8>> {
    let bad = || Error::new(format!("invalid list \"{list}\""));
    let mut mask = Vec::new();
    for part in list.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (
            first.trim().parse().map_err(|_| bad())?,
            last.trim().parse().map_err(|_| bad())?,
        );
        if first > last || last > 65_535 {
            return Err(bad());
        }
        for bit in first..=last {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    // An empty mask is systemd's "not limited", which restores the state before a first limit.
    Ok(mask)
}

/// The device rules as properties. Without them systemd would allow all devices again on v1 when it
/// is reloaded; on v2 hull's own program stays attached. For rules that systemd's list cannot
/// express (a minor number of every major; a default of "allow" with exceptions) systemd's policy
/// allows all, and hull's own rules decide.
pub(in crate::cgroups) fn of_devices(rules: &Rules) -> Vec<Property> {
    let policy = |name: &str, list| {
        vec![
            Property::new("DevicePolicy", Value::Str(name.to_owned())),
            Property::new("DeviceAllow", Value::Pairs(list)),
        ]
    };
    let list = match rules.table() {
        Ok(table) if !table.default_allow => table
            .exceptions
            .iter()
            .map(|(device, access)| allow(device, *access))
            .collect(),
        _ => None,
    };
    list.map_or_else(
        || policy("auto", Vec::new()),
        |list: Vec<_>| policy("strict", list),
    )
}

/// `/dev/char/1:3`, `char-136`, `block-*`.
fn allow(device: &Device, access: u8) -> Option<(String, String)> {
    let Device { kind, major, minor } = *device;
    let kind = if kind == Kind::Block { "block" } else { "char" };
    let path = match (major, minor) {
        (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
        (Some(major), None) => format!("{kind}-{major}"),
        (None, None) => format!("{kind}-*"),
        (None, Some(_)) => return None,
    };
    debug_assert_eq!(access & !ALL, 0);
    let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
    Some((
        path,
        letters
            .iter()
            .filter(|(bit, _)| access & bit != 0)
            .map(|(_, c)| *c)
            .collect(),
    ))
}
