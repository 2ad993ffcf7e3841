//! Images of memory are followed while criu writes them: what is there goes on its way to the disk, and what is whole is summed up. When
//! the container stands ready to end, little is left to wait for.

use super::images::{Sum, sum};
use crate::sys::file;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// So much more than before is worth a request to the disk, in bytes.
const STEP: u64 = 8 << 20;

/// The images of a folder that is being written.
pub struct Following {
    folder: PathBuf,
    watch: Inotify,
    /// How long each image was when it was last sent on its way.
    sent: HashMap<OsString, u64>,
    /// What is known of those that are whole.
    sums: HashMap<OsString, (Stamp, Sum)>,
    summed: bool,
}

/// By what a changed file is known: length, and when it was written, in seconds and nanoseconds.
type Stamp = (u64, i64, i64);

fn stamp(stat: &Metadata) -> Stamp {
    (stat.len(), stat.mtime(), stat.mtime_nsec())
}

impl Following {
    /// Begins to follow; none where the kernel has no watch left, and all is done at the end. With `summed` it sums up as well.
    pub fn begin(folder: &Path, summed: bool) -> Option<Self> {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        watch.add_watch(folder, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE).ok()?;
        Some(Self { folder: folder.to_owned(), watch, sent: HashMap::new(), sums: HashMap::new(), summed })
    }

    /// Can be read when [`Self::attend`] has something to do.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Does what there is to do. An image that cannot be read now is one that cannot be saved later, and is left for then.
    pub fn attend(&mut self) {
        for event in self.watch.read_events().unwrap_or_default() {
            if event.name.as_ref().is_some_and(|name| name.as_encoded_bytes().starts_with(b"pages-")) {
                let _ = self.image(event);
            }
        }
    }

    fn image(&mut self, event: InotifyEvent) -> Option<()> {
        let name = event.name?;
        let path = self.folder.join(&name);
        let file = File::open(&path).ok()?;
        let stat = file.metadata().ok()?;
        let whole = event.mask.contains(AddWatchFlags::IN_CLOSE_WRITE);
        let sent = self.sent.entry(name.clone()).or_default();
        if whole || stat.len() >= *sent + STEP {
            *sent = stat.len();
            file::start_writeback(file.as_raw_fd()).ok()?;
        }
        if whole && self.summed {
            self.sums.insert(name, (stamp(&stat), sum(&path).ok()?));
        }
        Some(())
    }

    /// The sum of an image, if it was whole and is as it was.
    pub fn sum(&self, path: &Path) -> Option<Sum> {
        let (known, sum) = self.sums.get(path.file_name()?)?;
        (stamp(&path.metadata().ok()?) == *known).then_some(*sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn an_image_is_summed_up_once_it_is_whole_and_again_when_it_changed() {
        let folder = std::env::temp_dir().join(format!("hull-following-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mut following = Following::begin(&folder, true).unwrap();
        let (pages, other) = (folder.join("pages-1.img"), folder.join("core-1.img"));
        let mut file = File::create(&pages).unwrap();
        file.write_all(b"half").unwrap();
        std::fs::write(&other, "core").unwrap();
        following.attend();
        assert_eq!((following.sum(&pages), following.sum(&other)), (None, None));
        file.write_all(b" and half").unwrap();
        drop(file);
        following.attend();
        assert_eq!(following.sum(&pages), Some(sum(&pages).unwrap()));
        std::fs::write(&pages, "other").unwrap();
        assert_eq!(following.sum(&pages), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
