//! One end of the channel: frames over a non-blocking descriptor, and the streams multiplexed on
//! it.
//!
//! A stream's sender may have [`WINDOW`] bytes in transit; the receiver returns credit as it writes
//! them to its sink. So a stream that nobody reads blocks its own sender only, and the queues have
//! a bounded size.

use crate::sys::fd::Fd;
use crate::sys::{event, file};
use crate::vm::channel::frame;
use crate::vm::channel::frame::{Frame, Kind, Parser};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::collections::{BTreeMap, VecDeque};

/// How many bytes of a stream may be in transit, not yet written to its sink.
const WINDOW: u32 = 64 << 10;
/// The most bytes of a stream in one frame.
const PIECE: usize = 16 << 10;
/// The most bytes sent without credit when a program has ended: the most that a pipe can hold
/// (`fs.pipe-max-size`). The program's children may go on writing without end.
const LAST: usize = 1 << 20;
/// The most bytes that a sink may have to buffer, with a margin.
const MOST: usize = WINDOW as usize + LAST + 2 * PIECE;

/// The first of a session's streams. With a terminal it has two: input and output.
pub(crate) const STDIN: u32 = 0;
/// The second of a session's streams.
pub(crate) const STDOUT: u32 = 1;
/// The third of a session's streams.
pub(crate) const STDERR: u32 = 2;

/// The number of a session's stream on the channel.
pub(crate) fn stream(session: u32, which: u32) -> u32 {
    session * 4 + which
}

/// The channel's descriptor with its buffers.
pub(crate) struct Channel {
    fd: Fd,
    parser: Parser,
    out: Vec<u8>,
    sent: usize,
}

impl Channel {
    /// Takes the descriptor and makes it non-blocking.
    ///
    /// # Errors
    /// fcntl(2) fails.
    pub fn new(fd: Fd) -> Result<Self> {
        event::nonblocking(fd.0).on("use", "the channel")?;
        Ok(Self {
            fd,
            parser: Parser::default(),
            out: Vec::new(),
            sent: 0,
        })
    }

    /// The entry for poll(2): readable, and writable if frames are queued.
    pub fn pollfd(&self) -> libc::pollfd {
        let events = if self.out.is_empty() {
            libc::POLLIN
        } else {
            libc::POLLIN | libc::POLLOUT
        };
        libc::pollfd {
            fd: self.fd.0,
            events,
            revents: 0,
        }
    }

    /// How many queued bytes the descriptor has not taken yet.
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Queues a frame.
    pub fn put(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        frame::put(&mut self.out, kind, stream, payload);
    }

    /// Queues a message of a session.
    ///
    /// # Errors
    /// The message cannot be encoded as JSON.
    pub fn message<T: serde::Serialize>(&mut self, session: u32, message: &T) -> Result<()> {
        let text = serde_json::to_vec(message)
            .map_err(|error| Error::new(format!("encode a message: {error}")))?;
        self.put(Kind::Message, session, &text);
        Ok(())
    }

    /// Writes as much of the queued bytes as the descriptor takes.
    ///
    /// # Errors
    /// write(2) fails for another reason than that the peer has closed the channel.
    pub fn flush(&mut self) -> Result<()> {
        while self.sent < self.out.len() {
            match file::write(self.fd.0, &self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::EAGAIN) => break,
                // The peer has closed the channel. The caller learns it by end of file when it
                // reads, after the peer's last frames.
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

    /// Reads once what is available; returns false at end of file.
    ///
    /// # Errors
    /// read(2) fails.
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

    /// The next complete frame of what was read.
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.parser.next_frame()
    }
}

/// A descriptor whose bytes are sent as a stream.
struct Source {
    fd: Fd,
    /// How many bytes may be sent.
    credit: u32,
}

/// A descriptor to which a stream's bytes are written.
struct Sink {
    /// `None` once nobody reads it: bytes that come are dropped, and their credit is returned.
    fd: Option<Fd>,
    /// Bytes that are not written yet.
    pending: VecDeque<u8>,
    /// The sender has sent end of file.
    ended: bool,
    /// The descriptor will come later; until then bytes are kept.
    awaited: bool,
    /// The descriptor is a connected socket, whose duplicate is a source. End of file is told by
    /// shutdown(2), since closing one of two descriptors does not tell the peer.
    connection: bool,
}

impl Sink {
    fn new(fd: Option<Fd>) -> Self {
        Self {
            fd,
            pending: VecDeque::new(),
            ended: false,
            awaited: false,
            connection: false,
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let (true, Some(fd)) = (self.connection, &self.fd) {
            let _ = nix::sys::socket::shutdown(fd.0, nix::sys::socket::Shutdown::Write);
        }
    }
}

/// One of a stream's two ends, with the stream's number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StreamEnd {
    /// The descriptor that is read.
    Source(u32),
    /// The descriptor that is written.
    Sink(u32),
}

/// The streams of one end of the channel.
#[derive(Default)]
pub(crate) struct Streams {
    sources: BTreeMap<u32, Source>,
    sinks: BTreeMap<u32, Sink>,
}

impl Streams {
    /// Sends the bytes of a descriptor as a stream.
    ///
    /// # Errors
    /// fcntl(2) fails to make the descriptor non-blocking.
    pub fn add_source(&mut self, stream: u32, fd: Fd) -> Result<()> {
        event::nonblocking(fd.0).on("use", "a stream")?;
        self.sources.insert(stream, Source { fd, credit: WINDOW });
        Ok(())
    }

    /// Writes the bytes of a stream to a descriptor.
    ///
    /// # Errors
    /// fcntl(2) fails to make the descriptor non-blocking.
    pub fn add_sink(&mut self, stream: u32, fd: Fd) -> Result<()> {
        event::nonblocking(fd.0).on("use", "a stream")?;
        let mut sink = self
            .sinks
            .remove(&stream)
            .filter(|sink| sink.awaited)
            .unwrap_or_else(|| Sink::new(None));
        (sink.fd, sink.awaited) = (Some(fd), false);
        if !sink.ended || !sink.pending.is_empty() {
            self.sinks.insert(stream, sink);
        }
        Ok(())
    }

    /// Keeps the bytes of a stream until [`Streams::add_sink`] gives it a descriptor.
    pub fn expect_sink(&mut self, stream: u32) {
        let mut sink = Sink::new(None);
        sink.awaited = true;
        self.sinks.insert(stream, sink);
    }

    /// Forwards a connected socket both ways: its bytes are sent as the stream `outgoing`, and
    /// those of the stream `incoming` are written to it.
    ///
    /// # Errors
    /// fcntl(2) fails to duplicate the socket (EMFILE) or to make it non-blocking.
    pub fn add_connection(&mut self, outgoing: u32, incoming: u32, socket: Fd) -> Result<()> {
        let copy = nix::fcntl::fcntl(
            crate::sys::socket::borrow(socket.0),
            nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3),
        )
        .on("duplicate", "a connection")?;
        self.add_source(outgoing, Fd(copy))?;
        self.add_sink(incoming, socket)?;
        if let Some(sink) = self.sinks.get_mut(&incoming) {
            sink.connection = true;
        }
        Ok(())
    }

    /// How many connections are forwarded.
    pub fn connections(&self) -> usize {
        self.sinks.values().filter(|sink| sink.connection).count()
    }

    /// Whether a stream's source may still send, or its sink may still get bytes.
    pub fn is_open(&self, stream: u32) -> bool {
        self.sources.contains_key(&stream)
            || self
                .sinks
                .get(&stream)
                .is_some_and(|sink| sink.fd.is_some())
    }

    /// How many received bytes of a stream are not written to its sink yet.
    pub fn pending(&self, stream: u32) -> usize {
        self.sinks.get(&stream).map_or(0, |sink| sink.pending.len())
    }

    /// Sends the rest of a source whose program has ended, up to [`LAST`] bytes without regard to
    /// credit, and then end of file. So the report of a program's end does not wait for the reader
    /// of its output, as a pipe on the host does not make a program's end wait.
    pub fn finish_source(&mut self, channel: &mut Channel, stream: u32) {
        if let Some(source) = self.sources.remove(&stream) {
            let (mut buffer, mut rest) = ([0_u8; PIECE], LAST);
            while rest > 0
                && let Ok(count @ 1..) = file::read(source.fd.0, &mut buffer)
            {
                channel.put(Kind::Data, stream, &buffer[..count]);
                rest = rest.saturating_sub(count);
            }
        }
        channel.put(Kind::End, stream, &[]);
    }

    /// Removes a source without sending end of file.
    pub fn remove_source(&mut self, stream: u32) {
        self.sources.remove(&stream);
    }

    /// Removes all streams of a session.
    pub fn remove_session(&mut self, session: u32) {
        for which in [STDIN, STDOUT, STDERR] {
            self.sources.remove(&stream(session, which));
            self.sinks.remove(&stream(session, which));
        }
    }

    /// Appends the entries for poll(2), and for each the stream's end that it belongs to, for
    /// [`Streams::ready`].
    pub fn pollfds(&self, fds: &mut Vec<libc::pollfd>, ends: &mut Vec<StreamEnd>) {
        for (number, source) in self.sources.iter().filter(|(_, source)| source.credit > 0) {
            fds.push(libc::pollfd {
                fd: source.fd.0,
                events: libc::POLLIN,
                revents: 0,
            });
            ends.push(StreamEnd::Source(*number));
        }
        for (number, sink) in &self.sinks {
            if let Some(fd) = &sink.fd {
                // With no events requested, poll reports only that the reader has closed it.
                let events = if sink.pending.is_empty() {
                    0
                } else {
                    libc::POLLOUT
                };
                fds.push(libc::pollfd {
                    fd: fd.0,
                    events,
                    revents: 0,
                });
                ends.push(StreamEnd::Sink(*number));
            }
        }
    }

    /// Reads or writes the descriptor of a stream's end for which poll(2) returned these events.
    pub fn ready(&mut self, channel: &mut Channel, end: StreamEnd, events: i16) {
        match end {
            _ if events == 0 => {}
            StreamEnd::Source(number) => self.read_source(channel, number),
            StreamEnd::Sink(number) if events & libc::POLLOUT != 0 => {
                self.write_sink(channel, number)
            }
            StreamEnd::Sink(number) => self.close_sink(channel, number),
        }
    }

    fn read_source(&mut self, channel: &mut Channel, number: u32) {
        let Some(source) = self.sources.get_mut(&number) else {
            return;
        };
        let mut buffer = [0_u8; PIECE];
        let room = PIECE.min(source.credit as usize);
        match file::read(source.fd.0, &mut buffer[..room]) {
            Err(Errno::EAGAIN) => {}
            // EIO: no process has the terminal open any more.
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

    fn write_sink(&mut self, channel: &mut Channel, number: u32) {
        let Some(sink) = self.sinks.get_mut(&number) else {
            return;
        };
        let Some(fd) = &sink.fd else { return };
        let mut written = 0;
        let mut broken = false;
        while let (head, _) = sink.pending.as_slices()
            && !head.is_empty()
        {
            match file::write(fd.0, head) {
                Ok(count) => {
                    sink.pending.drain(..count);
                    written += count as u32;
                }
                Err(Errno::EAGAIN) => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if written > 0 {
            channel.put(Kind::Credit, number, &written.to_le_bytes());
        }
        if broken {
            self.close_sink(channel, number);
        } else if sink.ended && sink.pending.is_empty() {
            self.sinks.remove(&number);
        }
    }

    /// Nobody reads the sink any more: tells the sender, which closes its source, so that the
    /// program gets SIGPIPE.
    fn close_sink(&mut self, channel: &mut Channel, number: u32) {
        let Some(sink) = self.sinks.get_mut(&number) else {
            return;
        };
        let dropped = sink.pending.len() as u32;
        sink.pending.clear();
        sink.fd = None;
        if dropped > 0 {
            channel.put(Kind::Credit, number, &dropped.to_le_bytes());
        }
        channel.put(Kind::Closed, number, &[]);
        if sink.ended {
            self.sinks.remove(&number);
        }
    }

    /// Handles a frame of a stream; returns false if it is a frame of another kind.
    pub fn handle(&mut self, channel: &mut Channel, frame: &Frame) -> bool {
        let number = frame.stream;
        match frame.kind {
            Kind::Data => match self.sinks.get_mut(&number) {
                // A peer that sends more than it has credit for must not use up hull's memory.
                Some(sink) if sink.pending.len() + frame.payload.len() > MOST => {
                    self.close_sink(channel, number)
                }
                Some(sink) if sink.awaited || sink.fd.is_some() => {
                    sink.pending.extend(&frame.payload);
                    self.write_sink(channel, number);
                }
                _ => channel.put(
                    Kind::Credit,
                    number,
                    &(frame.payload.len() as u32).to_le_bytes(),
                ),
            },
            Kind::Credit => {
                let count = frame
                    .payload
                    .as_slice()
                    .try_into()
                    .map_or(0, u32::from_le_bytes);
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::IntoRawFd;

    const STREAMS: u32 = 20;
    const PACKETS: usize = 500;
    /// Divides the window, so that credit comes in whole packets.
    const PACKET: usize = 1024;
    /// A stream that nobody reads.
    const UNREAD: u32 = 99;

    fn pair(kind: SockType) -> (Fd, Fd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
        (Fd(a.into_raw_fd()), Fd(b.into_raw_fd()))
    }

    /// The contents of a packet of a stream; no two are alike.
    fn packet(stream: u32, number: usize) -> Vec<u8> {
        let mut seed = u64::from(stream) << 32 | number as u64 | 1 << 60;
        let step = |_| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as u8
        };
        (0..PACKET).map(step).collect()
    }

    /// One end of the channel, and the frames that came which belong to no stream.
    struct End {
        channel: Channel,
        streams: Streams,
        others: Vec<Frame>,
        data: usize,
    }

    impl End {
        fn new(fd: Fd) -> Self {
            Self {
                channel: Channel::new(fd).unwrap(),
                streams: Streams::default(),
                others: Vec::new(),
                data: 0,
            }
        }

        /// One turn of the event loop.
        fn turn(&mut self) {
            let (mut fds, mut ends) = (vec![self.channel.pollfd()], Vec::new());
            self.streams.pollfds(&mut fds, &mut ends);
            event::poll(&mut fds, Some(0)).unwrap();
            if fds[0].revents & libc::POLLIN != 0 {
                assert!(self.channel.fill().unwrap());
            }
            while let Some(frame) = self.channel.next_frame() {
                self.data += usize::from(frame.kind == Kind::Data);
                if !self.streams.handle(&mut self.channel, &frame) {
                    self.others.push(frame);
                }
            }
            for (pollfd, end) in fds[1..].iter().zip(ends) {
                self.streams.ready(&mut self.channel, end, pollfd.revents);
            }
            self.channel.flush().unwrap();
        }
    }

    /// Writes packets until the other side takes no more; how many.
    fn offer(to: &Fd, packets: impl Iterator<Item = Vec<u8>>) -> usize {
        packets
            .map_while(|bytes| file::write(to.0, &bytes).ok())
            .count()
    }

    /// Reads what there is.
    fn read(from: &Fd, to: &mut Vec<u8>) {
        let mut buffer = [0; 65536];
        while let Ok(count @ 1..) = file::read(from.0, &mut buffer) {
            to.extend_from_slice(&buffer[..count]);
        }
    }

    #[test]
    fn a_sender_that_ignores_its_credit_is_closed() {
        let (ours, theirs) = pair(SockType::Stream);
        let (_peer, mut host) = (ours, End::new(theirs));
        let (sink, _reader) = pair(SockType::Stream);
        host.streams.add_sink(1, sink).unwrap();
        let frame = Frame {
            kind: Kind::Data,
            stream: 1,
            payload: vec![7; PIECE],
        };
        for _ in 0..10 * MOST / PIECE {
            assert!(host.streams.handle(&mut host.channel, &frame));
            let kept = host
                .streams
                .sinks
                .get(&1)
                .map_or(0, |sink| sink.pending.len());
            assert!(kept <= MOST, "{kept} bytes");
        }
        assert!(!host.streams.is_open(1), "the sink is closed");
    }

    #[test]
    fn streams_survive_garbage_and_a_reader_that_has_stopped() {
        let (ours, theirs) = pair(SockType::Stream);
        let (mut guest, mut host) = (End::new(ours), End::new(theirs));
        let mut ends = Vec::new();
        for number in (0..STREAMS).chain([UNREAD]) {
            // A datagram socket: what is written at once is read at once, and becomes one frame.
            let (program, source) = pair(SockType::SeqPacket);
            let (sink, reader) = pair(SockType::Stream);
            guest.streams.add_source(number, source).unwrap();
            host.streams.add_sink(number, sink).unwrap();
            ends.push((number, Some(program), reader, 0, Vec::new()));
        }
        let (mut messages, mut turns) = (0, 0);
        while ends
            .iter()
            .any(|(number, _, _, _, got)| *number != UNREAD && got.len() < PACKETS * PACKET)
        {
            for (number, program, reader, sent, got) in &mut ends {
                let last = if *number == UNREAD {
                    usize::MAX
                } else {
                    PACKETS
                };
                if let Some(program) = program {
                    *sent += offer(program, (*sent..last).map(|n| packet(*number, n)));
                }
                if *sent == last {
                    *program = None;
                }
                if *number != UNREAD {
                    read(reader, got);
                }
            }
            // The queue ends with a whole frame, so the garbage comes between two.
            guest
                .channel
                .out
                .extend_from_slice(b"\xf5hul \xf5hul the guest's kernel says something in between");
            if turns % 10 == 0 {
                host.channel.put(Kind::Message, 1, &[turns as u8]);
                messages += 1;
            }
            guest.turn();
            host.turn();
            turns += 1;
            // The number of bytes in transit is bounded, whether they are read or not.
            assert!(
                guest.others.len() + 1 >= messages,
                "a message waits behind the streams"
            );
            assert!(host.streams.sinks[&UNREAD].pending.len() <= WINDOW as usize);
        }
        assert!(
            host.data >= STREAMS as usize * PACKETS,
            "{} frames",
            host.data
        );
        assert_eq!(
            guest.streams.sources[&UNREAD].credit, 0,
            "the sender of the unread stream has no credit"
        );
        for (number, _, _, _, got) in &ends[..STREAMS as usize] {
            let whole: Vec<u8> = (0..PACKETS).flat_map(|n| packet(*number, n)).collect();
            assert!(*got == whole, "stream {number}");
        }
        // The end does not wait for the reader, which can read all of it later.
        let (_, _, reader, sent, mut got) = ends.pop().unwrap();
        guest.streams.finish_source(&mut guest.channel, UNREAD);
        assert!(!guest.streams.is_open(UNREAD));
        while host.streams.is_open(UNREAD) {
            guest.turn();
            host.turn();
            read(&reader, &mut got);
        }
        read(&reader, &mut got);
        assert!(
            got == (0..sent)
                .flat_map(|n| packet(UNREAD, n))
                .collect::<Vec<u8>>(),
            "{} bytes of {sent} packets",
            got.len()
        );
        assert_eq!(guest.others.len(), messages);
    }
}
