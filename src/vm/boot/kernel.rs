//! The guest's kernel: an image that is installed on the host, or one that the options name, with
//! its modules.

use crate::{Context, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kernel for a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Path of the image: a bzImage, or an ELF image with a PVH entry.
    pub image: PathBuf,
    /// The release, as uname(2) returns it in the guest.
    pub release: String,
    /// The directory with `modules.dep` and the modules.
    pub modules: PathBuf,
}

/// Finds a kernel: the one that is named, otherwise the one that the host runs, otherwise the
/// newest that is installed.
///
/// Installed kernels are `/boot/vmlinuz-*` (Debian, Ubuntu, Alpine, Fedora), `/boot/vmlinuz-linux`
/// (Arch) and `vmlinuz` in the directory of the modules (Fedora, Arch).
///
/// # Errors
/// The named image cannot be read or is not a bzImage; no kernel has its modules installed.
pub(crate) fn find(named: Option<&Path>) -> Result<Kernel> {
    match named {
        Some(image) => at(image, &[]),
        None => find_below(Path::new("/"), &host_release()),
    }
}

fn host_release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Finds a kernel below a root directory, first that of the release `host`.
fn find_below(root: &Path, host: &str) -> Result<Kernel> {
    let modules: Vec<PathBuf> = ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    let mut images: Vec<PathBuf> = [root.join("boot").join(format!("vmlinuz-{host}"))].into();
    images.extend(
        modules
            .iter()
            .map(|directory| directory.join(host).join("vmlinuz")),
    );
    let mut others: Vec<PathBuf> = entries(&root.join("boot"))
        .filter(|path| file_name(path).starts_with("vmlinuz"))
        .collect();
    others.extend(
        modules
            .iter()
            .flat_map(|directory| entries(directory))
            .map(|directory| directory.join("vmlinuz")),
    );
    others.sort_by_key(|path| std::cmp::Reverse(numbers(path)));
    images.extend(others);
    let found = images
        .iter()
        .filter(|path| path.is_file())
        .find_map(|image| at(image, &modules).ok());
    found.ok_or_else(|| {
        Error::new(
            "no kernel with its modules in /boot or /lib/modules: install a kernel package, or \
                name one with --vm-kernel",
        )
    })
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The numbers in a path, by which a newer release sorts after an older one.
fn numbers(path: &Path) -> Vec<u64> {
    let text = path.to_string_lossy();
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// The kernel of an image. Its modules are looked for in the directories given, relative to the
/// image (`../lib/modules/RELEASE`, `../usr/lib/modules/RELEASE`, `lib/modules/RELEASE`,
/// `modules/RELEASE`, `modules`, the image's directory), and in `/lib/modules/RELEASE` and
/// `/usr/lib/modules/RELEASE`.
fn at(image: &Path, directories: &[PathBuf]) -> Result<Kernel> {
    let image = image.canonicalize().on("open kernel", image.display())?;
    let release = release(&image)?;
    let directory = image.parent().unwrap_or(Path::new("/"));
    let parent = directory.parent().unwrap_or(directory);
    let mut candidates: Vec<PathBuf> = directories
        .iter()
        .map(|directory| directory.join(&release))
        .collect();
    candidates.extend(
        [
            parent.join("lib/modules"),
            parent.join("usr/lib/modules"),
            directory.join("lib/modules"),
            directory.join("modules"),
        ]
        .map(|path| path.join(&release)),
    );
    candidates.extend([directory.join("modules"), directory.to_owned()]);
    candidates.extend(
        ["/lib/modules", "/usr/lib/modules"].map(|directory| Path::new(directory).join(&release)),
    );
    match candidates
        .into_iter()
        .find(|directory| directory.join("modules.dep").is_file())
    {
        Some(modules) => Ok(Kernel {
            image,
            release,
            modules,
        }),
        None => Err(Error::new(format!(
            "kernel {}: no modules.dep of {release} beside it or in /lib/modules",
            image.display()
        ))),
    }
}

/// The release in a bzImage's header (Documentation/arch/x86/boot.rst, `kernel_version`).
fn release(image: &Path) -> Result<String> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::open(image).on("open kernel", image.display())?;
    let mut header = [0_u8; 0x210];
    file.read_exact_at(&mut header, 0)
        .on("read", image.display())?;
    if &header[0x202..0x206] != b"HdrS" {
        return Err(Error::new(format!(
            "kernel {}: no x86 boot header",
            image.display()
        )));
    }
    let at = u64::from(u16::from_le_bytes([header[0x20e], header[0x20f]])) + 0x200;
    let mut text = [0_u8; 256];
    let count = file.read_at(&mut text, at).on("read", image.display())?;
    let text = String::from_utf8_lossy(&text[..count]);
    let word: String = text
        .chars()
        .take_while(|c| !c.is_whitespace() && *c != '\0')
        .collect();
    if word.is_empty() {
        Err(Error::new(format!(
            "kernel {}: the header has no release",
            image.display()
        )))
    } else {
        Ok(word)
    }
}

/// A module of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// The name, with underscores.
    pub name: String,
    /// The files of its dependencies and its own, in load order, relative to the directory of the
    /// modules. A built-in module has none.
    pub files: Vec<String>,
}

impl Kernel {
    /// Finds modules with their dependencies (modules.dep(5)). An optional module that the kernel
    /// does not have is left out.
    ///
    /// # Errors
    /// `modules.dep` cannot be read; the kernel does not have a required module.
    pub fn modules(&self, required: &[&str], optional: &[&str]) -> Result<Vec<Module>> {
        let path = self.modules.join("modules.dep");
        let text = fs::read_to_string(&path).on("read", path.display())?;
        let files: BTreeMap<String, (&str, Vec<&str>)> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, dependencies)| {
                (
                    module_name(file),
                    (file, dependencies.split_whitespace().collect()),
                )
            })
            .collect();
        let built_in = fs::read_to_string(self.modules.join("modules.builtin")).unwrap_or_default();
        let built_in: BTreeSet<String> = built_in.lines().map(module_name).collect();
        let mut found = Vec::new();
        for name in required.iter().chain(optional) {
            match files.get(*name) {
                // A module comes before its own dependencies in the list: load in reverse order.
                Some((file, dependencies)) => {
                    let files = dependencies
                        .iter()
                        .rev()
                        .chain([file])
                        .map(|file| (*file).to_owned())
                        .collect();
                    found.push(Module {
                        name: (*name).to_owned(),
                        files,
                    });
                }
                None if built_in.contains(*name) => found.push(Module {
                    name: (*name).to_owned(),
                    files: Vec::new(),
                }),
                None if required.contains(name) => {
                    return Err(Error::new(format!(
                        "kernel {}: no module {name}, which the VM backend needs",
                        self.image.display()
                    )));
                }
                None => {}
            }
        }
        Ok(found)
    }

    /// Reads a module's file. A compressed one is decompressed by xz, zstd or gzip.
    ///
    /// # Errors
    /// The file cannot be read; the program that decompresses it is not installed or fails.
    pub fn read_module(&self, file: &str) -> Result<Vec<u8>> {
        let path = self.modules.join(file);
        let program = match path.extension().and_then(|end| end.to_str()) {
            Some("xz") => "xz",
            Some("zst") => "zstd",
            Some("gz") => "gzip",
            _ => return fs::read(&path).on("read module", path.display()),
        };
        let output = Command::new(program)
            .args(["-d", "-c"])
            .arg(&path)
            .stdin(Stdio::null())
            .output()
            .on("run", program)?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(Error::new(format!(
                "{program} for {}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            )))
        }
    }
}

/// The name of a module by its file: without directory and suffix, with underscores.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(path: &Path, release: &str) {
        let mut bytes = vec![0_u8; 0x400];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        let text = format!("{release} (builder@host) #1\0");
        bytes[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn modules(path: &Path) {
        fs::create_dir_all(path).unwrap();
        let dep = "kernel/fs/fuse/fuse.ko.xz:\nkernel/fs/fuse/virtiofs.ko.xz: \
            kernel/fs/fuse/fuse.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz \
            kernel/drivers/virtio/virtio.ko.xz\n";
        fs::write(path.join("modules.dep"), dep).unwrap();
        fs::write(
            path.join("modules.builtin"),
            "kernel/drivers/virtio/virtio-pci.ko\n",
        )
        .unwrap();
    }

    #[test]
    fn kernels_of_distributions_are_found() {
        let root = std::env::temp_dir().join(format!("hull-kernels-{}", std::process::id()));
        let cases = [
            (
                "debian",
                "boot/vmlinuz-6.1.0-9-amd64",
                "lib/modules",
                "6.1.0-9-amd64",
            ),
            (
                "fedora",
                "usr/lib/modules/6.8.5-301.fc40/vmlinuz",
                "usr/lib/modules",
                "6.8.5-301.fc40",
            ),
            (
                "alpine",
                "boot/vmlinuz-virt",
                "lib/modules",
                "6.6.30-0-virt",
            ),
            (
                "arch",
                "boot/vmlinuz-linux",
                "usr/lib/modules",
                "6.9.1-arch1-1",
            ),
        ];
        for (name, file, directory, release) in cases {
            let root = root.join(name);
            image(&root.join(file), release);
            modules(&root.join(directory).join(release));
            let found = find_below(&root, "5.5.5-other").unwrap();
            assert_eq!(
                (found.release.as_str(), found.image),
                (release, root.join(file)),
                "{name}"
            );
        }
        let debian = root.join("debian");
        image(
            &debian.join("boot/vmlinuz-6.1.0-10-amd64"),
            "6.1.0-10-amd64",
        );
        modules(&debian.join("lib/modules/6.1.0-10-amd64"));
        assert_eq!(
            find_below(&debian, "").unwrap().release,
            "6.1.0-10-amd64",
            "the newest"
        );
        assert_eq!(
            find_below(&debian, "6.1.0-9-amd64").unwrap().release,
            "6.1.0-9-amd64",
            "the one that the host runs"
        );
        let named = at(&debian.join("boot/vmlinuz-6.1.0-9-amd64"), &[]).unwrap();
        assert_eq!(
            named.modules,
            debian.join("lib/modules/6.1.0-9-amd64"),
            "relative to the image"
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn dependencies_of_a_module_come_first() {
        let root = std::env::temp_dir().join(format!("hull-modules-{}", std::process::id()));
        modules(&root);
        let kernel = Kernel {
            image: root.clone(),
            release: String::new(),
            modules: root.clone(),
        };
        let found = kernel
            .modules(&["virtio_pci", "virtiofs"], &["erofs"])
            .unwrap();
        assert_eq!(
            found[0],
            Module {
                name: "virtio_pci".into(),
                files: Vec::new()
            }
        );
        let names: Vec<String> = found[1]
            .files
            .iter()
            .map(|file| module_name(file))
            .collect();
        assert_eq!(names, ["virtio", "virtio_ring", "fuse", "virtiofs"]);
        assert!(
            kernel
                .modules(&["virtio_console"], &[])
                .unwrap_err()
                .to_string()
                .contains("virtio_console")
        );
        fs::remove_dir_all(root).unwrap();
    }
}
