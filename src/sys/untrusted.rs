//! Files that a container or an image controls. A device is not opened, since that alone may do
//! something on the host; a fifo or a lease (fcntl(2)) does not make hull wait; a file of any
//! length does not fill its memory.

use super::fd::Fd;
use super::file::{self, RESOLVE_IN_ROOT};
use super::socket::owned;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::io::Read;

/// Reads a regular file below a root directory, in which symbolic links are resolved. None where it
/// is missing or something else than a regular file.
///
/// # Errors
/// The file is larger than `most` bytes; openat2(2) or read(2) fails, with EAGAIN if a process has
/// a lease on the file.
pub fn read(root: &Fd, name: &CStr, most: u64) -> Result<Option<Vec<u8>>> {
    let shown = name.to_string_lossy();
    let held = match file::openat2(root.0, name, libc::O_PATH, 0, RESOLVE_IN_ROOT) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        other => other.map(Fd).on("open", &shown)?,
    };
    let stat = file::fstat(held.0).on("stat", &shown)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Ok(None);
    }
    let too_large = || Error::new(format!("read {shown}: it is larger than {most} bytes"));
    if u64::try_from(stat.st_size).is_ok_and(|size| size > most) {
        return Err(too_large());
    }
    // The very file that was looked at, whatever has its name now.
    let same = CString::new(format!("/proc/self/fd/{}", held.0)).unwrap_or_default();
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let opened = file::openat(libc::AT_FDCWD, &same, flags, 0).on("open", &shown)?;
    let mut bytes = Vec::new();
    let read = std::fs::File::from(owned(opened))
        .take(most + 1)
        .read_to_end(&mut bytes);
    read.on("read", &shown)?;
    if bytes.len() as u64 > most {
        return Err(too_large());
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::c_path;

    #[test]
    fn only_regular_files_of_a_bounded_length_are_read() {
        let directory = std::env::temp_dir().join(format!("hull-untrusted-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let root = c_path(&directory).unwrap();
        let root = Fd(file::openat(libc::AT_FDCWD, &root, flags, 0).unwrap());
        std::fs::write(directory.join("text"), "word").unwrap();
        std::os::unix::fs::symlink("/text", directory.join("link")).unwrap();
        let sparse = std::fs::File::create(directory.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::unistd::mkfifo(&directory.join("fifo"), mode).unwrap();
        for name in [c"text", c"link"] {
            assert_eq!(read(&root, name, 4).unwrap().unwrap(), b"word");
        }
        for name in [c"none", c"text/none", c"fifo", c"."] {
            assert!(read(&root, name, 4).unwrap().is_none(), "{name:?}");
        }
        for (name, most) in [(c"text", 3), (c"sparse", 1 << 20)] {
            let error = read(&root, name, most).unwrap_err().to_string();
            assert!(error.contains("larger than"), "{error}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
