//! How hull's commands speak to a container's monitor: messages in JSON on a socket in the
//! container's directory, descriptors beside them.

use crate::spec::config::Resources;
use crate::state::PolicyOutcome;
use crate::sys::fd::Fd;
use crate::sys::{file, socket as raw};
use crate::vm::channel::message::{FromGuest, Task};
use crate::{Context, Error, Result};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr,
};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;
use std::time::Duration;

/// The socket's name in the container's directory.
const NAME: &str = "vm.sock";
/// How long a guest may take to answer, in seconds: emulation on a busy machine is slow.
const ANSWER: u64 = 60;
/// How long whoever sends a signal waits for the guest's word, in seconds at most: containerd's
/// shim answers nothing else meanwhile, and an engine's own time until SIGKILL (10 s, 30 s) begins
/// only then.
const SIGNALLED: u64 = 5;
/// A longer message goes in a file of memory, as the last of its descriptors: a socket's buffer has
/// an end.
const LONGEST: usize = 64 << 10;
/// What stands for it.
const IN_FILE: &[u8] = b"null";

/// What is asked of a monitor.
#[derive(Serialize, Deserialize)]
pub enum Request {
    /// A signal for the program, or for the exec of this connection.
    Signal(i32),
    /// A signal for everything.
    SignalAll(i32),
    /// Another program. Beside it: the script, stdin, stdout and, without a terminal, stderr. The
    /// connection lives as long as it does.
    Exec(Box<Task>),
    /// The size of the terminal of this connection's exec.
    Resize(u16, u16),
    /// Stops the machine.
    Pause,
    /// Lets it go on.
    Resume,
    /// The container's counters.
    Stats,
    /// The processes.
    Processes,
    /// The signals that the program catches, ignores or blocks, as a mask.
    Handled,
    /// From here on each [`FromGuest::Oom`], to the container's end.
    Watch,
    /// New limits.
    Update(Box<Resources>),
    /// The guest's memory, in bytes: what the balloon leaves of that at boot, and what is plugged
    /// in beside it.
    Memory(u64, u64),
    /// How much of what can be plugged in the guest has: a number of bytes.
    Plugged,
    /// How much of its memory at boot the balloon leaves the guest: a number of bytes.
    Left,
}

/// What a process of hull's that stands for a program tells the one that made it.
#[derive(Debug, Serialize, Deserialize)]
pub enum News {
    /// It is in its network namespace; a byte is the answer, once the interfaces are there and the
    /// host's hooks have run.
    Placed,
    /// It is made; what its policies decided, and what its kernel can do. A byte is the answer: it
    /// outlives its maker from there on.
    Ready(Vec<PolicyOutcome>, Option<Box<crate::facts::Facts>>),
    /// Why not, and a shell's status for it.
    Failed(String, Option<u8>),
}

/// A name that is short enough for a socket: the directory by its descriptor.
fn address(directory: &Path) -> Result<(std::fs::File, UnixAddr)> {
    let held = std::fs::File::open(directory).on("open", directory.display())?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}/{NAME}", held.as_raw_fd()).as_str())
        .on("name", "the monitor's socket")?;
    Ok((held, address))
}

fn socket() -> Result<Fd> {
    let made = nix::sys::socket::socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    made.map(|fd| Fd(fd.into_raw_fd())).on("make", "a socket")
}

/// The monitor's end.
///
/// # Errors
/// The kernel's.
pub fn listen(directory: &Path) -> Result<Fd> {
    let socket = socket()?;
    let (_held, address) = address(directory)?;
    nix::sys::socket::bind(socket.0, &address).on("make", "the monitor's socket")?;
    let backlog = Backlog::new(64).on("make", "the monitor's socket")?;
    nix::sys::socket::listen(&raw::borrow(socket.0), backlog)
        .on("listen on", "the monitor's socket")?;
    Ok(socket)
}

/// Takes the next connection.
///
/// # Errors
/// The kernel's.
pub fn accept(listener: &Fd) -> Result<Fd> {
    nix::sys::socket::accept4(listener.0, SockFlag::SOCK_CLOEXEC)
        .map(Fd)
        .on("accept on", "the monitor's socket")
}

/// A command's end.
///
/// # Errors
/// `container not running`.
pub fn connect(directory: &Path) -> Result<Fd> {
    let socket = socket()?;
    let (_held, address) = address(directory)?;
    match nix::sys::socket::connect(socket.0, &address) {
        Ok(()) => Ok(socket),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ECONNREFUSED) => {
            Err(Error::new("container not running"))
        }
        Err(errno) => Err(Error::sys("connect to", "the container's monitor", errno)),
    }
}

/// Sends a message with descriptors.
///
/// # Errors
/// The other side is gone; the message is too long.
pub fn send<T: Serialize>(socket: &Fd, message: &T, descriptors: &[i32]) -> Result<()> {
    send_with(socket, message, descriptors, MsgFlags::empty())
}

/// Sends a message, if the other side has room for it now.
///
/// # Errors
/// It has not; as [`send`].
pub fn send_at_once<T: Serialize>(socket: &Fd, message: &T) -> Result<()> {
    send_with(socket, message, &[], MsgFlags::MSG_DONTWAIT)
}

fn send_with<T: Serialize>(
    socket: &Fd,
    message: &T,
    descriptors: &[i32],
    flags: MsgFlags,
) -> Result<()> {
    let mut text = serde_json::to_vec(message)
        .map_err(|error| Error::new(format!("write a message: {error}")))?;
    let mut descriptors = descriptors.to_vec();
    let long = if text.len() > LONGEST {
        Some(in_file(&std::mem::replace(&mut text, IN_FILE.to_vec()))?)
    } else {
        None
    };
    descriptors.extend(long.iter().map(|file| file.0));
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights[..]
    };
    let sent = nix::sys::socket::sendmsg::<()>(
        socket.0,
        &[IoSlice::new(&text)],
        control,
        MsgFlags::MSG_NOSIGNAL | flags,
        None,
    );
    sent.on("speak to", "the container's monitor").map(drop)
}

/// A message in a file of memory.
fn in_file(mut text: &[u8]) -> Result<Fd> {
    let held = file::memfd(c"hull:message", 0)
        .map(Fd)
        .on("make", "a memory file for a message")?;
    while !text.is_empty() {
        let count = file::write(held.0, text).on("write", "a message")?;
        text = &text[count..];
    }
    Ok(held)
}

/// A file from its beginning.
///
/// # Errors
/// The kernel's.
pub fn read_all(from: &Fd) -> Result<Vec<u8>> {
    file::rewind(from.0).on("read", "a message")?;
    let (mut bytes, mut piece) = (Vec::new(), [0_u8; 65536]);
    loop {
        match file::read(from.0, &mut piece).on("read", "a message")? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// Receives a message with its descriptors; none at the end.
///
/// # Errors
/// The kernel's; it cannot be read.
pub fn receive<T: for<'a> Deserialize<'a>>(socket: &Fd) -> Result<Option<(T, Vec<Fd>)>> {
    let mut text = vec![0_u8; LONGEST];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 8]);
    let mut iov = [IoSliceMut::new(&mut text)];
    let message = loop {
        match nix::sys::socket::recvmsg::<()>(
            socket.0,
            &mut iov,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Err(nix::errno::Errno::EINTR) => {}
            // It ended with something unread of ours.
            Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            other => break other.on("hear", "the container's monitor")?,
        }
    };
    let mut held = Vec::new();
    for control in message.cmsgs().on("hear", "the container's monitor")? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            held.extend(descriptors.into_iter().map(Fd));
        }
    }
    let count = message.bytes;
    if count == 0 {
        return Ok(None);
    }
    text.truncate(count);
    if text == IN_FILE
        && let Some(file) = held.pop()
    {
        text = read_all(&file)?;
    }
    let value = serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("a message that cannot be read: {error}")))?;
    Ok(Some((value, held)))
}

/// How long a guest may take to answer: the administrator's word, or [`ANSWER`].
///
/// # Errors
/// The file of defaults.
pub fn patience() -> Result<Duration> {
    Ok(Duration::from_secs(
        crate::settings::read()?.vm.answer_timeout.unwrap_or(ANSWER),
    ))
}

/// A signal for the program, or for all. In a machine that does not answer it waits, as it would
/// for a frozen program of the shared kernel, and that is said. It is no error: at one,
/// containerd's CRI ends a stop without the SIGKILL that would follow (`stopContainer`), and older
/// Podman takes it for done (`StopContainer`, which returns what kill(2) with 0 says then).
///
/// # Errors
/// The container is not running; the guest refuses.
pub fn signal(directory: &Path, request: &Request) -> Result<()> {
    let socket = connect(directory)?;
    send(&socket, request, &[])?;
    let patience = patience()?.min(Duration::from_secs(SIGNALLED));
    match answer(&socket, patience)? {
        Some(Some(FromGuest::Done)) => Ok(()),
        Some(Some(FromGuest::Refused(why))) => Err(Error::new(why)),
        Some(Some(_)) => Err(Error::new("the container's monitor answers something else")),
        Some(None) => Err(Error::new("container not running")),
        None => {
            crate::log::warn(&format!(
                "the signal waits: {}",
                silent(directory, patience)
            ));
            Ok(())
        }
    }
}

/// The next message, with the end of the connection as none; none at all where nothing comes in
/// time.
///
/// # Errors
/// The kernel's; it cannot be read.
pub fn answer(socket: &Fd, patience: Duration) -> Result<Option<Option<FromGuest>>> {
    let (spoken, _) = crate::sys::process::poll2(socket.0, -1, Some(patience.as_millis() as u64))
        .on("hear", "the container's monitor")?;
    if spoken {
        receive::<FromGuest>(socket).map(|heard| Some(heard.map(|(message, _)| message)))
    } else {
        Ok(None)
    }
}

/// Asks a guest for a sign of life. One whose machine has ended is not silent: that is told
/// otherwise.
///
/// # Errors
/// Nothing comes in time.
pub fn is_there(directory: &Path) -> Result<()> {
    let patience = patience()?;
    let asked = connect(directory)
        .and_then(|socket| send(&socket, &Request::Handled, &[]).map(|()| socket));
    match asked.and_then(|socket| answer(&socket, patience)) {
        Ok(None) => Err(silent(directory, patience)),
        _ => Ok(()),
    }
}

/// What is said of a machine that does not answer.
pub fn silent(directory: &Path, patience: Duration) -> Error {
    let id = directory.file_name().unwrap_or_default().to_string_lossy();
    let within = patience.as_secs();
    Error::new(format!(
        "the container's machine does not answer (waited {within} s): hull kill {id} KILL or hull \
            delete --force {id} ends it"
    ))
}

/// One request and its answer.
///
/// # Errors
/// The container is not running; the guest refuses, or does not answer in time.
pub fn ask(directory: &Path, request: &Request) -> Result<Option<serde_json::Value>> {
    let socket = connect(directory)?;
    send(&socket, request, &[])?;
    let patience = patience()?;
    match answer(&socket, patience)?.ok_or_else(|| silent(directory, patience))? {
        Some(FromGuest::Done) => Ok(None),
        Some(FromGuest::Value(value)) => Ok(Some(value)),
        Some(FromGuest::Refused(why)) => Err(Error::new(why)),
        Some(_) => Err(Error::new("the container's monitor answers something else")),
        None => Err(Error::new("container not running")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_comes_whole_and_nobody_waits_for_who_does_not_listen() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) =
            nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
                .unwrap();
        let (ours, theirs) = (Fd(ours.into_raw_fd()), Fd(theirs.into_raw_fd()));
        let words = vec!["a command line".to_owned(); 100_000];
        send_at_once(&ours, &words).unwrap();
        send(&ours, &"short", &[]).unwrap();
        let (long, files) = receive::<Vec<String>>(&theirs).unwrap().unwrap();
        assert!(long == words && files.is_empty());
        assert_eq!(receive::<String>(&theirs).unwrap().unwrap().0, "short");
        assert!((0..100_000).any(|_| send_at_once(&ours, &"unheard").is_err()));
    }
}
