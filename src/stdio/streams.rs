//! Relays between the container's stdio and hull's: of a terminal, and of pipes where hull's own
//! stdio is non-blocking.

use crate::sys::file;
use crate::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// One direction of a relay. It buffers what it has read and could not write yet, so that hull can
/// still wait for signals meanwhile.
pub struct Stream {
    from: OwnedFd,
    to: OwnedFd,
    buffer: Vec<u8>,
    open: bool,
    /// Whether it leads to the container.
    input: bool,
    /// It reads a terminal's master, which no process has open at the moment: the read is tried
    /// again ([`Stream::retry`]), since a program may close its terminal and open it again.
    hung: bool,
    /// The last byte that it has read.
    last: u8,
}

impl Stream {
    /// How much is read at once, in bytes.
    const WINDOW: usize = 16384;

    /// A relay from one descriptor to another. It keeps copies of both.
    ///
    /// # Errors
    /// fcntl(2) F_DUPFD_CLOEXEC fails: a descriptor is not open.
    pub fn new(from: BorrowedFd, to: BorrowedFd) -> Result<Self> {
        let copy = |descriptor: BorrowedFd| {
            descriptor
                .try_clone_to_owned()
                .on("copy", "a descriptor of stdio")
        };
        Ok(Self {
            from: copy(from)?,
            to: copy(to)?,
            buffer: Vec::new(),
            open: true,
            input: false,
            hung: false,
            last: b'\n',
        })
    }

    /// Whether there may be more to relay.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether it waits for a process to open the terminal again.
    pub fn is_hung(&self) -> bool {
        self.hung
    }

    /// Lets a hung terminal be read again.
    pub fn retry(&mut self) {
        self.hung = false;
    }

    /// Whether what it has read ends in the middle of a line.
    pub fn ends_within_a_line(&self) -> bool {
        self.last != b'\n'
    }

    /// Whether it leads to the container.
    pub fn is_input(&self) -> bool {
        self.input
    }

    /// What it waits for: room to write where its buffer holds something, and otherwise input.
    pub fn poll_fd(&self) -> PollFd<'_> {
        match self.buffer.is_empty() {
            true => PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
            false => PollFd::new(self.to.as_fd(), PollFlags::POLLOUT),
        }
    }

    /// Reads once and writes as much as the other end takes now.
    pub fn relay(&mut self) {
        if self.buffer.is_empty() {
            let mut window = [0_u8; Self::WINDOW];
            match nix::unistd::read(&self.from, &mut window) {
                Ok(0) => self.open = false,
                Ok(count) => {
                    self.buffer.extend_from_slice(&window[..count]);
                    self.last = window[count - 1];
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                // No process has the terminal open at the moment.
                Err(Errno::EIO) if !self.input => self.hung = true,
                Err(_) => self.open = false,
            }
        }
        while !self.buffer.is_empty() {
            match nix::unistd::write(&self.to, &self.buffer) {
                Ok(written) => drop(self.buffer.drain(..written)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.buffer.clear();
                    self.open = false;
                }
            }
        }
    }

    /// Relays what is left after the program's end, however slowly it is read.
    pub fn drain(&mut self) {
        self.retry();
        while self.open && !self.hung {
            let limit = if self.buffer.is_empty() {
                PollTimeout::ZERO
            } else {
                PollTimeout::NONE
            };
            match poll(&mut [self.poll_fd()], limit) {
                Ok(count) if count > 0 => self.relay(),
                Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    }
}

/// Pipes for the container's program in place of those descriptors of hull's stdio that are
/// non-blocking. Most programs expect blocking stdio, and lose output if the other end of a pipe
/// with `O_NONBLOCK` is read slowly. hull does not clear the flag, since the caller shares it.
/// (runc gives pipes to every program without a terminal.)
pub struct Pipes {
    saved: Vec<(i32, OwnedFd)>,
    streams: Vec<Stream>,
}

impl Pipes {
    /// Replaces the non-blocking descriptors of stdio by pipes; `None` where all of them block.
    ///
    /// # Errors
    /// pipe2(2), dup3(2) or the copy of a descriptor fails.
    pub fn replace_nonblocking() -> Result<Option<Self>> {
        let wanted: Vec<i32> = (0..3).filter(|raw| is_nonblocking(*raw)).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut pipes = Self {
            saved: Vec::new(),
            streams: Vec::new(),
        };
        for raw in wanted {
            pipes.replace(raw)?;
        }
        Ok(Some(pipes))
    }

    fn replace(&mut self, raw: i32) -> Result<()> {
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
        let (stream, program_end) = match raw {
            0 => (
                Stream {
                    input: true,
                    ..Stream::new(own.as_fd(), write.as_fd())?
                },
                read,
            ),
            _ => (Stream::new(read.as_fd(), own.as_fd())?, write),
        };
        file::dup_to(program_end.as_raw_fd(), raw).on("replace", "a descriptor of stdio")?;
        self.saved.push((raw, own));
        self.streams.push(stream);
        Ok(())
    }

    /// Restores hull's own stdio when the program has inherited the pipes. The caller relays the
    /// returned streams from now on.
    ///
    /// # Errors
    /// dup3(2) fails.
    pub fn into_streams(mut self) -> Result<Vec<Stream>> {
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
    /// The program was not created: relays what hooks and hull have written.
    fn drop(&mut self) {
        let _ = self.restore();
        self.streams.iter_mut().for_each(Stream::drain);
    }
}

fn is_nonblocking(raw: i32) -> bool {
    let pipe = |mode: u32| matches!(mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFSOCK);
    file::status_flags(raw).is_ok_and(|flags| flags & libc::O_NONBLOCK != 0)
        && file::fstat(raw).is_ok_and(|stat| pipe(stat.st_mode))
}
