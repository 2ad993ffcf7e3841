//! Frames on a byte stream that knows no connections: a virtio-console port outlives whoever has it
//! open at either end, so what is read first may be the rest of somebody else's frame.
//!
//! ```text
//! 0      4     5        8        12       16    20
//! magic  kind  0 0 0    stream   length   sum   payload (length bytes)
//! ```
//! Numbers are little-endian. The sum covers the sixteen bytes before it. A header that is none is
//! skipped byte by byte until one is found, so both sides are in step again after any garbage; the
//! handshake's nonce then tells old frames from new ones.

/// The first bytes of every frame.
const MAGIC: [u8; 4] = [0xf5, b'h', b'u', b'l'];
const HEADER: usize = 20;
/// The longest payload in bytes: a script with its filter, or the facts of a guest.
pub const LONGEST: usize = 4 << 20;

macro_rules! kinds {
    ($($(#[$meta:meta])* $name:ident = $tag:literal),* $(,)?) => {
        /// What a frame is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$meta])* $name = $tag),* }
        impl Kind {
            fn from_tag(tag: u8) -> Option<Self> {
                match tag { $($tag => Some(Kind::$name),)* _ => None }
            }
        }
    };
}
kinds! {
    /// The handshake: the host's nonce; the guest answers with it and what it is.
    Hello = 1,
    /// A message in JSON, to or from the session whose number `stream` is.
    Message = 2,
    /// Bytes that the session's next message speaks of.
    Blob = 3,
    /// Bytes of a stream, never more than its credit; but for what a program wrote last before its
    /// end.
    Data = 4,
    /// So many more bytes (a 32-bit number) may be sent on a stream.
    Credit = 5,
    /// The stream has ended.
    End = 6,
    /// Nobody reads the stream any more.
    Closed = 7,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// A session's or a stream's number.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// FNV-1a: a header is told from chance and from damage, not from malice.
fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Appends a frame to what is to be sent.
pub fn put(out: &mut Vec<u8>, kind: Kind, stream: u32, payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&stream.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    let check = sum(&out[start..]);
    out.extend_from_slice(&check.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Finds the frames in a stream of bytes.
#[derive(Default)]
pub struct Parser {
    bytes: Vec<u8>,
    at: usize,
    /// How many bytes were no part of a frame.
    pub skipped: u64,
}

impl Parser {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let left = self
                .bytes
                .get(self.at..)
                .filter(|left| left.len() >= HEADER)?;
            let Some((kind, stream, length)) = header(left) else {
                self.skip();
                continue;
            };
            let payload = left.get(HEADER..HEADER + length)?.to_vec();
            self.at += HEADER + length;
            self.compact();
            return Some(Frame {
                kind,
                stream,
                payload,
            });
        }
    }

    /// To the next place where a frame may begin.
    fn skip(&mut self) {
        let from = self.at + 1;
        let next = self.bytes[from..]
            .iter()
            .position(|byte| *byte == MAGIC[0])
            .map_or(self.bytes.len(), |at| from + at);
        self.skipped += (next - self.at) as u64;
        self.at = next;
        self.compact();
    }

    fn compact(&mut self) {
        if self.at > 65536 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
    }
}

fn header(bytes: &[u8]) -> Option<(Kind, u32, usize)> {
    let word = |at: usize| {
        bytes
            .get(at..at + 4)
            .and_then(|word| word.try_into().ok())
            .map(u32::from_le_bytes)
    };
    if bytes[..4] != MAGIC || word(16)? != sum(&bytes[..16]) {
        return None;
    }
    let length = word(12)? as usize;
    Some((Kind::from_tag(bytes[4])?, word(8)?, length)).filter(|_| length <= LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(parser: &mut Parser) -> Vec<Frame> {
        std::iter::from_fn(|| parser.next_frame()).collect()
    }

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces() {
        let frames: Vec<Frame> = (0..200_u32)
            .map(|n| Frame {
                kind: if n % 3 == 0 {
                    Kind::Data
                } else {
                    Kind::Message
                },
                stream: n,
                payload: vec![n as u8; (n * 37 % 5000) as usize],
            })
            .collect();
        let mut bytes = Vec::new();
        frames
            .iter()
            .for_each(|frame| put(&mut bytes, frame.kind, frame.stream, &frame.payload));
        for piece in [1, 3, 19, 20, 21, 4096, 1 << 20] {
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for chunk in bytes.chunks(piece) {
                parser.push(chunk);
                found.extend(all(&mut parser));
            }
            assert_eq!(found, frames, "pieces of {piece}");
            assert_eq!(parser.skipped, 0);
        }
    }

    #[test]
    fn garbage_between_frames_is_skipped_and_counted() {
        let mut bytes = b"the rest of somebody's frame \xf5hul and a false start".to_vec();
        let garbage = bytes.len() as u64;
        put(&mut bytes, Kind::Data, 7, b"one");
        // A frame whose length was damaged on the way: its sum says so.
        let mut damaged = Vec::new();
        put(&mut damaged, Kind::Data, 8, b"lost");
        damaged[12] = 0xff;
        bytes.extend_from_slice(&damaged);
        put(&mut bytes, Kind::Credit, 7, &5_u32.to_le_bytes());
        let mut parser = Parser::default();
        parser.push(&bytes);
        let found = all(&mut parser);
        assert_eq!(
            found.iter().map(|frame| frame.kind).collect::<Vec<_>>(),
            [Kind::Data, Kind::Credit]
        );
        assert_eq!(parser.skipped, garbage + damaged.len() as u64);
    }

    #[test]
    fn a_length_beyond_all_reason_is_no_frame() {
        let mut bytes = Vec::new();
        put(&mut bytes, Kind::Blob, 1, b"");
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let check = sum(&bytes[..16]);
        bytes[16..20].copy_from_slice(&check.to_le_bytes());
        put(&mut bytes, Kind::End, 1, b"");
        let mut parser = Parser::default();
        parser.push(&bytes);
        assert_eq!(all(&mut parser).len(), 1);
    }

    #[test]
    fn ten_thousand_frames_with_garbage_between_them_all_come_out() {
        // Linear congruential: the same noise in every run. Half of it is made of what a frame
        // begins with.
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut bytes = Vec::new();
        let mut garbage = 0;
        for number in 0..10_000_u32 {
            let noise: Vec<u8> = (0..next(60))
                .map(|_| {
                    if next(2) == 0 {
                        MAGIC[next(4)]
                    } else {
                        next(256) as u8
                    }
                })
                .collect();
            garbage += noise.len() as u64;
            bytes.extend_from_slice(&noise);
            let payload: Vec<u8> = (0..next(300)).map(|_| next(256) as u8).collect();
            put(
                &mut bytes,
                if number % 7 == 0 {
                    Kind::Credit
                } else {
                    Kind::Data
                },
                number,
                &payload,
            );
        }
        let mut parser = Parser::default();
        let mut streams = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let piece = (1 + next(9000)).min(bytes.len() - at);
            parser.push(&bytes[at..at + piece]);
            at += piece;
            streams.extend(all(&mut parser).into_iter().map(|frame| frame.stream));
        }
        assert!(streams.into_iter().eq(0..10_000));
        assert_eq!(parser.skipped, garbage);
    }
}
