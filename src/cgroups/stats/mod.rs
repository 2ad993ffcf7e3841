//! What a container uses, in the shape of `runc events --stats`: the names are runc's, engines read
//! them.
//!
//! The structs of the crate cgroups-rs are not used: they have other names, and its readers know v1
//! or v2 but not both at once.

pub mod types;
pub mod v1;
pub mod v2;

use super::file;
use super::group::Group;
use super::tree::Version;
use crate::cgroups::plan::Place;
use crate::cgroups::stats::types::{Pressure, Stats};
use crate::{Error, Result};
use nix::errno::Errno;
use std::collections::BTreeMap;

impl Group {
    /// What the kernel has counted. Controllers that are not there leave zeros.
    ///
    /// # Errors
    /// A file that is there cannot be read, or has something else in it than the kernel's
    /// documentation says.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        let v1_counts_time = self
            .places
            .iter()
            .any(|p| p.version == Version::V1 && has(p, "cpuacct"));
        for place in &self.places {
            match place.version {
                Version::V1 => v1::add(place, &mut stats)?,
                Version::V2 => v2::add(place, v1_counts_time, &mut stats)?,
            }
        }
        Ok(stats)
    }
}

/// Reads the files of one cgroup.
struct Reader<'a> {
    dir: &'a str,
}

impl Reader<'_> {
    /// A file's text, none where the kernel does not have it.
    fn text(&self, name: &str) -> Result<Option<String>> {
        match file::read(self.dir, name) {
            Ok(text) => Ok(Some(text)),
            // EOPNOTSUPP: a pressure file where pressure is not kept.
            Err(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => Ok(None),
            Err(errno) => Err(Error::sys("read", self.path(name), errno)),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    fn bad(&self, name: &str, text: &str) -> Error {
        Error::new(format!(
            "parse {}: unexpected \"{}\"",
            self.path(name),
            text.trim_end()
        ))
    }

    /// A number; `max` is all ones, as in runc. What v1 writes as -1 too.
    fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.trim_end() {
            "max" | "-1" => Ok(Some(u64::MAX)),
            value => value.parse().map(Some).map_err(|_| self.bad(name, &text)),
        }
    }

    fn number_or_zero(&self, name: &str) -> Result<u64> {
        Ok(self.number(name)?.unwrap_or(0))
    }

    /// Lines of a key and a number.
    fn table(&self, name: &str) -> Result<BTreeMap<String, u64>> {
        let text = self.text(name)?.unwrap_or_default();
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        };
        text.lines()
            .map(|line| pair(line).ok_or_else(|| self.bad(name, line)))
            .collect()
    }

    fn numbers(&self, name: &str) -> Result<Vec<u64>> {
        let text = self.text(name)?.unwrap_or_default();
        text.split_whitespace()
            .map(|n| n.parse().map_err(|_| self.bad(name, &text)))
            .collect()
    }

    /// `0-2,5` as single numbers.
    fn list(&self, name: &str) -> Result<Vec<u16>> {
        let text = self.text(name)?.unwrap_or_default();
        let mut all = Vec::new();
        for part in text.trim_end().split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.parse::<u16>(), last.parse::<u16>()) {
                (Ok(first), Ok(last)) => all.extend(first..=last),
                _ => return Err(self.bad(name, &text)),
            }
        }
        Ok(all)
    }

    /// Pressure stall information (Documentation/accounting/psi.rst).
    fn pressure(&self, name: &str) -> Result<Option<Pressure>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let mut pressure = Pressure::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let part = match words.next() {
                Some("some") => &mut pressure.some,
                Some("full") => &mut pressure.full,
                _ => continue,
            };
            for word in words {
                let (key, value) = word.split_once('=').ok_or_else(|| self.bad(name, line))?;
                let share = || value.parse::<f64>().map_err(|_| self.bad(name, line));
                match key {
                    "avg10" => part.avg10 = share()?,
                    "avg60" => part.avg60 = share()?,
                    "avg300" => part.avg300 = share()?,
                    "total" => part.total = value.parse().map_err(|_| self.bad(name, line))?,
                    _ => {}
                }
            }
        }
        Ok(Some(pressure))
    }

    /// The huge page sizes that this cgroup has files for.
    fn page_sizes(&self, end: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir)
            .into_iter()
            .flatten()
            .filter_map(std::result::Result::ok);
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        let mut sizes: Vec<String> = names
            .filter_map(|n| Some(n.strip_prefix("hugetlb.")?.strip_suffix(end)?.to_owned()))
            .filter(|size| !size.contains('.'))
            .collect();
        sizes.sort();
        sizes
    }
}

fn has(place: &Place, controller: &str) -> bool {
    place.controllers.iter().any(|c| c == controller)
}
