//! The networks and their endpoints on disk. One hull at a time writes, and each file is replaced
//! by rename.
//!
//! ```text
//! DIR/lock                         locked by the hull that changes anything below
//! DIR/NAME/network.json            [`Network`]
//! DIR/NAME/endpoints/ID            [`Endpoint`] of the container ID
//! ```

use super::endpoint::Endpoint;
use super::network::{Network, check_name};
use crate::store::Store;
use crate::sys::replace::{Lasting, replace};
use crate::{Context, Error, Result};
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The directory of networks that belongs to a store of containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStore {
    #[serde(alias = "folder")]
    directory: PathBuf,
}

/// The lock of the network store: who has it may change networks, endpoints and rules. Dropping it
/// unlocks.
pub struct Guard {
    file: Flock<File>,
}

impl Guard {
    /// Runs a program that changes the kernel's tables and inherits the lock. If hull is killed
    /// meanwhile, the program lives on, and the next hull waits for its end; otherwise the program
    /// could commit rules after that hull has removed them.
    ///
    /// # Errors
    /// fcntl(2) F_SETFD fails.
    pub fn share<T>(&self, run: impl FnOnce() -> T) -> Result<T> {
        let set = |flags: FdFlag| {
            fcntl(&*self.file, FcntlArg::F_SETFD(flags)).on("share", "the lock of the networks")
        };
        set(FdFlag::empty())?;
        let result = run();
        set(FdFlag::FD_CLOEXEC)?;
        Ok(result)
    }
}

impl NetworkStore {
    /// The networks of a store of containers. Those of the default store survive a reboot.
    pub fn of(store: &Store) -> Self {
        let directory = match store.root() == Path::new("/run/hull") {
            true => PathBuf::from("/var/lib/hull/networks"),
            // No container's id contains `@`.
            false => store.root().join("@networks"),
        };
        Self { directory }
    }

    /// The path of the directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits for the lock and takes it; makes the directory where it is missing.
    ///
    /// # Errors
    /// The directory or the lock file cannot be made; flock(2) fails.
    pub fn lock(&self) -> Result<Guard> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .on("make", self.directory.display())?;
        let path = self.directory.join("lock");
        // Whoever may open it may lock it, and stop every container that has a network.
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .on("open", path.display())?;
        if file.metadata().is_ok_and(|made| made.mode() & 0o077 != 0) {
            let _ = file.set_permissions(std::fs::Permissions::from_mode(0o600));
        }
        loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(Guard { file: lock }),
                Err((same, nix::errno::Errno::EINTR)) => file = same,
                Err((_, errno)) => return Err(Error::sys("lock", path.display(), errno)),
            }
        }
    }

    /// The names of all networks, sorted.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = entries(&self.directory)?
            .into_iter()
            .filter(|name| self.directory.join(name).join("network.json").exists())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Reads a network; `None` where it does not exist.
    ///
    /// # Errors
    /// The name is invalid; its record cannot be read or parsed.
    pub fn find(&self, name: &str) -> Result<Option<Network>> {
        check_name(name)?;
        read(&self.directory.join(name).join("network.json"))
    }

    /// Reads a network that must exist.
    ///
    /// # Errors
    /// It does not exist; as of [`NetworkStore::find`].
    pub fn get(&self, name: &str) -> Result<Network> {
        self.find(name)?
            .ok_or_else(|| Error::new(format!("network {name} does not exist")))
    }

    /// Reads all networks, sorted by name.
    ///
    /// # Errors
    /// As of [`NetworkStore::names`] and [`NetworkStore::get`].
    pub fn all(&self) -> Result<Vec<Network>> {
        self.names()?.iter().map(|name| self.get(name)).collect()
    }

    /// Writes a network's record, and syncs it to the disk.
    ///
    /// # Errors
    /// The directory or the file cannot be written.
    pub fn write_network(&self, _guard: &Guard, network: &Network) -> Result<()> {
        let directory = self.directory.join(&network.name);
        std::fs::create_dir_all(directory.join("endpoints")).on("make", directory.display())?;
        write(&directory.join("network.json"), network, Lasting::PowerCut)
    }

    /// Removes a network's directory with its endpoints.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub fn remove_network(&self, _guard: &Guard, name: &str) -> Result<()> {
        let directory = self.directory.join(name);
        std::fs::remove_dir_all(&directory).on("remove", directory.display())
    }

    fn endpoint_path(&self, network: &str, id: &str) -> PathBuf {
        self.directory.join(network).join("endpoints").join(id)
    }

    /// Reads the endpoints of a network, sorted by the id of the container.
    ///
    /// # Errors
    /// The directory or a record cannot be read, or a record not be parsed.
    pub fn endpoints(&self, network: &str) -> Result<Vec<Endpoint>> {
        let directory = self.directory.join(network).join("endpoints");
        let mut names: Vec<_> = entries(&directory)?
            .into_iter()
            .filter(|name| !name.ends_with('~'))
            .collect();
        names.sort();
        let mut list = Vec::with_capacity(names.len());
        for name in names {
            let path = directory.join(name);
            // After a power cut a file can be empty, because its name reached the disk before its
            // text. The container that it belonged to has ended with the boot.
            if std::fs::metadata(&path).is_ok_and(|data| data.len() > 0) {
                list.extend(read(&path)?);
            }
        }
        Ok(list)
    }

    /// Removes the files that a killed hull or a power cut left half written among a network's
    /// endpoints.
    ///
    /// # Errors
    /// The directory cannot be read, or a file not be removed.
    pub fn remove_partial_files(&self, _guard: &Guard, network: &str) -> Result<()> {
        let directory = self.directory.join(network).join("endpoints");
        for name in entries(&directory)? {
            let path = directory.join(&name);
            if name.ends_with('~') || std::fs::metadata(&path).is_ok_and(|data| data.len() == 0) {
                std::fs::remove_file(&path).on("remove", path.display())?;
            }
        }
        Ok(())
    }

    /// Writes an endpoint's record, which reserves its addresses. It is not synced: a power cut
    /// ends the container too.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_endpoint(&self, _guard: &Guard, endpoint: &Endpoint) -> Result<()> {
        write(
            &self.endpoint_path(&endpoint.network, &endpoint.id),
            endpoint,
            Lasting::Process,
        )
    }

    /// Removes an endpoint's record, if it exists: its addresses are free then.
    ///
    /// # Errors
    /// unlink(2) fails for another reason than ENOENT.
    pub fn remove_endpoint(&self, _guard: &Guard, network: &str, id: &str) -> Result<()> {
        let path = self.endpoint_path(network, id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", path.display(), &error))
            }
            _ => Ok(()),
        }
    }
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read", directory.display(), &error)),
        Ok(entries) => Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()),
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path.display(), &error)),
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .on("read", path.display()),
    }
}

/// The temporary file ends in `~`, which is in no container's id.
fn write<T: Serialize>(path: &Path, value: &T, lasting: Lasting) -> Result<()> {
    let text = serde_json::to_vec(value).on("write", path.display())?;
    replace(path, &text, 0o666, lasting)
}
