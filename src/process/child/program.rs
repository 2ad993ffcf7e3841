//! Finds the program and executes it.

use crate::step::child::{Buffers, ChildState, StepResult};
use crate::step::container::Cwd;
use crate::step::report::{Detail, Fault};
use crate::step::wire::StrList;
use crate::sys::fd::Fd;
use crate::sys::resolve::make_directory;
use crate::sys::{file, process};
use nix::errno::Errno;
use std::ffi::CStr;
use std::sync::atomic::Ordering;

/// The most reads of the container's passwd, of 4 KiB each at the most: 16 MiB, as in
/// `adhoc/users.rs`.
const MOST_READS: usize = 4096;

/// The offset of HOME in [`Buffers::text`]; the program's path is before it.
const HOME_AT: usize = libc::PATH_MAX as usize;

impl Buffers {
    /// Concatenates parts to a NUL-terminated string at an offset of the buffer, and returns its
    /// length with the NUL.
    fn compose(&mut self, at: usize, parts: &[&[u8]]) -> Result<usize, Errno> {
        let mut end = at;
        for part in parts.iter().copied().chain([&b"\0"[..]]) {
            let place = self
                .text
                .get_mut(end..end + part.len())
                .ok_or(Errno::ENAMETOOLONG)?;
            place.copy_from_slice(part);
            end += part.len();
        }
        if end - at > libc::PATH_MAX as usize {
            Err(Errno::ENAMETOOLONG)
        } else {
            Ok(end - at)
        }
    }
}

/// The NUL-terminated string at an offset.
fn text_at(text: &[u8], at: usize) -> Result<&CStr, Errno> {
    text.get(at..)
        .and_then(|text| CStr::from_bytes_until_nul(text).ok())
        .ok_or(Errno::EINVAL)
}

/// Checks that a path is a file which the current ids may execute.
fn check(path: &CStr) -> Result<(), Fault> {
    let file = Fd(file::openat(libc::AT_FDCWD, path, libc::O_PATH, 0)?);
    if file::fstat(file.0)?.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Fault::with(Errno::EISDIR, Detail::IsDirectory));
    }
    file::executable(file.0).map_err(|errno| Fault::with(errno, Detail::NotExecutable))
}

impl ChildState<'_> {
    /// Finds a name in PATH, or checks a path. The first executable file is taken, as in Go's
    /// `exec.LookPath` and in shells.
    ///
    /// The step reads HOME too, because a seccomp filter may forbid open(2) later.
    pub fn find_program(&mut self, name: &CStr, path: &CStr, home: bool, uid: u32) -> StepResult {
        if home {
            self.home(uid)?;
        }
        let bytes = name.to_bytes();
        if bytes.contains(&b'/') {
            self.program = self.buffers.compose(0, &[bytes])?;
            return check(name);
        }
        let mut refused = None;
        for directory in path
            .to_bytes()
            .split(|&b| b == b':')
            .filter(|_| !bytes.is_empty())
        {
            let directory = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            self.program = self.buffers.compose(0, &[directory, b"/", bytes])?;
            match check(text_at(&self.buffers.text, 0)?) {
                Ok(()) => return Ok(()),
                Err(fault) if fault.errno == Errno::EACCES => refused = Some(fault),
                Err(_) => {}
            }
        }
        self.program = 0;
        Err(refused.unwrap_or(Fault::with(Errno::ENOENT, Detail::NotInPath)))
    }

    /// Calls execve(2). If it fails, the child writes the reason to the container's stderr, because
    /// the caller of `create` may have exited already, and exits with status 1, as runc 1.1 and
    /// crun do.
    pub fn exec(&mut self, args: StrList, env: StrList, home: bool) -> StepResult {
        self.report.filtered.store(1, Ordering::Release);
        let Buffers { arrays, text, .. } = &mut *self.buffers;
        let path = text_at(text, 0)?;
        let home = if home {
            Some(text_at(text, HOME_AT)?)
        } else {
            None
        };
        let errno = arrays.execveat(libc::AT_FDCWD, path, args, env.into_iter().chain(home), 0);
        self.print_reason(errno);
        self.report
            .detail
            .store(Detail::Execve as u32, Ordering::Relaxed);
        self.report.errno.store(errno as i32, Ordering::Release);
        process::exit(1)
    }

    fn print_reason(&self, errno: Errno) {
        let path = self
            .program
            .checked_sub(1)
            .and_then(|end| self.buffers.text.get(..end))
            .unwrap_or(b"");
        let why: &[u8] = match errno {
            Errno::ENOEXEC => b": exec format error\n",
            Errno::ENOENT => b": no such file or directory\n",
            Errno::EACCES => b": permission denied\n",
            Errno::E2BIG => b": argument list too long\n",
            Errno::ENOMEM => b": cannot allocate memory\n",
            Errno::ELOOP => b": too many levels of symbolic links\n",
            Errno::ETXTBSY => b": text file busy\n",
            _ => b": the kernel refused it\n",
        };
        for part in [b"exec ", path, why] {
            let _ = file::write(2, part);
        }
    }

    /// Finds HOME in the container's passwd, which it reads line by line through a small buffer;
    /// `/` if the user is not there.
    fn home(&mut self, uid: u32) -> StepResult {
        let mut window = [0_u8; 4096];
        let mut filled = 0;
        let passwd = file::openat(
            libc::AT_FDCWD,
            c"/etc/passwd",
            libc::O_RDONLY | libc::O_NONBLOCK,
            0,
        )
        .map(Fd);
        // An image may have a device there, and reading it may never end.
        let regular = |held: &Fd| {
            file::fstat(held.0).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG)
        };
        if let Ok(passwd) = passwd
            && regular(&passwd)
        {
            // The file is the container's, and may be a hole of any size.
            for _ in 0..MOST_READS {
                let count = file::read(passwd.0, &mut window[filled..]).unwrap_or(0);
                filled += count;
                let mut start = 0;
                while let Some(end) = window[start..filled]
                    .iter()
                    .position(|&b| b == b'\n')
                    .map(|n| start + n)
                {
                    if self.home_in(&window[start..end], uid)? {
                        return Ok(());
                    }
                    start = end + 1;
                }
                if count == 0 {
                    if self.home_in(&window[start..filled], uid)? {
                        return Ok(());
                    }
                    break;
                }
                // A line longer than the window is skipped.
                let rest = if start == 0 && filled == window.len() {
                    0
                } else {
                    filled - start
                };
                window.copy_within(filled - rest..filled, 0);
                filled = rest;
            }
        }
        self.buffers.compose(HOME_AT, &[b"HOME=/"])?;
        Ok(())
    }

    /// Takes HOME from the sixth field of a passwd line, if the third field is the user's id.
    fn home_in(&mut self, line: &[u8], uid: u32) -> Result<bool, Errno> {
        let mut fields = line.split(|&b| b == b':');
        let Some(id) = fields.nth(2) else {
            return Ok(false);
        };
        let number = id.iter().try_fold(0_u64, |sum, &b| {
            b.is_ascii_digit()
                .then(|| (sum * 10 + u64::from(b - b'0')).min(1 << 40))
        });
        if id.is_empty() || number != Some(u64::from(uid)) {
            return Ok(false);
        }
        match fields.nth(2) {
            Some(home) if !home.is_empty() => self
                .buffers
                .compose(HOME_AT, &[b"HOME=", home])
                .map(|_| true),
            _ => Ok(false),
        }
    }
}

impl ChildState<'_> {
    /// Makes the working directory, or changes to it and checks that it is within the root. A
    /// directory of a leaked descriptor is not (CVE-2024-21626), and getcwd(2) returns a path
    /// without a leading slash then.
    pub fn working_directory(&mut self, path: &CStr, how: Cwd) -> StepResult {
        match how {
            Cwd::Make if path == c"/" => return Ok(()),
            Cwd::Make => return Ok(make_directory(self.root, path, true).map(drop)?),
            Cwd::Try => {
                self.entered = file::chdir(path).is_ok();
                return Ok(());
            }
            Cwd::Enter if !self.entered => file::chdir(path)?,
            Cwd::Enter => {}
        }
        if path == c"/" {
            // Every directory is within `/`.
            return Ok(());
        }
        let mut buffer = [0_u8; libc::PATH_MAX as usize];
        match file::getcwd(&mut buffer) {
            Ok(_) if buffer[0] == b'/' => Ok(()),
            Err(Errno::ERANGE) => Ok(()),
            Ok(_) | Err(Errno::ENOENT) => Err(Fault::with(Errno::ENOENT, Detail::CwdOutside)),
            Err(errno) => Err(errno.into()),
        }
    }
}
