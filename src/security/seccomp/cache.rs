//! A cache of compiled filters, found by the content of the section.
//!
//! hull would load a file of another user in the place of a container's own filter. So the
//! directory and each file must belong to hull's user, and no other user may be able to write them;
//! both are checked by descriptor. A file contains the whole text that it was made from, which is
//! compared byte for byte: the hash in its name only finds it.
//!
//! A file gets its name when it is complete, by a link from an unnamed file (O_TMPFILE). A file
//! that does not match is replaced.

use super::{Filter, flags, library_version, program, validate};
use crate::spec::config::Seccomp;
use crate::sys;
use crate::sys::fd::c_string;
use crate::sys::ids::own_euid;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// To be raised when hull compiles the same section to another filter than before.
const SCHEMA: u32 = 1;
/// The first bytes of a file.
const MAGIC: [u8; 8] = *b"hullbpf1";
/// The magic bytes, and three lengths of 4 bytes.
const HEADER: usize = MAGIC.len() + 12;
/// The largest entry, in bytes; a larger one is not cached.
const LARGEST: usize = 1 << 20;
/// With this many files the directory is emptied before one is added: 32 profiles are some 700 kB
/// of memory in /run.
const MOST_FILES: usize = 32;

/// As [`super::compile`], with a cache in `dir`, an existing directory that belongs to the
/// effective user and that only this user may write.
///
/// # Errors
/// As [`super::compile`]; the directory cannot be opened, or others can write to it. A cache file
/// that cannot be written is not an error.
pub fn compile_cached(seccomp: &Seccomp, dir: &Path) -> Result<Filter> {
    let notified = validate(seccomp)?;
    let (flags, flag_warnings) = flags(seccomp, !notified.is_empty())?;
    let key = key(seccomp)?;
    let name = name(&key)?;
    let dir_fd = open_dir(dir)?;
    let (program, mut warnings) = match read(&dir_fd, &name, &key) {
        Some(entry) => entry,
        None => {
            let made = program(seccomp)?;
            // The cache only saves time: on a full disk the container still gets its filter.
            let _ = write(&dir_fd, &name, &key, &made.0, &made.1);
            made
        }
    };
    warnings.extend(flag_warnings);
    Ok(Filter {
        program,
        flags,
        notify: !notified.is_empty(),
        notified,
        warnings,
    })
}

/// All that the program depends on, as text: the schema of this file, libseccomp's version, the
/// architecture, and the section without the flags and the listener, which are not in the program.
fn key(seccomp: &Seccomp) -> Result<Vec<u8>> {
    let Seccomp {
        default_action,
        default_errno_ret,
        architectures,
        flags: _,
        listener_path: _,
        listener_metadata: _,
        syscalls,
    } = seccomp;
    let about = (SCHEMA, library_version(), std::env::consts::ARCH);
    serde_json::to_vec(&(
        about,
        default_action,
        default_errno_ret,
        architectures,
        syscalls,
    ))
    .map_err(|e| Error::new(format!("seccomp: write the section as text: {e}")))
}

/// The file's name: 64 bits of FNV-1a.
fn name(key: &[u8]) -> Result<CString> {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    c_string(format!("{hash:016x}.bpf"))
}

fn open_dir(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = open(dir, flags, Mode::empty()).on("open seccomp cache", dir.display())?;
    let stat = fstat(&fd).on("stat seccomp cache", dir.display())?;
    if stat.st_uid != own_euid() || stat.st_mode & 0o022 != 0 {
        return Err(Error::new(format!(
            "seccomp cache {}: others than hull's own user can write to it",
            dir.display()
        )));
    }
    Ok(fd)
}

/// The program and warnings, if there is a file that belongs to hull's user, is complete, and was
/// made from this key.
fn read(dir: &OwnedFd, name: &CString, key: &[u8]) -> Option<(Vec<u8>, Vec<String>)> {
    // O_NONBLOCK: opening a fifo must not wait for a writer.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let fd = openat(dir, name.as_c_str(), flags, Mode::empty()).ok()?;
    let stat = fstat(&fd).ok()?;
    let regular = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
    let size = usize::try_from(stat.st_size).ok()?;
    if !regular || stat.st_uid != own_euid() || stat.st_mode & 0o077 != 0 || size > 2 * LARGEST {
        return None;
    }
    let mut bytes = vec![0; size];
    File::from(fd).read_exact(&mut bytes).ok()?;
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let (magic, lengths) = header.split_at(MAGIC.len());
    let length = |at: usize| {
        lengths
            .get(at..at + 4)?
            .try_into()
            .map(u32::from_ne_bytes)
            .ok()
            .and_then(|n| usize::try_from(n).ok())
    };
    let (key_length, warnings_length, program_length) = (length(0)?, length(4)?, length(8)?);
    let (file_key, rest) = rest.split_at_checked(key_length)?;
    let (warnings, program) = rest.split_at_checked(warnings_length)?;
    let size = sys::seccomp::INSTRUCTION_SIZE;
    let whole = program.len() == program_length
        && program_length.is_multiple_of(size)
        && program_length / size <= sys::seccomp::MAX_INSTRUCTIONS;
    if magic != MAGIC || file_key != key || !whole || program.is_empty() {
        return None;
    }
    let warnings = std::str::from_utf8(warnings)
        .ok()?
        .lines()
        .map(String::from)
        .collect();
    Some((program.to_vec(), warnings))
}

/// Writes a file, in the place of one that did not match.
fn write(
    dir: &OwnedFd,
    name: &CString,
    key: &[u8],
    program: &[u8],
    warnings: &[String],
) -> nix::Result<()> {
    let warnings = warnings.join("\n"); // names in them are escaped: none has a line end
    if key.len() + warnings.len() + program.len() > LARGEST {
        return Ok(());
    }
    let mut bytes = Vec::with_capacity(HEADER + key.len() + warnings.len() + program.len());
    bytes.extend(MAGIC);
    for part in [key.len(), warnings.len(), program.len()] {
        bytes.extend((part as u32).to_ne_bytes());
    }
    bytes.extend(key);
    bytes.extend(warnings.as_bytes());
    bytes.extend(program);
    make_room(dir)?;
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(dir, c".", flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    file.write_all(&bytes)
        .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    // By its name in /proc: AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH, which an ordinary user does
    // not have.
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = || {
        linkat(
            AT_FDCWD,
            unnamed.as_str(),
            dir.as_fd(),
            name.as_c_str(),
            AtFlags::AT_SYMLINK_FOLLOW,
        )
    };
    match link() {
        Err(Errno::EEXIST) => {
            unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            link()
        }
        result => result,
    }
}

/// Empties a full directory of cache files.
fn make_room(dir: &OwnedFd) -> nix::Result<()> {
    let mut listing =
        nix::dir::Dir::openat(dir, c".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let names: Vec<CString> = listing
        .iter()
        .flatten()
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| name.to_bytes().ends_with(b".bpf"))
        .collect();
    if names.len() >= MOST_FILES {
        for name in names {
            // Another process may have removed it.
            let _ = unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::seccomp::compile;
    use serde_json::json;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    /// A directory of the test's own, removed with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("hull-seccomp-{name}-{}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
            Self(dir)
        }

        fn files(&self) -> Vec<PathBuf> {
            fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn section(errno: u32) -> Seccomp {
        let rules = json!([{"names": ["getppid", "nonsense"], "action": "SCMP_ACT_ERRNO",
            "errnoRet": errno}]);
        serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": rules}))
        .unwrap()
    }

    #[test]
    fn a_hit_is_what_compiling_gives() {
        let scratch = Scratch::new("hit");
        let plain = compile(&section(9)).unwrap();
        let miss = compile_cached(&section(9), &scratch.0).unwrap();
        let [file] = scratch.files().try_into().unwrap();
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        assert_eq!(metadata.nlink(), 1);
        let hit = compile_cached(&section(9), &scratch.0).unwrap();
        assert_eq!(
            fs::metadata(&file).unwrap().ino(),
            metadata.ino(),
            "the file was written anew"
        );
        assert!(plain == miss && plain == hit);
        assert_eq!(hit.warnings.len(), 1);
        // Another section is another file, and other flags are not.
        compile_cached(&section(10), &scratch.0).unwrap();
        let other_flags = Seccomp {
            flags: Some(vec![]),
            ..section(9)
        };
        assert_eq!(compile_cached(&other_flags, &scratch.0).unwrap().flags, 0);
        assert_eq!(scratch.files().len(), 2);
    }

    #[test]
    fn a_hit_is_read_from_the_file() {
        // Proves that the file is used at all: a changed file gives another filter.
        let scratch = Scratch::new("read");
        compile_cached(&section(9), &scratch.0).unwrap();
        let [file] = scratch.files().try_into().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let errno_at = bytes
            .windows(8)
            .rposition(|w| w == [6, 0, 0, 0, 9, 0, 5, 0])
            .unwrap()
            + 4;
        bytes[errno_at] = 10;
        fs::write(&file, bytes).unwrap();
        let changed = compile_cached(&section(9), &scratch.0).unwrap();
        assert!(changed.program == compile(&section(10)).unwrap().program);
    }

    #[test]
    fn what_does_not_fit_is_replaced() {
        let scratch = Scratch::new("replace");
        let expected = compile_cached(&section(9), &scratch.0).unwrap();
        let [file] = scratch.files().try_into().unwrap();
        let whole = fs::read(&file).unwrap();
        compile_cached(&section(10), &scratch.0).unwrap();
        let other = scratch
            .files()
            .into_iter()
            .find(|path| *path != file)
            .unwrap();
        let collision = fs::read(&other).unwrap(); // another key under this name
        let halves = [
            whole[..whole.len() - 8].to_vec(),
            whole[..10].to_vec(),
            Vec::new(),
            vec![0xff; 64],
            [whole.clone(), vec![0; 8]].concat(),
            collision,
        ];
        for bad in halves {
            fs::write(&file, &bad).unwrap();
            assert!(compile_cached(&section(9), &scratch.0).unwrap() == expected);
            assert!(
                fs::read(&file).unwrap() == whole,
                "not replaced: {} bytes",
                bad.len()
            );
        }
    }

    #[test]
    fn files_of_others_are_not_read() {
        let scratch = Scratch::new("others");
        let expected = compile_cached(&section(9), &scratch.0).unwrap();
        let [file] = scratch.files().try_into().unwrap();
        let mut poisoned = fs::read(&file).unwrap();
        let errno_at = poisoned
            .windows(8)
            .rposition(|w| w == [6, 0, 0, 0, 9, 0, 5, 0])
            .unwrap()
            + 4;
        poisoned[errno_at] = 0;
        let outside = scratch.0.join("outside");
        for prepare in [
            &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap() as (),
            &|| {
                fs::rename(&file, &outside).unwrap();
                symlink(&outside, &file).unwrap();
            },
            &|| {
                fs::remove_file(&file).unwrap();
                nix::unistd::mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
            },
        ] as [&dyn Fn(); 3]
        {
            fs::write(&file, &poisoned).unwrap();
            prepare();
            assert!(compile_cached(&section(9), &scratch.0).unwrap() == expected);
        }
        if own_euid() == 0 {
            fs::write(&file, &poisoned).unwrap();
            std::os::unix::fs::chown(&file, Some(1), None).unwrap();
            assert!(compile_cached(&section(9), &scratch.0).unwrap() == expected);
        } else {
            println!("a file of another owner: not tried, needs root");
        }
    }

    #[test]
    fn a_directory_of_others_is_an_error() {
        let scratch = Scratch::new("dir");
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o777)).unwrap();
        let error = compile_cached(&section(9), &scratch.0)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("others than hull's own user can write"),
            "{error}"
        );
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o700)).unwrap();
        let link = scratch.0.join("link");
        symlink(&scratch.0, &link).unwrap();
        assert!(compile_cached(&section(9), &link).is_err());
        let missing = compile_cached(&section(9), &scratch.0.join("missing"))
            .err()
            .unwrap();
        assert_eq!(missing.errno(), Some(Errno::ENOENT));
    }

    #[test]
    fn the_directory_stays_small() {
        let scratch = Scratch::new("small");
        fs::write(scratch.0.join("not-ours"), "").unwrap();
        for errno in 1..=80 {
            compile_cached(&section(errno), &scratch.0).unwrap();
            assert!(scratch.files().len() <= MOST_FILES + 1);
        }
        assert!(scratch.0.join("not-ours").exists());
    }
}
