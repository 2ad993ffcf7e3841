//! A checkpoint in one file: a directory of images, compressed and checksummed, for its owner alone.
//!
//! ```text
//! "HULLCKPT"   version: u32   zero: u32   length: u64   SHA-256 of what follows: 32 bytes   │ zstd of a tar file
//! ```
//! Numbers are little-endian; the length is that of what follows the header. A file that was cut
//! off, changed by accident or is something else is refused before anything of it is used. Whoever
//! can write the file can write the checksum too: it is no signature.

use super::images;
use crate::sys::replace::{Lasting, Replacement};
use crate::{Context, Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

const MAGIC: &[u8; 8] = b"HULLCKPT";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 4 + 8 + 32;

/// A bar for people; engines and logs see none.
fn bar(what: &str, bytes: u64) -> ProgressBar {
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
    // At once: a short work would end unseen.
    bar.tick();
    bar
}

/// Sums and counts what is written.
struct Summed<W> {
    inner: W,
    sum: Sha256,
    length: u64,
}

impl<W: Write> Write for Summed<W> {
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

/// Packs the files of a directory. The file has its name only once all of it is on the disk.
///
/// # Errors
/// A full disk, and the like; nothing is left then.
pub fn pack(directory: &Path, to: &Path) -> Result<()> {
    if to.file_name().is_none() {
        return Err(Error::new(format!("{} is no file's name", to.display())));
    }
    let mut new = Replacement::new(to, 0o600)?;
    write(new.file(), directory, to)?;
    new.commit(Lasting::PowerCut)
}

/// Writes the archive of a directory to an empty file, which will be called `to`.
fn write(file: &mut File, directory: &Path, to: &Path) -> Result<()> {
    let files = files_of(directory)?;
    let total = files.iter().map(|(_, _, bytes)| bytes).sum();
    let progress = bar("saving", total);
    let mut out = Summed {
        inner: BufWriter::new(file),
        sum: Sha256::new(),
        length: 0,
    };
    out.inner
        .write_all(&header(0, &[0; 32]))
        .on("write", to.display())?;
    let compressor = zstd::Encoder::new(&mut out, 1).on("compress", to.display())?;
    let mut tar = tar::Builder::new(compressor);
    for (name, source, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o600);
        let reader = File::open(&source).on("open", source.display())?;
        tar.append_data(&mut header, &name, progress.wrap_read(reader.take(bytes)))
            .on("save", source.display())?;
    }
    tar.into_inner()
        .and_then(zstd::Encoder::finish)
        .on("write", to.display())?;
    progress.finish_and_clear();
    let Summed { inner, sum, length } = out;
    let file = inner
        .into_inner()
        .map_err(|error| Error::io("write", to.display(), error.error()))?;
    let head = header(length, &sum.finalize());
    let finished = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.write_all(&head));
    finished.on("write", to.display())
}

/// criu's link from images to those that they rest on (`CR_PARENT_LINK`); in the file and where it
/// is unpacked it is a directory.
const PARENT: &str = "parent";
/// Pre-dumps rest on each other no deeper; a link to itself has no end.
const DEEPEST: usize = 256;

/// Its name in the file, where it is, and how long, in bytes.
type Image = (String, PathBuf, u64);

/// The files of a directory and, by names of more than one part, of those that it rests on.
fn files_of(directory: &Path) -> Result<Vec<Image>> {
    let (mut files, mut prefix, mut at) = (Vec::new(), String::new(), directory.to_owned());
    for _ in 0..DEEPEST {
        let mut below = None;
        for entry in std::fs::read_dir(&at).on("read", at.display())? {
            let entry = entry.on("read", at.display())?;
            let name = entry
                .file_name()
                .into_string()
                .map_err(|name| Error::new(format!("{} is not UTF-8", name.display())))?;
            let metadata = std::fs::metadata(entry.path()).on("stat", entry.path().display())?;
            match (name.as_str(), metadata.is_dir(), metadata.is_file()) {
                (PARENT, true, _) => below = Some(entry.path()),
                (_, _, true) => {
                    files.push((format!("{prefix}{name}"), entry.path(), metadata.len()))
                }
                _ => {
                    return Err(Error::new(format!(
                        "{} among the images is no file",
                        entry.path().display()
                    )));
                }
            }
        }
        let Some(below) = below else {
            files.sort();
            return Ok(files);
        };
        // The kernel goes over forty links in one name and no further (path_resolution(7)).
        at = std::fs::canonicalize(&below).on("find", below.display())?;
        prefix.push_str(PARENT);
        prefix.push('/');
    }
    Err(Error::new(format!(
        "the images in {} rest on others without an end",
        directory.display()
    )))
}

/// Whether a name is a file's of the directory, or of one that it rests on.
fn belongs(name: &Path) -> bool {
    let mut parts = name.components().rev();
    matches!(parts.next(), Some(Component::Normal(_)))
        && name.components().count() <= DEEPEST
        && parts.all(|part| part == Component::Normal(PARENT.as_ref()))
}

/// Checks a file and unpacks it into a directory that is there.
///
/// # Errors
/// It is no checkpoint, is cut off, or was changed: then nothing was unpacked.
pub fn unpack(from: &Path, directory: &Path) -> Result<()> {
    let mut file = File::open(from).on("open", from.display())?;
    let length = verify(&mut file, from)?;
    file.seek(SeekFrom::Start(HEADER as u64))
        .on("read", from.display())?;
    let progress = bar("unpacking", length);
    let damaged = |error: std::io::Error| Error::io("unpack", from.display(), &error);
    let reader = zstd::Decoder::new(progress.wrap_read(BufReader::new(file).take(length)))
        .map_err(damaged)?;
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.into_owned();
        if !belongs(&name) || !entry.header().entry_type().is_file() {
            return Err(Error::new(format!(
                "{}: {} does not belong into a checkpoint",
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
        std::io::copy(&mut entry, &mut to).on("write", path.display())?;
    }
    progress.finish_and_clear();
    Ok(())
}

/// The length of what follows the header.
fn verify(file: &mut File, path: &Path) -> Result<u64> {
    let place = path.to_string_lossy();
    let whole = file.metadata().on("stat", &place)?.len();
    let mut head = [0_u8; HEADER];
    let read = file.read_exact(&mut head);
    if read.is_err() || head[..8] != MAGIC[..] {
        return Err(Error::new(format!(
            "{place} is no checkpoint that hull exported"
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
    if length == 0 || whole != HEADER as u64 + length {
        return Err(Error::new(format!(
            "{place} is cut off: it has {} bytes and should have {}",
            whole,
            HEADER as u64 + length
        )));
    }
    let progress = bar("checking", length);
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
            "{place} was changed after it was exported: its checksum is not that of its contents"
        )));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_images_rest_on_goes_with_them() {
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
        assert!(error.contains("without an end"), "{error}");
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn a_name_stays_within_the_directory() {
        for good in ["a.img", "parent/a.img", "parent/parent/a.img", "parent"] {
            assert!(belongs(Path::new(good)), "{good}");
        }
        for bad in [
            "../a.img",
            "/a.img",
            "other/a.img",
            "parent/../a.img",
            "parent/other/a.img",
            "",
        ] {
            assert!(!belongs(Path::new(bad)), "{bad}");
        }
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
        says(&good[..20], "no checkpoint");
        says(
            b"PK\x03\x04 something else that is long enough to hold a header of this kind....",
            "no checkpoint",
        );
        assert_eq!(std::fs::read_dir(top.join("none")).unwrap().count(), 0);
        std::fs::remove_dir_all(&top).unwrap();
    }
}
