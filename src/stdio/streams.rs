//! What hull carries between a container and its own stdio: a terminal both ways, or pipes where
//! its own stdio does not block.

use crate::sys::file;
use crate::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// One direction. What was read and could not be written yet waits here, so that hull still hears
/// of signals meanwhile.
pub struct Stream {
    from: OwnedFd,
    to: OwnedFd,
    waiting: Vec<u8>,
    open: bool,
    input: bool,
}

impl Stream {
    const WINDOW: usize = 16384;

    /// From one descriptor to another, of which it has copies.
    ///
    /// # Errors
    /// One of them is not open.
    pub fn new(from: BorrowedFd, to: BorrowedFd) -> Result<Self> {
        let copy = |descriptor: BorrowedFd| {
            descriptor
                .try_clone_to_owned()
                .on("copy", "a descriptor of stdio")
        };
        Ok(Self {
            from: copy(from)?,
            to: copy(to)?,
            waiting: Vec::new(),
            open: true,
            input: false,
        })
    }

    /// Whether there may be more to carry.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether it goes to the container.
    pub fn is_input(&self) -> bool {
        self.input
    }

    /// What it waits for: room where something is left over, something to read otherwise.
    pub fn wish(&self) -> PollFd<'_> {
        match self.waiting.is_empty() {
            true => PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
            false => PollFd::new(self.to.as_fd(), PollFlags::POLLOUT),
        }
    }

    /// Carries one bufferful, or as much of it as the other end takes now.
    pub fn carry(&mut self) {
        if self.waiting.is_empty() {
            let mut buffer = [0_u8; Self::WINDOW];
            match nix::unistd::read(&self.from, &mut buffer) {
                Ok(0) => self.open = false,
                Ok(count) => self.waiting.extend_from_slice(&buffer[..count]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                // EIO: nobody has the terminal open any more.
                Err(_) => self.open = false,
            }
        }
        while !self.waiting.is_empty() {
            match nix::unistd::write(&self.to, &self.waiting) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.waiting.clear();
                    self.open = false;
                }
            }
        }
    }

    /// What is there still after the program's end, however slowly it is taken.
    pub fn drain(&mut self) {
        while self.open {
            let limit = if self.waiting.is_empty() {
                PollTimeout::ZERO
            } else {
                PollTimeout::NONE
            };
            match poll(&mut [self.wish()], limit) {
                Ok(count) if count > 0 => self.carry(),
                Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    }
}

/// Pipes in place of those of hull's stdio that do not block. Programs expect theirs to: with
/// `O_NONBLOCK` on the end of a pipe that somebody reads slowly, most of them lose output. The flag
/// is the caller's, and is left alone. (runc gives pipes to every program.)
pub struct Pipes {
    saved: Vec<(i32, OwnedFd)>,
    streams: Vec<Stream>,
}

impl Pipes {
    /// Puts pipes where they are needed; `None` where no descriptor is such a one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn instead_of_nonblocking() -> Result<Option<Self>> {
        let wanted: Vec<i32> = (0..3).filter(|raw| does_not_block(*raw)).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut pipes = Self {
            saved: Vec::new(),
            streams: Vec::new(),
        };
        for raw in wanted {
            pipes.put(raw)?;
        }
        Ok(Some(pipes))
    }

    fn put(&mut self, raw: i32) -> Result<()> {
        let own = crate::sys::socket::borrow(raw)
            .try_clone_to_owned()
            .on("copy", "a descriptor of stdio")?;
        let (read, write) = file::pipe()
            .map(|(read, write)| {
                (
                    crate::sys::socket::owned(read),
                    crate::sys::socket::owned(write),
                )
            })
            .on("make", "a pipe")?;
        let (stream, theirs) = match raw {
            0 => (
                Stream {
                    input: true,
                    ..Stream::new(own.as_fd(), write.as_fd())?
                },
                read,
            ),
            _ => (Stream::new(read.as_fd(), own.as_fd())?, write),
        };
        file::dup_to(theirs.as_raw_fd(), raw).on("replace", "a descriptor of stdio")?;
        self.saved.push((raw, own));
        self.streams.push(stream);
        Ok(())
    }

    /// Gives hull its own stdio back, once the program has its pipes; the streams are to be carried
    /// from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hand_over(mut self) -> Result<Vec<Stream>> {
        self.restore()?;
        Ok(std::mem::take(&mut self.streams))
    }

    fn restore(&mut self) -> Result<()> {
        self.saved.drain(..).try_for_each(|(raw, own)| {
            file::dup_to(own.as_raw_fd(), raw).on("restore", "a descriptor of stdio")
        })
    }
}

impl Drop for Pipes {
    /// No program came to be: what hooks and hull said is passed on.
    fn drop(&mut self) {
        let _ = self.restore();
        self.streams.iter_mut().for_each(Stream::drain);
    }
}

fn does_not_block(raw: i32) -> bool {
    let pipe = |mode: u32| matches!(mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFSOCK);
    file::status_flags(raw).is_ok_and(|flags| flags & libc::O_NONBLOCK != 0)
        && file::fstat(raw).is_ok_and(|stat| pipe(stat.st_mode))
}
