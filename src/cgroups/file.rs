//! Reading and writing the small files of a cgroup with few system calls: the standard library
//! would query the size before, and read once more to find the end.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{read as read_fd, write as write_fd};
use std::os::fd::{AsFd, OwnedFd};

/// Opens a file of a cgroup.
pub(super) fn open_in(dir: &str, file: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    open(
        format!("{dir}/{file}").as_str(),
        flags | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

/// The whole of a file of a cgroup. Its records are short, or it has one: a read(2) that answers
/// less than half a page has answered all, and one call is spared.
pub(super) fn read(dir: &str, file: &str) -> nix::Result<String> {
    const HALF_A_PAGE: usize = 2048;
    let fd = open_in(dir, file, OFlag::O_RDONLY)?;
    let mut text = Vec::new();
    let mut buffer = [0; 16384];
    loop {
        match read_fd(&fd, &mut buffer) {
            Ok(count) => {
                text.extend_from_slice(&buffer[..count]);
                if count < HALF_A_PAGE {
                    break;
                }
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Opens a file, writes one value by one write(2), and closes the file.
pub(super) fn write(dir: &str, file: &str, value: &str) -> nix::Result<()> {
    put(open_in(dir, file, OFlag::O_WRONLY)?, value)
}

/// Writes one value to an open file.
pub(super) fn put(fd: impl AsFd, value: &str) -> nix::Result<()> {
    loop {
        match write_fd(&fd, value.as_bytes()) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether a cgroup has a file.
pub(super) fn exists(dir: &str, file: &str) -> bool {
    nix::unistd::access(
        format!("{dir}/{file}").as_str(),
        nix::unistd::AccessFlags::F_OK,
    )
    .is_ok()
}
