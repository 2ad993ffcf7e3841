//! A process of hull's that stands for a program in a guest: its own stdin, stdout and stderr, or a
//! terminal, as ends that never block whoever serves the channel.

use crate::sys::fd::Fd;
use crate::sys::{file, socket};
use crate::{Context, Result};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// What a pipe is made to hold for a reader who is late, in bytes: all that can be on its way when
/// a program ends (the channel's last word, its window, and what lies between it and the pipe).
const KEPT: usize = 2 << 20;
/// What is written at once, in bytes: a write that waits tells of its reader's progress only when
/// it is done.
const PIECE: usize = libc::PIPE_BUF;

/// The far ends, for the channel.
pub struct Ends {
    /// Brings the program's stdin.
    pub stdin: Fd,
    /// Takes its stdout.
    pub stdout: Fd,
    /// Takes its stderr; none with a terminal.
    pub stderr: Option<Fd>,
}

/// The near ends.
pub enum Stdio {
    /// Pumps, before and after they run.
    Pipes {
        /// From where to where; the first is for stdin.
        pairs: Vec<(Fd, Fd)>,
        /// Those of stdout and stderr.
        pumps: Vec<Pump>,
    },
    /// The terminal's far side, for its size.
    Terminal(Fd),
}

/// One that carries what the program writes.
pub struct Pump {
    thread: JoinHandle<()>,
    /// Where to; its end is the thread's to make.
    to: Weak<Fd>,
    /// How many bytes it has written there.
    carried: Arc<AtomicU64>,
}

/// A pair of stream sockets, close-on-exec.
pub fn stream_pair() -> Result<(Fd, Fd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let (a, b) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .on("make", "a socket pair")?;
    Ok((Fd(a.into_raw_fd()), Fd(b.into_raw_fd())))
}

/// Copies of this process's stdio, which others may then replace.
pub fn own() -> Result<[Fd; 3]> {
    let copy = |raw: i32| {
        nix::fcntl::fcntl(
            socket::borrow(raw),
            nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3),
        )
        .map(Fd)
        .on("copy", "stdio")
    };
    Ok([copy(0)?, copy(1)?, copy(2)?])
}

/// Leaves the caller's stdin and stdout to their copies: whoever reads to the end of what the
/// program writes waits for the last holder. stderr stays for what this process itself has to say.
///
/// # Errors
/// The kernel's.
pub fn let_go() -> Result<()> {
    let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0)
        .map(Fd)
        .on("open", "/dev/null")?;
    (0..2)
        .try_for_each(|number| file::dup_to(null.0, number))
        .on("set", "stdio")
}

impl Stdio {
    /// Pipes for three descriptors of this process's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pipes(own: [Fd; 3]) -> Result<(Self, Ends)> {
        let [stdin, stdout, stderr] = own;
        let ((in_far, in_near), (out_far, out_near), (err_far, err_near)) =
            (stream_pair()?, stream_pair()?, stream_pair()?);
        let pairs = vec![(stdin, in_near), (out_near, stdout), (err_near, stderr)];
        Ok((
            Stdio::Pipes {
                pairs,
                pumps: Vec::new(),
            },
            Ends {
                stdin: in_far,
                stdout: out_far,
                stderr: Some(err_far),
            },
        ))
    }

    /// A terminal of the host's, whose near side goes over the console's socket as the container's
    /// would. The guest's own terminal does the editing, so this one is raw; it is this process's
    /// controlling one, so that its size and its end are told by signals.
    ///
    /// # Errors
    /// The kernel's.
    pub fn terminal(console: &Fd, size: (u16, u16)) -> Result<(Self, Ends)> {
        let master = file::openat(
            libc::AT_FDCWD,
            c"/dev/ptmx",
            libc::O_RDWR | libc::O_NOCTTY,
            0,
        )
        .map(Fd)
        .on("open", "/dev/ptmx")?;
        socket::pty_unlock(master.0).on("unlock", "the terminal")?;
        let peer = Fd(socket::pty_peer(master.0).on("open", "the terminal")?);
        let mut settings = tcgetattr(socket::borrow(peer.0)).on("ask", "the terminal")?;
        cfmakeraw(&mut settings);
        tcsetattr(socket::borrow(peer.0), SetArg::TCSANOW, &settings).on("set", "the terminal")?;
        if size != (0, 0) {
            socket::window_size(master.0, size.0, size.1).on("size", "the terminal")?;
        }
        socket::send_fd(console.0, b"/dev/ptmx", master.0).on("send", "the terminal")?;
        socket::controlling_terminal(peer.0).on("take", "the terminal")?;
        // As it would be the program's stdio. What the caller had there it reads to the end, and
        // must not wait for this process.
        for number in 0..3 {
            file::dup_to(peer.0, number).on("set", "stdio")?;
        }
        let copy = || {
            nix::fcntl::fcntl(
                socket::borrow(peer.0),
                nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3),
            )
            .map(Fd)
            .on("copy", "the terminal")
        };
        let ends = Ends {
            stdin: copy()?,
            stdout: copy()?,
            stderr: None,
        };
        Ok((Stdio::Terminal(peer), ends))
    }

    /// The terminal's size: rows and columns.
    pub fn size(&self) -> Option<(u16, u16)> {
        match self {
            Stdio::Terminal(peer) => socket::terminal_size(peer.0),
            Stdio::Pipes { .. } => None,
        }
    }

    /// Begins to carry. After this the process has more than one thread.
    pub fn start(&mut self) {
        let Stdio::Pipes { pairs, pumps } = self else {
            return;
        };
        for (index, (from, to)) in std::mem::take(pairs).into_iter().enumerate() {
            let (to, carried) = (Arc::new(to), Arc::new(AtomicU64::new(0)));
            let (held, count) = (Arc::downgrade(&to), Arc::clone(&carried));
            let thread = std::thread::spawn(move || pump(&from, &to, &count));
            if index > 0 {
                pumps.push(Pump {
                    thread,
                    to: held,
                    carried,
                });
            }
        }
    }

    /// Whether all that the program wrote has been taken, or is kept where it stays without this
    /// process.
    pub fn is_done(&self) -> bool {
        match self {
            Stdio::Pipes { pumps, .. } => pumps.iter().all(|pump| pump.thread.is_finished()),
            Stdio::Terminal(_) => true,
        }
    }

    /// Another number whenever a reader has taken something of what the program wrote.
    pub fn taken(&self) -> u64 {
        let not_taken = |fd: i32| file::untaken(fd).unsigned_abs().into();
        match self {
            Stdio::Pipes { pumps, .. } => pumps.iter().fold(0, |sum, pump| {
                let kept: u64 = pump.to.upgrade().map_or(0, |to| not_taken(to.0));
                sum.wrapping_add(pump.carried.load(Ordering::Relaxed))
                    .wrapping_sub(kept)
            }),
            Stdio::Terminal(peer) => 0_u64.wrapping_sub(not_taken(peer.0)),
        }
    }

    /// The program has ended, and its reader takes nothing: a pipe is made to hold all of it, as
    /// what a program writes to a pipe stays there for as long as the reader likes. What is no
    /// pipe, or may not grow, stays as it is.
    pub fn make_room(&self) {
        let Stdio::Pipes { pumps, .. } = self else {
            return;
        };
        for to in pumps.iter().filter_map(|pump| pump.to.upgrade()) {
            let Ok(size) = file::pipe_size(to.0) else {
                continue;
            };
            // An ordinary user may have `fs.pipe-max-size`.
            let sizes = std::iter::successors(Some(KEPT), |size| Some(size / 2))
                .take_while(|wanted| *wanted > size);
            let _ = sizes
                .map(|wanted| file::set_pipe_size(to.0, wanted))
                .find(Result::is_ok);
        }
    }
}

/// Carries to the end of either side. These descriptors block, and are nobody's else to wait for.
fn pump(from: &Fd, to: &Fd, carried: &AtomicU64) {
    let mut buffer = vec![0_u8; 32768];
    loop {
        let count = match file::read(from.0, &mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            // A stdin that its owner made non-blocking.
            Err(nix::errno::Errno::EAGAIN) => {
                let _ = crate::sys::process::poll2(from.0, -1, None);
                continue;
            }
            Err(_) => return,
        };
        let mut left = &buffer[..count];
        while !left.is_empty() {
            match file::write(to.0, &left[..left.len().min(PIECE)]) {
                Ok(written) => {
                    left = &left[written..];
                    carried.fetch_add(written as u64, Ordering::Relaxed);
                }
                Err(nix::errno::Errno::EAGAIN) => {
                    let mut fds = [libc::pollfd {
                        fd: to.0,
                        events: libc::POLLOUT,
                        revents: 0,
                    }];
                    let _ = crate::sys::event::poll(&mut fds, None);
                }
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn until(what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < end, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn null() -> Fd {
        Fd(file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0).unwrap())
    }

    fn write_all(to: &Fd, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            left = &left[file::write(to.0, left).unwrap()..];
        }
    }

    /// Bytes on their way to a stdout; whoever writes them may have to wait.
    fn written(stdout: Fd, bytes: Vec<u8>) -> (Stdio, JoinHandle<()>) {
        let (mut stdio, ends) = Stdio::pipes([null(), stdout, null()]).unwrap();
        stdio.start();
        let Ends { stdout, .. } = ends;
        (
            stdio,
            std::thread::spawn(move || write_all(&stdout, &bytes)),
        )
    }

    /// The reader takes nothing, and all that has room has been written.
    fn wait_till_still(stdio: &Stdio) {
        until("nothing moves", || {
            let before = stdio.taken();
            std::thread::sleep(Duration::from_millis(100));
            stdio.taken() == before
        });
    }

    #[test]
    fn a_pipe_keeps_all_for_a_reader_who_comes_after_the_end() {
        let bytes: Vec<u8> = (0..120_000_u32).flat_map(u32::to_le_bytes).collect();
        let (reader, to) = file::pipe()
            .map(|(reader, to)| (Fd(reader), Fd(to)))
            .unwrap();
        let (stdio, writer) = written(to, bytes.clone());
        wait_till_still(&stdio);
        assert!(!stdio.is_done());
        until("all is in the pipe", || {
            stdio.make_room();
            stdio.is_done()
        });
        writer.join().unwrap();
        drop(stdio);
        let (mut got, mut buffer) = (Vec::new(), [0; 65536]);
        while let count @ 1.. = file::read(reader.0, &mut buffer).unwrap() {
            got.extend_from_slice(&buffer[..count]);
        }
        assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
    }

    #[test]
    fn a_slow_reader_of_what_cannot_grow_is_seen_to_take() {
        const ALL: usize = 1 << 20;
        let (to, reader) = stream_pair().unwrap();
        let (stdio, writer) = written(to, vec![1; ALL]);
        wait_till_still(&stdio);
        stdio.make_room();
        assert!(!stdio.is_done());
        let (mut got, mut buffer) = (0, [0; PIECE]);
        while got < ALL / 2 {
            let (before, from) = (stdio.taken(), got);
            while stdio.taken() == before {
                got += file::read(reader.0, &mut buffer).unwrap();
                assert!(
                    got - from <= 16 * PIECE,
                    "{} bytes were taken and not seen",
                    got - from
                );
            }
        }
        while got < ALL {
            got += file::read(reader.0, &mut buffer).unwrap();
        }
        writer.join().unwrap();
        until("all is taken", || stdio.is_done());
    }
}
