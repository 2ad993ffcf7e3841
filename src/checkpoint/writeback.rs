//! Images of memory are followed while criu writes them: what is there goes on its way to the disk,
//! and what does not grow any more is summed up. When the container stands ready to end, little is
//! left to wait for.
//!
//! They are looked at now and then, while hull waits for criu all the same. A watch (inotify) would
//! be asked for less, but its end takes milliseconds (`fsnotify_wait_marks_destroyed`), at the very
//! end of the command.

use crate::checkpoint::images::{Sum, sum};
use crate::sys::file;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// How long hull waits for criu between two looks, in milliseconds.
pub const PAUSE: u16 = 8;
/// So much more than before is worth a request to the disk, in bytes.
const STEP: u64 = 8 << 20;

/// The images of a directory that is being written.
pub struct Following {
    directory: PathBuf,
    summed: bool,
    /// Images of a dump before this one. criu truncates them when it comes to them, and what it
    /// then writes may be as long as before: they are not followed.
    former: HashSet<OsString>,
    images: HashMap<OsString, Image>,
}

/// What is known of one. criu made it and only appends to it: of the same length it is the same.
#[derive(Default)]
struct Image {
    length: u64,
    /// How long it was when it was last sent on its way.
    sent: u64,
    sum: Option<Sum>,
}

impl Following {
    /// Begins to follow, before criu writes; with `summed` it sums up as well.
    pub fn begin(directory: &Path, summed: bool) -> Self {
        Self {
            directory: directory.to_owned(),
            summed,
            former: images(directory).collect(),
            images: HashMap::new(),
        }
    }

    /// Looks once. An image that cannot be read now is one that cannot be saved later, and is left
    /// for then.
    pub fn look(&mut self) {
        for name in images(&self.directory) {
            if !self.former.contains(&name) {
                let _ = self.image(name);
            }
        }
    }

    fn image(&mut self, name: OsString) -> Option<()> {
        let path = self.directory.join(&name);
        let length = path.metadata().ok()?.len();
        let image = self.images.entry(name).or_default();
        let grows = length != image.length;
        image.length = length;
        if length >= image.sent + STEP || !grows && length > image.sent {
            image.sent = length;
            file::start_writeback(File::open(&path).ok()?.as_raw_fd()).ok()?;
        }
        if self.summed && !grows && image.sum.is_none_or(|(summed, _)| summed != length) {
            image.sum = sum(&path).ok();
        }
        Some(())
    }

    /// The sum of an image, if it has not grown since.
    pub fn sum(&self, path: &Path) -> Option<Sum> {
        let sum = self.images.get(path.file_name()?)?.sum?;
        (path.metadata().ok()?.len() == sum.0).then_some(sum)
    }
}

/// The names of the images of memory in a directory.
fn images(directory: &Path) -> impl Iterator<Item = OsString> + use<> {
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
            std::env::temp_dir().join(format!("hull-following-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        directory
    }

    #[test]
    fn an_image_of_a_former_dump_has_no_sum_beforehand() {
        let directory = directory("former");
        let pages = directory.join("pages-1.img");
        std::fs::write(&pages, "then").unwrap();
        let mut following = Following::begin(&directory, true);
        (0..3).for_each(|_| following.look());
        std::fs::write(&pages, "this").unwrap();
        (0..3).for_each(|_| following.look());
        assert_eq!(following.sum(&pages), None);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_image_is_summed_up_when_it_does_not_grow() {
        let directory = directory("grows");
        let mut following = Following::begin(&directory, true);
        let (pages, other) = (directory.join("pages-1.img"), directory.join("core-1.img"));
        let mut file = File::create(&pages).unwrap();
        file.write_all(b"half").unwrap();
        std::fs::write(&other, "core").unwrap();
        following.look();
        assert_eq!((following.sum(&pages), following.sum(&other)), (None, None));
        following.look();
        assert_eq!(
            (following.sum(&pages), following.sum(&other)),
            (Some(sum(&pages).unwrap()), None)
        );
        file.write_all(b" and half").unwrap();
        assert_eq!(following.sum(&pages), None);
        following.look();
        assert_eq!(following.sum(&pages), None);
        following.look();
        assert_eq!(following.sum(&pages), Some(sum(&pages).unwrap()));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
