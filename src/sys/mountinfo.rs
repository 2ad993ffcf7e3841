//! The mounts that a process sees (proc_pid_mountinfo(5)).

use super::file;
use crate::{Context, Result};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of mountinfo, without its optional fields (the propagation) and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id, unique as long as it is mounted.
    pub id: u64,
    /// The id of the mount that it is mounted on.
    pub parent: u64,
    /// The file system's device as `major:minor`.
    pub device: String,
    /// The directory of the file system that is the mount's root.
    pub root: PathBuf,
    /// Where it is mounted, as seen from the process's root directory.
    pub mount_point: PathBuf,
    /// The options of this mount, such as `ro`.
    pub options: Vec<String>,
    /// The file system's type.
    pub fstype: String,
    /// The options of the file system, which all its mounts share.
    pub super_options: Vec<String>,
}

/// The mounts that a process sees, in the order of the kernel's list: a mount follows the one that
/// it is mounted on. `process` is a process id, or `self`.
///
/// # Errors
/// Reading `/proc/PROCESS/mountinfo` fails: the process has exited, or procfs is not mounted.
pub fn of(process: impl fmt::Display) -> Result<Vec<Mount>> {
    let path = format!("/proc/{process}/mountinfo");
    let text = file::read_whole(path.as_ref()).on("read", &path)?;
    Ok(parse(&text))
}

/// The mounts of a mountinfo file's text. A line that is not of the kernel's form is skipped.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(unescape(bytes)));
    let list = |bytes: &[u8]| text(bytes).split(',').map(str::to_owned).collect();
    let mut fields = line.split(|byte| *byte == b' ');
    let mount = Mount {
        id: number(fields.next()?)?,
        parent: number(fields.next()?)?,
        device: text(fields.next()?),
        root: path(fields.next()?),
        mount_point: path(fields.next()?),
        options: list(fields.next()?),
        fstype: String::new(),
        super_options: Vec::new(),
    };
    // Any number of optional fields ends in a single hyphen.
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mount {
        fstype: text(fields.next()?),
        super_options: list(fields.nth(1).unwrap_or_default()),
        ..mount
    })
}

/// The kernel writes spaces, tabs, line ends and backslashes as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        let (byte, tail) = match digits {
            Some(digits) => {
                let value = digits
                    .iter()
                    .fold(0_u8, |sum, d| sum.wrapping_mul(8).wrapping_add(d - b'0'));
                (value, &tail[3..])
            }
            None => (first, tail),
        };
        out.push(byte);
        rest = tail;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_field_by_field() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 master:2 - ext3 /dev/root \
            rw,errors=continue\nnot a line\n";
        let [mount] = parse(line).try_into().unwrap();
        assert_eq!(
            mount,
            Mount {
                id: 36,
                parent: 35,
                device: "98:0".into(),
                root: "/mnt1".into(),
                mount_point: "/mnt 2".into(),
                options: vec!["rw".into(), "noatime".into()],
                fstype: "ext3".into(),
                super_options: vec!["rw".into(), "errors=continue".into()],
            }
        );
        assert!(
            of("self")
                .unwrap()
                .iter()
                .any(|mount| mount.fstype == "proc")
        );
    }

    #[test]
    fn octal_digits_are_characters() {
        for (text, expected) in [
            ("a\\040b\\134c", "a b\\c"),
            ("\\011\\012", "\t\n"),
            ("\\04", "\\04"),
            ("\\+40", "\\+40"),
            ("", ""),
        ] {
            assert_eq!(unescape(text.as_bytes()), expected.as_bytes(), "{text}");
        }
    }
}
