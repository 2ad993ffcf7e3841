//! The images of memory while CRIU writes them: hull starts the writeback of what is there, and
//! computes the checksums of those that do not grow any more, so that little is left to wait for
//! when the dump is complete.
//!
//! hull looks at the images at intervals while it waits for CRIU. A watch (inotify(7)) would need
//! fewer looks, but closing it takes milliseconds (`fsnotify_wait_marks_destroyed`) at the very end
//! of the command.

use super::images::Checksum;
use crate::sys::file;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The interval between two looks, in milliseconds.
pub const INTERVAL: u16 = 8;
/// hull starts the writeback of an image that grows each time it is longer by so many bytes.
const STEP: u64 = 8 << 20;

/// The images of memory in a directory that CRIU is writing.
pub struct Writeback {
    directory: PathBuf,
    checksums: bool,
    /// Images of an earlier dump. CRIU truncates them when it comes to them, and may then write as
    /// many bytes as before, which hull could not tell from the old ones: it leaves them alone.
    earlier: HashSet<OsString>,
    images: HashMap<OsString, Image>,
}

/// One image. CRIU created it and only appends to it: with the same length it has the same content.
#[derive(Default)]
struct Image {
    /// The length at the last look, in bytes.
    length: u64,
    /// The length when writeback was last started, in bytes.
    started: u64,
    checksum: Option<Checksum>,
}

impl Writeback {
    /// For a directory that CRIU will write to; to be called before it does. `checksums` says
    /// whether the images will get checksums.
    pub fn new(directory: &Path, checksums: bool) -> Self {
        Self {
            directory: directory.to_owned(),
            checksums,
            earlier: memory_images(directory).collect(),
            images: HashMap::new(),
        }
    }

    /// Looks at the images once. One that cannot be read now cannot be synced later either: the
    /// error is reported then.
    pub fn look(&mut self) {
        for name in memory_images(&self.directory) {
            if !self.earlier.contains(&name) {
                let _ = self.look_at(name);
            }
        }
    }

    fn look_at(&mut self, name: OsString) -> Option<()> {
        let path = self.directory.join(&name);
        let length = path.metadata().ok()?.len();
        let image = self.images.entry(name).or_default();
        let grows = length != image.length;
        image.length = length;
        if length >= image.started + STEP || !grows && length > image.started {
            image.started = length;
            file::start_writeback(File::open(&path).ok()?.as_raw_fd()).ok()?;
        }
        let is_stale = |checksum: Checksum| checksum.length != length;
        if self.checksums && !grows && image.checksum.is_none_or(is_stale) {
            image.checksum = Checksum::of(&path).ok();
        }
        Some(())
    }

    /// The checksum of an image, if it was computed and the image has not grown since.
    pub fn checksum(&self, path: &Path) -> Option<Checksum> {
        let checksum = self.images.get(path.file_name()?)?.checksum?;
        (path.metadata().ok()?.len() == checksum.length).then_some(checksum)
    }
}

/// The names of the images of memory in a directory.
fn memory_images(directory: &Path) -> impl Iterator<Item = OsString> + use<> {
    let names = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    names.filter(|name| name.as_encoded_bytes().starts_with(b"pages-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn directory(name: &str) -> PathBuf {
        let directory =
            std::env::temp_dir().join(format!("hull-writeback-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        directory
    }

    #[test]
    fn an_image_of_an_earlier_dump_has_no_checksum_yet() {
        let directory = directory("earlier");
        let pages = directory.join("pages-1.img");
        std::fs::write(&pages, "then").unwrap();
        let mut writeback = Writeback::new(&directory, true);
        (0..3).for_each(|_| writeback.look());
        std::fs::write(&pages, "this").unwrap();
        (0..3).for_each(|_| writeback.look());
        assert_eq!(writeback.checksum(&pages), None);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_image_gets_its_checksum_when_it_does_not_grow() {
        let directory = directory("grows");
        let mut writeback = Writeback::new(&directory, true);
        let (pages, other) = (directory.join("pages-1.img"), directory.join("core-1.img"));
        let mut file = File::create(&pages).unwrap();
        file.write_all(b"half").unwrap();
        std::fs::write(&other, "core").unwrap();
        writeback.look();
        assert_eq!(
            (writeback.checksum(&pages), writeback.checksum(&other)),
            (None, None)
        );
        writeback.look();
        assert_eq!(
            (writeback.checksum(&pages), writeback.checksum(&other)),
            (Some(Checksum::of(&pages).unwrap()), None)
        );
        file.write_all(b" and half").unwrap();
        assert_eq!(writeback.checksum(&pages), None);
        writeback.look();
        assert_eq!(writeback.checksum(&pages), None);
        writeback.look();
        assert_eq!(
            writeback.checksum(&pages),
            Some(Checksum::of(&pages).unwrap())
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
