//! A directory of checkpoint images: who may read it, its `descriptors.json`, the checksums of its
//! files, and how they get to the disk.

use crate::store::Store;
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// runc's file with what the container's stdin, stdout and stderr were: a JSON array of the targets
/// of the three links in `/proc/PID/fd`.
pub const DESCRIPTORS: &str = "descriptors.json";

/// The image in which CRIU describes the whole dump: a directory without it holds no dump.
pub const INVENTORY: &str = "inventory.img";

/// Creates a directory with mode 0700, unless it exists.
///
/// # Errors
/// mkdir(2) fails: the parent is missing or not writable, or a file has the name.
pub fn make_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.on("make", path.display()),
    }
}

/// Writes a file that only its owner may read (mode 0600).
///
/// # Errors
/// open(2) or write(2) fails: the directory is not writable, or the disk is full.
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

/// The regular files of a directory.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).on("read", directory.display())? {
        let entry = entry.on("read", directory.display())?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Starts the writeback of every image (sync_file_range(2)) without waiting for it, and sets mode
/// 0600: images hold the memory of the container's processes.
///
/// # Errors
/// An image cannot be opened, or its mode cannot be changed.
pub(super) fn begin_writeback(directory: &Path) -> Result<()> {
    for path in files(directory)? {
        let file = File::open(&path).on("open", path.display())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .on("chmod", path.display())?;
        // Some file systems do not support it; `sync` writes their files as well.
        let _ = crate::sys::file::start_writeback(file.as_raw_fd());
    }
    Ok(())
}

/// How many images are synced at once. A journal commits once for all callers that wait at the same
/// time, and once for each caller that comes alone.
const SYNC_THREADS: usize = 8;

/// Writes every image and the directory itself to the disk (fsync(2)).
///
/// # Errors
/// fsync(2) fails: the disk is full or broken. The checkpoint must not count as done then.
pub(super) fn sync(directory: &Path) -> Result<()> {
    let mut files = files(directory)?;
    files.insert(0, directory.to_owned());
    let sync_file = |path: &Path| {
        File::open(path)
            .and_then(|file| file.sync_all())
            .on("save", path.display())
    };
    let share = |first: usize| {
        files
            .iter()
            .skip(first)
            .step_by(SYNC_THREADS)
            .try_for_each(|path| sync_file(path))
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..SYNC_THREADS.min(files.len()))
            .map(|first| scope.spawn(move || share(first)))
            .collect();
        let own = share(0);
        let joined = others.into_iter().map(|other| {
            other.join().unwrap_or_else(|_| {
                Err(Error::new(format!(
                    "save {}: a thread panicked",
                    directory.display()
                )))
            })
        });
        joined.fold(own, Result::and)
    })
}

/// Reads `descriptors.json`.
///
/// # Errors
/// The file is missing, so that the directory holds no images of a container, or it is not a JSON
/// array of strings.
pub(super) fn descriptors(directory: &Path) -> Result<Vec<String>> {
    let path = directory.join(DESCRIPTORS);
    let text = std::fs::read(&path).on("read", path.display())?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("read {}: {error}", path.display())))
}

/// Whether CRIU dumped the network namespace. Where it was told to leave it empty, there is no
/// image of network devices.
pub(super) fn hold_network(directory: &Path) -> bool {
    let is_netdev = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"netdev-"))
    };
    files(directory).is_ok_and(|files| files.iter().any(is_netdev))
}

/// The name of the tar file with the changes of an overlay; `index` is the overlay's index in
/// `Layers::parts`.
pub(super) fn layer(index: usize) -> String {
    format!("layer-{index}.tar")
}

/// What detects that an image was cut off or changed: CRIU has no checksums. In JSON it is the
/// array `[length, crc32]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, Option<u32>)", into = "(u64, Option<u32>)")]
pub struct Checksum {
    /// Length of the image in bytes.
    pub length: u64,
    /// Its CRC-32; none where the image is longer than 64 MiB.
    pub crc32: Option<u32>,
}

impl From<(u64, Option<u32>)> for Checksum {
    fn from((length, crc32): (u64, Option<u32>)) -> Self {
        Self { length, crc32 }
    }
}

impl From<Checksum> for (u64, Option<u32>) {
    fn from(checksum: Checksum) -> Self {
        (checksum.length, checksum.crc32)
    }
}

/// Only the length of a longer image is checked, in bytes. The sum is computed at the speed of the
/// disk, and the container is stopped meanwhile.
const MAX_SUMMED: u64 = 64 << 20;

impl Checksum {
    /// The checksum of a file.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn of(path: &Path) -> Result<Self> {
        let mut file = File::open(path).on("open", path.display())?;
        let length = file.metadata().on("stat", path.display())?.len();
        if length > MAX_SUMMED {
            let crc32 = None;
            return Ok(Self { length, crc32 });
        }
        let (mut sum, mut buffer) = (crc32fast::Hasher::new(), vec![0; 256 << 10]);
        loop {
            match std::io::Read::read(&mut file, &mut buffer).on("read", path.display())? {
                0 => {
                    let crc32 = Some(sum.finalize());
                    return Ok(Self { length, crc32 });
                }
                count => sum.update(&buffer[..count]),
            }
        }
    }
}

/// A directory of images in the store's cache, which is removed when this is dropped.
pub struct TemporaryImages(PathBuf);

impl TemporaryImages {
    /// Creates the directory; `name` and hull's process id make its name.
    ///
    /// # Errors
    /// mkdir(2) fails: the store is not writable, or the disk is full.
    pub fn new(store: &Store, name: &str) -> Result<Self> {
        let path = store
            .cache("images")?
            .join(format!("{name}-{}", std::process::id()));
        make_directory(&path)?;
        Ok(Self(path.canonicalize().on("open", path.display())?))
    }

    /// The directory's absolute path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of another directory relative to this one. CRIU takes the directory of the parent
    /// images relative to the directory of images.
    ///
    /// # Errors
    /// The other directory does not exist.
    pub fn relative(&self, directory: &Path) -> Result<PathBuf> {
        let directory = directory
            .canonicalize()
            .on("find the parent images", directory.display())?;
        let up = self.0.components().skip(1).map(|_| "..");
        Ok(up
            .collect::<PathBuf>()
            .join(directory.strip_prefix("/").unwrap_or(&directory)))
    }
}

impl Drop for TemporaryImages {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
