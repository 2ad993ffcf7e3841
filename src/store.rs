//! The directory of the containers' records (`--root`): one directory for each container, locked by
//! whoever changes the container, with a record that is replaced by an atomic rename. Generic over
//! the record.

#![forbid(unsafe_code)]

use crate::error::Kind;
use crate::sys::replace::{Lasting, replace};
use crate::sys::{file, process};
use crate::{Context, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The name of a container's record in its directory.
const RECORD: &str = "state.json";

/// The directory of all containers (`--root`).
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// The exclusive lock on one container's directory (flock(2)); released when dropped, and with the
/// end of hull: its children do not have it.
pub struct Lock {
    /// The open directory. A child that goes on in hull's code drops it without closing it.
    directory: i32,
    /// Whether it is kept from hull's children.
    own: bool,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.own || process::share_again(self.directory) {
            file::close(self.directory);
        }
    }
}

/// Checks an id: letters, digits and `_+-.` (runc's rule), but neither `.` nor `..`, and at most
/// 255 bytes, which is the longest name that a directory can have.
///
/// # Errors
/// `invalid container ID format`: the id breaks one of these rules. The id is empty.
pub fn check_id(id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() {
        return Err(Error::new("container id cannot be empty"));
    }
    if !id.chars().all(plain) || id == "." || id == ".." {
        return Err(Error::new(format!(
            "invalid container ID format: {id:?} (letters, digits and _+-. are allowed)"
        )));
    }
    if id.len() > 255 {
        return Err(Error::new(format!(
            "invalid container ID format: {} characters are too many (at most 255)",
            id.len()
        )));
    }
    Ok(())
}

impl Store {
    /// The store in a directory, which is made with the first container.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Checks that an ordinary user's store is the user's own: in a directory where everybody may
    /// write, such as `/tmp`, somebody else may have made it first, with records whose hooks would
    /// run as this user. (The parent of root's store is root's own.)
    fn check_owner(&self) -> Result<()> {
        let own = crate::sys::ids::own_euid();
        if own == 0 {
            return Ok(());
        }
        let why = match std::fs::symlink_metadata(&self.root) {
            Err(_) => return Ok(()),
            Ok(made) if !made.is_dir() => "it is not a directory",
            Ok(made) if made.uid() != own => "it belongs to another user",
            Ok(made) if made.mode() & 0o022 != 0 => "other users may write to it",
            Ok(_) => return Ok(()),
        };
        Err(Error::new(format!(
            "the store {} cannot be trusted: {why}; name another one with --root, or set \
             XDG_RUNTIME_DIR",
            self.root.display()
        )))
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of one container, whether it exists or not. The id must have been checked
    /// ([`check_id`]).
    pub fn directory(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// A directory for files that can be made again, which only hull's user may enter. Its name
    /// begins with `@`, which is in no container's id.
    ///
    /// # Errors
    /// mkdir(2) fails: hull may not write to the store.
    pub fn cache(&self, name: &str) -> Result<PathBuf> {
        let directory = self.root.join(format!("@{name}"));
        if !directory.is_dir() {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(&directory)
                .on("make", directory.display())?;
        }
        Ok(directory)
    }

    /// Makes the directory of a new container and locks it.
    ///
    /// # Errors
    /// [`Kind::ContainerExists`]; the id is not well formed ([`check_id`]); mkdir(2) fails: hull
    /// may not write to the store.
    pub fn make(&self, id: &str) -> Result<Lock> {
        check_id(id)?;
        self.check_owner()?;
        let directory = self.directory(id);
        let builder = |recursive| {
            let mut builder = std::fs::DirBuilder::new();
            builder.mode(0o700).recursive(recursive);
            builder
        };
        let made = match builder(false).create(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                builder(true)
                    .create(&self.root)
                    .on("make", self.root.display())?;
                builder(false).create(&directory)
            }
            other => other,
        };
        match made {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::of_kind(
                Kind::ContainerExists,
                format!("container with given ID already exists: {id}"),
            )),
            other => other.on("make", directory.display()),
        }?;
        self.lock(id)
    }

    /// Locks a container; waits for who holds the lock.
    ///
    /// # Errors
    /// [`Kind::NoSuchContainer`]; the id is not well formed; open(2) or flock(2) fails: hull may
    /// not read the directory.
    pub fn lock(&self, id: &str) -> Result<Lock> {
        check_id(id)?;
        self.check_owner()?;
        let directory = File::open(self.directory(id)).map_err(|error| missing(id, &error))?;
        file::lock(directory.as_raw_fd()).on("lock container", id)?;
        let directory = directory.into_raw_fd();
        let own = process::keep_from_children(directory);
        Ok(Lock { directory, own })
    }

    /// Whether another command has the container locked now.
    pub fn is_locked(&self, id: &str) -> bool {
        let directory = File::open(self.directory(id));
        directory.is_ok_and(|directory| file::try_lock(directory.as_raw_fd()).is_err())
    }

    /// Reads a container's record.
    ///
    /// # Errors
    /// [`Kind::NoSuchContainer`]; the id is not well formed; the file cannot be read, or is not a
    /// record of this type.
    pub fn read<T: DeserializeOwned>(&self, id: &str) -> Result<T> {
        check_id(id)?;
        self.check_owner()?;
        let path = self.directory(id).join(RECORD);
        let text = file::read_regular(&path).map_err(|error| missing(id, &error))?;
        serde_json::from_slice(&text).on("read", path.display())
    }

    /// Replaces a container's record.
    ///
    /// # Errors
    /// Writing or renaming the new file fails: the disk is full, or the container's directory has
    /// been removed. The old record stays then.
    pub fn write<T: Serialize>(&self, id: &str, record: &T) -> Result<()> {
        let path = self.directory(id).join(RECORD);
        let text = serde_json::to_vec(record).on("write", path.display())?;
        replace(&path, &text, 0o666, Lasting::Process)
    }

    /// Removes a container's record, and its directory where it contained nothing else. Whether
    /// both are removed.
    pub fn remove_bare(&self, id: &str) -> bool {
        let directory = self.directory(id);
        std::fs::remove_file(directory.join(RECORD)).is_ok()
            && std::fs::remove_dir(&directory).is_ok()
    }

    /// Removes a container's directory with all that is in it; one that is missing is no error.
    ///
    /// # Errors
    /// rmdir(2) or unlink(2) fails: something in it is a mount point, or hull may not write to it.
    pub fn remove(&self, id: &str) -> Result<()> {
        let directory = self.directory(id);
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", directory.display(), &error))
            }
            _ => Ok(()),
        }
    }

    /// The ids of all containers that have a record, sorted; none where the store does not exist.
    ///
    /// # Errors
    /// The store's directory cannot be read.
    pub fn ids(&self) -> Result<Vec<String>> {
        self.check_owner()?;
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.on("read", self.root.display())?,
        };
        let mut ids: Vec<String> = entries
            .filter_map(std::result::Result::ok)
            .filter(|entry| entry.path().join(RECORD).exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }
}

fn missing(id: &str, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::of_kind(
            Kind::NoSuchContainer,
            format!("container does not exist: {id}"),
        ),
        _ => Error::io("open container", id, error),
    }
}

/// The name of the fifo in the container's directory by which `start` lets the program begin; it is
/// removed then.
pub const START_FIFO: &str = "exec.fifo";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_and_not_paths() {
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
        assert!(check_id(&"x".repeat(256)).is_err());
        assert!(check_id("a-b_c+d.e1").is_ok());
    }
}
