//! Bundles for another architecture: which one, by the ELF header of the program, and the
//! interpreter (QEMU's user-mode emulation) that executes it.
//!
//! The namespace backend registers the interpreter in a binfmt_misc of the container's own user
//! namespace (Linux 6.7, commit 21ca59b365c0), the VM backend in the guest's kernel. The host's own
//! registrations are left as they are, and used where they fit.

#![forbid(unsafe_code)]

use crate::spec::{Spec, default};
use crate::sys::fd::{Fd, c_string};
use crate::sys::file;
use crate::sys::resolve::lookup;
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The annotation with an image's architecture, which tools that unpack images write into the
/// config (image-spec, conversion.md).
pub const ANNOTATION: &str = "org.opencontainers.image.architecture";
/// Where the host's binfmt_misc is mounted.
pub const REGISTRY: &str = "/proc/sys/fs/binfmt_misc";

/// An architecture, and how an ELF header names it (elf.h: `EI_CLASS`, `EI_DATA`, `e_machine`).
struct Architecture {
    /// The name of uname(1) and QEMU.
    name: &'static str,
    /// The name of images.
    image: &'static str,
    class: u8,
    data: u8,
    machine: u16,
}

/// `ELFDATA2LSB` of elf.h.
const LITTLE: u8 = 1;
/// `ELFDATA2MSB` of elf.h.
const BIG: u8 = 2;

const ARCHITECTURES: [Architecture; 7] = [
    Architecture {
        name: "x86_64",
        image: "amd64",
        class: 2,
        data: LITTLE,
        machine: 62,
    },
    Architecture {
        name: "aarch64",
        image: "arm64",
        class: 2,
        data: LITTLE,
        machine: 183,
    },
    Architecture {
        name: "arm",
        image: "arm",
        class: 1,
        data: LITTLE,
        machine: 40,
    },
    Architecture {
        name: "riscv64",
        image: "riscv64",
        class: 2,
        data: LITTLE,
        machine: 243,
    },
    Architecture {
        name: "ppc64le",
        image: "ppc64le",
        class: 2,
        data: LITTLE,
        machine: 21,
    },
    Architecture {
        name: "s390x",
        image: "s390x",
        class: 2,
        data: BIG,
        machine: 22,
    },
    Architecture {
        name: "loongarch64",
        image: "loong64",
        class: 2,
        data: LITTLE,
        machine: 258,
    },
];

/// The length of the part of an ELF header that tells the architecture, up to `e_machine`.
const HEADER: usize = 20;

impl Architecture {
    fn native() -> &'static str {
        std::env::consts::ARCH
    }

    fn of_header(header: &[u8]) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|known| {
            let (magic, mask) = known.marks();
            header.len() >= HEADER
                && header
                    .iter()
                    .zip(magic.iter().zip(mask))
                    .all(|(byte, (magic, mask))| byte & mask == *magic)
        })
    }

    /// The bytes of a header, and the mask of the bits that count: programs and shared objects
    /// (`ET_EXEC`, `ET_DYN`), whatever `EI_OSABI` they have.
    fn marks(&self) -> ([u8; HEADER], [u8; HEADER]) {
        let word = |value: u16| {
            if self.data == BIG {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let (mut magic, mut mask) = ([0; HEADER], [0xff; HEADER]);
        magic[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', self.class, self.data, 1]);
        mask[7] = 0;
        magic[16..18].copy_from_slice(&word(2));
        mask[16..18].copy_from_slice(&word(0xfffe));
        magic[18..20].copy_from_slice(&word(self.machine));
        (magic, mask)
    }
}

/// A bundle's program that the host's CPU cannot execute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// The program's architecture, by uname(1)'s name.
    pub architecture: String,
    /// The program's path in the container, or `the program` where the root file system does not
    /// have it.
    pub program: String,
    /// The host's file of the interpreter; empty where the host's binfmt_misc has one and hull
    /// none.
    pub interpreter: PathBuf,
    /// An entry of the host's own binfmt_misc executes it already.
    pub by_host: bool,
    /// The kernel can give a user namespace a binfmt_misc of its own.
    pub own_registry: bool,
}

impl Foreign {
    /// The line for binfmt_misc's `register` (Documentation/admin-guide/binfmt-misc.rst). The
    /// kernel opens the interpreter at once, in the writer's mount namespace (F); the interpreter
    /// gets the program by descriptor (O) and argv[0] unchanged (P), and set-user-id programs have
    /// their effect (C).
    pub fn registration(&self, interpreter: &str) -> String {
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("\\x{byte:02x}"))
                .collect::<String>()
        };
        let known = ARCHITECTURES
            .iter()
            .find(|known| known.name == self.architecture);
        let (magic, mask) = known.map_or(([0; HEADER], [0xff; HEADER]), Architecture::marks);
        format!(
            ":hull-{}:M:0:{}:{}:{interpreter}:POCF",
            self.architecture,
            hex(&magic),
            hex(&mask)
        )
    }
}

/// The architecture that a bundle's annotation names, where it is not the host's. No file is read.
pub fn annotated(spec: &Spec) -> Option<&'static str> {
    let named = spec.config().annotations.get(ANNOTATION)?;
    ARCHITECTURES
        .iter()
        .find(|known| known.image == named || known.name == named)
        .map(|known| known.name)
        .filter(|name| *name != Architecture::native())
}

/// The bundle's program, where it is not for the host's architecture: by its ELF header, or, where
/// the root file system does not have the program, by the annotation. None for the host's own
/// architecture, and for a file of a kind that hull does not know.
///
/// # Errors
/// No interpreter for the architecture is installed.
pub fn of_bundle(spec: &Spec) -> Result<Option<Foreign>> {
    let found = program(spec);
    let (name, program) = match &found {
        Some((header, path)) => match Architecture::of_header(header) {
            Some(known) => (known.name, path.clone()),
            None => return Ok(None),
        },
        None => match annotated(spec) {
            Some(name) => (name, "the program".to_owned()),
            None => return Ok(None),
        },
    };
    if name == Architecture::native() {
        return Ok(None);
    }
    let by_host = found
        .as_ref()
        .is_some_and(|(header, _)| registered(Path::new(REGISTRY), header));
    let interpreter = match interpreter(name) {
        Some(path) => path,
        None if by_host => PathBuf::new(),
        None => {
            let native = Architecture::native();
            return Err(Error::new(format!(
                "{program} is for {name} and the host is {native}: there is no \
                    /usr/bin/qemu-{name}-static (Debian's qemu-user-static)"
            )));
        }
    };
    Ok(Some(Foreign {
        architecture: name.to_owned(),
        program,
        interpreter,
        by_host,
        own_registry: own_registry(),
    }))
}

/// The path of a statically linked interpreter: in the container it would find no libraries.
fn interpreter(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|directory| PathBuf::from(format!("{directory}/qemu-{name}-static")))
        .find(|path| path.is_file())
}

/// Whether the kernel lets a user namespace have a binfmt_misc of its own: since Linux 6.7.
fn own_registry() -> bool {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 7)
}

/// Whether an enabled entry of a binfmt_misc matches a header and has flag F: without it the kernel
/// would look for the interpreter in the container.
fn registered(registry: &Path, header: &[u8]) -> bool {
    let entries = std::fs::read_dir(registry).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .any(|text| {
            let field = |name: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::trim)
            };
            let bytes = |name: &str| {
                field(name).and_then(|text| {
                    (0..text.len())
                        .step_by(2)
                        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
                        .collect::<Option<Vec<u8>>>()
                })
            };
            let Some(magic) = bytes("magic ") else {
                return false;
            };
            let mask = bytes("mask ").unwrap_or_else(|| vec![0xff; magic.len()]);
            let fixed = field("flags:").is_some_and(|flags| flags.contains('F'));
            let fits = header.len() >= magic.len()
                && header
                    .iter()
                    .zip(magic.iter().zip(&mask))
                    .all(|(byte, (magic, mask))| byte & mask == magic & mask);
            text.starts_with("enabled") && fixed && field("offset ") == Some("0") && fits
        })
}

/// The first bytes of the program that execve(2) reads in the end, and its path: a script is
/// followed to its interpreter.
fn program(spec: &Spec) -> Option<(Vec<u8>, String)> {
    let process = spec.config().process.as_ref()?;
    let root = std::fs::File::open(spec.rootfs()).ok()?;
    let root = std::os::fd::AsRawFd::as_raw_fd(&root);
    let name = process.args.first()?;
    let mut candidates = Vec::new();
    if name.contains('/') {
        candidates.push(if name.starts_with('/') {
            name.clone()
        } else {
            format!("{}/{name}", process.cwd)
        });
    } else {
        let path = process.variable("PATH").unwrap_or(default::SEARCH_PATH);
        candidates.extend(
            path.split(':')
                .map(|directory| format!("{directory}/{name}")),
        );
    }
    let mut path = candidates
        .iter()
        .find(|path| start_of(root, path).is_some())?
        .clone();
    // The kernel follows as many (fs/exec.c).
    for _ in 0..5 {
        let start = start_of(root, &path)?;
        let Some(line) = start.strip_prefix(b"#!") else {
            return Some((start, path));
        };
        let line = String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next()?).into_owned();
        path = line.split_whitespace().next()?.to_owned();
    }
    None
}

/// The first bytes of a plain file in the root. Other files are not opened: opening a device may
/// have an effect, and opening a fifo may wait.
fn start_of(root: i32, path: &str) -> Option<Vec<u8>> {
    let name = c_string(path).ok()?;
    let found = Fd(lookup(root, &name, 0, true).ok()?);
    if file::fstat(found.0).ok()?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return None;
    }
    let mut start = vec![0; 256];
    let count = std::fs::File::open(format!("/proc/self/fd/{}", found.0))
        .ok()?
        .read(&mut start)
        .ok()?;
    start.truncate(count);
    Some(start)
}

/// Registers an interpreter in the kernel's own registry. Only a guest's PID 1 does this, never
/// hull on the host.
///
/// # Errors
/// Writing to `register` fails: binfmt_misc is not mounted; EEXIST, the name is registered; ENOENT,
/// the interpreter is missing.
pub fn register(line: &str) -> Result<()> {
    let path = format!("{REGISTRY}/register");
    std::fs::write(&path, line).on("register an interpreter with", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(class: u8, data: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut header = vec![0; 64];
        header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, data, 1]);
        header[7] = 3;
        header[16] = 3;
        header[18..20].copy_from_slice(&machine);
        header
    }

    #[test]
    fn headers_are_told_apart() {
        assert_eq!(
            Architecture::of_header(&header(2, 1, [183, 0])).map(|known| known.name),
            Some("aarch64")
        );
        assert_eq!(
            Architecture::of_header(&header(2, 1, [62, 0])).map(|known| known.name),
            Some("x86_64")
        );
        assert_eq!(
            Architecture::of_header(&header(1, 1, [62, 0])).map(|known| known.name),
            None,
            "x32"
        );
        let mut big = header(2, 2, [0, 22]);
        (big[16], big[17]) = (0, 2);
        assert_eq!(
            Architecture::of_header(&big).map(|known| known.name),
            Some("s390x")
        );
        assert!(Architecture::of_header(b"#!/bin/sh\n").is_none());
    }

    #[test]
    fn the_line_is_the_kernels() {
        let foreign = Foreign {
            architecture: "aarch64".into(),
            program: String::new(),
            interpreter: PathBuf::new(),
            by_host: false,
            own_registry: true,
        };
        let magic =
            r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00";
        let mask =
            r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
        assert_eq!(
            foreign.registration("/q"),
            format!(":hull-aarch64:M:0:{magic}:{mask}:/q:POCF")
        );
    }

    #[test]
    fn the_hosts_own_entries_are_seen() {
        let directory = std::env::temp_dir().join(format!("hull-registry-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let entry = |flags: &str| {
            format!(
                "enabled\ninterpreter /usr/libexec/q\nflags: {flags}\noffset 0\nmagic \
                    7f454c460201010000000000000000000200b700\nmask \
                    ffffffffffffff00fffffffffffffffffeffffff\n"
            )
        };
        std::fs::write(directory.join("status"), "enabled\n").unwrap();
        std::fs::write(directory.join("qemu"), entry("OC")).unwrap();
        let arm = header(2, 1, [183, 0]);
        assert!(
            !registered(&directory, &arm),
            "its interpreter would be looked for in the container"
        );
        std::fs::write(directory.join("qemu"), entry("OCF")).unwrap();
        assert!(registered(&directory, &arm));
        assert!(!registered(&directory, &header(2, 1, [243, 0])));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
