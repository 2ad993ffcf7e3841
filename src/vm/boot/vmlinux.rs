//! The kernel proper out of a bzImage: an emulated machine takes a second or more to unpack its own
//! kernel, and the host hardly any time, once. QEMU starts an ELF image directly where it has the
//! PVH entry (Xen's `PHYS32_ENTRY` note; CONFIG_PVH). Cached per kernel.
//!
//! Where the packed payload lies is in the boot header: `setup_sects`, `payload_offset` and
//! `payload_length` (Documentation/arch/x86/boot.rst, protocol 2.08).

use crate::store::Store;
use crate::sys::replace::{Lasting, replace};
use crate::vm::boot::kernel::Kernel;
use crate::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Magic numbers, and who unpacks.
const PACKERS: [(&[u8], &str, &[&str]); 4] = [
    (&[0xfd, b'7', b'z', b'X'], "xz", &["-dc", "--single-stream"]),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", &["-dc"]),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4", &["-dc"]),
    (&[0x1f, 0x8b], "gzip", &["-dc"]),
];
/// XEN_ELFNOTE_PHYS32_ENTRY (include/xen/interface/elfnote.h).
const PHYS32_ENTRY: u32 = 18;

/// The kernel with its unpacked image, out of the cache or made now; as it was where there is no
/// such image: packed in another way, by a program that is not installed, or without the entry.
///
/// # Errors
/// The kernel cannot be read; the cache cannot be written.
pub fn find_or_make(store: &Store, kernel: Kernel) -> Result<Kernel> {
    use std::os::unix::fs::MetadataExt;
    let directory = store.cache("vm")?;
    let meta = fs::metadata(&kernel.image).on("look at", kernel.image.display())?;
    let path = directory.join(format!(
        "vmlinux-{}-{:x}-{:x}",
        kernel.release,
        meta.size(),
        meta.mtime()
    ));
    if !path.is_file() {
        let bytes = fs::read(&kernel.image).on("read", kernel.image.display())?;
        let Some(elf) = unpack(&bytes, &directory)?.filter(|elf| has_entry(elf)) else {
            crate::log::debug(|| {
                format!(
                    "kernel {}: no image in it that starts directly",
                    kernel.image.display()
                )
            });
            return Ok(kernel);
        };
        replace(&path, &elf, 0o666, Lasting::Process)?;
        // Those of this release's earlier builds are of no use.
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

/// The ELF image in a bzImage; none where it is packed in a way, or by a program, that is not known
/// here.
fn unpack(image: &[u8], directory: &Path) -> Result<Option<Vec<u8>>> {
    let Some((program, args, payload)) = packed(image) else {
        return Ok(None);
    };
    // By a file: one process cannot both write to the unpacker and read from it.
    let input = directory.join(format!(".payload-{}", std::process::id()));
    fs::write(&input, payload).on("write", input.display())?;
    let opened = fs::File::open(&input).on("open", input.display());
    let _ = fs::remove_file(&input);
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::from(opened?))
        .stderr(Stdio::null())
        .output();
    // What follows the stream is the unpacked length: the unpackers complain of it after all is
    // written.
    Ok(output
        .ok()
        .map(|output| output.stdout)
        .filter(|bytes| bytes.starts_with(b"\x7fELF")))
}

/// Who unpacks it, and what.
fn packed(image: &[u8]) -> Option<(&'static str, &'static [&'static str], &[u8])> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = ((sectors + 1) * 512).checked_add(word(image, 0x248)?)?;
    let payload = image.get(start..start.checked_add(word(image, 0x24c)?)?)?;
    let (_, program, args) = PACKERS
        .iter()
        .find(|(magic, ..)| payload.starts_with(magic))?;
    Some((program, args, payload))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    bytes
        .get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(|bytes| u32::from_le_bytes(bytes) as usize)
}

/// Whether an ELF image has the note of an entry for PVH.
fn has_entry(elf: &[u8]) -> bool {
    let half = |at: usize| {
        elf.get(at..at + 2)
            .and_then(|b| b.try_into().ok())
            .map_or(0, |b| usize::from(u16::from_le_bytes(b)))
    };
    // The low half of a 64-bit field: no kernel file is larger.
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

/// Goes through notes: name's length, content's length, kind, and both padded to four bytes
/// (elf(5)).
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
    fn a_packed_image_is_unpacked() {
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
        assert_eq!(unpack(&image, &directory).unwrap(), Some(content));
        image[1024] = 0;
        assert_eq!(
            unpack(&image, &directory).unwrap(),
            None,
            "not a packer's mark"
        );
        fs::remove_dir_all(directory).unwrap();
    }
}
