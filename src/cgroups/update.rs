//! Changing the limits of a running container: either all or none of them are changed.

use super::devices::{Rules, Table};
use super::directory::open_dir;
use super::file;
use super::group::{Group, read_devices, write_devices};
use super::limits;
use super::place::{Place, find};
use super::systemd::{client, properties};
use super::tree::Version;
use super::values::{Policy, Write, dir_of, write_all};
use crate::spec::config::{Cpu, Memory, Resources};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::os::fd::AsFd;

impl Group {
    /// Sets the limits that are given and leaves the others. hull checks all values before it
    /// writes the first; where the kernel refuses one, hull writes the earlier values again.
    ///
    /// # Errors
    /// A value is not valid, or its controller does not exist; the kernel or systemd refuses a
    /// value. The error also names the files whose earlier values could not be restored.
    pub fn update(&mut self, resources: &Resources) -> Result<()> {
        let whole = self.with_present_values(resources)?;
        let writes = limits::writes(&whole, &self.places, &[])?;
        let rules = if resources.devices.is_empty() {
            None
        } else {
            Some(Rules::new(&resources.devices)?)
        };
        let table = match (&rules, find(&self.places, "devices")) {
            (Some(rules), Some(place)) if place.version == Version::V1 => Some(rules.table()?),
            (Some(_), None) => {
                return Err(Error::new(
                    "device rules: the container has no cgroup for them",
                ));
            }
            _ => None,
        };
        self.enable_for(&writes)?;
        let before: Vec<Write> = writes
            .iter()
            .filter_map(|w| self.present(w).transpose())
            .collect::<Result<_>>()?;
        let mut told = false;
        let result = write_all(&self.places, &writes)
            .and_then(|()| self.tell_unit(&writes, rules.as_ref(), &mut told))
            .and_then(|()| match rules {
                Some(rules) => self.update_devices(rules, table),
                None => Ok(()),
            });
        result.map_err(|error| {
            let unit = if told {
                self.update_unit(&before, self.devices.as_ref())
            } else {
                Ok(())
            };
            let error = self.put_back(&before, error);
            unit.map_or_else(
                |e| {
                    Error::new(format!(
                        "{error}; systemd could not be told the earlier values: {e}"
                    ))
                },
                |()| error.clone(),
            )
        })
    }

    /// Tells systemd the values. That comes after the kernel, whose errors name the file. systemd
    /// rounds a quota to whole percents, so hull writes the exact values once more afterwards.
    fn tell_unit(&self, writes: &[Write], rules: Option<&Rules>, told: &mut bool) -> Result<()> {
        if self.unit.is_none() {
            return Ok(());
        }
        *told = true;
        self.update_unit(writes, rules)?;
        write_all(&self.places, writes)
    }

    /// Completes values that only make sense together by the present ones: v2 has quota and period
    /// in one file, and its swap limit is the config's `swap` less the memory limit.
    pub(super) fn with_present_values(&self, resources: &Resources) -> Result<Resources> {
        let mut whole = resources.clone();
        let v2 =
            |controller: &str| find(&self.places, controller).filter(|p| p.version == Version::V2);
        if let (Some(cpu), Some(place)) = (&mut whole.cpu, v2("cpu")) {
            complete_cpu(cpu, place)?;
        }
        if let (Some(memory), Some(place)) = (&mut whole.memory, v2("memory")) {
            complete_memory(memory, place)?;
        }
        Ok(whole)
    }

    /// Enables the v2 controllers that the values need: in a hybrid tree they are off until then.
    fn enable_for(&mut self, writes: &[Write]) -> Result<()> {
        for place in self.places.iter_mut().filter(|p| p.version == Version::V2) {
            let needed: Vec<String> = place
                .controllers
                .iter()
                .filter(|c| writes.iter().any(|w| w.controller == **c))
                .cloned()
                .collect();
            for controller in needed {
                if !place.enable.contains(&controller) {
                    place.enable.push(controller.clone());
                }
                if !place.required.contains(&controller) {
                    place.required.push(controller);
                }
            }
        }
        self.places
            .iter()
            .filter(|p| p.version == Version::V2)
            .try_for_each(|place| self.enable(place))
    }

    /// The write that restores the present value of a file. None where the file does not exist:
    /// then the new value fails.
    fn present(&self, write: &Write) -> Result<Option<Write>> {
        let dir = dir_of(&self.places, write)?;
        let (name, value) = match (file::read(dir, &write.file), &write.policy) {
            (Err(Errno::ENOENT), Policy::Else { file, value }) => (file, value),
            _ => (&write.file, &write.value),
        };
        let text = match file::read(dir, name) {
            Ok(text) => text,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(Error::sys("read", format_args!("{dir}/{name}"), errno)),
        };
        let old = Write {
            file: name.clone(),
            value: restoring(name, &text, value),
            policy: Policy::Must,
            unless_used: None,
            ..write.clone()
        };
        Ok(Some(old))
    }

    /// Writes the earlier values, the last first, and repeats that for those that the kernel
    /// refuses as long as it accepts one more: they may need another order.
    fn put_back(&self, before: &[Write], error: Error) -> Error {
        let mut left: Vec<&Write> = before.iter().rev().collect();
        loop {
            let count = left.len();
            left.retain(|old| match dir_of(&self.places, old) {
                Ok(dir) => file::write(dir, &old.file, &old.value).is_err(),
                Err(_) => false,
            });
            if left.is_empty() {
                return error;
            }
            if left.len() == count {
                break;
            }
        }
        let names: Vec<&str> = left.iter().map(|w| w.file.as_str()).collect();
        Error::new(format!(
            "{error}; the earlier values could not be put back in {}",
            names.join(", ")
        ))
    }

    /// Gives systemd the values as properties: it has its own copy of them, and would write the
    /// earlier ones when it is reloaded.
    fn update_unit(&self, writes: &[Write], rules: Option<&Rules>) -> Result<()> {
        let Some(name) = &self.unit else {
            return Ok(());
        };
        let mut all = properties::of_writes(writes)?;
        all.extend(rules.into_iter().flat_map(properties::of_devices));
        if all.is_empty() {
            return Ok(());
        }
        client::Client::connect(self.by_user())?.set(name, &all)
    }

    fn update_devices(&mut self, rules: Rules, table: Option<Table>) -> Result<()> {
        let Some(place) = find(&self.places, "devices") else {
            return Ok(());
        };
        match table {
            None => super::bpf::apply(open_dir(&place.dir)?.as_fd(), &place.dir, &rules)?,
            Some(new) => {
                let old = read_devices(place)?;
                if let Err(error) = write_devices(place, &new.writes_from(&old)) {
                    let back = read_devices(place)
                        .and_then(|now| write_devices(place, &old.writes_from(&now)));
                    return Err(match back {
                        Ok(()) => error,
                        Err(back) => Error::new(format!(
                            "{error}; the earlier rules could not be put back: {back}"
                        )),
                    });
                }
            }
        }
        self.devices = Some(rules);
        Ok(())
    }
}

fn complete_cpu(cpu: &mut Cpu, place: &Place) -> Result<()> {
    let (quota, period) = (
        cpu.quota.filter(|v| *v != 0),
        cpu.period.filter(|v| *v != 0),
    );
    if quota.is_some() == period.is_some() {
        return Ok(());
    }
    let text = read(place, "cpu.max")?;
    let mut words = text.split_whitespace();
    let (old_quota, old_period) = (words.next(), words.next());
    cpu.quota = quota.or_else(|| old_quota?.parse().ok());
    cpu.period = period.or_else(|| old_period?.parse().ok());
    Ok(())
}

fn complete_memory(memory: &mut Memory, place: &Place) -> Result<()> {
    let (limit, swap) = (
        memory.limit.filter(|v| *v != 0),
        memory.swap.filter(|v| *v != 0),
    );
    if limit.is_some() == swap.is_some() {
        return Ok(());
    }
    let old_limit = read(place, "memory.max")?.trim_end().parse::<i64>().ok();
    match (limit, swap) {
        (None, Some(swap)) if swap != -1 => memory.limit = Some(old_limit.unwrap_or(-1)),
        (Some(limit), None) if limit != -1 => {
            // The sum of both stays, as on v1: more memory is less swap. A limit of no swap stays.
            let old_swap = file::read(&place.dir, "memory.swap.max")
                .unwrap_or_default()
                .trim_end()
                .parse::<i64>()
                .ok();
            if let (Some(old_limit), Some(old_swap)) = (old_limit, old_swap.filter(|s| *s != 0)) {
                memory.swap = Some(old_limit + old_swap);
            }
        }
        _ => {}
    }
    Ok(())
}

fn read(place: &Place, name: &str) -> Result<String> {
    file::read(&place.dir, name).on("read", format_args!("{}/{name}", place.dir))
}

/// What to write so that a file has its present text again. A file with a line for each device is
/// restored for the device of the new value.
pub(super) fn restoring(name: &str, text: &str, value: &str) -> String {
    let line = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').map(str::trim))
    };
    let device = value
        .split_once(' ')
        .map(|(device, rest)| (device, rest, line(device)));
    match (name, device) {
        ("memory.oom_control", _) => line("oom_kill_disable").unwrap_or("0").to_owned(),
        // One key of the line: `8:0 rbps=1048576 wbps=max ...`.
        ("io.max", Some((device, rest, old))) => {
            let key = rest.split_once('=').map_or(rest, |(key, _)| key);
            let old = old
                .and_then(|old| {
                    old.split(' ')
                        .find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
                })
                .unwrap_or("max");
            format!("{device} {key}={old}")
        }
        (_, Some((device, _, Some(old)))) => format!("{device} {old}"),
        ("io.weight" | "io.bfq.weight", Some((device, _, None))) => format!("{device} default"),
        (_, Some((device, _, None))) if device.contains(':') => format!("{device} 0"),
        ("io.weight" | "io.bfq.weight", None) => {
            line("default").unwrap_or(text.trim_end()).to_owned()
        }
        // The kernel does not take a write of no bytes.
        _ if text.trim().is_empty() => "\n".to_owned(),
        _ => text.trim_end().to_owned(),
    }
}
