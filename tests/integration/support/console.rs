//! The receiving side of `--console-socket` and similar sockets, and the master of a terminal.

use super::{fixture, harness};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A listening socket over which the runtime sends descriptors.
pub struct FdSocket {
    listener: UnixListener,
    /// Its path.
    pub path: PathBuf,
}

impl FdSocket {
    /// Listens in a directory of the test's own.
    pub fn new() -> Self {
        let path = fixture::new_dir("socket").join("s");
        let listener = UnixListener::bind(&path).expect("cannot listen");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .unwrap();
        Self { listener, path }
    }

    /// Accepts one connection, and receives its first message.
    #[track_caller]
    pub fn receive(&self) -> Received {
        assert!(
            harness::readable_within(&self.listener, Duration::from_secs(40)),
            "nobody connected to the socket"
        );
        let (stream, _) = self.listener.accept().unwrap();
        let (text, fds) = receive_on(&stream);
        Received { text, fds, stream }
    }

    /// Receives a terminal.
    #[track_caller]
    pub fn terminal(&self) -> Terminal {
        let mut fds = self.receive().fds;
        assert_eq!(fds.len(), 1, "one descriptor belongs on the console socket");
        Terminal(File::from(fds.remove(0)))
    }
}

/// The first message of a connection.
pub struct Received {
    /// Its bytes.
    pub text: Vec<u8>,
    /// The descriptors that were sent with it.
    pub fds: Vec<OwnedFd>,
    /// The connection.
    pub stream: UnixStream,
}

/// Receives one message with its descriptors.
#[track_caller]
pub fn receive_on(stream: &UnixStream) -> (Vec<u8>, Vec<OwnedFd>) {
    assert!(
        harness::readable_within(stream, Duration::from_secs(40)),
        "nothing came on the socket"
    );
    let mut data = vec![0; 65536];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut data)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    data.truncate(message.bytes);
    let mut fds = vec![];
    for m in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = m {
            fds.extend(rights);
        }
    }
    (data, fds)
}

/// The master side of a terminal.
pub struct Terminal(pub File);

impl Terminal {
    /// Types a text.
    pub fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until the text contains `end`, and returns all of it; fails where `end` does not come.
    #[track_caller]
    pub fn read_until(&mut self, end: &str) -> String {
        let limit = Instant::now() + Duration::from_secs(40);
        let mut all = String::new();
        let mut buffer = [0; 4096];
        while !all.contains(end) {
            let left = limit.saturating_duration_since(Instant::now());
            assert!(
                harness::readable_within(&self.0, left),
                "{end:?} did not come; there was {all:?}"
            );
            match self.0.read(&mut buffer) {
                Ok(n) if n > 0 => all.push_str(&String::from_utf8_lossy(&buffer[..n])),
                _ => panic!("the terminal hung up before {end:?}; there was {all:?}"),
            }
        }
        all
    }

    /// Reads until the terminal hangs up.
    pub fn read_to_end(&mut self) -> String {
        let mut all = String::new();
        let mut buffer = [0; 4096];
        while harness::readable_within(&self.0, Duration::from_secs(40)) {
            match self.0.read(&mut buffer) {
                Ok(n) if n > 0 => all.push_str(&String::from_utf8_lossy(&buffer[..n])),
                _ => break,
            }
        }
        all
    }
}
