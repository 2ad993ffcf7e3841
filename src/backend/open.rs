//! Filling the slots: everything of the host that `inside` needs, as a descriptor.

use crate::backend::Work;
use crate::rootfs;
use crate::rootfs::sources::procfs;
use crate::step::host::Open;
use crate::store::START_FIFO;
use crate::sys::fd::Fd;
use crate::sys::file;
use crate::{Context, Error, Result};
use std::ffi::CString;

impl Work<'_, '_> {
    pub(super) fn open(&mut self, slot: u32, what: &Open) -> Result<()> {
        let held = match what {
            Open::Procfs => procfs()?,
            Open::Tree {
                path,
                recursive,
                propagation,
                id_map,
                link,
            } => rootfs::sources::tree(path, *recursive, *propagation, id_map.as_ref(), *link)?,
            Open::Namespace { path } => {
                let name = CString::new(path.as_str())
                    .map_err(|_| Error::new("namespace path contains a NUL byte"))?;
                file::openat(libc::AT_FDCWD, &name, libc::O_RDONLY, 0)
                    .map(Fd)
                    .on("open namespace", path)?
            }
            Open::StartFifo => self.start_fifo()?,
            Open::ConsoleSocket => self.job.console.take().ok_or_else(|| {
                Error::new("cannot allocate tty if hull will detach without setting console socket")
            })?,
        };
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = held.0;
        }
        self.held.push(held);
        Ok(())
    }

    /// Opened for both ends, so that the child's read waits for a byte and does not see an end.
    fn start_fifo(&self) -> Result<Fd> {
        let path = self.job.directory.join(START_FIFO);
        let name = crate::sys::fd::c_path(&path)?;
        file::mknodat(libc::AT_FDCWD, &name, libc::S_IFIFO | 0o600, 0)
            .on("make", path.display())?;
        file::openat(libc::AT_FDCWD, &name, libc::O_RDWR, 0)
            .map(Fd)
            .on("open", path.display())
    }
}
