//! The ELF image in a bzImage. An emulated guest takes a second or more to decompress its kernel;
//! hull decompresses it once on the host and caches it. QEMU boots an ELF image directly if it has
//! a PVH entry (Xen's `PHYS32_ENTRY` note; CONFIG_PVH).
//!
//! The boot header gives the position of the compressed payload: `setup_sects`, `payload_offset`
//! and `payload_length` (Documentation/arch/x86/boot.rst, protocol 2.08).

use crate::store::Store;
use crate::sys::replace::{Lasting, replace};
use crate::vm::boot::kernel::Kernel;
use crate::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The magic number of each compression format, and the program and arguments that decompress it.
const FORMATS: [(&[u8], &str, &[&str]); 4] = [
    (&[0xfd, b'7', b'z', b'X'], "xz", &["-dc", "--single-stream"]),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", &["-dc"]),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4", &["-dc"]),
    (&[0x1f, 0x8b], "gzip", &["-dc"]),
];
/// XEN_ELFNOTE_PHYS32_ENTRY (include/xen/interface/elfnote.h).
const PHYS32_ENTRY: u32 = 18;

/// The kernel with its ELF image, which is decompressed if the cache does not have it. The kernel
/// stays as it is if the image has another format, if the program that decompresses it is not
/// installed, or if the ELF image has no PVH entry.
///
/// # Errors
/// The kernel cannot be read; the cache cannot be written.
pub(crate) fn find_or_make(store: &Store, kernel: Kernel) -> Result<Kernel> {
    use std::os::unix::fs::MetadataExt;
    let directory = store.cache("vm")?;
    let meta = fs::metadata(&kernel.image).on("stat", kernel.image.display())?;
    let path = directory.join(format!(
        "vmlinux-{}-{:x}-{:x}",
        kernel.release,
        meta.size(),
        meta.mtime()
    ));
    if !path.is_file() {
        let bytes = fs::read(&kernel.image).on("read", kernel.image.display())?;
        let Some(elf) = decompress(&bytes, &directory)?.filter(|elf| has_entry(elf)) else {
            crate::log::debug(|| {
                format!(
                    "kernel {}: no ELF image with a PVH entry: QEMU boots the bzImage",
                    kernel.image.display()
                )
            });
            return Ok(kernel);
        };
        replace(&path, &elf, 0o666, Lasting::Process)?;
        // Remove those of earlier builds of this release.
        let prefix = format!("vmlinux-{}-", kernel.release);
        for entry in fs::read_dir(&directory)
            .on("read", directory.display())?
            .flatten()
        {
            let older = entry
                .file_name()
                .to_string_lossy()
                .strip_prefix(&prefix)
                .is_some_and(|rest| rest.split('-').count() == 2);
            if older && entry.path() != path {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    Ok(Kernel {
        image: path,
        ..kernel
    })
}

/// The ELF image in a bzImage, or `None` if its format is unknown or its program is not installed.
fn decompress(image: &[u8], directory: &Path) -> Result<Option<Vec<u8>>> {
    let Some(compressed) = payload(image) else {
        return Ok(None);
    };
    let Payload {
        program,
        args,
        bytes,
    } = compressed;
    // With a file as its input the program cannot block on a pipe that hull does not read.
    let input = directory.join(format!(".payload-{}", std::process::id()));
    fs::write(&input, bytes).on("write", input.display())?;
    let opened = fs::File::open(&input).on("open", input.display());
    let _ = fs::remove_file(&input);
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::from(opened?))
        .stderr(Stdio::null())
        .output();
    // The exit status is not checked: the decompressed length follows the stream, and the programs
    // fail on these trailing bytes after they have written everything.
    Ok(output
        .ok()
        .map(|output| output.stdout)
        .filter(|bytes| bytes.starts_with(b"\x7fELF")))
}

/// The compressed payload of a bzImage.
struct Payload<'a> {
    /// The program that decompresses it.
    program: &'static str,
    /// The program's arguments.
    args: &'static [&'static str],
    bytes: &'a [u8],
}

/// Finds the payload by the boot header.
fn payload(image: &[u8]) -> Option<Payload<'_>> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = ((sectors + 1) * 512).checked_add(word(image, 0x248)?)?;
    let bytes = image.get(start..start.checked_add(word(image, 0x24c)?)?)?;
    let (_, program, args) = FORMATS
        .iter()
        .find(|(magic, ..)| bytes.starts_with(magic))?;
    Some(Payload {
        program,
        args,
        bytes,
    })
}

/// The little-endian 32-bit number at this offset.
fn word(bytes: &[u8], at: usize) -> Option<usize> {
    bytes
        .get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(|bytes| u32::from_le_bytes(bytes) as usize)
}

/// Whether an ELF image has the note of a PVH entry.
fn has_entry(elf: &[u8]) -> bool {
    let half = |at: usize| {
        elf.get(at..at + 2)
            .and_then(|b| b.try_into().ok())
            .map_or(0, |b| usize::from(u16::from_le_bytes(b)))
    };
    // The low half of a 64-bit field is enough, since no kernel image exceeds 4 GiB.
    let field = |at: usize| word(elf, at).unwrap_or(0);
    let (table, size, count) = (field(32), half(54), half(56));
    (0..count)
        .map(|index| table + index * size)
        .filter(|header| field(*header) == libc::PT_NOTE as usize)
        .any(|header| {
            let (from, length) = (field(header + 8), field(header + 32));
            elf.get(from..from + length).is_some_and(notes_entry)
        })
}

/// Whether a note section has the PVH entry. A note has the length of its name, the length of its
/// content and its type, then name and content, each padded to four bytes (elf(5)).
fn notes_entry(mut notes: &[u8]) -> bool {
    while let (Some(name), Some(content), Some(kind)) =
        (word(notes, 0), word(notes, 4), word(notes, 8))
    {
        if kind == PHYS32_ENTRY as usize && notes.get(12..16) == Some(b"Xen\0") {
            return true;
        }
        let next = 12 + name.next_multiple_of(4) + content.next_multiple_of(4);
        match notes.get(next..) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = [name.len() as u32, content.len() as u32, kind]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        bytes.extend_from_slice(name);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn elf(notes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0_u8; 120];
        bytes[..5].copy_from_slice(b"\x7fELF\x02");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = libc::PT_NOTE as u8;
        bytes[64 + 8] = 120;
        bytes[64 + 32..64 + 36].copy_from_slice(&(notes.len() as u32).to_le_bytes());
        bytes.extend_from_slice(notes);
        bytes
    }

    #[test]
    fn the_entry_is_found_among_notes() {
        let linux = note(b"Linux\0", 0, b"x");
        assert!(has_entry(&elf(&[
            linux.clone(),
            note(b"Xen\0", 18, &[0; 8])
        ]
        .concat())));
        assert!(!has_entry(&elf(
            &[linux, note(b"Xen\0", 5, &[0; 8])].concat()
        )));
        assert!(!has_entry(&elf(&note(b"Linux\0", 18, &[0; 8]))) && !has_entry(b"\x7fELF"));
    }

    #[test]
    fn a_compressed_image_is_decompressed() {
        let directory = std::env::temp_dir().join(format!("hull-vmlinux-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let content = elf(&note(b"Xen\0", 18, &[0; 8]));
        fs::write(directory.join("elf"), &content).unwrap();
        let packed = Command::new("gzip")
            .args(["-c", "elf"])
            .current_dir(&directory)
            .output()
            .unwrap()
            .stdout;
        let mut image = vec![0_u8; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c..0x250].copy_from_slice(&(packed.len() as u32 + 4).to_le_bytes());
        image.extend_from_slice(&packed);
        image.extend_from_slice(&(content.len() as u32).to_le_bytes());
        assert_eq!(decompress(&image, &directory).unwrap(), Some(content));
        image[1024] = 0;
        assert_eq!(
            decompress(&image, &directory).unwrap(),
            None,
            "unknown magic number"
        );
        fs::remove_dir_all(directory).unwrap();
    }
}
