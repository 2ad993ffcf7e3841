//! An exported checkpoint: a directory of images in one compressed file with a checksum.
//!
//! ```text
//! header   "HULLCKPT"   version: u32   0: u32   length: u64   SHA-256: 32 bytes
//! body     a tar file, compressed by zstd
//! ```
//! Numbers are little-endian; length and SHA-256 are those of the body. hull refuses a file that
//! was cut off, was changed by accident or is something else before it unpacks anything. The
//! checksum is no signature: whoever can write the file can write the checksum too.

use super::images;
use crate::sys::replace::{Lasting, Replacement};
use crate::{Context, Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

const MAGIC: &[u8; 8] = b"HULLCKPT";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 4 + 8 + 32;

/// A progress bar on stderr, if that is a terminal. `bytes` is the length of the whole.
fn progress_bar(what: &str, bytes: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    if let Ok(style) =
        ProgressStyle::with_template("{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
    {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    // Draw it now: a short operation would end before the first update.
    bar.tick();
    bar
}

/// Computes SHA-256 and length of what is written through it.
struct HashingWriter<W> {
    inner: W,
    sum: Sha256,
    /// Bytes written so far.
    length: u64,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.sum.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn header(length: u64, sum: &[u8]) -> Vec<u8> {
    [
        &MAGIC[..],
        &VERSION.to_le_bytes(),
        &[0; 4],
        &length.to_le_bytes(),
        sum,
    ]
    .concat()
}

/// Writes the images of a directory and of its parents to one file with mode 0600. The file gets
/// its name when all of it is on the disk.
///
/// # Errors
/// An image cannot be read, or the file cannot be written. Then no file is left.
pub fn pack(directory: &Path, to: &Path) -> Result<()> {
    if to.file_name().is_none() {
        return Err(Error::new(format!(
            "{} is not the name of a file",
            to.display()
        )));
    }
    let mut new = Replacement::new(to, 0o600)?;
    write(new.file(), directory, to)?;
    new.commit(Lasting::PowerCut)
}

/// Writes the images of a directory and of its parents to an empty file, which will be named `to`.
fn write(file: &mut File, directory: &Path, to: &Path) -> Result<()> {
    let images = images_of(directory)?;
    let total = images.iter().map(|image| image.length).sum();
    let progress = progress_bar("saving", total);
    let mut out = HashingWriter {
        inner: BufWriter::new(file),
        sum: Sha256::new(),
        length: 0,
    };
    out.inner
        .write_all(&header(0, &[0; 32]))
        .on("write", to.display())?;
    let compressor = zstd::Encoder::new(&mut out, 1).on("compress", to.display())?;
    let mut tar = tar::Builder::new(compressor);
    for image in images {
        let Image { name, path, length } = image;
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o600);
        let reader = File::open(&path).on("open", path.display())?;
        tar.append_data(&mut header, &name, progress.wrap_read(reader.take(length)))
            .on("save", path.display())?;
    }
    tar.into_inner()
        .and_then(zstd::Encoder::finish)
        .on("write", to.display())?;
    progress.finish_and_clear();
    let HashingWriter { inner, sum, length } = out;
    let file = inner
        .into_inner()
        .map_err(|error| Error::io("write", to.display(), error.error()))?;
    let head = header(length, &sum.finalize());
    let finished = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.write_all(&head));
    finished.on("write", to.display())
}

/// CRIU's symbolic link to the parent images: those of the dump before, which hold the pages that
/// have not changed since (`CR_PARENT_LINK`). In the tar file, and where it is unpacked, it is a
/// directory.
const PARENT: &str = "parent";
/// The longest chain of parents. A link to its own directory would have no end.
const MAX_PARENTS: usize = 256;

/// An image that goes into the file.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Image {
    /// Its path in the tar file.
    name: String,
    /// Where it is.
    path: PathBuf,
    /// Its length in bytes.
    length: u64,
}

/// The images of a directory and of its parents.
fn images_of(directory: &Path) -> Result<Vec<Image>> {
    let (mut images, mut prefix, mut at) = (Vec::new(), String::new(), directory.to_owned());
    for _ in 0..MAX_PARENTS {
        let mut parent = None;
        for entry in std::fs::read_dir(&at).on("read", at.display())? {
            let entry = entry.on("read", at.display())?;
            let name = entry
                .file_name()
                .into_string()
                .map_err(|name| Error::new(format!("{} is not UTF-8", name.display())))?;
            let metadata = std::fs::metadata(entry.path()).on("stat", entry.path().display())?;
            match (name.as_str(), metadata.is_dir(), metadata.is_file()) {
                (PARENT, true, _) => parent = Some(entry.path()),
                (_, _, true) => images.push(Image {
                    name: format!("{prefix}{name}"),
                    path: entry.path(),
                    length: metadata.len(),
                }),
                _ => {
                    return Err(Error::new(format!(
                        "{} among the images is not a regular file",
                        entry.path().display()
                    )));
                }
            }
        }
        let Some(parent) = parent else {
            images.sort();
            return Ok(images);
        };
        // Resolved at each step: the kernel follows no more than forty links in one path
        // (path_resolution(7)).
        at = std::fs::canonicalize(&parent).on("find", parent.display())?;
        prefix.push_str(PARENT);
        prefix.push('/');
    }
    Err(Error::new(format!(
        "the chain of parent images of {} has no end",
        directory.display()
    )))
}

/// Whether a path in the tar file is that of an image of the directory or of one of its parents.
fn is_image(name: &Path) -> bool {
    let mut parts = name.components().rev();
    matches!(parts.next(), Some(Component::Normal(_)))
        && name.components().count() <= MAX_PARENTS
        && parts.all(|part| part == Component::Normal(PARENT.as_ref()))
}

/// Verifies a file and unpacks it into an existing directory. A twentieth of the file system stays
/// free: a small file can hold any number of bytes.
///
/// # Errors
/// The file is not an exported checkpoint, was cut off, or was changed: then nothing was unpacked.
/// An image cannot be written, or the images do not fit.
pub fn unpack(from: &Path, directory: &Path) -> Result<()> {
    let space = nix::sys::statvfs::statvfs(directory).on("stat", directory.display())?;
    let unit = space.fragment_size();
    let (free, kept) = (space.blocks_available(), space.blocks() / 20);
    unpack_within(from, directory, free.saturating_sub(kept) * unit)
}

/// Unpacks as [`unpack`], and writes at most `left` bytes that are not zero.
fn unpack_within(from: &Path, directory: &Path, mut left: u64) -> Result<()> {
    // Neither a fifo nor a lease makes hull wait.
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(from)
        .on("open", from.display())?;
    let length = verify(&mut file, from)?;
    file.seek(SeekFrom::Start(HEADER as u64))
        .on("read", from.display())?;
    let progress = progress_bar("unpacking", length);
    let damaged = |error: std::io::Error| Error::io("unpack", from.display(), &error);
    let reader = zstd::Decoder::new(progress.wrap_read(BufReader::new(file).take(length)))
        .map_err(damaged)?;
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.into_owned();
        if !is_image(&name) || !entry.header().entry_type().is_file() {
            return Err(Error::new(format!(
                "{}: {} is not part of a checkpoint",
                from.display(),
                name.display()
            )));
        }
        let path = directory.join(&name);
        let above = name
            .ancestors()
            .skip(1)
            .filter(|above| !above.as_os_str().is_empty())
            .collect::<Vec<_>>();
        above
            .iter()
            .rev()
            .try_for_each(|above| images::make_directory(&directory.join(above)))?;
        images::write_private(&path, b"")?;
        let mut to = File::options()
            .write(true)
            .open(&path)
            .on("open", path.display())?;
        copy(&mut entry, &mut to, &mut left).on("write", path.display())?;
    }
    progress.finish_and_clear();
    Ok(())
}

/// Copies an image; zeros become holes. `left` is the number of other bytes that may be written.
fn copy(from: &mut impl Read, to: &mut File, left: &mut u64) -> std::io::Result<()> {
    let mut buffer = vec![0_u8; 64 << 10];
    let mut length = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return to.set_len(length),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let bytes = &buffer[..count];
        length += count as u64;
        if bytes.iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Start(length))?;
            continue;
        }
        *left = left.checked_sub(count as u64).ok_or_else(|| {
            std::io::Error::other("the images are larger than the space that is free")
        })?;
        to.write_all(bytes)?;
    }
}

/// Verifies header, length and checksum. Returns the length of the body in bytes.
fn verify(file: &mut File, path: &Path) -> Result<u64> {
    let place = path.to_string_lossy();
    let stat = file.metadata().on("stat", &place)?;
    if !stat.is_file() {
        return Err(Error::new(format!("{place} is not a regular file")));
    }
    let whole = stat.len();
    let mut head = [0_u8; HEADER];
    let read = file.read_exact(&mut head);
    if read.is_err() || head[..8] != MAGIC[..] {
        return Err(Error::new(format!(
            "{place} is not a checkpoint that hull exported"
        )));
    }
    let number = |at: usize| {
        head[at..at + 8]
            .iter()
            .rev()
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let version = (number(8) & 0xffff_ffff) as u32;
    if version > VERSION {
        return Err(Error::new(format!(
            "{place} was exported by a newer hull (version {version})"
        )));
    }
    let length = number(16);
    let should = length.saturating_add(HEADER as u64);
    if length == 0 || whole != should {
        return Err(Error::new(format!(
            "{place} is cut off: it has {whole} bytes and should have {should}"
        )));
    }
    let progress = progress_bar("checking", length);
    let mut sum = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    let mut reader = progress.wrap_read(&mut *file);
    loop {
        match reader.read(&mut buffer).on("read", &place)? {
            0 => break,
            count => sum.update(&buffer[..count]),
        }
    }
    progress.finish_and_clear();
    if sum.finalize()[..] != head[24..HEADER] {
        return Err(Error::new(format!(
            "{place} was changed after it was exported: its checksum does not match"
        )));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_images_are_packed_as_well() {
        let top = std::env::temp_dir().join(format!("hull-archive-chain-{}", std::process::id()));
        for directory in ["first", "second", "last", "out"] {
            std::fs::create_dir_all(top.join(directory)).unwrap();
            std::fs::write(top.join(directory).join("pages-1.img"), directory).unwrap();
        }
        std::os::unix::fs::symlink("../first", top.join("second/parent")).unwrap();
        std::os::unix::fs::symlink("../second", top.join("last/parent")).unwrap();
        let (file, out) = (top.join("file"), top.join("out"));
        pack(&top.join("last"), &file).unwrap();
        unpack(&file, &out).unwrap();
        for (name, holds) in [
            ("pages-1.img", "last"),
            ("parent/pages-1.img", "second"),
            ("parent/parent/pages-1.img", "first"),
        ] {
            assert_eq!(std::fs::read_to_string(out.join(name)).unwrap(), holds);
        }
        assert!(!out.join("parent/parent/parent").exists());
        std::os::unix::fs::symlink("../last", top.join("first/parent")).unwrap();
        let error = pack(&top.join("last"), &file).unwrap_err().to_string();
        assert!(error.contains("has no end"), "{error}");
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn a_name_stays_within_the_directory() {
        for good in ["a.img", "parent/a.img", "parent/parent/a.img", "parent"] {
            assert!(is_image(Path::new(good)), "{good}");
        }
        for bad in [
            "../a.img",
            "/a.img",
            "other/a.img",
            "parent/../a.img",
            "parent/other/a.img",
            "",
        ] {
            assert!(!is_image(Path::new(bad)), "{bad}");
        }
    }

    // Attack: files without end
    #[test]
    fn a_small_file_does_not_fill_the_disk() {
        use std::os::unix::fs::MetadataExt;
        let top = std::env::temp_dir().join(format!("hull-archive-bomb-{}", std::process::id()));
        for directory in ["in", "out", "small"] {
            std::fs::create_dir_all(top.join(directory)).unwrap();
        }
        let zeros = File::create(top.join("in/pages.img")).unwrap();
        zeros.set_len(32 << 20).unwrap();
        std::fs::write(top.join("in/words.img"), vec![7_u8; 1 << 20]).unwrap();
        let file = top.join("file");
        pack(&top.join("in"), &file).unwrap();
        assert!(std::fs::metadata(&file).unwrap().len() < 100_000);
        unpack(&file, &top.join("out")).unwrap();
        let pages = std::fs::metadata(top.join("out/pages.img")).unwrap();
        assert_eq!(pages.len(), 32 << 20);
        assert!(pages.blocks() < 100, "{}", pages.blocks());
        let error = unpack_within(&file, &top.join("small"), 1 << 19).unwrap_err();
        assert!(error.to_string().contains("space that is free"), "{error}");
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn what_is_packed_is_unpacked_and_what_is_changed_is_refused() {
        let top = std::env::temp_dir().join(format!("hull-archive-{}", std::process::id()));
        for directory in ["in", "out", "none"] {
            std::fs::create_dir_all(top.join(directory)).unwrap();
        }
        std::fs::write(top.join("in/pages.img"), vec![7_u8; 100_000]).unwrap();
        std::fs::write(top.join("in/a.img"), "a").unwrap();
        let file = top.join("file");
        pack(&top.join("in"), &file).unwrap();
        unpack(&file, &top.join("out")).unwrap();
        assert_eq!(
            std::fs::read(top.join("out/pages.img")).unwrap(),
            vec![7_u8; 100_000]
        );
        let good = std::fs::read(&file).unwrap();
        let says = |bytes: &[u8], words: &str| {
            std::fs::write(&file, bytes).unwrap();
            let error = unpack(&file, &top.join("none")).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        for at in [HEADER, HEADER + 9, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            says(&bad, "its checksum");
        }
        for length in [good.len() - 1, HEADER + 1, HEADER] {
            says(&good[..length], "cut off");
        }
        says(&good[..20], "not a checkpoint");
        let mut endless = good.clone();
        endless[16..24].copy_from_slice(&(u64::MAX - 3).to_le_bytes());
        says(&endless, "cut off");
        says(
            b"PK\x03\x04 something else that is long enough to hold a header of this kind....",
            "not a checkpoint",
        );
        assert_eq!(std::fs::read_dir(top.join("none")).unwrap().count(), 0);
        std::fs::remove_dir_all(&top).unwrap();
    }
}
