//! What tmpfs mounts hold: saved and brought back by one short program, hull itself.
//!
//! For each of them criu runs `tar`, which runs `sh` and `gzip` at a dump and `gzip` at a restore:
//! with the usual four mounts that is twenty programs while the container stands still. criu finds
//! `tar` by PATH, so hull puts a directory in front of it in which `tar` is hull. It writes what tar
//! writes, in gzip's frame (RFC 1952) and stored there as it is (RFC 1951, 3.2.4). What is not
//! simple (large, sparse, with several names, compressed by another's tar) is the true tar's, and
//! so is all of a container in a user namespace, whose root cannot enter the directory.

use crate::sys::fd::{Fd, c_path};
use crate::sys::{file, search};
use crate::{Context, Result};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{DirBuilder, File, Metadata};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};

/// The directory that stands in front of PATH.
const MARK: &str = "HULL_TAR";
/// Beyond so many bytes tar and gzip save more than they cost.
const LIMIT: u64 = 1 << 20;
/// How criu's tar saves, but for the directory (criu 3.0 to 4.2, `tmpfs_dump`).
const SAVE: [&str; 9] = [
    "--create",
    "--gzip",
    "--no-unquote",
    "--no-wildcards",
    "--one-file-system",
    "--check-links",
    "--preserve-permissions",
    "--sparse",
    "--numeric-owner",
];
/// How it brings back.
const BRING: [&str; 4] = ["--extract", "--gzip", "--no-unquote", "--no-wildcards"];

/// The directory in front of criu's PATH; gone with it.
pub struct StandIn(PathBuf);

impl StandIn {
    /// Its place, in the container's directory; it is to be made while criu loads.
    ///
    /// # Errors
    /// There is no current directory, and the container's is relative to that.
    pub fn of(container: &Path) -> Result<Self> {
        std::path::absolute(container.join("criu-path"))
            .map(Self)
            .on("find", container.display())
    }

    /// Makes it.
    ///
    /// # Errors
    /// The disk's.
    pub fn make(&self) -> Result<()> {
        let Self(directory) = self;
        // One that a killed hull left names another process.
        let _ = std::fs::remove_dir_all(directory);
        DirBuilder::new()
            .mode(0o700)
            .create(directory)
            .on("make", directory.display())?;
        symlink(
            format!("/proc/{}/exe", std::process::id()),
            directory.join("tar"),
        )
        .on("make a link in", directory.display())
    }

    /// An environment in which it is found; without a PATH nothing is.
    pub fn environment(
        &self,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        let mut all: Vec<_> = environment.collect();
        if let Some((_, path)) = all.iter_mut().find(|(name, _)| name == "PATH") {
            *path = [self.0.as_os_str(), path].join(OsStr::new(":"));
            all.push((MARK.into(), self.0.clone().into()));
        }
        all
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether this process is criu's `tar`.
pub fn is_stand_in() -> bool {
    std::env::args_os().next().is_some_and(|name| name == "tar") && std::env::var_os(MARK).is_some()
}

/// Does tar's work, or becomes the true one. Answers the exit status.
pub fn stand_in() -> u8 {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let known = |options: &[&str], rest: usize| {
        args.len() == options.len() + rest
            && options.iter().zip(&args).all(|(option, arg)| arg == option)
    };
    let done = if known(&SAVE, 3) && args[9] == "--directory" && args[11] == "." {
        save_to_stdout(Path::new(&args[10]))
    } else if known(&BRING, 2) && args[4] == "--directory" {
        bring_from_stdin(Path::new(&args[5]))
    } else {
        Ok(false)
    };
    match done {
        Ok(true) => 0,
        Ok(false) => true_tar(&args),
        Err(error) => {
            // In criu's log, as a line of criu's own: the first of its kind is what hull's error
            // says.
            eprintln!("Error (tar): tmpfs: {error}");
            1
        }
    }
}

fn true_tar(args: &[OsString]) -> u8 {
    let ours = std::env::var_os(MARK).unwrap_or_default();
    let others = search::path()
        .into_iter()
        .filter(|directory| directory.as_os_str() != ours);
    let Some(tar) = search::find("tar", others) else {
        eprintln!(
            "Error (tar): the program tar is not installed: criu needs it for a container's tmpfs"
        );
        return 127;
    };
    let error = std::process::Command::new(&tar).args(args).exec();
    eprintln!("Error (tar): {}: {error}", tar.display());
    126
}

fn save_to_stdout(directory: &Path) -> Result<bool> {
    let Some(archive) = save(directory)? else {
        return Ok(false);
    };
    let mut out = std::io::stdout().lock();
    out.write_all(&stored(&archive))
        .and_then(|()| out.flush())
        .on("write", "the image")?;
    Ok(true)
}

fn bring_from_stdin(directory: &Path) -> Result<bool> {
    let mut image = File::from(
        nix::unistd::dup(std::io::stdin())
            .map_err(std::io::Error::from)
            .on("open", "the image")?,
    );
    let begin = image.stream_position().on("seek in", "the image")?;
    let mut bytes = Vec::new();
    // As much again for the headers.
    Read::by_ref(&mut image)
        .take(2 * LIMIT)
        .read_to_end(&mut bytes)
        .on("read", "the image")?;
    if let Some(archive) = unstored(&bytes).filter(|archive| is_simple(archive)) {
        bring(&archive, directory)?;
        return Ok(true);
    }
    image
        .seek(SeekFrom::Start(begin))
        .on("seek in", "the image")?;
    Ok(false)
}

/// The archive of a directory; none where it is not simple.
fn save(directory: &Path) -> Result<Option<Vec<u8>>> {
    let top = std::fs::metadata(directory).on("stat", directory.display())?;
    let mut walk = Walk {
        directory,
        device: top.dev(),
        bytes: 0,
        out: Builder::new(Vec::new()),
    };
    let mut first = header(EntryType::Directory, &top);
    // tar's own name for it, which the crate would cut to nothing.
    first.as_old_mut().name[..2].copy_from_slice(b"./");
    first.set_cksum();
    walk.out
        .append(&first, std::io::empty())
        .on("save", directory.display())?;
    if !walk.below(Path::new(""))? {
        return Ok(None);
    }
    walk.out
        .into_inner()
        .map(Some)
        .on("save", directory.display())
}

struct Walk<'a> {
    directory: &'a Path,
    device: u64,
    bytes: u64,
    out: Builder<Vec<u8>>,
}

impl Walk<'_> {
    fn below(&mut self, path: &Path) -> Result<bool> {
        let whole = self.directory.join(path);
        for entry in std::fs::read_dir(&whole).on("read", whole.display())? {
            let name = entry.on("read", whole.display())?.file_name();
            if !self.entry(&path.join(name))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entry(&mut self, path: &Path) -> Result<bool> {
        let whole = self.directory.join(path);
        let stat = whole.symlink_metadata().on("stat", whole.display())?;
        let kind = stat.file_type();
        let kind = match () {
            () if kind.is_dir() => EntryType::Directory,
            () if kind.is_symlink() => EntryType::Symlink,
            () if kind.is_char_device() => EntryType::Char,
            () if kind.is_block_device() => EntryType::Block,
            () if kind.is_fifo() => EntryType::Fifo,
            // criu binds it again, and tar passes it over.
            () if kind.is_socket() => return Ok(true),
            () => EntryType::Regular,
        };
        self.bytes += stat.len();
        let sparse = kind == EntryType::Regular && stat.blocks() * 512 < stat.len();
        if stat.dev() != self.device
            || sparse
            || self.bytes > LIMIT
            || (kind != EntryType::Directory && stat.nlink() > 1)
        {
            return Ok(false);
        }
        let mut header = header(kind, &stat);
        let done = match kind {
            EntryType::Symlink => std::fs::read_link(&whole)
                .and_then(|to| self.out.append_link(&mut header, path, to)),
            EntryType::Regular => {
                header.set_size(stat.len());
                // Exactly as many bytes as the header says.
                File::open(&whole).and_then(|file| {
                    self.out
                        .append_data(&mut header, path, file.take(stat.len()))
                })
            }
            _ => self.out.append_data(&mut header, path, std::io::empty()),
        };
        done.on("save", whole.display())?;
        if kind == EntryType::Directory {
            self.below(path)
        } else {
            Ok(true)
        }
    }
}

fn header(kind: EntryType, stat: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(stat.mode() & 0o7777);
    header.set_uid(u64::from(stat.uid()));
    header.set_gid(u64::from(stat.gid()));
    header.set_mtime(stat.mtime().max(0).unsigned_abs());
    if matches!(kind, EntryType::Char | EntryType::Block) {
        // Both fit in eight octal digits.
        let _ = header
            .set_device_major(libc::major(stat.rdev()))
            .and_then(|()| header.set_device_minor(libc::minor(stat.rdev())));
    }
    header
}

/// gzip's frame around stored blocks.
fn stored(bytes: &[u8]) -> Vec<u8> {
    // No flags, no time, Unix.
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let mut blocks = bytes.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    out.extend(crc32fast::hash(bytes).to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out
}

/// What [`stored`] had; none of anything else.
fn unstored(image: &[u8]) -> Option<Vec<u8>> {
    let mut rest = image.strip_prefix(&[0x1f, 0x8b, 8, 0])?.get(6..)?;
    let (mut out, mut last) = (Vec::with_capacity(image.len()), false);
    while !last {
        let (head, tail) = rest.split_first_chunk::<5>()?;
        let length = u16::from_le_bytes([head[1], head[2]]);
        if head[0] > 1 || !length != u16::from_le_bytes([head[3], head[4]]) {
            return None;
        }
        let (block, tail) = tail.split_at_checked(usize::from(length))?;
        out.extend(block);
        (last, rest) = (head[0] == 1, tail);
    }
    let sums = [
        crc32fast::hash(&out).to_le_bytes(),
        (out.len() as u32).to_le_bytes(),
    ]
    .concat();
    (rest == sums).then_some(out)
}

/// Whether all of it is of the kinds that [`save`] writes.
fn is_simple(archive: &[u8]) -> bool {
    use EntryType::{Block, Char, Directory, Fifo, Regular, Symlink};
    let simple = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        entry.is_ok_and(|entry| {
            let inside = entry.path().is_ok_and(|path| {
                path.components()
                    .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
            });
            inside
                && matches!(
                    entry.header().entry_type(),
                    Block | Char | Directory | Fifo | Regular | Symlink
                )
        })
    };
    let mut archive = Archive::new(archive);
    archive
        .entries()
        .is_ok_and(|mut entries| entries.all(simple))
}

fn bring(archive: &[u8], directory: &Path) -> Result<()> {
    let open = |path: &Path| {
        file::openat(
            libc::AT_FDCWD,
            &c_path(path)?,
            libc::O_PATH | libc::O_DIRECTORY,
            0,
        )
        .map(Fd)
        .on("open", path.display())
    };
    let root = open(directory)?;
    let mut directories = Vec::new();
    for entry in Archive::new(archive).entries().on("read", "the image")? {
        let mut entry = entry.on("read", "the image")?;
        let path = entry.path().on("read", "the image")?.into_owned();
        let header = entry.header().clone();
        // Normal parts alone: nothing leads outside, and symbolic links are not followed.
        let path: PathBuf = path
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name());
        let Some(name) = name else {
            directories.push((path, header));
            continue;
        };
        let parent = below(&root, parent)?;
        put(&parent, &c_path(name)?, &mut entry).on("bring back", path.display())?;
        match header.entry_type() {
            EntryType::Directory => directories.push((path, header)),
            _ => attributes(&parent, Path::new(name), &header).on("bring back", path.display())?,
        }
    }
    // Last, and from below, as what is put into a directory changes its times.
    for (path, header) in directories.iter().rev() {
        let name = path.file_name().map_or(Path::new("."), Path::new);
        attributes(
            &below(&root, path.parent().unwrap_or(Path::new("")))?,
            name,
            header,
        )
        .on("bring back", path.display())?;
    }
    Ok(())
}

fn below(root: &Fd, path: &Path) -> Result<Fd> {
    let name = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
    file::openat2(
        root.0,
        &c_path(name)?,
        libc::O_PATH | libc::O_DIRECTORY,
        0,
        resolve,
    )
    .map(Fd)
    .on("open", path.display())
}

fn put(parent: &Fd, name: &CString, entry: &mut tar::Entry<'_, &[u8]>) -> std::io::Result<()> {
    let header = entry.header();
    // What is no device has nothing in these fields.
    let number = |field: std::io::Result<Option<u32>>| field.ok().flatten().unwrap_or(0);
    let device = libc::makedev(number(header.device_major()), number(header.device_minor()));
    let done = match header.entry_type() {
        EntryType::Directory => file::mkdirat(parent.0, name, 0o700),
        EntryType::Symlink => {
            let to = entry.link_name_bytes().unwrap_or_default().into_owned();
            file::symlinkat(&CString::new(to)?, parent.0, name)
        }
        EntryType::Char => file::mknodat(parent.0, name, libc::S_IFCHR | 0o600, device),
        EntryType::Block => file::mknodat(parent.0, name, libc::S_IFBLK | 0o600, device),
        EntryType::Fifo => file::mknodat(parent.0, name, libc::S_IFIFO | 0o600, 0),
        _ => {
            let new = file::openat(
                parent.0,
                name,
                libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW,
                0o600,
            )?;
            return std::io::copy(entry, &mut File::from(crate::sys::socket::owned(new))).map(drop);
        }
    };
    done.map_err(std::io::Error::from)
}

/// Owner first: with it the kernel takes the set-user-ID bit away.
fn attributes(parent: &Fd, name: &Path, header: &Header) -> std::io::Result<()> {
    let c_name = CString::new(name.as_os_str().as_bytes())?;
    file::fchownat(
        parent.0,
        &c_name,
        header.uid()? as u32,
        header.gid()? as u32,
    )?;
    if header.entry_type() != EntryType::Symlink {
        file::fchmodat(parent.0, &c_name, header.mode()? & 0o7777)?;
    }
    let time = TimeSpec::new(i64::try_from(header.mtime()?).unwrap_or(0), 0);
    Ok(utimensat(
        crate::sys::socket::borrow(parent.0),
        name,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )?)
}
