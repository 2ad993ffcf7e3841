//! The changes that a container made in an overlay, as a tar file: `.wh.NAME` stands for a removed
//! NAME (OCI image spec, Whiteouts); a pax record marks a file to which the container itself gave such
//! a name. At restore hull unpacks them into a new upper directory.
//!
//! The upper directory may be in memory, where it has no path. Therefore hull compares the merged
//! directory with the lower one. It need not enter equal directories: overlayfs copies a directory
//! up before it changes anything below it, and the copy has a new change time.

use super::attributes::{self, Attributes};
use crate::sys::fd::{Fd, c_path};
use crate::sys::file;
use crate::sys::resolve::make_directory;
use crate::{Context, Error, Result};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};

/// The prefix of a whiteout.
const WHITEOUT: &str = ".wh.";

/// A mounted overlay.
pub struct Overlay<'a> {
    /// The merged directory, which the container sees.
    pub merged: &'a Path,
    /// The lower directory.
    pub lower: &'a Path,
    /// Mount points in the overlay, relative to its root with a leading slash. What is mounted
    /// there is not part of the overlay.
    pub mounts: HashSet<String>,
}

/// Writes the changes to a tar file that only its owner may read.
///
/// # Errors
/// A file in the overlay cannot be read, or the disk is full.
pub fn save(overlay: &Overlay, to: &Path) -> Result<()> {
    super::images::write_private(to, b"")?;
    let file = File::options()
        .write(true)
        .open(to)
        .on("open", to.display())?;
    let mut walk = Walk {
        overlay,
        out: Builder::new(BufWriter::new(file)),
        links: HashMap::new(),
    };
    walk.top()?;
    walk.directory(Path::new(""), true)?;
    let mut out = walk.out.into_inner().on("write", to.display())?;
    out.flush().on("write", to.display())
}

struct Walk<'a> {
    overlay: &'a Overlay<'a>,
    out: Builder<BufWriter<File>>,
    /// The first path of each file with several links, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

/// The names in a directory; none where there is no such directory.
fn names(directory: &Path) -> Result<BTreeSet<std::ffi::OsString>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(entries
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect()),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(BTreeSet::new())
        }
        Err(error) => Err(Error::io("read", directory.display(), &error)),
    }
}

/// Whether a file of the merged directory was never copied up: then overlayfs shows the attributes
/// of the lower file.
fn is_unchanged(merged: &Metadata, lower: &Metadata) -> bool {
    let times = |stat: &Metadata| {
        (
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec(),
        )
    };
    let owner_and_mode = |stat: &Metadata| (stat.mode(), stat.uid(), stat.gid(), stat.rdev());
    times(merged) == times(lower)
        && owner_and_mode(merged) == owner_and_mode(lower)
        && (merged.is_dir() || merged.len() == lower.len())
}

impl Walk<'_> {
    /// The overlay's own top directory: the container may have changed its mode or owner.
    fn top(&mut self) -> Result<()> {
        let whole = self.overlay.merged;
        let stat = whole.metadata().on("stat", whole.display())?;
        self.records(Path::new(""), &stat)?;
        let mut header = header(EntryType::Directory, Some(&stat));
        // The crate tar would normalise the name to an empty one.
        header.as_old_mut().name[..2].copy_from_slice(b"./");
        header.set_cksum();
        self.out
            .append(&header, std::io::empty())
            .on("save", whole.display())
    }

    fn directory(&mut self, path: &Path, has_lower: bool) -> Result<()> {
        let lower = if has_lower {
            names(&self.overlay.lower.join(path))?
        } else {
            BTreeSet::new()
        };
        let merged = names(&self.overlay.merged.join(path))?;
        for name in lower.difference(&merged) {
            let mut mark = std::ffi::OsString::from(WHITEOUT);
            mark.push(name);
            let mark = path.join(mark);
            self.put(&mark, EntryType::Regular, None)?;
        }
        for name in &merged {
            self.entry(&path.join(name), lower.contains(name))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, has_lower: bool) -> Result<()> {
        let whole = self.overlay.merged.join(path);
        let stat = whole.symlink_metadata().on("stat", whole.display())?;
        if self
            .overlay
            .mounts
            .contains(&format!("/{}", path.display()))
        {
            // The mount hides what is below it. A mount point that the lower directory lacks must
            // exist again at restore.
            let kind = if stat.is_dir() {
                EntryType::Directory
            } else {
                EntryType::Regular
            };
            let mut mark = header(kind, None);
            mark.set_mode(0o755);
            return if has_lower {
                Ok(())
            } else {
                self.out
                    .append_data(&mut mark, path, std::io::empty())
                    .on("save", whole.display())
            };
        }
        let below = if has_lower {
            self.overlay.lower.join(path).symlink_metadata().ok()
        } else {
            None
        };
        if below
            .as_ref()
            .is_some_and(|below| is_unchanged(&stat, below))
        {
            return Ok(());
        }
        let kind = stat.file_type();
        if kind.is_dir() {
            self.put(path, EntryType::Directory, Some(&stat))?;
            return self.directory(path, below.is_some_and(|below| below.is_dir()));
        }
        if kind.is_socket() {
            // CRIU binds it again.
            return Ok(());
        }
        if stat.nlink() > 1 && kind.is_file() {
            let inode = (stat.dev(), stat.ino());
            if let Some(first) = self.links.get(&inode).cloned() {
                self.records(path, &stat)?;
                let mut header = header(EntryType::Link, Some(&stat));
                header.set_size(0);
                return self
                    .out
                    .append_link(&mut header, path, &first)
                    .on("save", whole.display());
            }
            self.links.insert(inode, path.to_owned());
        }
        let kind = match () {
            () if kind.is_symlink() => EntryType::Symlink,
            () if kind.is_char_device() => EntryType::Char,
            () if kind.is_block_device() => EntryType::Block,
            () if kind.is_fifo() => EntryType::Fifo,
            () => EntryType::Regular,
        };
        self.put(path, kind, Some(&stat))
    }

    fn put(&mut self, path: &Path, kind: EntryType, stat: Option<&Metadata>) -> Result<()> {
        let whole = self.overlay.merged.join(path);
        let mut header = header(kind, stat);
        if let Some(stat) = stat {
            self.records(path, stat)?;
        }
        let done = match (kind, stat) {
            (EntryType::Symlink, _) => {
                let text = std::fs::read_link(&whole).on("read link", whole.display())?;
                self.out.append_link(&mut header, path, text)
            }
            (EntryType::Regular, Some(stat)) => {
                header.set_size(stat.len());
                let mut file = File::open(&whole).on("open", whole.display())?;
                if stat.blocks() * 512 < stat.len() {
                    // Its holes stay holes: `truncate -s 1T` takes no space.
                    self.out.append_file(path, &mut file)
                } else {
                    // Exactly as many bytes as the header says.
                    let bytes = std::io::Read::take(file, stat.len());
                    self.out.append_data(&mut header, path, bytes)
                }
            }
            (EntryType::Char | EntryType::Block, Some(stat)) => {
                let _ = header.set_device_major(libc::major(stat.rdev()));
                let _ = header.set_device_minor(libc::minor(stat.rdev()));
                self.out.append_data(&mut header, path, std::io::empty())
            }
            _ => self.out.append_data(&mut header, path, std::io::empty()),
        };
        done.on("save", whole.display())
    }

    /// Writes the file's pax records in front of it, as GNU tar and others do.
    fn records(&mut self, path: &Path, stat: &Metadata) -> Result<()> {
        let whole = self.overlay.merged.join(path);
        let mut found = attributes::records(&whole, stat)?;
        let name = path.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(WHITEOUT.as_bytes()) {
            found.push((attributes::LITERAL.to_owned(), b"1".to_vec()));
        }
        self.out
            .append_pax_extensions(
                found
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_slice())),
            )
            .on("save", whole.display())
    }
}

fn header(kind: EntryType, stat: Option<&Metadata>) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(stat.map_or(0o600, |stat| stat.mode() & 0o7777));
    header.set_uid(stat.map_or(0, |stat| u64::from(stat.uid())));
    header.set_gid(stat.map_or(0, |stat| u64::from(stat.gid())));
    header.set_mtime(stat.map_or(0, |stat| stat.mtime().max(0).unsigned_abs()));
    header
}

/// Unpacks changes into an upper directory.
///
/// # Errors
/// The tar file is damaged or contains a path that leads outside, or the disk is full.
pub fn apply(from: &Path, upper: &Path) -> Result<()> {
    let file = File::open(from).on("open", from.display())?;
    let mut archive = Archive::new(BufReader::new(file));
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_unpack_xattrs(false);
    // Making a file in a directory changes the directory's times.
    let mut directories = Vec::new();
    let root = file::openat(
        libc::AT_FDCWD,
        &c_path(upper)?,
        libc::O_PATH | libc::O_DIRECTORY,
        0,
    )
    .map(Fd)
    .on("open", upper.display())?;
    for entry in archive.entries().on("read", from.display())? {
        let mut entry = entry.on("read", from.display())?;
        let path = entry.path().on("read", from.display())?.into_owned();
        if !path
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return Err(Error::new(format!(
                "{}: {} leads outside",
                from.display(),
                path.display()
            )));
        }
        let attributes = Attributes::of(&mut entry, &path).on("read", from.display())?;
        let name = path.file_name().unwrap_or_default();
        let mark = name
            .as_encoded_bytes()
            .strip_prefix(WHITEOUT.as_bytes())
            .filter(|_| !attributes.is_literal())
            .map(OsStr::from_bytes);
        let header = entry.header().clone();
        let device = libc::makedev(
            header.device_major().ok().flatten().unwrap_or(0),
            header.device_minor().ok().flatten().unwrap_or(0),
        );
        let mode = header.mode().unwrap_or(0o600) & 0o7777;
        match (header.entry_type(), mark) {
            // overlayfs's whiteout is a character device with the numbers 0 and 0.
            (_, Some(name)) => {
                node(&root, &path.with_file_name(name), libc::S_IFCHR, 0)?;
                continue;
            }
            (EntryType::Directory, None) if path.file_name().is_none() => {}
            (EntryType::Char, None) => node(&root, &path, libc::S_IFCHR | mode, device)?,
            (EntryType::Block, None) => node(&root, &path, libc::S_IFBLK | mode, device)?,
            (EntryType::Fifo, None) => node(&root, &path, libc::S_IFIFO | mode, 0)?,
            _ => drop(entry.unpack_in(upper).on("unpack", path.display())?),
        }
        match header.entry_type() {
            EntryType::Directory => directories.push(attributes),
            EntryType::Link => {}
            _ => attributes.set(&root)?,
        }
    }
    directories
        .iter()
        .rev()
        .try_for_each(|directory| directory.set(&root))
}

fn node(root: &Fd, path: &Path, mode: u32, device: u64) -> Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("/"));
    let directory = make_directory(root.0, &c_path(parent)?, false)
        .map(Fd)
        .on("open", parent.display())?;
    file::mknodat(
        directory.0,
        &c_path(path.file_name().unwrap_or_default())?,
        mode,
        device,
    )
    .on("make", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two directories are used as merged and lower directory: what is in both with the same times
    /// counts as unchanged.
    // Attack: files without end
    #[test]
    fn changes_are_saved_and_applied() {
        let top = std::env::temp_dir().join(format!("hull-changes-{}", std::process::id()));
        let (lower, merged, upper) = (top.join("lower"), top.join("merged"), top.join("upper"));
        for directory in [&lower, &merged, &upper] {
            std::fs::create_dir_all(directory.join("etc")).unwrap();
        }
        std::fs::write(lower.join("etc/old"), "old").unwrap();
        std::fs::hard_link(lower.join("etc/old"), lower.join("etc/same")).unwrap();
        std::fs::hard_link(lower.join("etc/old"), merged.join("etc/same")).unwrap();
        // The kernel's clock for file times is a coarse one.
        std::thread::sleep(std::time::Duration::from_millis(30));
        std::fs::write(merged.join("etc/new"), "new").unwrap();
        std::os::unix::fs::symlink("new", merged.join("etc/link")).unwrap();
        std::fs::create_dir(merged.join("mounted")).unwrap();
        let long = merged.join("etc/sparse");
        std::fs::write(&long, "begin").unwrap();
        let sparse = File::options().write(true).open(&long).unwrap();
        sparse.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"later", 1 << 30).unwrap();
        let overlay = Overlay {
            merged: &merged,
            lower: &lower,
            mounts: HashSet::from(["/mounted".to_owned()]),
        };
        save(&overlay, &top.join("layer.tar")).unwrap();
        let mut archive = Archive::new(File::open(top.join("layer.tar")).unwrap());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(
            names
                .iter()
                .map(|name| name.trim_end_matches('/'))
                .collect::<Vec<_>>(),
            [
                ".",
                "etc",
                "etc/.wh.old",
                "etc/link",
                "etc/new",
                "etc/sparse",
                "mounted"
            ]
        );
        assert!(std::fs::metadata(top.join("layer.tar")).unwrap().len() < 1 << 20);
        let mut archive = Archive::new(File::open(top.join("layer.tar")).unwrap());
        archive.unpack(&upper).unwrap();
        let copy = File::open(upper.join("etc/sparse")).unwrap();
        let stat = copy.metadata().unwrap();
        assert_eq!(stat.len(), 1 << 40);
        assert!(stat.blocks() < 1000, "{}", stat.blocks());
        let mut words = [0; 5];
        std::os::unix::fs::FileExt::read_exact_at(&copy, &mut words, 1 << 30).unwrap();
        assert_eq!(&words, b"later");
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn attributes_come_back_whole() {
        let top = std::env::temp_dir().join(format!("hull-attributes-{}", std::process::id()));
        let (lower, merged, upper) = (top.join("lower"), top.join("merged"), top.join("upper"));
        for directory in [&lower, &merged.join("d"), &upper] {
            std::fs::create_dir_all(directory).unwrap();
        }
        std::fs::write(merged.join("d/.wh.data"), "mine").unwrap();
        std::fs::write(merged.join("d/data"), "too").unwrap();
        let fifo = c_path(merged.join("d/fifo")).unwrap();
        file::mknodat(libc::AT_FDCWD, &fifo, libc::S_IFIFO | 0o600, 0).unwrap();
        let mode = |path: &Path, mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(path, mode).unwrap();
        };
        mode(&merged.join("d/fifo"), 0o622);
        mode(&merged.join("d"), 0o2775);
        mode(&merged, 0o751);
        // A group of 10 in an ACL is a newline in the attribute.
        let attribute = xattr::set(merged.join("d"), "user.hull", b"a\nb");
        if let Err(error) = &attribute {
            eprintln!("no extended attributes are tested: {error}");
        }
        let old = std::time::UNIX_EPOCH - std::time::Duration::from_nanos(1_500_000_007);
        for path in ["d/data", "d", ""] {
            let path = merged.join(path);
            File::open(path).unwrap().set_modified(old).unwrap();
        }
        let overlay = Overlay {
            merged: &merged,
            lower: &lower,
            mounts: HashSet::new(),
        };
        save(&overlay, &top.join("layer.tar")).unwrap();
        apply(&top.join("layer.tar"), &upper).unwrap();
        for path in ["", "d", "d/.wh.data", "d/data", "d/fifo"] {
            let (from, to) = (merged.join(path), upper.join(path));
            let (from, to) = (from.metadata().unwrap(), to.metadata().unwrap());
            assert_eq!(from.mode(), to.mode(), "{path}");
            assert_eq!(from.modified().unwrap(), to.modified().unwrap(), "{path}");
            assert_eq!((from.uid(), from.gid()), (to.uid(), to.gid()), "{path}");
        }
        if attribute.is_ok() {
            let value = xattr::get(upper.join("d"), "user.hull").unwrap();
            assert_eq!(value.as_deref(), Some(&b"a\nb"[..]));
        }
        assert_eq!(std::fs::read(upper.join("d/.wh.data")).unwrap(), b"mine");
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn what_leads_outside_is_refused() {
        let top = std::env::temp_dir().join(format!("hull-outside-{}", std::process::id()));
        std::fs::create_dir_all(top.join("upper")).unwrap();
        let mut out = Builder::new(File::create(top.join("bad.tar")).unwrap());
        let mut header = header(EntryType::Regular, None);
        header.as_gnu_mut().unwrap().name[..6].copy_from_slice(b"../bad");
        header.set_cksum();
        out.append(&header, std::io::empty()).unwrap();
        out.finish().unwrap();
        assert!(
            apply(&top.join("bad.tar"), &top.join("upper"))
                .unwrap_err()
                .to_string()
                .contains("leads outside")
        );
        std::fs::remove_dir_all(&top).unwrap();
    }
}
