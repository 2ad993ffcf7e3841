//! Reading the files of one cgroup.

use super::types::Pressure;
use crate::cgroups::file;
use crate::cgroups::place::Place;
use crate::{Error, Result};
use nix::errno::Errno;
use std::collections::BTreeMap;

/// Reads the files of one cgroup. A file that the kernel does not have is empty, or zero.
pub(super) struct Reader<'a> {
    /// The cgroup's directory.
    pub(super) dir: &'a str,
}

impl Reader<'_> {
    /// A file's text; none where the kernel does not have the file.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        match file::read(self.dir, name) {
            Ok(text) => Ok(Some(text)),
            // EOPNOTSUPP: a pressure file, where the kernel does not measure pressure.
            Err(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => Ok(None),
            Err(errno) => Err(Error::sys("read", self.path(name), errno)),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// The error for a text of another form.
    pub(super) fn bad(&self, name: &str, text: &str) -> Error {
        Error::new(format!(
            "parse {}: unexpected \"{}\"",
            self.path(name),
            text.trim_end()
        ))
    }

    /// A file with one number; `max` (v2) and -1 (v1) are `u64::MAX`, as in runc.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.trim_end() {
            "max" | "-1" => Ok(Some(u64::MAX)),
            value => value.parse().map(Some).map_err(|_| self.bad(name, &text)),
        }
    }

    /// The same, and 0 where the kernel does not have the file.
    pub(super) fn number_or_zero(&self, name: &str) -> Result<u64> {
        Ok(self.number(name)?.unwrap_or(0))
    }

    /// A file with a key and a number on each line.
    pub(super) fn table(&self, name: &str) -> Result<BTreeMap<String, u64>> {
        let text = self.text(name)?.unwrap_or_default();
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        };
        text.lines()
            .map(|line| pair(line).ok_or_else(|| self.bad(name, line)))
            .collect()
    }

    /// A file with numbers between blanks.
    pub(super) fn numbers(&self, name: &str) -> Result<Vec<u64>> {
        let text = self.text(name)?.unwrap_or_default();
        text.split_whitespace()
            .map(|n| n.parse().map_err(|_| self.bad(name, &text)))
            .collect()
    }

    /// A file with a list such as `0-2,5`, as single numbers.
    pub(super) fn list(&self, name: &str) -> Result<Vec<u16>> {
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

    /// A file with pressure stall information (Documentation/accounting/psi.rst).
    pub(super) fn pressure(&self, name: &str) -> Result<Option<Pressure>> {
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

    /// The huge page sizes for which the cgroup has files that end in `end`.
    pub(super) fn page_sizes(&self, end: &str) -> Vec<String> {
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

/// Whether a cgroup has a controller.
pub(super) fn has(place: &Place, controller: &str) -> bool {
    place.controllers.iter().any(|c| c == controller)
}
