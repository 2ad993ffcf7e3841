//! The stdio of a host process that represents a program in the guest: hull copies between the
//! process's stdin, stdout and stderr (or a pseudoterminal) and stream sockets, which the event
//! loop that serves the channel can use without blocking.

use crate::sys::fd::Fd;
use crate::sys::{file, socket};
use crate::{Context, Result};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// The capacity that a pipe gets when its reader is late, in bytes: room for all output that can be
/// in transit when a program ends (the channel's window and last data, and the sockets' buffers).
const PIPE_SIZE: usize = 2 << 20;
/// The size of one write, in bytes. A longer write to a full pipe would show the reader's progress
/// only when all of it is written.
const PIECE: usize = libc::PIPE_BUF;

/// The ends for the channel.
pub(crate) struct Ends {
    /// hull reads the program's stdin here.
    pub stdin: Fd,
    /// hull writes the program's stdout here.
    pub stdout: Fd,
    /// hull writes the program's stderr here. A terminal has none.
    pub stderr: Option<Fd>,
}

/// The ends for the process's own stdio.
pub(crate) enum Stdio {
    /// Copying threads.
    Pipes {
        /// Source and destination of each thread that is not started yet; stdin's is the first.
        pairs: Vec<(Fd, Fd)>,
        /// The running threads for stdout and stderr.
        pumps: Vec<Pump>,
    },
    /// The slave side of a pseudoterminal, kept to read its size.
    Terminal(Fd),
}

/// A thread that copies the program's output.
pub(crate) struct Pump {
    thread: JoinHandle<()>,
    /// The destination. The thread owns it, so that it is closed when the thread ends.
    to: Weak<Fd>,
    /// How many bytes the thread has written to it.
    written: Arc<AtomicU64>,
}

/// Creates a pair of connected Unix stream sockets, close-on-exec.
///
/// # Errors
/// socketpair(2) fails.
pub(crate) fn stream_pair() -> Result<(Fd, Fd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let (a, b) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .on("create", "a socket pair")?;
    Ok((Fd(a.into_raw_fd()), Fd(b.into_raw_fd())))
}

/// Duplicates this process's stdin, stdout and stderr.
///
/// # Errors
/// fcntl(2) fails (F_DUPFD_CLOEXEC).
pub(crate) fn copy_own() -> Result<[Fd; 3]> {
    let copy = |raw: i32| {
        nix::fcntl::fcntl(
            socket::borrow(raw),
            nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3),
        )
        .map(Fd)
        .on("duplicate", "stdio")
    };
    Ok([copy(0)?, copy(1)?, copy(2)?])
}

/// Replaces this process's stdin and stdout by `/dev/null`, after they were duplicated: the reader
/// of the program's output sees end of file only when no process has it open any more. stderr stays
/// open for hull's own messages.
///
/// # Errors
/// `/dev/null` cannot be opened; dup3(2) fails.
pub(crate) fn release_own() -> Result<()> {
    let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0)
        .map(Fd)
        .on("open", "/dev/null")?;
    (0..2)
        .try_for_each(|number| file::dup_to(null.0, number))
        .on("set", "stdio")
}

impl Stdio {
    /// Copies between these descriptors and new sockets, once [`Stdio::start`] is called.
    ///
    /// # Errors
    /// socketpair(2) fails.
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

    /// Opens a pseudoterminal on the host and sends its master over the console socket, as the
    /// namespace backend does. `size` is rows and columns; (0, 0) leaves the default. The terminal
    /// in the guest does the line editing, so this one is in raw mode. It becomes the controlling
    /// terminal of this process, which so gets SIGWINCH and SIGHUP.
    ///
    /// # Errors
    /// `/dev/ptmx` cannot be opened or set up; the console socket is closed.
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
        let slave = Fd(socket::pty_peer(master.0).on("open", "the terminal")?);
        let mut settings =
            tcgetattr(socket::borrow(slave.0)).on("get the settings of", "the terminal")?;
        cfmakeraw(&mut settings);
        tcsetattr(socket::borrow(slave.0), SetArg::TCSANOW, &settings)
            .on("set the settings of", "the terminal")?;
        if size != (0, 0) {
            socket::window_size(master.0, size.0, size.1).on("set the size of", "the terminal")?;
        }
        socket::send_fd(console.0, b"/dev/ptmx", master.0).on("send", "the terminal")?;
        socket::controlling_terminal(slave.0).on("set", "the controlling terminal")?;
        // As in a process of the namespace backend, the terminal replaces the caller's stdio, whose
        // reader then does not wait for this process.
        for number in 0..3 {
            file::dup_to(slave.0, number).on("set", "stdio")?;
        }
        let copy = || {
            nix::fcntl::fcntl(
                socket::borrow(slave.0),
                nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3),
            )
            .map(Fd)
            .on("duplicate", "the terminal")
        };
        let ends = Ends {
            stdin: copy()?,
            stdout: copy()?,
            stderr: None,
        };
        Ok((Stdio::Terminal(slave), ends))
    }

    /// The terminal's size: rows and columns. Pipes have none.
    pub fn size(&self) -> Option<(u16, u16)> {
        match self {
            Stdio::Terminal(slave) => socket::terminal_size(slave.0),
            Stdio::Pipes { .. } => None,
        }
    }

    /// Starts the copying threads. From here on the process has more than one thread and must not
    /// clone.
    pub fn start(&mut self) {
        let Stdio::Pipes { pairs, pumps } = self else {
            return;
        };
        for (index, (from, to)) in std::mem::take(pairs).into_iter().enumerate() {
            let (to, written) = (Arc::new(to), Arc::new(AtomicU64::new(0)));
            let (weak, count) = (Arc::downgrade(&to), Arc::clone(&written));
            let thread = std::thread::spawn(move || pump(&from, &to, &count));
            if index > 0 {
                pumps.push(Pump {
                    thread,
                    to: weak,
                    written,
                });
            }
        }
    }

    /// Whether all output of the program has reached its destination, so that this process may
    /// end.
    pub fn is_done(&self) -> bool {
        match self {
            Stdio::Pipes { pumps, .. } => pumps.iter().all(|pump| pump.thread.is_finished()),
            Stdio::Terminal(_) => true,
        }
    }

    /// How many bytes of the program's output have been read, up to a constant: the number changes
    /// whenever a reader reads.
    pub fn read_by_readers(&self) -> u64 {
        let unread = |fd: i32| file::untaken(fd).unsigned_abs().into();
        match self {
            Stdio::Pipes { pumps, .. } => pumps.iter().fold(0, |sum, pump| {
                let unread: u64 = pump.to.upgrade().map_or(0, |to| unread(to.0));
                sum.wrapping_add(pump.written.load(Ordering::Relaxed))
                    .wrapping_sub(unread)
            }),
            Stdio::Terminal(slave) => 0_u64.wrapping_sub(unread(slave.0)),
        }
    }

    /// Enlarges the pipes (F_SETPIPE_SZ), for a program that has ended and whose reader does not
    /// read: its output then stays in the pipe as long as the reader likes, as that of a program on
    /// the host does. What is not a pipe, or may not grow, is left as it is.
    pub fn enlarge_pipes(&self) {
        let Stdio::Pipes { pumps, .. } = self else {
            return;
        };
        for to in pumps.iter().filter_map(|pump| pump.to.upgrade()) {
            let Ok(size) = file::pipe_size(to.0) else {
                continue;
            };
            // Without CAP_SYS_RESOURCE the limit is the sysctl fs.pipe-max-size.
            let sizes = std::iter::successors(Some(PIPE_SIZE), |size| Some(size / 2))
                .take_while(|wanted| *wanted > size);
            let _ = sizes
                .map(|wanted| file::set_pipe_size(to.0, wanted))
                .find(Result::is_ok);
        }
    }
}

/// Copies until end of file or until nobody reads the destination. Only this thread waits for these
/// descriptors, so they may block.
fn pump(from: &Fd, to: &Fd, written: &AtomicU64) {
    let mut buffer = vec![0_u8; 32768];
    loop {
        let count = match file::read(from.0, &mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            // The process that owns stdin has made it non-blocking.
            Err(nix::errno::Errno::EAGAIN) => {
                let _ = crate::sys::process::poll2(from.0, -1, None);
                continue;
            }
            Err(_) => return,
        };
        let mut left = &buffer[..count];
        while !left.is_empty() {
            match file::write(to.0, &left[..left.len().min(PIECE)]) {
                Ok(count) => {
                    left = &left[count..];
                    written.fetch_add(count as u64, Ordering::Relaxed);
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
            assert!(Instant::now() < end, "timeout: {what}");
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

    /// Copies these bytes to a stdout; the thread that writes them may have to wait.
    fn output(stdout: Fd, bytes: Vec<u8>) -> (Stdio, JoinHandle<()>) {
        let (mut stdio, ends) = Stdio::pipes([null(), stdout, null()]).unwrap();
        stdio.start();
        let Ends { stdout, .. } = ends;
        (
            stdio,
            std::thread::spawn(move || write_all(&stdout, &bytes)),
        )
    }

    /// Waits until all buffers are full.
    fn wait_until_full(stdio: &Stdio) {
        until("nothing is copied any more", || {
            let before = stdio.read_by_readers();
            std::thread::sleep(Duration::from_millis(100));
            stdio.read_by_readers() == before
        });
    }

    #[test]
    fn a_pipe_keeps_all_output_for_a_late_reader() {
        let bytes: Vec<u8> = (0..120_000_u32).flat_map(u32::to_le_bytes).collect();
        let (reader, to) = file::pipe()
            .map(|(reader, to)| (Fd(reader), Fd(to)))
            .unwrap();
        let (stdio, writer) = output(to, bytes.clone());
        wait_until_full(&stdio);
        assert!(!stdio.is_done());
        until("all is in the pipe", || {
            stdio.enlarge_pipes();
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
    fn progress_of_a_slow_reader_of_a_socket_is_seen() {
        const ALL: usize = 1 << 20;
        let (to, reader) = stream_pair().unwrap();
        let (stdio, writer) = output(to, vec![1; ALL]);
        wait_until_full(&stdio);
        stdio.enlarge_pipes();
        assert!(!stdio.is_done());
        let (mut got, mut buffer) = (0, [0; PIECE]);
        while got < ALL / 2 {
            let (before, from) = (stdio.read_by_readers(), got);
            while stdio.read_by_readers() == before {
                got += file::read(reader.0, &mut buffer).unwrap();
                assert!(
                    got - from <= 16 * PIECE,
                    "{} bytes were read and not counted",
                    got - from
                );
            }
        }
        while got < ALL {
            got += file::read(reader.0, &mut buffer).unwrap();
        }
        writer.join().unwrap();
        until("all is read", || stdio.is_done());
    }
}
