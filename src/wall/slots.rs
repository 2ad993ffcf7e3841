//! Filling the slots: everything of the host that `inside` needs, as a descriptor.

use super::Work;
use crate::init::Held;
use crate::plan::outside::Open;
use crate::rootfs;
use crate::sys::file;
use crate::{Context, Error, Result};
use std::ffi::CString;

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// The fifo's name in the container's folder: it is there until `start`.
pub const START_FIFO: &str = "exec.fifo";

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
            } => rootfs::tree(path, *recursive, *propagation, id_map.as_ref(), *link)?,
            Open::Namespace { path } => {
                let name = CString::new(path.as_str())
                    .map_err(|_| Error::new("namespace path contains a NUL byte"))?;
                file::openat(libc::AT_FDCWD, &name, libc::O_RDONLY, 0)
                    .map(Held)
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
    fn start_fifo(&self) -> Result<Held> {
        let path = self.job.folder.join(START_FIFO);
        let name = rootfs::c_path(&path)?;
        file::mknodat(libc::AT_FDCWD, &name, libc::S_IFIFO | 0o600, 0)
            .on("make", path.display())?;
        file::openat(libc::AT_FDCWD, &name, libc::O_RDWR, 0)
            .map(Held)
            .on("open", path.display())
    }
}

/// The host's procfs, which must be one: something else there would take what is meant for the
/// kernel (CVE-2019-16884).
pub fn procfs() -> Result<Held> {
    let held = file::openat(
        libc::AT_FDCWD,
        c"/proc",
        libc::O_PATH | libc::O_DIRECTORY,
        0,
    )
    .map(Held)
    .on("open", "/proc")?;
    if file::filesystem(held.0).on("stat", "/proc")? != PROC_SUPER_MAGIC {
        return Err(Error::new("/proc is not procfs"));
    }
    Ok(held)
}
