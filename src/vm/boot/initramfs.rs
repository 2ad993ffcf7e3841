//! The guest's first file system: hull's own binary as `/init` and just the modules needed, in the
//! kernel's `newc` form (Documentation/driver-api/early-userspace/buffer-format.rst). Made once for
//! each kernel and each hull, and cached.

use crate::store::Store;
use crate::sys::replace::{Lasting, replace};
use crate::vm::boot::kernel::Kernel;
use crate::{Context, Error, Result};
use std::fs;
use std::path::PathBuf;

/// Loaded before the channel is there. The share is loaded with them: there is hardly a machine
/// without.
const BOOT: [&str; 3] = ["virtio_pci", "virtio_console", "virtiofs"];
/// Packed where the kernel has them, and loaded when something needs them.
const LATER: [&str; 13] = [
    "overlay",
    "virtio_net",
    "virtio_balloon",
    "virtio_rng",
    "virtio_blk",
    "erofs",
    "ext4",
    "squashfs",
    "xfs",
    "crc32c_generic",
    "binfmt_misc",
    "af_packet",
    "virtio_mem",
];

/// A file system in the making.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let (major, minor) = device;
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            major,
            minor,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

/// The initramfs for a kernel, out of the cache or made now.
///
/// # Errors
/// A module is missing or cannot be read; the cache cannot be written.
pub fn find_or_make(store: &Store, kernel: &Kernel) -> Result<PathBuf> {
    let directory = store.cache("vm")?;
    let own = own_identity()?;
    let path = directory.join(format!("initramfs-{}-{own:016x}", kernel.release));
    let stamp = fs::metadata(kernel.modules.join("modules.dep"))
        .and_then(|meta| meta.modified())
        .on("look at", kernel.modules.display())?;
    if fs::metadata(&path)
        .and_then(|meta| meta.modified())
        .is_ok_and(|made| made >= stamp)
    {
        return Ok(path);
    }
    let bytes = make(kernel)?;
    replace(&path, &bytes, 0o666, Lasting::Process)?;
    // Those that an older hull made for this kernel are of no use.
    let prefix = format!("initramfs-{}-", kernel.release);
    for entry in fs::read_dir(&directory)
        .on("read", directory.display())?
        .flatten()
    {
        if entry
            .file_name()
            .to_string_lossy()
            .strip_prefix(&prefix)
            .is_some_and(|rest| rest.len() == 16 && entry.path() != path)
        {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(path)
}

/// Which hull this is: the size of its file and what it was built of.
fn own_identity() -> Result<u64> {
    use std::hash::{Hash, Hasher};
    use std::os::unix::fs::{FileExt, MetadataExt};
    let file = fs::File::open("/proc/self/exe").on("open", "/proc/self/exe")?;
    let meta = file.metadata().on("look at", "/proc/self/exe")?;
    // The sealed copy has no times of its own: pieces of the content tell one build from another.
    let mut hasher = std::hash::DefaultHasher::new();
    (meta.size(), env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    let mut piece = vec![0_u8; 4096];
    for part in 0..256 {
        let count = file
            .read_at(&mut piece, meta.size() / 256 * part)
            .on("read", "/proc/self/exe")?;
        piece[..count].hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn make(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "root", "modules"] {
        archive.entry(directory, libc::S_IFDIR | 0o755, (0, 0), &[]);
    }
    // The kernel opens it for the first process before anything is mounted.
    archive.entry("dev/console", libc::S_IFCHR | 0o600, (5, 1), &[]);
    let own = fs::read("/proc/self/exe").on("read", "/proc/self/exe")?;
    archive.entry(
        "init",
        libc::S_IFREG | 0o755,
        (0, 0),
        loaded_part(&own)?.as_slice(),
    );
    let mut list = String::new();
    let mut packed = std::collections::BTreeSet::new();
    for module in kernel.modules(&BOOT, &LATER)? {
        let mut names = Vec::new();
        for file in &module.files {
            let name = file
                .rsplit('/')
                .next()
                .unwrap_or(file)
                .split(".ko")
                .next()
                .unwrap_or(file)
                .to_owned()
                + ".ko";
            if packed.insert(name.clone()) {
                archive.entry(
                    &format!("modules/{name}"),
                    libc::S_IFREG | 0o644,
                    (0, 0),
                    &kernel.read_module(file)?,
                );
            }
            names.push(name);
        }
        let mark = if BOOT.contains(&module.name.as_str()) {
            "!"
        } else {
            ""
        };
        list.push_str(&format!("{mark}{}: {}\n", module.name, names.join(" ")));
    }
    archive.entry(
        crate::vm::channel::message::MODULE_LIST.trim_start_matches('/'),
        libc::S_IFREG | 0o644,
        (0, 0),
        list.as_bytes(),
    );
    Ok(archive.finish())
}

/// What of an ELF file the kernel loads: a build with its symbols is several times as large, and
/// the guest would keep them in memory.
fn loaded_part(elf: &[u8]) -> Result<Vec<u8>> {
    let bad = || Error::new("/proc/self/exe is no ELF file that hull knows");
    let half = |at: usize| {
        elf.get(at..at + 2)
            .and_then(|b| b.try_into().ok())
            .map(u16::from_le_bytes)
    };
    let long = |at: usize| {
        elf.get(at..at + 8)
            .and_then(|b| b.try_into().ok())
            .map(u64::from_le_bytes)
    };
    if elf.get(..5) != Some(b"\x7fELF\x02") {
        return Err(bad());
    }
    let (table, size, count) = (
        long(32).ok_or_else(bad)? as usize,
        half(54).ok_or_else(bad)? as usize,
        half(56).ok_or_else(bad)? as usize,
    );
    let mut end = table + size * count;
    for index in 0..count {
        let header = table + index * size;
        let (offset, length) = (
            long(header + 8).ok_or_else(bad)? as usize,
            long(header + 32).ok_or_else(bad)? as usize,
        );
        end = end.max(offset + length);
    }
    let mut part = elf.get(..end).ok_or_else(bad)?.to_vec();
    // No section headers: they lie beyond.
    part[40..48].fill(0);
    part[58..64].fill(0);
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_cpio_reads() {
        let mut archive = Archive::default();
        archive.entry("dir", libc::S_IFDIR | 0o755, (0, 0), &[]);
        archive.entry("dir/file", libc::S_IFREG | 0o644, (0, 0), b"content");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..6], b"070701");
        let text = String::from_utf8_lossy(&bytes);
        let file = text.find("dir/file").unwrap();
        // The name stands 110 bytes after its entry's start, its length in the header's last but
        // one field.
        assert_eq!(&text[file - 16..file - 8], "00000009");
        assert_eq!(&text[file - 110 + 54..file - 110 + 62], "00000007");
        assert!(
            text[file..].starts_with("dir/file\0\0content\0"),
            "{:?}",
            &text[file..file + 24]
        );
        assert!(text.contains("TRAILER!!!"));
    }

    #[test]
    fn the_loaded_part_of_a_program_still_runs() {
        let own = fs::read("/proc/self/exe").unwrap();
        let part = loaded_part(&own).unwrap();
        assert!(part.len() < own.len());
        let path = std::env::temp_dir().join(format!("hull-part-{}", std::process::id()));
        fs::write(&path, part).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let output = std::process::Command::new(&path).arg("--list").output();
        fs::remove_file(&path).unwrap();
        assert!(
            String::from_utf8_lossy(&output.unwrap().stdout)
                .contains("the_loaded_part_of_a_program_still_runs")
        );
    }
}
