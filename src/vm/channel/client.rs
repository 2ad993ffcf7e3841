//! The control socket of a VM's monitor process: hull's commands connect to a socket in the
//! container's directory and exchange JSON messages with the monitor, with file descriptors
//! attached (SCM_RIGHTS). The monitor and an exec's proxy use the same messages to report to the
//! process that started them.

use crate::settings::vm::GuestMemory;
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
/// How long a guest may take to answer, in seconds, unless the settings file has `answer-timeout`:
/// emulation on a busy host is slow.
const ANSWER_TIMEOUT: u64 = 60;
/// How long a command that sends a signal waits for the guest's answer, in seconds at most:
/// containerd's shim answers nothing else meanwhile, and a container engine's own timeout until
/// SIGKILL (10 s, 30 s) begins only then.
const SIGNAL_TIMEOUT: u64 = 5;
/// A message longer than this many bytes is sent in a memfd, as the last of its descriptors: the
/// size of a socket's buffer is limited.
const LONGEST: usize = 64 << 10;
/// What is sent in the place of a message that is in a memfd.
const IN_FILE: &[u8] = b"null";

/// A request of a command to the monitor.
///
/// A newer hull sends these to the monitor of an older one: the variants keep their JSON form.
#[derive(Serialize, Deserialize)]
pub(crate) enum MonitorRequest {
    /// Sends a signal to the container's program, or to the program of this connection's exec.
    Signal(i32),
    /// Sends a signal to all processes of the container.
    SignalAll(i32),
    /// Runs another program in the container. Descriptors: the encoded steps, stdin, stdout and,
    /// without a terminal, stderr. The program is killed when the connection is closed.
    Exec(Box<Task>),
    /// Sets the size of the terminal of this connection's exec: rows, columns.
    Resize(u16, u16),
    /// Stops the virtual CPUs.
    Pause,
    /// Resumes the virtual CPUs.
    Resume,
    /// Reads the counters of the container's cgroup in the guest.
    Stats,
    /// Lists the container's processes.
    Processes,
    /// Reads which signals the container's program catches, ignores or blocks, as a mask.
    Handled,
    /// Subscribes to [`FromGuest::Oom`], until the container ends.
    Watch,
    /// Sets new resource limits in the guest.
    Update(Box<Resources>),
    /// Sets the size of the guest's memory.
    Memory(GuestMemory),
    /// Reads how much of the hot-pluggable memory the guest has, in bytes.
    Plugged,
    /// Reads how much of the memory at boot the balloon leaves the guest, in bytes.
    #[serde(rename = "Left")]
    Balloon,
}

/// What the monitor, or an exec's proxy, reports to the process that started it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToParent {
    /// The monitor has entered its network namespace. The parent answers with one byte when the
    /// interfaces are there and the host's hooks have run.
    NetworkReady,
    /// The container is created, or the exec's program runs: the outcomes of the steps' policies,
    /// and what the guest's kernel can do. The parent answers with one byte when it has written
    /// the record; from then on the container outlives it.
    Ready(Vec<PolicyOutcome>, Option<Box<crate::facts::Facts>>),
    /// Creating the container failed: the error, and hull's exit status if it is not the usual.
    Failed(String, Option<u8>),
}

/// The socket's address. It names the directory by a descriptor, since a path may be longer than
/// `sockaddr_un` allows; the address is valid while the file is open.
fn address(directory: &Path) -> Result<(std::fs::File, UnixAddr)> {
    let opened = std::fs::File::open(directory).on("open", directory.display())?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd()).as_str())
        .on("name", "the monitor's socket")?;
    Ok((opened, address))
}

fn socket() -> Result<Fd> {
    let made = nix::sys::socket::socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    made.map(|fd| Fd(fd.into_raw_fd())).on("create", "a socket")
}

/// Creates the monitor's listening socket in the container's directory.
///
/// # Errors
/// The directory cannot be opened; socket(2), bind(2) or listen(2) fails.
pub(crate) fn listen(directory: &Path) -> Result<Fd> {
    let socket = socket()?;
    let (_opened, address) = address(directory)?;
    nix::sys::socket::bind(socket.0, &address).on("bind", "the monitor's socket")?;
    let backlog = Backlog::new(64).on("listen on", "the monitor's socket")?;
    nix::sys::socket::listen(&raw::borrow(socket.0), backlog)
        .on("listen on", "the monitor's socket")?;
    Ok(socket)
}

/// Accepts the next connection.
///
/// # Errors
/// accept4(2) fails, such as with EMFILE.
pub(crate) fn accept(listener: &Fd) -> Result<Fd> {
    nix::sys::socket::accept4(listener.0, SockFlag::SOCK_CLOEXEC)
        .map(Fd)
        .on("accept on", "the monitor's socket")
}

/// Connects a command to the monitor of the container in this directory.
///
/// # Errors
/// `container not running` if no monitor listens; otherwise connect(2) fails.
pub(crate) fn connect(directory: &Path) -> Result<Fd> {
    let socket = socket()?;
    let (_opened, address) = address(directory)?;
    match nix::sys::socket::connect(socket.0, &address) {
        Ok(()) => Ok(socket),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ECONNREFUSED) => {
            Err(Error::new("container not running"))
        }
        Err(errno) => Err(Error::sys("connect to", "the container's monitor", errno)),
    }
}

/// Sends a message with descriptors attached; waits until the socket's buffer has room.
///
/// # Errors
/// The peer has closed the connection; a memfd for a long message cannot be created.
pub(crate) fn send<T: Serialize>(socket: &Fd, message: &T, descriptors: &[i32]) -> Result<()> {
    send_with(socket, message, descriptors, MsgFlags::empty())
}

/// Sends a message if the socket's buffer has room for it now.
///
/// # Errors
/// The buffer has no room (EAGAIN); otherwise as [`send`].
pub(crate) fn send_nonblocking<T: Serialize>(socket: &Fd, message: &T) -> Result<()> {
    send_with(socket, message, &[], MsgFlags::MSG_DONTWAIT)
}

fn send_with<T: Serialize>(
    socket: &Fd,
    message: &T,
    descriptors: &[i32],
    flags: MsgFlags,
) -> Result<()> {
    let mut text = serde_json::to_vec(message)
        .map_err(|error| Error::new(format!("encode a message: {error}")))?;
    let mut descriptors = descriptors.to_vec();
    let long = if text.len() > LONGEST {
        Some(write_memfd(&std::mem::replace(
            &mut text,
            IN_FILE.to_vec(),
        ))?)
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
    sent.on("send to", "the container's monitor").map(drop)
}

fn write_memfd(mut text: &[u8]) -> Result<Fd> {
    let memfd = file::memfd(c"hull:message", 0)
        .map(Fd)
        .on("create", "a memfd for a message")?;
    while !text.is_empty() {
        let count = file::write(memfd.0, text).on("write", "a message")?;
        text = &text[count..];
    }
    Ok(memfd)
}

/// Reads a memfd from its beginning to its end.
///
/// # Errors
/// lseek(2) or read(2) fails.
pub(crate) fn read_all(from: &Fd) -> Result<Vec<u8>> {
    file::rewind(from.0).on("read", "a message")?;
    let (mut bytes, mut piece) = (Vec::new(), [0_u8; 65536]);
    loop {
        match file::read(from.0, &mut piece).on("read", "a message")? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// Receives a message with its descriptors, or `None` if the peer has closed the connection.
///
/// # Errors
/// recvmsg(2) fails; the message is not valid JSON for `T`.
pub(crate) fn receive<T: for<'a> Deserialize<'a>>(socket: &Fd) -> Result<Option<(T, Vec<Fd>)>> {
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
            // The peer closed the connection without having read all that was sent to it.
            Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            other => break other.on("receive from", "the container's monitor")?,
        }
    };
    let mut received = Vec::new();
    let control = message
        .cmsgs()
        .on("receive from", "the container's monitor")?;
    for control in control {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            received.extend(descriptors.into_iter().map(Fd));
        }
    }
    let count = message.bytes;
    if count == 0 {
        return Ok(None);
    }
    text.truncate(count);
    if text == IN_FILE
        && let Some(file) = received.pop()
    {
        text = read_all(&file)?;
    }
    let value = serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("decode a message: {error}")))?;
    Ok(Some((value, received)))
}

/// How long a guest may take to answer: `answer-timeout` of the settings file, or 60 s.
///
/// # Errors
/// The settings file cannot be read or parsed.
pub(crate) fn answer_timeout() -> Result<Duration> {
    Ok(Duration::from_secs(
        crate::settings::read()?
            .vm
            .answer_timeout
            .unwrap_or(ANSWER_TIMEOUT),
    ))
}

/// Sends a signal to the container's program, or to all of its processes.
///
/// In a VM that does not answer, the signal stays pending, as it does for a frozen process with
/// the namespace backend; hull logs a warning. It is not an error: at an error, containerd's CRI
/// ends a stop without the SIGKILL that would follow (`stopContainer`), and older Podman takes the
/// container for stopped (`StopContainer`, which returns what kill(2) with signal 0 says then).
///
/// # Errors
/// The container is not running; the guest refuses the signal.
pub(crate) fn signal(directory: &Path, request: &MonitorRequest) -> Result<()> {
    let socket = connect(directory)?;
    send(&socket, request, &[])?;
    let timeout = answer_timeout()?.min(Duration::from_secs(SIGNAL_TIMEOUT));
    match receive_answer(&socket, timeout)? {
        Answer::Message(FromGuest::Done) => Ok(()),
        Answer::Message(FromGuest::Refused(why)) => Err(Error::new(why)),
        Answer::Message(_) => Err(unexpected_answer()),
        Answer::Closed => Err(Error::new("container not running")),
        Answer::Timeout => {
            crate::log::warn(&format!(
                "the signal is pending: {}",
                no_answer(directory, timeout)
            ));
            Ok(())
        }
    }
}

/// The result of waiting for a message.
pub(crate) enum Answer {
    /// The message.
    Message(FromGuest),
    /// The monitor has closed the connection.
    Closed,
    /// No message came in time.
    Timeout,
}

/// Waits for the next message.
///
/// # Errors
/// poll(2) or recvmsg(2) fails; the message cannot be decoded.
pub(crate) fn receive_answer(socket: &Fd, timeout: Duration) -> Result<Answer> {
    let (readable, _) = crate::sys::process::poll2(socket.0, -1, Some(timeout.as_millis() as u64))
        .on("receive from", "the container's monitor")?;
    if !readable {
        return Ok(Answer::Timeout);
    }
    let received = receive::<FromGuest>(socket)?;
    Ok(received.map_or(Answer::Closed, |(message, _)| Answer::Message(message)))
}

/// Checks that the guest answers. If its VM has ended, that is no error: the caller learns it by
/// the monitor's end.
///
/// # Errors
/// The guest does not answer in time.
pub(crate) fn check_answers(directory: &Path) -> Result<()> {
    let timeout = answer_timeout()?;
    let sent = connect(directory)
        .and_then(|socket| send(&socket, &MonitorRequest::Handled, &[]).map(|()| socket));
    match sent.and_then(|socket| receive_answer(&socket, timeout)) {
        Ok(Answer::Timeout) => Err(no_answer(directory, timeout)),
        _ => Ok(()),
    }
}

/// The error for a guest that did not answer in time.
pub(crate) fn no_answer(directory: &Path, timeout: Duration) -> Error {
    let id = directory.file_name().unwrap_or_default().to_string_lossy();
    let seconds = timeout.as_secs();
    Error::new(format!(
        "the container's VM does not answer (waited {seconds} s): hull kill {id} KILL or hull \
            delete --force {id} ends it"
    ))
}

/// The error for an answer that does not belong to the request.
pub(crate) fn unexpected_answer() -> Error {
    Error::new("the container's monitor sent an unexpected answer")
}

/// Sends a request and waits for its answer.
///
/// # Errors
/// The container is not running; the guest refuses the request, or does not answer in time.
pub(crate) fn request(
    directory: &Path,
    request: &MonitorRequest,
) -> Result<Option<serde_json::Value>> {
    let socket = connect(directory)?;
    send(&socket, request, &[])?;
    let timeout = answer_timeout()?;
    match receive_answer(&socket, timeout)? {
        Answer::Message(FromGuest::Done) => Ok(None),
        Answer::Message(FromGuest::Value(value)) => Ok(Some(value)),
        Answer::Message(FromGuest::Refused(why)) => Err(Error::new(why)),
        Answer::Message(_) => Err(unexpected_answer()),
        Answer::Closed => Err(Error::new("container not running")),
        Answer::Timeout => Err(no_answer(directory, timeout)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_arrive_whole_and_a_full_buffer_is_an_error() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) =
            nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
                .unwrap();
        let (ours, theirs) = (Fd(ours.into_raw_fd()), Fd(theirs.into_raw_fd()));
        let words = vec!["a command line".to_owned(); 100_000];
        send_nonblocking(&ours, &words).unwrap();
        send(&ours, &"short", &[]).unwrap();
        let (long, files) = receive::<Vec<String>>(&theirs).unwrap().unwrap();
        assert!(long == words && files.is_empty());
        assert_eq!(receive::<String>(&theirs).unwrap().unwrap().0, "short");
        assert!((0..100_000).any(|_| send_nonblocking(&ours, &"unheard").is_err()));
    }

    /// A monitor of an older hull knows these forms.
    #[test]
    fn requests_keep_their_json_form() {
        let text = |request| serde_json::to_string(&request).unwrap();
        let memory = GuestMemory {
            at_boot: 5,
            plugged: 7,
        };
        assert_eq!(text(MonitorRequest::Memory(memory)), r#"{"Memory":[5,7]}"#);
        assert_eq!(text(MonitorRequest::Balloon), r#""Left""#);
        assert_eq!(text(MonitorRequest::Resize(1, 2)), r#"{"Resize":[1,2]}"#);
    }
}
