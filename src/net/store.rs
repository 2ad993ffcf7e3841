//! The directory of networks: one writer at a time, replaced by rename.
//!
//! ```text
//! DIR/lock                         held by whoever changes anything below
//! DIR/NAME/network.json            [`Network`]
//! DIR/NAME/endpoints/ID            [`Endpoint`], one for each container on it
//! ```

use super::endpoint::Endpoint;
use super::network::{Network, check_name};
use crate::store::Store;
use crate::sys::replace::{Lasting, replace};
use crate::{Context, Error, Result};
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The directory of networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStore {
    #[serde(alias = "folder")]
    directory: PathBuf,
}

/// The right to change networks and endpoints; released when dropped.
pub struct Guard {
    file: Flock<File>,
}

impl Guard {
    /// Runs a program that changes the kernel's tables, and lets it share the lock: should hull be
    /// killed meanwhile, the next hull waits until that program, which lives on, has ended too.
    /// Otherwise it could commit what is no longer wanted after all was taken back.
    ///
    /// # Errors
    /// The kernel's.
    pub fn share<T>(&self, run: impl FnOnce() -> T) -> Result<T> {
        let set = |flags: FdFlag| {
            fcntl(&*self.file, FcntlArg::F_SETFD(flags)).on("share", "the lock of networks")
        };
        set(FdFlag::empty())?;
        let result = run();
        set(FdFlag::FD_CLOEXEC)?;
        Ok(result)
    }
}

impl NetworkStore {
    /// The networks that belong to a store of containers. Those of the default store outlast a
    /// reboot.
    pub fn of(store: &Store) -> Self {
        let directory = match store.root() == Path::new("/run/hull") {
            true => PathBuf::from("/var/lib/hull/networks"),
            // `@` is in no container's id.
            false => store.root().join("@networks"),
        };
        Self { directory }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn lock(&self) -> Result<Guard> {
        std::fs::create_dir_all(&self.directory).on("make", self.directory.display())?;
        let path = self.directory.join("lock");
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .on("open", path.display())?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(Guard { file: lock }),
                Err((same, nix::errno::Errno::EINTR)) => file = same,
                Err((_, errno)) => return Err(Error::sys("lock", path.display(), errno)),
            }
        }
    }

    /// All names, sorted.
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

    /// Reads a network; none where there is no such one.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Network>> {
        check_name(name)?;
        read(&self.directory.join(name).join("network.json"))
    }

    /// Reads a network.
    ///
    /// # Errors
    /// There is no such one.
    pub fn get(&self, name: &str) -> Result<Network> {
        self.find(name)?
            .ok_or_else(|| Error::new(format!("network {name} does not exist")))
    }

    /// All networks.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn all(&self) -> Result<Vec<Network>> {
        self.names()?.iter().map(|name| self.get(name)).collect()
    }

    /// Writes a network.
    ///
    /// # Errors
    /// A full disk, and the like.
    pub fn write(&self, _guard: &Guard, network: &Network) -> Result<()> {
        let directory = self.directory.join(&network.name);
        std::fs::create_dir_all(directory.join("endpoints")).on("make", directory.display())?;
        write(&directory.join("network.json"), network, Lasting::PowerCut)
    }

    /// Forgets a network.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forget(&self, _guard: &Guard, name: &str) -> Result<()> {
        let directory = self.directory.join(name);
        std::fs::remove_dir_all(&directory).on("remove", directory.display())
    }

    fn endpoint_path(&self, network: &str, id: &str) -> PathBuf {
        self.directory.join(network).join("endpoints").join(id)
    }

    /// The endpoints of a network, sorted by container.
    ///
    /// # Errors
    /// A record that cannot be read.
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
            // Empty is what a power cut leaves of a file whose name reached the disk before its
            // text; whoever wrote it is gone.
            if std::fs::metadata(&path).is_ok_and(|data| data.len() > 0) {
                list.extend(read(&path)?);
            }
        }
        Ok(list)
    }

    /// Removes what a killed hull, or a power cut, left half written among a network's endpoints.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sweep(&self, _guard: &Guard, network: &str) -> Result<()> {
        let directory = self.directory.join(network).join("endpoints");
        for name in entries(&directory)? {
            let path = directory.join(&name);
            if name.ends_with('~') || std::fs::metadata(&path).is_ok_and(|data| data.len() == 0) {
                std::fs::remove_file(&path).on("remove", path.display())?;
            }
        }
        Ok(())
    }

    /// Writes an endpoint.
    ///
    /// # Errors
    /// A full disk, and the like.
    pub fn put(&self, _guard: &Guard, endpoint: &Endpoint) -> Result<()> {
        write(
            &self.endpoint_path(&endpoint.network, &endpoint.id),
            endpoint,
            Lasting::Process,
        )
    }

    /// Forgets an endpoint; its addresses are free.
    ///
    /// # Errors
    /// The kernel's.
    pub fn give_up(&self, _guard: &Guard, network: &str, id: &str) -> Result<()> {
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
