//! A process of hull's that stands for a program in a guest: its own stdin, stdout and stderr, or a terminal, as ends that never block
//! whoever serves the channel.

use crate::init::Held;
use crate::sys::{file, socket};
use crate::{Context, Result};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use std::os::fd::IntoRawFd;
use std::thread::JoinHandle;

/// The far ends, for the channel.
pub struct Ends {
    /// Brings the program's stdin.
    pub stdin: Held,
    /// Takes its stdout.
    pub stdout: Held,
    /// Takes its stderr; none with a terminal.
    pub stderr: Option<Held>,
}

/// The near ends.
pub enum Stdio {
    /// Pumps, before and after they run.
    Pipes {
        /// From where to where; the first is for stdin.
        pairs: Vec<(Held, Held)>,
        /// Those of stdout and stderr.
        pumps: Vec<JoinHandle<()>>,
    },
    /// The terminal's far side, for its size.
    Terminal(Held),
}

/// A pair of stream sockets, close-on-exec.
pub fn stream_pair() -> Result<(Held, Held)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let (a, b) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).on("make", "a socket pair")?;
    Ok((Held(a.into_raw_fd()), Held(b.into_raw_fd())))
}

/// Copies of this process's stdio, which others may then replace.
pub fn own() -> Result<[Held; 3]> {
    let copy = |raw: i32| nix::fcntl::fcntl(socket::borrow(raw), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3)).map(Held).on("copy", "stdio");
    Ok([copy(0)?, copy(1)?, copy(2)?])
}

/// Leaves the caller's stdin and stdout to their copies: whoever reads to the end of what the program writes waits for the last holder.
/// stderr stays for what this process itself has to say.
///
/// # Errors
/// The kernel's.
pub fn let_go() -> Result<()> {
    let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0).map(Held).on("open", "/dev/null")?;
    (0..2).try_for_each(|number| file::dup_to(null.0, number)).on("set", "stdio")
}

impl Stdio {
    /// Pipes for three descriptors of this process's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pipes(own: [Held; 3]) -> Result<(Self, Ends)> {
        let [stdin, stdout, stderr] = own;
        let ((in_far, in_near), (out_far, out_near), (err_far, err_near)) = (stream_pair()?, stream_pair()?, stream_pair()?);
        let pairs = vec![(stdin, in_near), (out_near, stdout), (err_near, stderr)];
        Ok((Stdio::Pipes { pairs, pumps: Vec::new() }, Ends { stdin: in_far, stdout: out_far, stderr: Some(err_far) }))
    }

    /// A terminal of the host's, whose near side goes over the console's socket as the container's would. The guest's own terminal does
    /// the editing, so this one is raw; it is this process's controlling one, so that its size and its end are told by signals.
    ///
    /// # Errors
    /// The kernel's.
    pub fn terminal(console: &Held, size: (u16, u16)) -> Result<(Self, Ends)> {
        let master = file::openat(libc::AT_FDCWD, c"/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY, 0).map(Held).on("open", "/dev/ptmx")?;
        socket::pty_unlock(master.0).on("unlock", "the terminal")?;
        let peer = Held(socket::pty_peer(master.0).on("open", "the terminal")?);
        let mut settings = tcgetattr(socket::borrow(peer.0)).on("ask", "the terminal")?;
        cfmakeraw(&mut settings);
        tcsetattr(socket::borrow(peer.0), SetArg::TCSANOW, &settings).on("set", "the terminal")?;
        if size != (0, 0) {
            socket::window_size(master.0, size.0, size.1).on("size", "the terminal")?;
        }
        socket::send_fd(console.0, b"/dev/ptmx", master.0).on("send", "the terminal")?;
        socket::controlling_terminal(peer.0).on("take", "the terminal")?;
        // As it would be the program's stdio. What the caller had there it reads to the end, and must not wait for this process.
        for number in 0..3 {
            file::dup_to(peer.0, number).on("set", "stdio")?;
        }
        let copy = || nix::fcntl::fcntl(socket::borrow(peer.0), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3)).map(Held).on("copy", "the terminal");
        let ends = Ends { stdin: copy()?, stdout: copy()?, stderr: None };
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
        let Stdio::Pipes { pairs, pumps } = self else { return };
        for (index, (from, to)) in std::mem::take(pairs).into_iter().enumerate() {
            let pump = std::thread::spawn(move || pump(&from, &to));
            if index > 0 {
                pumps.push(pump);
            }
        }
    }

    /// Whether all that the program wrote has been taken.
    pub fn is_done(&self) -> bool {
        match self {
            Stdio::Pipes { pumps, .. } => pumps.iter().all(JoinHandle::is_finished),
            Stdio::Terminal(_) => true,
        }
    }
}

/// Carries to the end of either side. These descriptors block, and are nobody's else to wait for.
fn pump(from: &Held, to: &Held) {
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
            match file::write(to.0, left) {
                Ok(written) => left = &left[written..],
                Err(nix::errno::Errno::EAGAIN) => {
                    let mut fds = [libc::pollfd { fd: to.0, events: libc::POLLOUT, revents: 0 }];
                    let _ = crate::sys::event::poll(&mut fds, None);
                }
                Err(_) => return,
            }
        }
    }
}
