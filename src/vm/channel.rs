//! One end of the channel: frames in and out of a descriptor that never blocks, and the streams that it carries.
//!
//! A stream's sender may have [`WINDOW`] bytes on the way; the receiver gives credit back as its sink takes them. So an unread stream
//! holds back its own sender and nothing else, and the queues stay small whatever is read or not.

use super::frame::{self, Frame, Kind, Parser};
use crate::init::Held;
use crate::sys::{event, file};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::collections::{BTreeMap, VecDeque};

/// How many bytes of a stream may be on the way, unread.
pub const WINDOW: u32 = 64 << 10;
/// The most that one frame of a stream carries.
const PIECE: usize = 16 << 10;

/// A session's three streams (with a terminal, two).
pub const STDIN: u32 = 0;
/// See [`STDIN`].
pub const STDOUT: u32 = 1;
/// See [`STDIN`].
pub const STDERR: u32 = 2;

/// A stream's number.
pub fn stream(session: u32, which: u32) -> u32 {
    session * 4 + which
}

/// The descriptor and its queues.
pub struct Channel {
    fd: Held,
    parser: Parser,
    out: Vec<u8>,
    sent: usize,
}

impl Channel {
    /// Takes a descriptor.
    ///
    /// # Errors
    /// EBADF.
    pub fn new(fd: Held) -> Result<Self> {
        event::nonblocking(fd.0).on("use", "the channel")?;
        Ok(Self { fd, parser: Parser::default(), out: Vec::new(), sent: 0 })
    }

    /// What poll(2) is to watch.
    pub fn interest(&self) -> libc::pollfd {
        let events = if self.out.is_empty() { libc::POLLIN } else { libc::POLLIN | libc::POLLOUT };
        libc::pollfd { fd: self.fd.0, events, revents: 0 }
    }

    /// Queues a frame.
    pub fn put(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        frame::put(&mut self.out, kind, stream, payload);
    }

    /// Queues a message.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn message<T: serde::Serialize>(&mut self, session: u32, message: &T) -> Result<()> {
        let text = serde_json::to_vec(message).map_err(|error| Error::new(format!("write a message: {error}")))?;
        self.put(Kind::Message, session, &text);
        Ok(())
    }

    /// Sends what the descriptor takes.
    ///
    /// # Errors
    /// The kernel's; the other end is gone.
    pub fn flush(&mut self) -> Result<()> {
        while self.sent < self.out.len() {
            match file::write(self.fd.0, &self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::EAGAIN) => break,
                // The other end is gone, which is told by its reading's end, after what it said last.
                Err(Errno::EPIPE | Errno::ECONNRESET) => self.sent = self.out.len(),
                Err(errno) => return Err(Error::sys("write to", "the channel", errno)),
            }
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent > 1 << 20 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Reads once what there is; false at the end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn fill(&mut self) -> Result<bool> {
        let mut buffer = [0_u8; 65536];
        match file::read(self.fd.0, &mut buffer) {
            Ok(0) | Err(Errno::ECONNRESET) => Ok(false),
            Ok(count) => {
                self.parser.push(&buffer[..count]);
                Ok(true)
            }
            Err(Errno::EAGAIN) => Ok(true),
            Err(errno) => Err(Error::sys("read from", "the channel", errno)),
        }
    }

    /// The next frame that was read.
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.parser.next_frame()
    }
}

/// A descriptor whose bytes go out as a stream.
struct Source {
    fd: Held,
    credit: u32,
}

/// A descriptor that takes a stream's bytes.
struct Sink {
    /// None once it takes no more: what comes is dropped, and its credit given back.
    fd: Option<Held>,
    pending: VecDeque<u8>,
    ended: bool,
    /// Its descriptor comes later: what is sent meanwhile is kept.
    awaited: bool,
}

/// All streams of one end.
#[derive(Default)]
pub struct Streams {
    sources: BTreeMap<u32, Source>,
    sinks: BTreeMap<u32, Sink>,
}

impl Streams {
    /// A descriptor is read, and its bytes are sent.
    ///
    /// # Errors
    /// EBADF.
    pub fn send(&mut self, stream: u32, fd: Held) -> Result<()> {
        event::nonblocking(fd.0).on("use", "a stream")?;
        self.sources.insert(stream, Source { fd, credit: WINDOW });
        Ok(())
    }

    /// What comes on a stream is written to a descriptor.
    ///
    /// # Errors
    /// EBADF.
    pub fn receive(&mut self, stream: u32, fd: Held) -> Result<()> {
        event::nonblocking(fd.0).on("use", "a stream")?;
        let kept = self.sinks.remove(&stream).filter(|sink| sink.awaited);
        let (pending, ended) = kept.map_or((VecDeque::new(), false), |sink| (sink.pending, sink.ended));
        if !ended || !pending.is_empty() {
            self.sinks.insert(stream, Sink { fd: Some(fd), pending, ended, awaited: false });
        }
        Ok(())
    }

    /// A descriptor for a stream will come ([`Streams::receive`]); what comes before it is kept.
    pub fn expect(&mut self, stream: u32) {
        self.sinks.insert(stream, Sink { fd: None, pending: VecDeque::new(), ended: false, awaited: true });
    }

    /// Whether a stream still brings something, or holds what its sink has not taken.
    pub fn is_open(&self, stream: u32) -> bool {
        self.sources.contains_key(&stream) || self.sinks.get(&stream).is_some_and(|sink| sink.fd.is_some())
    }

    /// Whether a source has bytes that were not sent yet: held back by its credit, or not read so far.
    pub fn holds_bytes(&self, stream: u32) -> bool {
        let Some(source) = self.sources.get(&stream) else { return false };
        let mut fds = [libc::pollfd { fd: source.fd.0, events: libc::POLLIN, revents: 0 }];
        matches!(event::poll(&mut fds, Some(0)), Ok(1)) && fds[0].revents & libc::POLLIN != 0
    }

    /// A source is read no more, and no end is told.
    pub fn stop_sending(&mut self, stream: u32) {
        self.sources.remove(&stream);
    }

    /// Forgets a session's streams.
    pub fn forget(&mut self, session: u32) {
        for which in [STDIN, STDOUT, STDERR] {
            self.sources.remove(&stream(session, which));
            self.sinks.remove(&stream(session, which));
        }
    }

    /// What poll(2) is to watch, and whose it is; see [`Streams::ready`].
    pub fn interests(&self, fds: &mut Vec<libc::pollfd>, whose: &mut Vec<(u32, bool)>) {
        for (number, source) in self.sources.iter().filter(|(_, source)| source.credit > 0) {
            fds.push(libc::pollfd { fd: source.fd.0, events: libc::POLLIN, revents: 0 });
            whose.push((*number, true));
        }
        for (number, sink) in &self.sinks {
            if let Some(fd) = &sink.fd {
                // Without POLLOUT only the end of its reader is told.
                let events = if sink.pending.is_empty() { 0 } else { libc::POLLOUT };
                fds.push(libc::pollfd { fd: fd.0, events, revents: 0 });
                whose.push((*number, false));
            }
        }
    }

    /// Carries what is ready.
    pub fn ready(&mut self, channel: &mut Channel, (number, is_source): (u32, bool), events: i16) {
        if events == 0 {
            return;
        }
        if is_source {
            self.carry_source(channel, number);
        } else if events & libc::POLLOUT != 0 {
            self.carry_sink(channel, number);
        } else {
            self.close_sink(channel, number);
        }
    }

    fn carry_source(&mut self, channel: &mut Channel, number: u32) {
        let Some(source) = self.sources.get_mut(&number) else { return };
        let mut buffer = [0_u8; PIECE];
        let room = PIECE.min(source.credit as usize);
        match file::read(source.fd.0, &mut buffer[..room]) {
            Err(Errno::EAGAIN) => {}
            // EIO: nobody has the terminal open any more.
            Ok(0) | Err(_) => {
                channel.put(Kind::End, number, &[]);
                self.sources.remove(&number);
            }
            Ok(count) => {
                source.credit -= count as u32;
                channel.put(Kind::Data, number, &buffer[..count]);
            }
        }
    }

    fn carry_sink(&mut self, channel: &mut Channel, number: u32) {
        let Some(sink) = self.sinks.get_mut(&number) else { return };
        let Some(fd) = &sink.fd else { return };
        let mut taken = 0;
        let mut broken = false;
        while let (head, _) = sink.pending.as_slices()
            && !head.is_empty()
        {
            match file::write(fd.0, head) {
                Ok(count) => {
                    sink.pending.drain(..count);
                    taken += count as u32;
                }
                Err(Errno::EAGAIN) => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if taken > 0 {
            channel.put(Kind::Credit, number, &taken.to_le_bytes());
        }
        if broken {
            self.close_sink(channel, number);
        } else if sink.ended && sink.pending.is_empty() {
            self.sinks.remove(&number);
        }
    }

    /// Nobody reads what the sink is given: the sender is told, so that its program gets the signal it would have got.
    fn close_sink(&mut self, channel: &mut Channel, number: u32) {
        let Some(sink) = self.sinks.get_mut(&number) else { return };
        let lost = sink.pending.len() as u32;
        sink.pending.clear();
        sink.fd = None;
        if lost > 0 {
            channel.put(Kind::Credit, number, &lost.to_le_bytes());
        }
        channel.put(Kind::Closed, number, &[]);
        if sink.ended {
            self.sinks.remove(&number);
        }
    }

    /// Takes a frame of a stream; false when it is none.
    pub fn take(&mut self, channel: &mut Channel, frame: &Frame) -> bool {
        let number = frame.stream;
        match frame.kind {
            Kind::Data => match self.sinks.get_mut(&number) {
                Some(sink) if sink.awaited || sink.fd.is_some() => {
                    sink.pending.extend(&frame.payload);
                    self.carry_sink(channel, number);
                }
                _ => channel.put(Kind::Credit, number, &(frame.payload.len() as u32).to_le_bytes()),
            },
            Kind::Credit => {
                let count = frame.payload.as_slice().try_into().map_or(0, u32::from_le_bytes);
                if let Some(source) = self.sources.get_mut(&number) {
                    source.credit = source.credit.saturating_add(count).min(WINDOW);
                }
            }
            Kind::End => {
                if let Some(sink) = self.sinks.get_mut(&number) {
                    sink.ended = true;
                    if sink.pending.is_empty() && !sink.awaited {
                        self.sinks.remove(&number);
                    }
                }
            }
            Kind::Closed => drop(self.sources.remove(&number)),
            _ => return false,
        }
        true
    }
}
