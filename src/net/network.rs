//! Networks as they were asked for, and their directory: one writer at a time, replaced by rename.
//!
//! ```text
//! DIR/lock                         held by whoever changes anything below
//! DIR/NAME/network.json            [`Network`]
//! DIR/NAME/endpoints/ID            [`super::endpoint::Endpoint`], one for each container on it
//! ```

use super::address::Prefix;
use super::endpoint::Endpoint;
use super::shape::Rate;
use crate::store::Store;
use crate::{Context, Error, Result};
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// How containers are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of hull's own, with the host as the gateway.
    Bridge,
    /// Addresses on the real network of one of the host's cards.
    Macvlan,
}

/// Addresses to give out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The network.
    pub prefix: Prefix,
    /// Where everything else is reached; the bridge's own address.
    pub gateway: IpAddr,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// How containers are attached.
    pub driver: Driver,
    /// At most one of each family.
    pub subnets: Vec<Subnet>,
    /// The bridge; for macvlan the host's card.
    pub link: String,
    /// No way out and none in but from the host.
    pub internal: bool,
    /// Its containers do not reach each other.
    pub isolated: bool,
    /// Bytes of the longest packet.
    pub mtu: u32,
    /// Shaping of each container, unless it brings its own.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// The subnets were chosen by hull, and may be moved where they collide.
    #[serde(default)]
    pub chosen: bool,
}

/// The name of the network that makes itself.
pub const DEFAULT: &str = "default";

/// The directory of networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Networks {
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

impl Networks {
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
        replace(&directory.join("network.json"), network, true)
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
        replace(
            &self.endpoint_path(&endpoint.network, &endpoint.id),
            endpoint,
            false,
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

/// Checks a network's name: it is a directory's name, and not an option's word.
///
/// # Errors
/// A sentence.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let reserved = [
        "none",
        "host",
        "container",
        "ns",
        "lock",
        "applied",
        "known",
    ]
    .contains(&name);
    if name.is_empty()
        || name.len() > 64
        || !name.chars().all(plain)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || reserved
    {
        return Err(Error::new(format!(
            "invalid network name {name:?}: letters, digits and _-. after a letter or digit, at \
                most 64"
        )));
    }
    Ok(())
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
            .map_err(|error| Error::new(format!("read {}: {error}", path.display()))),
    }
}

/// `lasting` is what outlives a power cut: its text is on the disk before its name is.
fn replace<T: Serialize>(path: &Path, value: &T, lasting: bool) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    // `~` is in no container's id.
    temporary.push("~");
    let text = serde_json::to_vec(value)
        .map_err(|error| Error::new(format!("write {}: {error}", path.display())))?;
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(&text)?;
        if lasting { file.sync_all() } else { Ok(()) }
    });
    written.on("write", Path::new(&temporary).display())?;
    std::fs::rename(&temporary, path).on("replace", path.display())
}
