//! Kernel modules from the initramfs. The host has written a list with each module's files: those
//! of its dependencies first, in load order.

use crate::sys::fd::{Fd, c_string};
use crate::sys::{event, file};
use crate::vm::channel::message::MODULE_LIST;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// The modules of the initramfs.
pub(super) struct Modules {
    /// The directory of the modules' files.
    directory: Fd,
    /// The modules that are loaded at boot.
    boot: Vec<String>,
    /// For each module the files to load, in this order. A built-in module has none.
    files: BTreeMap<String, Vec<String>>,
    /// The files that are loaded.
    loaded: BTreeSet<String>,
}

impl Modules {
    /// Reads the list and opens the directory.
    ///
    /// # Errors
    /// The list or the directory cannot be opened.
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
            let module = name.trim_start_matches('!');
            if module != name {
                modules.boot.push(module.to_owned());
            }
            modules.files.insert(
                module.to_owned(),
                files.split_whitespace().map(str::to_owned).collect(),
            );
        }
        Ok(modules)
    }

    /// Loads the modules of the channel and the share.
    ///
    /// # Errors
    /// As [`Modules::load`].
    pub fn load_for_boot(&mut self) -> Result<()> {
        std::mem::take(&mut self.boot)
            .iter()
            .try_for_each(|name| self.load(name))
    }

    /// Loads a module with its dependencies, unless it is built in or loaded already.
    ///
    /// # Errors
    /// The guest's kernel has no such module; finit_module(2) fails.
    pub fn load(&mut self, name: &str) -> Result<()> {
        // These filesystems request crc32c from the kernel's crypto API at run time, which
        // modules.dep does not list. A kernel without the module has it built in.
        if matches!(name, "erofs" | "ext4" | "xfs") && self.files.contains_key("crc32c_generic") {
            self.load("crc32c_generic")?;
        }
        let files = self.files.get(name).cloned().ok_or_else(|| {
            Error::new(format!(
                "load module {name}: the guest's kernel does not have it"
            ))
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
