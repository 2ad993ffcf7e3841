//! The monitor's event loop.

use super::forward::dialled_address;
use super::state::{Connection, Monitor, Stage};
use crate::sys::fd::Fd;
use crate::sys::process::Ended;
use crate::sys::{event, file, socket};
use crate::vm::channel::client;
use crate::vm::channel::message::{AGENT, PROGRAM, ToGuest};
use crate::vm::channel::mux::{STDIN, STDOUT, StreamEnd, stream};
use crate::{Context, Error, Result};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::time::{Duration, Instant};

/// How many of the last bytes from the guest's console are kept.
const CONSOLE_TAIL: usize = 4096;
/// The monitor stops reading the channel while the guest has left this many bytes unread, since
/// what it reads may need an answer. The guest's agent always reads.
const MOST_UNSENT: usize = 16 << 20;
/// How many connections are forwarded at once; more wait in the listeners' backlog. Each needs two
/// descriptors, and hull may be limited to some thousand.
const MOST_FORWARDED: usize = 128;

/// What a descriptor of the poll set belongs to.
#[derive(Clone, Copy)]
enum Source {
    /// The channel.
    Channel,
    /// The signalfd.
    Signals,
    /// QEMU's pidfd.
    VmmEnd,
    /// The QMP socket.
    Qmp,
    /// The guest's console.
    Console,
    /// The control socket.
    Listener,
    /// A listener for connections to forward.
    Forward,
    /// The start fifo.
    Start,
    /// The socket to the parent.
    Parent,
    /// A connection of a command.
    Connection(u64),
    /// An end of a stream.
    Stream(StreamEnd),
}

impl Monitor {
    /// Runs until the program has ended and its output is read.
    ///
    /// # Errors
    /// QEMU or the parent has ended before; the guest does not boot in time; the guest cannot
    /// create the container.
    pub(super) fn serve(&mut self) -> Result<Ended> {
        loop {
            self.channel.flush()?;
            let (mut fds, sources) = self.pollfds();
            let timeout = self.poll_timeout();
            event::poll(
                &mut fds,
                timeout.map(|timeout| timeout.as_millis() as u64 + 1),
            )
            .on("poll", "the VM's descriptors")?;
            for (source, events) in sources.iter().zip(fds.iter().map(|fd| fd.revents)) {
                if events != 0 {
                    self.ready(*source, events)?;
                }
            }
            while let Some(frame) = self.channel.next_frame() {
                self.handle_frame(&frame)?;
            }
            if let Some(ended) = self.finished() {
                return Ok(ended);
            }
            if Instant::now() >= self.deadline && self.stage < Stage::Created {
                return Err(Error::new(format!(
                    "the guest did not come up within {} s",
                    self.config.timeout.as_secs()
                )));
            }
        }
    }

    fn pollfds(&self) -> (Vec<libc::pollfd>, Vec<Source>) {
        let mut fds = vec![self.channel.pollfd()];
        if self.channel.unsent() > MOST_UNSENT {
            fds[0].events &= !libc::POLLIN;
        }
        let mut sources = vec![Source::Channel];
        let mut add = |fd: i32, source: Source| {
            fds.push(libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            });
            sources.push(source);
        };
        add(self.signals.as_raw_fd(), Source::Signals);
        add(self.qemu.pidfd(), Source::VmmEnd);
        add(self.qemu.qmp_descriptor(), Source::Qmp);
        add(self.console.0, Source::Console);
        add(self.listener.0, Source::Listener);
        if let Some(forward) = &self.forward
            && self.streams.connections() < MOST_FORWARDED
        {
            forward
                .descriptors()
                .for_each(|fd| add(fd, Source::Forward));
        }
        if self.stage == Stage::Created && self.config.start.0 >= 0 {
            add(self.config.start.0, Source::Start);
        }
        if let Some(parent) = &self.parent {
            add(parent.0, Source::Parent);
        }
        for (number, connection) in &self.connections {
            // One request at a time: while a command waits for an answer, only its end matters.
            let waits = self.pending_guest.contains(&Some(*number))
                || self
                    .pending_vmm
                    .iter()
                    .any(|pending| pending.connection == Some(*number));
            fds.push(libc::pollfd {
                fd: connection.socket.0,
                events: if waits { 0 } else { libc::POLLIN },
                revents: 0,
            });
            sources.push(Source::Connection(*number));
        }
        let mut ends = Vec::new();
        self.streams.pollfds(&mut fds, &mut ends);
        sources.extend(ends.into_iter().map(Source::Stream));
        (fds, sources)
    }

    fn poll_timeout(&self) -> Option<Duration> {
        match self.stage {
            Stage::Created | Stage::Running => None,
            Stage::Ended => Some(Duration::from_millis(20)),
            _ => Some(self.deadline.saturating_duration_since(Instant::now())),
        }
    }

    fn ready(&mut self, source: Source, events: i16) -> Result<()> {
        match source {
            Source::Channel => {
                if events & !libc::POLLOUT != 0 && !self.channel.fill()? {
                    return Err(vm_ended());
                }
                Ok(())
            }
            Source::Signals => {
                self.forward_signals();
                Ok(())
            }
            Source::VmmEnd => {
                // The guest's last frames may still be in the channel.
                while self.channel.fill()? {
                    while let Some(frame) = self.channel.next_frame() {
                        self.handle_frame(&frame)?;
                    }
                    if self.stage == Stage::Ended {
                        return Ok(());
                    }
                }
                Err(vm_ended())
            }
            Source::Qmp => self.handle_replies(),
            Source::Console => {
                self.read_console();
                Ok(())
            }
            Source::Listener => {
                self.accept();
                Ok(())
            }
            Source::Forward => self.accept_forwarded(),
            Source::Start => self.read_start(),
            Source::Parent => self.read_parent(),
            Source::Connection(number) => self.read_request(number),
            Source::Stream(end) => {
                self.streams.ready(&mut self.channel, end, events);
                Ok(())
            }
        }
    }

    /// Reads from the guest's console once and keeps the last bytes.
    pub(super) fn read_console(&mut self) {
        let mut piece = [0_u8; 1024];
        let count = file::read(self.console.0, &mut piece).unwrap_or(0);
        self.console_tail.extend(&piece[..count]);
        let excess = self.console_tail.len().saturating_sub(CONSOLE_TAIL);
        self.console_tail.drain(..excess);
        if count == 0 {
            // End of file: QEMU has ended, which its pidfd tells. poll(2) would return at once
            // for this descriptor from now on.
            self.console = Fd(-1);
        }
    }

    /// `hull start` has written to the start fifo.
    fn read_start(&mut self) -> Result<()> {
        let mut byte = [0_u8; 1];
        if file::read(self.config.start.0, &mut byte) == Ok(1) {
            self.stage = Stage::Running;
            self.channel.message(PROGRAM, &ToGuest::Start)?;
        }
        Ok(())
    }

    /// The parent has written the container's record, or has ended. If it ends before it has
    /// written the record, the container ends too.
    fn read_parent(&mut self) -> Result<()> {
        let Some(parent) = &self.parent else {
            return Ok(());
        };
        let mut byte = [0_u8; 1];
        match socket::recv(parent.0, &mut byte) {
            Ok(1) => {
                self.recorded = true;
                Ok(())
            }
            _ if self.recorded => {
                self.parent = None;
                Ok(())
            }
            _ => Err(Error::new("the parent process exited")),
        }
    }

    /// Accepts a command. An error does not end the container: the command may be gone, or this
    /// process may have no descriptor left.
    fn accept(&mut self) {
        match client::accept(&self.listener) {
            Ok(socket) => {
                let connection = Connection {
                    socket,
                    session: None,
                    watches_oom: false,
                };
                self.connections.insert(self.next_connection, connection);
                self.next_connection += 1;
            }
            // The command waits in the backlog until others have ended. Without the pause, the
            // loop would use a CPU meanwhile.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }

    /// Accepts connections to forward, and has the guest connect to the same addresses.
    fn accept_forwarded(&mut self) -> Result<()> {
        let accepted = self
            .forward
            .as_ref()
            .map(|forward| forward.accept())
            .unwrap_or_default();
        for connection in accepted {
            // Without the address the connection is closed, which its peer sees.
            let Ok(address) = dialled_address(&connection) else {
                continue;
            };
            let session = self.next_session();
            let added = self.streams.add_connection(
                stream(session, STDIN),
                stream(session, STDOUT),
                Fd(connection.into_raw_fd()),
            );
            match added {
                Ok(()) => self
                    .channel
                    .message(AGENT, &ToGuest::Connect(session, address))?,
                Err(_) => self.streams.remove_session(session),
            }
        }
        Ok(())
    }
}

fn vm_ended() -> Error {
    Error::new("the VM ended")
}
