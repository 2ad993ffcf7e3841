//! A checkpoint in one file: a folder of images, compressed and checksummed, for its owner alone.
//!
//! ```text
//! "HULLCKPT"   version: u32   zero: u32   length: u64   SHA-256 of what follows: 32 bytes   │ zstd of a tar file
//! ```
//! Numbers are little-endian; the length is that of what follows the header. A file that was cut off, changed by accident or is
//! something else is refused before anything of it is used. Whoever can write the file can write the checksum too: it is no signature.

use super::images;
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

/// A bar for people; engines and logs see none.
fn bar(what: &str, bytes: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}") {
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
    [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 4], &length.to_le_bytes(), sum].concat()
}

/// Removes a half-written file, unless it was given its name.
struct Partial(Option<PathBuf>);

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Packs the files of a folder. The file has its name only once all of it is on the disk.
///
/// # Errors
/// A full disk, and the like; nothing is left then.
pub fn pack(folder: &Path, to: &Path) -> Result<()> {
    let name = to.file_name().ok_or_else(|| Error::new(format!("{} is no file's name", to.display())))?.to_string_lossy().into_owned();
    let path = to.with_file_name(format!(".{name}.{}", std::process::id()));
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path).on("make", path.display())?;
    let mut partial = Partial(Some(path.clone()));
    let files = files_of(folder)?;
    let total = files.iter().map(|(_, bytes)| bytes).sum();
    let progress = bar("saving", total);
    let mut out = Summed { inner: BufWriter::new(file), sum: Sha256::new(), length: 0 };
    out.inner.write_all(&header(0, &[0; 32])).on("write", path.display())?;
    let compressor = zstd::Encoder::new(&mut out, 1).on("compress", path.display())?;
    let mut tar = tar::Builder::new(compressor);
    for (name, bytes) in files {
        let source = folder.join(&name);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o600);
        let reader = File::open(&source).on("open", source.display())?;
        tar.append_data(&mut header, &name, progress.wrap_read(reader.take(bytes))).on("save", source.display())?;
    }
    tar.into_inner().and_then(zstd::Encoder::finish).on("write", path.display())?;
    progress.finish_and_clear();
    let Summed { inner, sum, length } = out;
    let mut file = inner.into_inner().map_err(|error| Error::io("write", path.display(), error.error()))?;
    let head = header(length, &sum.finalize());
    let finished = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&head)).and_then(|()| file.sync_all());
    finished.on("write", path.display())?;
    std::fs::rename(&path, to).on("write", to.display())?;
    partial.0 = None;
    Ok(())
}

fn files_of(folder: &Path) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).on("read", folder.display())? {
        let entry = entry.on("read", folder.display())?;
        let metadata = entry.metadata().on("stat", entry.path().display())?;
        let name = entry.file_name().into_string().map_err(|name| Error::new(format!("{} is not UTF-8", name.display())))?;
        if !metadata.is_file() {
            return Err(Error::new(format!("{name} among the images is no file: a chain of pre-dumps cannot be exported")));
        }
        files.push((name, metadata.len()));
    }
    files.sort();
    Ok(files)
}

/// Checks a file and unpacks it into a folder that is there.
///
/// # Errors
/// It is no checkpoint, is cut off, or was changed: then nothing was unpacked.
pub fn unpack(from: &Path, folder: &Path) -> Result<()> {
    let mut file = File::open(from).on("open", from.display())?;
    let length = verify(&mut file, from)?;
    file.seek(SeekFrom::Start(HEADER as u64)).on("read", from.display())?;
    let progress = bar("unpacking", length);
    let damaged = |error: std::io::Error| Error::io("unpack", from.display(), &error);
    let reader = zstd::Decoder::new(progress.wrap_read(BufReader::new(file).take(length))).map_err(damaged)?;
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.into_owned();
        let plain = matches!(name.components().collect::<Vec<_>>()[..], [Component::Normal(_)]) && entry.header().entry_type().is_file();
        if !plain {
            return Err(Error::new(format!("{}: {} does not belong into a checkpoint", from.display(), name.display())));
        }
        let path = folder.join(&name);
        images::write_private(&path, b"")?;
        let mut to = File::options().write(true).open(&path).on("open", path.display())?;
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
        return Err(Error::new(format!("{place} is no checkpoint that hull exported")));
    }
    let number = |at: usize| head[at..at + 8].iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let version = (number(8) & 0xffff_ffff) as u32;
    if version > VERSION {
        return Err(Error::new(format!("{place} was exported by a newer hull (version {version})")));
    }
    let length = number(16);
    if length == 0 || whole != HEADER as u64 + length {
        return Err(Error::new(format!("{place} is cut off: it has {} bytes and should have {}", whole, HEADER as u64 + length)));
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
        return Err(Error::new(format!("{place} was changed after it was exported: its checksum is not that of its contents")));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_and_what_is_changed_is_refused() {
        let top = std::env::temp_dir().join(format!("hull-archive-{}", std::process::id()));
        for folder in ["in", "out", "none"] {
            std::fs::create_dir_all(top.join(folder)).unwrap();
        }
        std::fs::write(top.join("in/pages.img"), vec![7_u8; 100_000]).unwrap();
        std::fs::write(top.join("in/a.img"), "a").unwrap();
        let file = top.join("file");
        pack(&top.join("in"), &file).unwrap();
        unpack(&file, &top.join("out")).unwrap();
        assert_eq!(std::fs::read(top.join("out/pages.img")).unwrap(), vec![7_u8; 100_000]);
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
        says(b"PK\x03\x04 something else that is long enough to hold a header of this kind....", "no checkpoint");
        assert_eq!(std::fs::read_dir(top.join("none")).unwrap().count(), 0);
        std::fs::remove_dir_all(&top).unwrap();
    }
}
