//! Opens the container's terminal in its devpts, sends the master over the console's socket, and
//! makes the peer the container's stdio.

use crate::step::child::{ChildState, StepResult};
use crate::step::container::slot;
use crate::step::report::{Detail, Fault};
use crate::sys::fd::Fd;
use crate::sys::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use crate::sys::socket;
use nix::errno::Errno;

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

impl ChildState<'_> {
    pub(crate) fn console(&mut self, rows: u32, columns: u32, mount: bool, uid: u32) -> StepResult {
        let missing = |errno| Fault::with(errno, Detail::NotDevpts);
        let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
        let master = Fd(file::openat2(
            self.root,
            c"/dev/pts/ptmx",
            libc::O_RDWR | libc::O_NOCTTY,
            0,
            resolve,
        )
        .map_err(missing)?);
        if file::filesystem(master.0)? != DEVPTS_SUPER_MAGIC {
            return Err(Fault::with(Errno::ENODEV, Detail::NotDevpts));
        }
        socket::pty_unlock(master.0)?;
        let peer = Fd(socket::pty_peer(master.0)?);
        if rows != 0 || columns != 0 {
            socket::window_size(master.0, rows as u16, columns as u16)?;
        }
        let send = |errno| Fault::with(errno, Detail::ConsoleSend);
        socket::send_fd(
            self.slot(slot::CONSOLE).map_err(send)?,
            b"/dev/ptmx",
            master.0,
        )
        .map_err(send)?;
        if mount {
            self.mount_console(peer.0)?;
        }
        if uid != 0 {
            file::fchownat(peer.0, c"", uid, u32::MAX)?;
        }
        socket::controlling_terminal(peer.0)?;
        for stdio in 0..3 {
            file::dup_to(peer.0, stdio)?;
        }
        Ok(())
    }
}
