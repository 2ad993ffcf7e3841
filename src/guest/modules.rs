//! Kernel modules out of the initramfs: each with what it rests on, in load order, written down by
//! the host that packed them.

use crate::sys::fd::{Fd, c_string};
use crate::sys::{event, file};
use crate::vm::channel::message::MODULE_LIST;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// The modules that can be loaded.
pub struct Modules {
    directory: Fd,
    boot: Vec<String>,
    files: BTreeMap<String, Vec<String>>,
    loaded: BTreeSet<String>,
}

impl Modules {
    /// Reads the list.
    ///
    /// # Errors
    /// It is not there.
    pub fn read() -> Result<Self> {
        let text = std::fs::read_to_string(MODULE_LIST).on("read", MODULE_LIST)?;
        let directory = file::openat(
            libc::AT_FDCWD,
            c"/modules",
            libc::O_RDONLY | libc::O_DIRECTORY,
            0,
        )
        .map(Fd)
        .on("open", "/modules")?;
        let mut modules = Self {
            directory,
            boot: Vec::new(),
            files: BTreeMap::new(),
            loaded: BTreeSet::new(),
        };
        for line in text.lines() {
            let Some((name, files)) = line.split_once(':') else {
                continue;
            };
            let plain = name.trim_start_matches('!');
            if plain != name {
                modules.boot.push(plain.to_owned());
            }
            modules.files.insert(
                plain.to_owned(),
                files.split_whitespace().map(str::to_owned).collect(),
            );
        }
        Ok(modules)
    }

    /// Loads what the channel and the share need.
    ///
    /// # Errors
    /// The kernel's.
    pub fn load_for_boot(&mut self) -> Result<()> {
        std::mem::take(&mut self.boot)
            .iter()
            .try_for_each(|name| self.load(name))
    }

    /// Loads one with what it rests on; one that is built in or loaded is no error.
    ///
    /// # Errors
    /// It is not in the initramfs; the kernel refuses it.
    pub fn load(&mut self, name: &str) -> Result<()> {
        // They ask the kernel's crypto for it, which modules.dep does not tell; where it is no
        // module, the kernel has it.
        if matches!(name, "erofs" | "ext4" | "xfs") && self.files.contains_key("crc32c_generic") {
            self.load("crc32c_generic")?;
        }
        let files = self.files.get(name).cloned().ok_or_else(|| {
            Error::new(format!("load module {name}: the guest's kernel has none"))
        })?;
        for file_name in files {
            if self.loaded.contains(&file_name) {
                continue;
            }
            let name = c_string(file_name.as_str())?;
            let opened = file::openat(self.directory.0, &name, libc::O_RDONLY, 0)
                .map(Fd)
                .on("open module", &file_name)?;
            match event::load_module(opened.0) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(Error::sys("load module", &file_name, errno)),
            }
            self.loaded.insert(file_name);
        }
        Ok(())
    }
}
