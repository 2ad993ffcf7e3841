//! One end of the channel: frames in and out of a descriptor that never blocks, and the streams
//! that it carries.
//!
//! A stream's sender may have [`WINDOW`] bytes on the way; the receiver gives credit back as its
//! sink takes them. So an unread stream holds back its own sender and nothing else, and the queues
//! stay small whatever is read or not.

use crate::sys::fd::Fd;
use crate::sys::{event, file};
use crate::vm::channel::frame;
use crate::vm::channel::frame::{Frame, Kind, Parser};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::collections::{BTreeMap, VecDeque};

/// How many bytes of a stream may be on the way, unread.
pub const WINDOW: u32 = 64 << 10;
/// The most that one frame of a stream carries.
const PIECE: usize = 16 << 10;
/// The most that a pipe keeps of its writer (`fs.pipe-max-size`): what a program's own children go
/// on writing has no end.
const LAST: usize = 1 << 20;
/// What a sink may ever have to keep, and then some.
const MOST: usize = WINDOW as usize + LAST + 2 * PIECE;

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
    fd: Fd,
    parser: Parser,
    out: Vec<u8>,
    sent: usize,
}

impl Channel {
    /// Takes a descriptor.
    ///
    /// # Errors
    /// EBADF.
    pub fn new(fd: Fd) -> Result<Self> {
        event::nonblocking(fd.0).on("use", "the channel")?;
        Ok(Self {
            fd,
            parser: Parser::default(),
            out: Vec::new(),
            sent: 0,
        })
    }

    /// What poll(2) is to watch.
    pub fn interest(&self) -> libc::pollfd {
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

    /// How many bytes the other end has not taken.
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
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
        let text = serde_json::to_vec(message)
            .map_err(|error| Error::new(format!("write a message: {error}")))?;
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
                // The other end is gone, which is told by its reading's end, after what it said
                // last.
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
    fd: Fd,
    credit: u32,
}

/// A descriptor that takes a stream's bytes.
struct Sink {
    /// None once it takes no more: what comes is dropped, and its credit given back.
    fd: Option<Fd>,
    pending: VecDeque<u8>,
    ended: bool,
    /// Its descriptor comes later: what is sent meanwhile is kept.
    awaited: bool,
    /// It is one way of a connection: its end is told to the peer, which the other way's descriptor
    /// would keep from it.
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
    pub fn send(&mut self, stream: u32, fd: Fd) -> Result<()> {
        event::nonblocking(fd.0).on("use", "a stream")?;
        self.sources.insert(stream, Source { fd, credit: WINDOW });
        Ok(())
    }

    /// What comes on a stream is written to a descriptor.
    ///
    /// # Errors
    /// EBADF.
    pub fn receive(&mut self, stream: u32, fd: Fd) -> Result<()> {
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

    /// A descriptor for a stream will come ([`Streams::receive`]); what comes before it is kept.
    pub fn expect(&mut self, stream: u32) {
        let mut sink = Sink::new(None);
        sink.awaited = true;
        self.sinks.insert(stream, sink);
    }

    /// A connection is carried both ways: what it brings goes out as the first stream, what comes
    /// on the second is sent over it.
    ///
    /// # Errors
    /// EBADF, EMFILE.
    pub fn connect(&mut self, (out, back): (u32, u32), socket: Fd) -> Result<()> {
        let copy = nix::fcntl::fcntl(
            crate::sys::socket::borrow(socket.0),
            nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3),
        )
        .on("copy", "a connection")?;
        self.send(out, Fd(copy))?;
        self.receive(back, socket)?;
        if let Some(sink) = self.sinks.get_mut(&back) {
            sink.connection = true;
        }
        Ok(())
    }

    /// How many connections are carried.
    pub fn connections(&self) -> usize {
        self.sinks.values().filter(|sink| sink.connection).count()
    }

    /// Whether a stream still brings something, or holds what its sink has not taken.
    pub fn is_open(&self, stream: u32) -> bool {
        self.sources.contains_key(&stream)
            || self
                .sinks
                .get(&stream)
                .is_some_and(|sink| sink.fd.is_some())
    }

    /// How many bytes a stream's sink has not taken yet.
    pub fn pending(&self, stream: u32) -> usize {
        self.sinks.get(&stream).map_or(0, |sink| sink.pending.len())
    }

    /// A source's program has ended: what it wrote last goes out whatever the credit, as it would
    /// stay in a pipe, and then the end. So no end of a program waits for a reader.
    pub fn finish(&mut self, channel: &mut Channel, stream: u32) {
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
            fds.push(libc::pollfd {
                fd: source.fd.0,
                events: libc::POLLIN,
                revents: 0,
            });
            whose.push((*number, true));
        }
        for (number, sink) in &self.sinks {
            if let Some(fd) = &sink.fd {
                // Without POLLOUT only the end of its reader is told.
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
        let Some(source) = self.sources.get_mut(&number) else {
            return;
        };
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
        let Some(sink) = self.sinks.get_mut(&number) else {
            return;
        };
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

    /// Nobody reads what the sink is given: the sender is told, so that its program gets the signal
    /// it would have got.
    fn close_sink(&mut self, channel: &mut Channel, number: u32) {
        let Some(sink) = self.sinks.get_mut(&number) else {
            return;
        };
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
                // More than any sender has credit for comes from one that keeps no rules; hull's
                // memory is not its own.
                Some(sink) if sink.pending.len() + frame.payload.len() > MOST => {
                    self.close_sink(channel, number)
                }
                Some(sink) if sink.awaited || sink.fd.is_some() => {
                    sink.pending.extend(&frame.payload);
                    self.carry_sink(channel, number);
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
    /// A part of the window, which is never given in smaller parts then.
    const PACKET: usize = 1024;
    /// Its reader has stopped.
    const UNREAD: u32 = 99;

    fn pair(kind: SockType) -> (Fd, Fd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
        (Fd(a.into_raw_fd()), Fd(b.into_raw_fd()))
    }

    /// What a packet of a stream holds: no two are alike.
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

    /// One end, what it says and what it heard.
    struct End {
        channel: Channel,
        streams: Streams,
        heard: Vec<Frame>,
        data: usize,
    }

    impl End {
        fn new(fd: Fd) -> Self {
            Self {
                channel: Channel::new(fd).unwrap(),
                streams: Streams::default(),
                heard: Vec::new(),
                data: 0,
            }
        }

        /// Carries what is ready.
        fn turn(&mut self) {
            let (mut fds, mut whose) = (vec![self.channel.interest()], Vec::new());
            self.streams.interests(&mut fds, &mut whose);
            event::poll(&mut fds, Some(0)).unwrap();
            if fds[0].revents & libc::POLLIN != 0 {
                assert!(self.channel.fill().unwrap());
            }
            while let Some(frame) = self.channel.next_frame() {
                self.data += usize::from(frame.kind == Kind::Data);
                if !self.streams.take(&mut self.channel, &frame) {
                    self.heard.push(frame);
                }
            }
            for (pollfd, whose) in fds[1..].iter().zip(whose) {
                self.streams.ready(&mut self.channel, whose, pollfd.revents);
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
    fn a_sender_that_keeps_no_rules_is_not_kept() {
        let (ours, theirs) = pair(SockType::Stream);
        let (_peer, mut host) = (ours, End::new(theirs));
        let (sink, _reader) = pair(SockType::Stream);
        host.streams.receive(1, sink).unwrap();
        let frame = Frame {
            kind: Kind::Data,
            stream: 1,
            payload: vec![7; PIECE],
        };
        for _ in 0..10 * MOST / PIECE {
            assert!(host.streams.take(&mut host.channel, &frame));
            let kept = host
                .streams
                .sinks
                .get(&1)
                .map_or(0, |sink| sink.pending.len());
            assert!(kept <= MOST, "{kept} bytes");
        }
        assert!(!host.streams.is_open(1), "it is closed to such a sender");
    }

    #[test]
    fn ten_thousand_frames_garbage_between_them_and_a_reader_that_has_stopped() {
        let (ours, theirs) = pair(SockType::Stream);
        let (mut guest, mut host) = (End::new(ours), End::new(theirs));
        let mut ends = Vec::new();
        for number in (0..STREAMS).chain([UNREAD]) {
            // A message is a frame: what is written at once is read at once.
            let (program, source) = pair(SockType::SeqPacket);
            let (sink, reader) = pair(SockType::Stream);
            guest.streams.send(number, source).unwrap();
            host.streams.receive(number, sink).unwrap();
            ends.push((number, Some(program), reader, 0, Vec::new()));
        }
        let (mut signals, mut turns) = (0, 0);
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
            // What is queued ends with a whole frame: the garbage comes between two.
            guest
                .channel
                .out
                .extend_from_slice(b"\xf5hul \xf5hul the guest's kernel says something in between");
            if turns % 10 == 0 {
                host.channel.put(Kind::Message, 1, &[turns as u8]);
                signals += 1;
            }
            guest.turn();
            host.turn();
            turns += 1;
            // What is on the way is bounded, whatever is read or not.
            assert!(
                guest.heard.len() + 1 >= signals,
                "a signal stands behind the streams"
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
            "the stopped reader's program is held back"
        );
        for (number, _, _, _, got) in &ends[..STREAMS as usize] {
            let whole: Vec<u8> = (0..PACKETS).flat_map(|n| packet(*number, n)).collect();
            assert!(*got == whole, "stream {number}");
        }
        // Its end does not wait for the reader, who finds all of it.
        let (_, _, reader, sent, mut got) = ends.pop().unwrap();
        guest.streams.finish(&mut guest.channel, UNREAD);
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
        assert_eq!(guest.heard.len(), signals);
    }
}
