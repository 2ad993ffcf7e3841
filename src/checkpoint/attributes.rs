//! The attributes of a file in a tar file, beside its header: times with nanoseconds, which may lie
//! before 1970, and extended attributes, as pax records.

use crate::sys::fd::{Fd, c_path};
use crate::sys::file;
use crate::{Context, Result};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tar::{Entry, EntryType, Header};

/// pax's key of an extended attribute, as star and GNU tar write it.
const ATTRIBUTE: &str = "SCHILY.xattr.";
/// An extended attribute in hexadecimal digits: readers of pax records take a newline in a value,
/// which is the group 10 in an ACL, for the end of the record.
const ATTRIBUTE_IN_HEX: &str = "HULL.xattr.";
/// The record of a file whose name begins as a whiteout's does, and which is none.
pub const LITERAL: &str = "HULL.literal";
const SECOND: i128 = 1_000_000_000;

fn time_text(seconds: i64, nanoseconds: i64) -> String {
    let whole = i128::from(seconds) * SECOND + i128::from(nanoseconds);
    let sign = if whole < 0 { "-" } else { "" };
    let positive = whole.unsigned_abs();
    let second = SECOND.unsigned_abs();
    format!("{sign}{}.{:09}", positive / second, positive % second)
}

fn parse_time(text: &str) -> Option<TimeSpec> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (seconds, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let nanoseconds: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let seconds = i128::from(seconds.parse::<u64>().ok()?);
    let whole = sign * (seconds * SECOND + i128::from(nanoseconds));
    let seconds = i64::try_from(whole.div_euclid(SECOND)).ok()?;
    let nanoseconds = i64::try_from(whole.rem_euclid(SECOND)).ok()?;
    Some(TimeSpec::new(seconds, nanoseconds))
}

/// The pax records of a file. The attributes of overlayfs do not belong to it.
///
/// # Errors
/// An extended attribute cannot be read.
pub fn records(whole: &Path, stat: &Metadata) -> Result<Vec<(String, Vec<u8>)>> {
    let time = |seconds, nanoseconds| time_text(seconds, nanoseconds).into_bytes();
    let mut found = vec![
        ("mtime".to_owned(), time(stat.mtime(), stat.mtime_nsec())),
        ("atime".to_owned(), time(stat.atime(), stat.atime_nsec())),
    ];
    // A file system without extended attributes answers ENOTSUP.
    let Ok(names) = xattr::list(whole) else {
        return Ok(found);
    };
    for name in names {
        let Some(text) = name.to_str().filter(|text| {
            !text.starts_with("trusted.overlay.") && !text.starts_with("user.overlay.")
        }) else {
            continue;
        };
        let Some(value) = xattr::get(whole, &name).on("read the attributes of", whole.display())?
        else {
            continue;
        };
        found.push(if value.contains(&b'\n') {
            let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            (format!("{ATTRIBUTE_IN_HEX}{text}"), digits.into_bytes())
        } else {
            (format!("{ATTRIBUTE}{text}"), value)
        });
    }
    Ok(found)
}

/// The attributes of a file that is to be made.
pub struct Attributes {
    /// Its path below the root.
    path: PathBuf,
    header: Header,
    records: BTreeMap<String, Vec<u8>>,
}

impl Attributes {
    /// Reads what a tar file says of an entry.
    ///
    /// # Errors
    /// The tar file is damaged.
    pub fn of(entry: &mut Entry<impl Read>, path: &Path) -> std::io::Result<Self> {
        let mut records = BTreeMap::new();
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            let key = String::from_utf8_lossy(record.key_bytes()).into_owned();
            records.insert(key, record.value_bytes().to_owned());
        }
        Ok(Self {
            path: path.to_owned(),
            header: entry.header().clone(),
            records,
        })
    }

    /// Whether the file is no whiteout although its name begins as a whiteout's does.
    pub fn is_literal(&self) -> bool {
        self.records.contains_key(LITERAL)
    }

    fn time(&self, key: &str) -> Option<TimeSpec> {
        parse_time(std::str::from_utf8(self.records.get(key)?).ok()?)
    }

    /// Sets them below `root`, without following a symbolic link. The owner comes first, as the
    /// kernel then clears the set-user-ID bit and capabilities; the times come last.
    ///
    /// # Errors
    /// The file system does not take one of them.
    pub fn set(&self, root: &Fd) -> Result<()> {
        self.set_below(root)
            .on("restore the attributes of", self.path.display())
    }

    fn set_below(&self, root: &Fd) -> std::io::Result<()> {
        let invalid = |_| std::io::Error::from(std::io::ErrorKind::InvalidData);
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = self.path.file_name().unwrap_or(OsStr::new("."));
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let c_name = std::ffi::CString::new(name.as_bytes())?;
        let c_parent = c_path(parent).map_err(std::io::Error::other)?;
        let parent = Fd(file::openat2(root.0, &c_parent, flags, 0, resolve)?);
        let uid = u32::try_from(self.header.uid()?).map_err(invalid)?;
        let gid = u32::try_from(self.header.gid()?).map_err(invalid)?;
        file::fchownat(parent.0, &c_name, uid, gid)?;
        if self.header.entry_type() != EntryType::Symlink {
            file::fchmodat(parent.0, &c_name, self.header.mode()? & 0o7777)?;
        }
        let whole = PathBuf::from(format!("/proc/self/fd/{}", parent.0)).join(name);
        for (key, value) in &self.records {
            if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                xattr::set(&whole, name, value)?;
            } else if let Some(name) = key.strip_prefix(ATTRIBUTE_IN_HEX) {
                let value = std::str::from_utf8(value)
                    .ok()
                    .and_then(from_hex)
                    .ok_or(std::io::ErrorKind::InvalidData)?;
                xattr::set(&whole, name, &value)?;
            }
        }
        let seconds = i64::try_from(self.header.mtime()?).unwrap_or(0);
        let modified = self.time("mtime").unwrap_or(TimeSpec::new(seconds, 0));
        let accessed = self.time("atime").unwrap_or(modified);
        utimensat(
            crate::sys::socket::borrow(parent.0),
            name,
            &accessed,
            &modified,
            UtimensatFlags::NoFollowSymlink,
        )?;
        Ok(())
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        for (seconds, nanoseconds) in [(0, 0), (-1, 500_000_000), (-86_400, 1), (1 << 33, 7)] {
            let time = parse_time(&time_text(seconds, nanoseconds)).unwrap();
            assert_eq!((time.tv_sec(), time.tv_nsec()), (seconds, nanoseconds));
        }
        assert!(parse_time("x").is_none());
        assert!(parse_time("--1").is_none());
    }
}
