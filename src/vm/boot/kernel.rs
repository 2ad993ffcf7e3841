//! The guest's kernel: one that the host already has, or one that is named, with its modules.

use crate::{Context, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kernel that can be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The file.
    pub image: PathBuf,
    /// Its release, as uname(2) will say it.
    pub release: String,
    /// The directory of its modules.
    pub modules: PathBuf,
}

/// Finds a kernel: the one named, or the host's own, or the newest there is.
///
/// Looked for: Debian's, Ubuntu's, Alpine's and Fedora's `/boot/vmlinuz-*`, Arch's
/// `/boot/vmlinuz-linux`, and the `vmlinuz` beside the modules (Fedora, Arch).
///
/// # Errors
/// There is none whose modules are there too.
pub fn find(named: Option<&Path>) -> Result<Kernel> {
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

fn find_below(root: &Path, own: &str) -> Result<Kernel> {
    let modules: Vec<PathBuf> = ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    let mut images: Vec<PathBuf> = [root.join("boot").join(format!("vmlinuz-{own}"))].into();
    images.extend(
        modules
            .iter()
            .map(|directory| directory.join(own).join("vmlinuz")),
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
            "no kernel with its modules in /boot or /lib/modules: install \
        a kernel package, or name one with --vm-kernel",
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

/// The numbers in a name: newer releases sort after older ones.
fn numbers(path: &Path) -> Vec<u64> {
    let text = path.to_string_lossy();
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// A kernel file, its release out of its header, and its modules: in the directories given, or beside
/// it (`../lib/modules/RELEASE`, `lib/modules/RELEASE`, `modules/RELEASE`, `modules`, the file's
/// own directory).
fn at(image: &Path, directories: &[PathBuf]) -> Result<Kernel> {
    let image = image.canonicalize().on("open kernel", image.display())?;
    let release = release(&image)?;
    let beside = image.parent().unwrap_or(Path::new("/"));
    let above = beside.parent().unwrap_or(beside);
    let mut places: Vec<PathBuf> = directories
        .iter()
        .map(|directory| directory.join(&release))
        .collect();
    places.extend(
        [
            above.join("lib/modules"),
            above.join("usr/lib/modules"),
            beside.join("lib/modules"),
            beside.join("modules"),
        ]
        .map(|p| p.join(&release)),
    );
    places.extend([beside.join("modules"), beside.to_owned()]);
    places.extend(
        ["/lib/modules", "/usr/lib/modules"].map(|directory| Path::new(directory).join(&release)),
    );
    match places
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

/// The release in a bzImage's header (x86 boot protocol 2.00, `kernel_version`).
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
            "kernel {}: its header names no release",
            image.display()
        )))
    } else {
        Ok(word)
    }
}

/// A module and the files it rests on, in load order, relative to the modules' directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Empty where it is built in.
    pub files: Vec<String>,
}

impl Kernel {
    /// Where modules are and what they rest on (modules.dep(5)); those that are built in have no
    /// files; a missing one is left out.
    ///
    /// # Errors
    /// `modules.dep` cannot be read; a needed one is missing.
    pub fn modules(&self, needed: &[&str], wanted: &[&str]) -> Result<Vec<Module>> {
        let path = self.modules.join("modules.dep");
        let text = fs::read_to_string(&path).on("read", path.display())?;
        let files: BTreeMap<String, (&str, Vec<&str>)> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, rests)| {
                (
                    module_name(file),
                    (file, rests.split_whitespace().collect()),
                )
            })
            .collect();
        let built_in = fs::read_to_string(self.modules.join("modules.builtin")).unwrap_or_default();
        let built_in: BTreeSet<String> = built_in.lines().map(module_name).collect();
        let mut found = Vec::new();
        for name in needed.iter().chain(wanted) {
            match files.get(*name) {
                // What a module rests on is listed with the deepest last.
                Some((file, rests)) => {
                    let files = rests
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
                None if needed.contains(name) => {
                    return Err(Error::new(format!(
                        "kernel {}: it has no module {name}, which the VM backend needs",
                        self.image.display()
                    )));
                }
                None => {}
            }
        }
        Ok(found)
    }

    /// A module's bytes, unpacked by the packer's own program.
    ///
    /// # Errors
    /// It cannot be read; the program is not installed.
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

/// The name of a module's file: without directory and ending, with underscores.
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
        let text = format!("{release} (somebody@somewhere) #1\0");
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
    fn kernels_of_the_distributions_are_found() {
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
            "the host's own"
        );
        let named = at(&debian.join("boot/vmlinuz-6.1.0-9-amd64"), &[]).unwrap();
        assert_eq!(
            named.modules,
            debian.join("lib/modules/6.1.0-9-amd64"),
            "beside the file"
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_a_module_rests_on_comes_first() {
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
