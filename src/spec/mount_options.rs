//! The options of a mount: one table of names, which the parser and the `features` document use.

use crate::sys::mount as attr;
use crate::{Error, Result};

/// What an option's name means; flags are `MS_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The option is accepted and has no effect.
    Nothing,
    Bind {
        recursive: bool,
    },
    Set(u64),
    Clear(u64),
    Propagation(u64),
    RecursiveSet(u64),
    RecursiveClear(u64),
    CopyUp,
    IdMap {
        recursive: bool,
    },
    CopySymlink,
    Remount,
}

use Meaning::{
    Bind, Clear, CopySymlink, CopyUp, IdMap, Nothing, Propagation, RecursiveClear, RecursiveSet,
    Remount, Set,
};

const MS_REC: u64 = libc::MS_REC;
const MS_NOSYMFOLLOW: u64 = 256;
const MS_LAZYTIME: u64 = 1 << 25;

/// mount(8)'s file-system-independent options and the runtime spec's (config.md, Linux mount
/// options).
const OPTIONS: &[(&str, Meaning)] = &[
    ("acl", Set(libc::MS_POSIXACL)),
    ("async", Clear(libc::MS_SYNCHRONOUS)),
    ("atime", Clear(libc::MS_NOATIME)),
    ("bind", Bind { recursive: false }),
    ("copy-symlink", CopySymlink),
    ("defaults", Nothing),
    ("dev", Clear(libc::MS_NODEV)),
    ("diratime", Clear(libc::MS_NODIRATIME)),
    ("dirsync", Set(libc::MS_DIRSYNC)),
    ("exec", Clear(libc::MS_NOEXEC)),
    ("idmap", IdMap { recursive: false }),
    ("iversion", Set(libc::MS_I_VERSION)),
    ("lazytime", Set(MS_LAZYTIME)),
    ("loud", Clear(libc::MS_SILENT)),
    ("mand", Set(libc::MS_MANDLOCK)),
    ("noacl", Clear(libc::MS_POSIXACL)),
    ("noatime", Set(libc::MS_NOATIME)),
    ("nodev", Set(libc::MS_NODEV)),
    ("nodiratime", Set(libc::MS_NODIRATIME)),
    ("noexec", Set(libc::MS_NOEXEC)),
    ("noiversion", Clear(libc::MS_I_VERSION)),
    ("nolazytime", Clear(MS_LAZYTIME)),
    ("nomand", Clear(libc::MS_MANDLOCK)),
    ("norelatime", Clear(libc::MS_RELATIME)),
    ("nostrictatime", Clear(libc::MS_STRICTATIME)),
    ("nosuid", Set(libc::MS_NOSUID)),
    ("nosymfollow", Set(MS_NOSYMFOLLOW)),
    ("private", Propagation(libc::MS_PRIVATE)),
    ("ratime", RecursiveClear(libc::MS_NOATIME)),
    ("rbind", Bind { recursive: true }),
    ("rdev", RecursiveClear(libc::MS_NODEV)),
    ("rdiratime", RecursiveClear(libc::MS_NODIRATIME)),
    ("relatime", Set(libc::MS_RELATIME)),
    ("remount", Remount),
    ("rexec", RecursiveClear(libc::MS_NOEXEC)),
    ("ridmap", IdMap { recursive: true }),
    ("rnoatime", RecursiveSet(libc::MS_NOATIME)),
    ("rnodev", RecursiveSet(libc::MS_NODEV)),
    ("rnodiratime", RecursiveSet(libc::MS_NODIRATIME)),
    ("rnoexec", RecursiveSet(libc::MS_NOEXEC)),
    ("rnorelatime", RecursiveClear(libc::MS_RELATIME)),
    ("rnostrictatime", RecursiveClear(libc::MS_STRICTATIME)),
    ("rnosuid", RecursiveSet(libc::MS_NOSUID)),
    ("rnosymfollow", RecursiveSet(MS_NOSYMFOLLOW)),
    ("ro", Set(libc::MS_RDONLY)),
    ("rprivate", Propagation(libc::MS_PRIVATE | MS_REC)),
    ("rrelatime", RecursiveSet(libc::MS_RELATIME)),
    ("rro", RecursiveSet(libc::MS_RDONLY)),
    ("rrw", RecursiveClear(libc::MS_RDONLY)),
    ("rshared", Propagation(libc::MS_SHARED | MS_REC)),
    ("rslave", Propagation(libc::MS_SLAVE | MS_REC)),
    ("rstrictatime", RecursiveSet(libc::MS_STRICTATIME)),
    ("rsuid", RecursiveClear(libc::MS_NOSUID)),
    ("rsymfollow", RecursiveClear(MS_NOSYMFOLLOW)),
    ("runbindable", Propagation(libc::MS_UNBINDABLE | MS_REC)),
    ("rw", Clear(libc::MS_RDONLY)),
    ("shared", Propagation(libc::MS_SHARED)),
    ("silent", Set(libc::MS_SILENT)),
    ("slave", Propagation(libc::MS_SLAVE)),
    ("strictatime", Set(libc::MS_STRICTATIME)),
    ("suid", Clear(libc::MS_NOSUID)),
    ("symfollow", Clear(MS_NOSYMFOLLOW)),
    ("sync", Set(libc::MS_SYNCHRONOUS)),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(libc::MS_UNBINDABLE)),
];

/// The names of all options of the table; other options go to the file system as its data.
pub fn names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// The options of one mount, with their meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `bind` (false) or `rbind` (true); none where it is not a bind mount.
    pub bind: Option<bool>,
    /// `MS_*` flags that are set.
    pub flags: u64,
    /// `MS_*` flags that an option clears by name (`rw`, `exec`, …).
    pub cleared: u64,
    /// `MS_*` flags to set on the mount and all mounts below (`rro`, …).
    pub recursive_set: u64,
    /// `MS_*` flags to clear on the mount and all mounts below (`rrw`, …).
    pub recursive_clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`, with `MS_REC` where it is
    /// recursive; 0 where the options name none. The last one named counts.
    pub propagation: u64,
    /// The options that are not in the table, joined by commas: the file system's own.
    pub data: String,
    /// `tmpcopyup`: the content of the image's directory is copied into the tmpfs.
    pub copy_up: bool,
    /// `idmap` (false) or `ridmap` (true); none where the mount is not id-mapped.
    pub id_map: Option<bool>,
    /// `copy-symlink`: where the source is a symbolic link, the link itself is copied.
    pub copy_symlink: bool,
    /// `remount`: an existing mount is changed.
    pub remount: bool,
}

impl MountOptions {
    /// Parses a list of options; of options that contradict each other the later one counts.
    ///
    /// # Errors
    /// An option contains a NUL byte.
    pub fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        let mut data: Vec<&str> = Vec::new();
        for option in options {
            if option.contains('\0') {
                return Err(Error::new(format!(
                    "mount option {option:?} contains a NUL byte"
                )));
            }
            match OPTIONS.binary_search_by(|(name, _)| (*name).cmp(option.as_str())) {
                Ok(at) => parsed.take(OPTIONS[at].1),
                Err(_) => data.push(option),
            }
        }
        parsed.data = data.join(",");
        Ok(parsed)
    }

    fn take(&mut self, meaning: Meaning) {
        match meaning {
            Nothing => {}
            Bind { recursive } => self.bind = Some(recursive),
            Set(flag) => {
                self.flags |= flag;
                self.cleared &= !flag;
            }
            Clear(flag) => {
                self.flags &= !flag;
                self.cleared |= flag;
            }
            Propagation(flags) => self.propagation = flags,
            RecursiveSet(flag) => {
                self.recursive_set |= flag;
                self.recursive_clear &= !flag;
            }
            RecursiveClear(flag) => {
                self.recursive_clear |= flag;
                self.recursive_set &= !flag;
            }
            CopyUp => self.copy_up = true,
            IdMap { recursive } => self.id_map = Some(recursive),
            CopySymlink => self.copy_symlink = true,
            Remount => self.remount = true,
        }
    }

    /// The attributes for mount_setattr(2) of the mount itself: those to set, and those to clear.
    pub fn attributes(&self) -> (u64, u64) {
        to_attributes(self.flags, self.cleared)
    }

    /// The attributes that a bind mount loses because its options do not name them: where they set a
    /// flag it has exactly those that are given, as in runc and crun; where they set none it keeps
    /// the source's but for those that they clear, as CRI's `rw` on /dev/shm relies on. Access times
    /// are kept unless an option names them (mount(2), `MS_REMOUNT`).
    pub fn implied(&self) -> u64 {
        let (set, clear) = self.attributes();
        if self.flags == 0 {
            return 0;
        }
        let plain = PLAIN
            .iter()
            .fold(0, |mask, (_, attribute)| mask | attribute);
        plain & !attr::ATTR_NODIRATIME & !set & !clear
    }

    /// The same for the mount and all mounts below.
    pub fn recursive_attributes(&self) -> (u64, u64) {
        to_attributes(self.recursive_set, self.recursive_clear)
    }
}

const PLAIN: [(u64, u64); 6] = [
    (libc::MS_RDONLY, attr::ATTR_RDONLY),
    (libc::MS_NOSUID, attr::ATTR_NOSUID),
    (libc::MS_NODEV, attr::ATTR_NODEV),
    (libc::MS_NOEXEC, attr::ATTR_NOEXEC),
    (libc::MS_NODIRATIME, attr::ATTR_NODIRATIME),
    (MS_NOSYMFOLLOW, attr::ATTR_NOSYMFOLLOW),
];

/// Turns `MS_*` flags into the attributes of mount_setattr(2). The access-time settings are one
/// field there, so setting one clears the field first.
fn to_attributes(set: u64, clear: u64) -> (u64, u64) {
    let mut result = (0, 0);
    for (old, new) in PLAIN {
        result.0 |= if set & old != 0 { new } else { 0 };
        result.1 |= if clear & old != 0 { new } else { 0 };
    }
    // A setting that is only cleared leaves relatime, the kernel's default, as in runc.
    let times = libc::MS_NOATIME | libc::MS_RELATIME | libc::MS_STRICTATIME;
    if (set | clear) & times != 0 {
        result.1 |= attr::ATTR_ATIME;
        if set & libc::MS_NOATIME != 0 {
            result.0 |= attr::ATTR_NOATIME;
        } else if set & libc::MS_STRICTATIME != 0 {
            result.0 |= attr::ATTR_STRICTATIME;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_for_the_binary_search() {
        assert!(OPTIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn later_options_win_and_unknown_ones_are_data() {
        let options: Vec<String> = ["ro", "rw", "mode=755", "rbind", "noatime", "size=1k"]
            .map(String::from)
            .into();
        let parsed = MountOptions::parse(&options).unwrap();
        assert_eq!(
            (parsed.flags, parsed.bind, parsed.data.as_str()),
            (libc::MS_NOATIME, Some(true), "mode=755,size=1k")
        );
        assert_eq!(
            parsed.attributes(),
            (attr::ATTR_NOATIME, attr::ATTR_ATIME | attr::ATTR_RDONLY)
        );
    }
}
