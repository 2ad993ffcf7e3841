//! Files that are replaced whole: whoever reads one sees the old text or the new, and never a part.

use super::fd::c_path;
use super::file;
use super::socket::owned;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a new file must outlast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// hull itself. After a power cut it may be empty.
    Process,
    /// A power cut: its text is on the disk before its name is.
    PowerCut,
}

/// A file in the making. It is in the directory of the file whose place it will take, under a
/// name that ends in `~`; dropped before [`Replacement::commit`], it is removed. One that a killed
/// hull left may be removed.
pub struct Replacement {
    file: File,
    target: PathBuf,
    /// None once it has the target's name.
    temporary: Option<PathBuf>,
}

impl Replacement {
    /// Makes the file with a mode, less hull's umask. Nobody can have put a file or a link there
    /// before: the name is not to be guessed, and O_EXCL takes neither.
    ///
    /// # Errors
    /// open(2) fails: the directory is missing, or hull may not write there.
    pub fn new(target: &Path, mode: u32) -> Result<Self> {
        const TRIES: usize = 8;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        for _ in 0..TRIES {
            let temporary = target.with_file_name(format!(".{:016x}~", unguessable()));
            match file::openat(libc::AT_FDCWD, &c_path(&temporary)?, flags, mode) {
                Err(Errno::EEXIST) => {}
                opened => {
                    return Ok(Self {
                        file: File::from(owned(opened.on("write", target.display())?)),
                        target: target.to_owned(),
                        temporary: Some(temporary),
                    });
                }
            }
        }
        Err(Error::sys("write", target.display(), Errno::EEXIST))
    }

    /// The file, open for reading and writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Its name until it is committed, for a program that opens it.
    pub fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// Gives it the target's name, in place of what had it.
    ///
    /// # Errors
    /// fsync(2) fails: the disk is full or broken; rename(2) fails: the target is a directory. The
    /// old file stays then.
    pub fn commit(mut self, lasting: Lasting) -> Result<()> {
        if lasting == Lasting::PowerCut {
            self.file.sync_all().on("write", self.target.display())?;
        }
        std::fs::rename(self.path(), &self.target).on("replace", self.target.display())?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Replaces a file's text.
///
/// # Errors
/// As [`Replacement::new`] and [`Replacement::commit`]; write(2) fails: the disk is full.
pub fn replace(target: &Path, text: &[u8], mode: u32, lasting: Lasting) -> Result<()> {
    let mut new = Replacement::new(target, mode)?;
    new.file.write_all(text).on("write", target.display())?;
    new.commit(lasting)
}

/// A number from the standard library's keyed hash, whose key is the kernel's random bytes: no
/// system call more than the first. For names that others must not know beforehand.
pub fn unguessable() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let directory = std::env::temp_dir().join(format!("hull-replace-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let target = directory.join("x".repeat(255));
        replace(&target, b"old", 0o600, Lasting::PowerCut).unwrap();
        let mode = std::fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut new = Replacement::new(&target, 0o644).unwrap();
        new.file().write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        drop(new);
        replace(&target, b"new", 0o644, Lasting::Process).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert!(replace(&directory.join("none/x"), b"", 0o600, Lasting::Process).is_err());
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
