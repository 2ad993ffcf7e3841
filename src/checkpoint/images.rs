//! The directory of images: made for root alone, its `descriptors.json`, and when it counts as saved.

use crate::container::Container;
use crate::net::saved::SavedNetworks;
use crate::spec::Spec;
use crate::state::PolicyOutcome;
use crate::step::layers::Layers;
use crate::store::Store;
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What the container's stdin, stdout and stderr were, as runc has it: a JSON array of three names
/// of `/proc/PID/fd`.
pub const DESCRIPTORS: &str = "descriptors.json";

/// criu's list of everything in a directory of images: without it nothing was saved.
pub const INVENTORY: &str = "inventory.img";

/// Makes a directory that only its owner enters, unless it is there.
///
/// # Errors
/// It cannot be made, or something else has its name.
pub fn make_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.on("make", path.display()),
    }
}

/// Writes a file for its owner alone.
///
/// # Errors
/// A full disk, and the like.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .on("make", path.display())?;
    file.write_all(bytes).on("write", path.display())
}

/// The files of a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).on("read", directory.display())? {
        let entry = entry.on("read", directory.display())?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Sends every image on its way to the disk, and waits for none. What memory holds says is nobody
/// else's business: 0600.
///
/// # Errors
/// An image cannot be opened.
pub fn begin_writeback(directory: &Path) -> Result<()> {
    for path in files(directory)? {
        let file = File::open(&path).on("open", path.display())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .on("chmod", path.display())?;
        // A file system that cannot do it is synced all the same.
        let _ = crate::sys::file::start_writeback(file.as_raw_fd());
    }
    Ok(())
}

/// How many images are synced at once: a journal commits once for all that wait for it, and once
/// for each that comes alone.
const SYNCED_AT_ONCE: usize = 8;

/// Brings every image, and the directory's own list of them, to the disk.
///
/// # Errors
/// The disk is full or broken: the checkpoint must not count.
pub fn settle(directory: &Path) -> Result<()> {
    let mut files = files(directory)?;
    files.insert(0, directory.to_owned());
    let sync = |path: &Path| {
        File::open(path)
            .and_then(|file| file.sync_all())
            .on("save", path.display())
    };
    let share = |first: usize| {
        files
            .iter()
            .skip(first)
            .step_by(SYNCED_AT_ONCE)
            .try_for_each(|path| sync(path))
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..SYNCED_AT_ONCE.min(files.len()))
            .map(|first| scope.spawn(move || share(first)))
            .collect();
        let own = share(0);
        let joined = others.into_iter().map(|other| {
            other.join().unwrap_or_else(|_| {
                Err(Error::new(format!(
                    "save {}: a thread ended",
                    directory.display()
                )))
            })
        });
        joined.fold(own, Result::and)
    })
}

/// The names of the former stdin, stdout and stderr.
///
/// # Errors
/// There is no such file: the directory holds no container's images.
pub fn descriptors(directory: &Path) -> Result<Vec<String>> {
    let path = directory.join(DESCRIPTORS);
    let text = std::fs::read(&path).on("read", path.display())?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("read {}: {error}", path.display())))
}

/// Whether criu saved the network namespace, or was told to leave it empty.
pub fn hold_network(directory: &Path) -> bool {
    let is_link = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"netdev-"))
    };
    files(directory).is_ok_and(|files| files.iter().any(is_link))
}

/// What hull keeps beside criu's images, in a file of its own that runc passes over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Beside {
    /// The container's id.
    #[serde(default)]
    pub id: String,
    /// Its directory in the store, below which some of its mounts' sources are.
    #[serde(default)]
    pub directory: PathBuf,
    /// criu's key of a file of the host, and which of stdin, stdout and stderr it was.
    #[serde(default)]
    pub files: Vec<(String, i32)>,
    /// Where those of them that are only read from were.
    #[serde(default)]
    pub read_at: Vec<super::files::ReadAt>,
    /// The config, as it was executed.
    pub spec: Option<Spec>,
    /// What the root was put together of; the changes of each overlay stand in a file of their own
    /// ([`layer`]).
    #[serde(default)]
    pub layers: Option<Layers>,
    /// What the steps' policies came to: a mount of the host's looks like one of the container's
    /// where both are of one file system.
    #[serde(default)]
    pub outcomes: Vec<PolicyOutcome>,
    /// The networks that hull wired.
    #[serde(default)]
    pub network: Option<SavedNetworks>,
    /// Its output was kept for `hull logs`.
    #[serde(default)]
    pub logs: bool,
    /// Length and CRC-32 of each image; criu itself has no checksums.
    #[serde(default)]
    pub sums: BTreeMap<String, Sum>,
}

/// Length in bytes, and CRC-32 unless the image is a long one.
pub type Sum = (u64, Option<u32>);

/// Images of memory beyond this size are checked by their length alone: they are read at the speed
/// of the disk, and the program waits.
const LONG: u64 = 64 << 20;

/// Length and sum of a file.
///
/// # Errors
/// It cannot be read.
pub fn sum(path: &Path) -> Result<Sum> {
    let mut file = File::open(path).on("open", path.display())?;
    let length = file.metadata().on("stat", path.display())?.len();
    if length > LONG {
        return Ok((length, None));
    }
    let (mut sum, mut buffer) = (crc32fast::Hasher::new(), vec![0; 256 << 10]);
    loop {
        match std::io::Read::read(&mut file, &mut buffer).on("read", path.display())? {
            0 => return Ok((length, Some(sum.finalize()))),
            count => sum.update(&buffer[..count]),
        }
    }
}

/// Its name.
const BESIDE: &str = "hull.json";

/// The name of the file with the changes of an overlay, by its place among the layers' parts.
pub fn layer(index: usize) -> String {
    format!("layer-{index}.tar")
}

impl Beside {
    /// What a running container's is.
    ///
    /// # Errors
    /// Its network's records cannot be read.
    pub fn of(container: &Container, files: Vec<(String, i32)>) -> Result<Self> {
        let Container { record, .. } = container;
        let directory = container.directory();
        Ok(Self {
            id: record.id.clone(),
            files,
            read_at: Vec::new(),
            spec: Some(record.spec.clone()),
            layers: record.layers.clone(),
            outcomes: record.outcomes.clone(),
            network: SavedNetworks::of(&directory)?,
            logs: directory.join(crate::adhoc::keeper::LOG).exists(),
            directory,
            sums: BTreeMap::new(),
        })
    }

    /// Loosens the caller's own files from what they were.
    ///
    /// # Errors
    /// The images cannot be read or written.
    pub fn loosen(&mut self, directory: &Path) -> Result<()> {
        self.read_at = super::files::loosen(directory, &self.files)?;
        Ok(())
    }

    /// Notes what the images are, as far as that is not `known` already.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn sum_up(&mut self, directory: &Path, known: &dyn Fn(&Path) -> Option<Sum>) -> Result<()> {
        for path in files(directory)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name != BESIDE && !name.ends_with(".log") {
                self.sums.insert(
                    name.to_owned(),
                    known(&path).map_or_else(|| sum(&path), Ok)?,
                );
            }
        }
        Ok(())
    }

    /// Compares the images with what they were when they were saved. Those of another runtime have
    /// no sums.
    ///
    /// # Errors
    /// One is missing, cut off or changed.
    pub fn verify(&self, directory: &Path) -> Result<()> {
        for (name, saved) in &self.sums {
            let path = directory.join(name);
            let now = match sum(&path) {
                Err(_) if !path.exists() => {
                    return Err(Error::new(format!(
                        "the image {} is missing",
                        path.display()
                    )));
                }
                other => other?,
            };
            if now.0 != saved.0 {
                return Err(Error::new(format!(
                    "the image {} is damaged: it has {} bytes and should have {}",
                    path.display(),
                    now.0,
                    saved.0
                )));
            }
            if now != *saved {
                return Err(Error::new(format!(
                    "the image {} is damaged: its checksum is another",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// Writes it among the images.
    ///
    /// # Errors
    /// A full disk, and the like.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::new(format!("write {BESIDE}: {error}")))?;
        write_private(&directory.join(BESIDE), &text)
    }

    /// Reads it; images of another runtime have none.
    ///
    /// # Errors
    /// It is damaged.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(BESIDE);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io("read", path.display(), &error)),
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::new(format!("read {}: {error}", path.display()))),
        }
    }

    /// The config for a container that is brought back under an id: what carries the old id or lies
    /// in the old one's directory is the new one's.
    ///
    /// # Errors
    /// The images are another runtime's and hold no config.
    pub fn spec_for(&self, store: &Store, id: &str) -> Result<Spec> {
        let spec = self.spec.as_ref().ok_or_else(|| {
            Error::new("the images hold no config: give the bundle with --bundle")
        })?;
        let directory =
            std::path::absolute(store.directory(id)).on("find", store.root().display())?;
        let mut config = spec.config().clone();
        for mount in &mut config.mounts {
            let below = mount.source.as_deref().and_then(|source| {
                Path::new(source)
                    .strip_prefix(&self.directory)
                    .ok()
                    .map(|rest| directory.join(rest))
            });
            if let Some(source) = below {
                mount.source = Some(source.to_string_lossy().into_owned());
            }
        }
        if id != self.id {
            if config.hostname.as_deref() == Some(&self.id) {
                config.hostname = Some(id.to_owned());
            }
            let path = config
                .linux
                .as_mut()
                .and_then(|linux| linux.cgroups_path.as_mut());
            if let Some(path) = path {
                *path = another_cgroup(path, &self.id, id);
            }
        }
        let bundle = if spec.bundle() == self.directory {
            directory
        } else {
            spec.bundle().to_owned()
        };
        Spec::check(config, bundle)
    }
}

/// Two containers cannot have one cgroup: the old id in its name becomes the new one, or the new
/// one is appended.
fn another_cgroup(path: &str, old: &str, new: &str) -> String {
    match path.strip_suffix(old) {
        Some(front) if front.is_empty() || front.ends_with(['/', ':', '-']) => {
            format!("{front}{new}")
        }
        _ => format!("{}-{new}", path.trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::another_cgroup;

    #[test]
    fn a_copy_has_a_cgroup_of_its_own() {
        assert_eq!(another_cgroup("/hull/a", "a", "b"), "/hull/b");
        assert_eq!(
            another_cgroup("system.slice:hull:a", "a", "b"),
            "system.slice:hull:b"
        );
        assert_eq!(another_cgroup("/fixed", "a", "b"), "/fixed-b");
        assert_eq!(another_cgroup("/data", "a", "b"), "/data-b");
    }
}
