//! sd_notify(3) for a container, as in runc: if hull was started with `NOTIFY_SOCKET`, the
//! container gets a socket of its own. When READY=1 arrives there, hull sends it to the caller's
//! socket, with the container's first process as MAINPID.
//!
//! ```text
//! systemd, Podman ◀──READY=1, MAINPID=── hull ◀──READY=1── /run/notify/notify.sock (container)
//! ```
//! `create` mounts the directory; `start` and `run` bind the socket in it. `start` and `run
//! --detach` return when hull has sent READY=1 to the caller.
//!
//! A socket cannot be shared with a VM. The guest has a socket of its own, and the monitor sends
//! what arrives there to hull's.
//! ```text
//! hull start ◀──notify/notify.sock── monitor ◀──channel: Notify── guest ◀──READY=1── container
//! ```

use crate::spec::Spec;
use crate::spec::config::Mount;
use crate::sys::fd::Fd;
use crate::sys::{file, process, socket};
use crate::{Context, Result};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// The name of the directory in the container's directory, and of the socket in it.
const DIR: &str = "notify";
const SOCKET: &str = "notify.sock";
/// The directory in the guest's own root. No container's directory can have this name, since no
/// container's id contains `@`.
pub const GUEST_DIRECTORY: &str = "/run/hull/@notify";
/// hull reads only this much of a message, in bytes.
const LONGEST: usize = 4096;
/// Where the directory is mounted in the container.
const CONTAINER_DIRECTORY: &str = "/run/notify";

/// How long hull waits until the service manager has processed its messages, in milliseconds. If
/// hull ended before, the manager could not find out which unit they came from
/// (sd_notify_barrier(3)). A manager that does not know barriers closes the descriptor at once.
const BARRIER_MS: u64 = 30_000;

/// The caller's socket (`NOTIFY_SOCKET`): a path, or an abstract name that begins with `@`.
pub fn host_socket() -> Option<String> {
    std::env::var("NOTIFY_SOCKET")
        .ok()
        .filter(|name| !name.is_empty())
}

/// Adds to the config the mount of the directory, and `NOTIFY_SOCKET` in the program's environment.
/// `container` is the container's directory.
///
/// # Errors
/// getcwd(2) fails, which a relative path needs.
pub fn add_mount(spec: &Spec, container: &Path) -> Result<Spec> {
    let source = std::path::absolute(container.join(DIR)).on("find", container.display())?;
    Ok(with_directory(spec, &source.to_string_lossy()))
}

/// The same for a container in VM mode, with the directory of the guest.
pub fn add_guest_mount(spec: &Spec) -> Spec {
    with_directory(spec, GUEST_DIRECTORY)
}

fn with_directory(spec: &Spec, source: &str) -> Spec {
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"]
        .map(str::to_owned)
        .to_vec();
    let mount = Mount {
        destination: CONTAINER_DIRECTORY.to_owned(),
        source: Some(source.to_owned()),
        options,
        ..Mount::default()
    };
    spec.with_mount(
        mount,
        format!("NOTIFY_SOCKET={CONTAINER_DIRECTORY}/{SOCKET}"),
    )
}

/// Makes that directory; every user of the container may enter it.
///
/// # Errors
/// mkdir(2) fails.
pub fn make_directory(container: &Path) -> Result<()> {
    let directory = container.join(DIR);
    std::fs::DirBuilder::new()
        .mode(0o755)
        .create(&directory)
        .on("make", directory.display())
}

/// A container's notification socket on the host.
pub struct Notify {
    socket: UnixDatagram,
    /// The caller's socket.
    host: String,
    /// The container's first process.
    pid: i32,
}

impl Notify {
    /// Binds the container's socket. `None` where hull has no `NOTIFY_SOCKET`, or had none when the
    /// container was created.
    ///
    /// # Errors
    /// bind(2) or chmod(2) fails.
    pub fn bind(container: &Path, pid: i32) -> Result<Option<Self>> {
        let Some(host) = host_socket() else {
            return Ok(None);
        };
        let Some(socket) = listen(&container.join(DIR))? else {
            return Ok(None);
        };
        Ok(Some(Self { socket, host, pid }))
    }

    /// The socket's descriptor, which is readable when a message has arrived.
    pub fn descriptor(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// Receives one message, and sends READY and MAINPID to the caller if it contains READY; then
    /// returns the socket that is connected to the caller's.
    ///
    /// # Errors
    /// recv(2) fails; the caller's socket cannot be connected or written.
    pub fn forward_ready(&self) -> Result<Option<UnixDatagram>> {
        let Some(ready) = receive_ready(&self.socket)? else {
            return Ok(None);
        };
        let host = self.connect().on("connect to NOTIFY_SOCKET", &self.host)?;
        for message in [format!("{ready}\n"), format!("MAINPID={}\n", self.pid)] {
            host.send(message.as_bytes())
                .on("send to NOTIFY_SOCKET", &self.host)?;
        }
        Ok(Some(host))
    }

    fn connect(&self) -> std::io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        match self.host.strip_prefix('@') {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(&self.host)?,
        }
        Ok(socket)
    }

    /// Waits until the container is ready or has ended, and the service manager has processed the
    /// message.
    ///
    /// # Errors
    /// poll(2) fails; as of [`Notify::forward_ready`].
    pub fn wait(self, init: &Fd) -> Result<()> {
        loop {
            let (readable, _) = process::poll2(self.descriptor(), init.0, None)
                .on("wait for", "the container's notification")?;
            if !readable {
                return Ok(());
            }
            if let Some(host) = self.forward_ready()? {
                return barrier(&host);
            }
        }
    }
}

/// A path of the socket by the descriptor of its directory, since a socket's path has at most 107
/// bytes (unix(7)). `None` where the directory does not exist. The descriptor must stay open.
fn short_path(directory: &Path) -> Result<Option<(Fd, PathBuf)>> {
    let name = crate::sys::fd::c_path(directory)?;
    let opened = match file::openat(libc::AT_FDCWD, &name, libc::O_PATH | libc::O_DIRECTORY, 0) {
        Err(nix::errno::Errno::ENOENT) => return Ok(None),
        other => Fd(other.on("open", directory.display())?),
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", opened.0));
    Ok(Some((opened, path)))
}

/// Binds the socket in a directory; every user of the container may write to it. `None` where the
/// directory does not exist.
///
/// # Errors
/// open(2) of the directory, bind(2) or chmod(2) fails.
pub fn listen(directory: &Path) -> Result<Option<UnixDatagram>> {
    let Some((_directory, path)) = short_path(directory)? else {
        return Ok(None);
    };
    let socket = UnixDatagram::bind(&path).on("make", directory.join(SOCKET).display())?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
        .on("change the mode of", directory.join(SOCKET).display())?;
    Ok(Some(socket))
}

/// Receives one message; returns its line `READY=`, the only one that hull forwards.
///
/// # Errors
/// recv(2) fails.
pub fn receive_ready(socket: &UnixDatagram) -> Result<Option<String>> {
    let mut buffer = [0_u8; LONGEST];
    let count = socket
        .recv(&mut buffer)
        .on("receive", "the container's notification")?;
    let text = String::from_utf8_lossy(&buffer[..count]);
    Ok(text
        .lines()
        .find(|line| line.starts_with("READY="))
        .map(str::to_owned))
}

/// Sends a line from a guest's program to the socket that `start` or `run` has bound. It does not
/// block.
///
/// # Errors
/// No process has the socket open (any more). With the namespace backend the program itself gets
/// that error.
pub fn pass_on(container: &Path, line: &str) -> Result<()> {
    let directory = container.join(DIR);
    let Some((_directory, path)) = short_path(&directory)? else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound().on("make", "a socket")?;
    socket.set_nonblocking(true).on("use", "a socket")?;
    let line = line.as_bytes();
    socket
        .send_to(&line[..line.len().min(LONGEST)], &path)
        .on("send to", directory.join(SOCKET).display())
        .map(drop)
}

/// Sends one end of a pipe to the service manager and waits until that has closed it.
fn barrier(host: &UnixDatagram) -> Result<()> {
    let (read, write) = file::pipe()
        .map(|(read, write)| (Fd(read), Fd(write)))
        .on("make", "a pipe")?;
    socket::send_fd(host.as_raw_fd(), b"BARRIER=1", write.0).on("send to", "NOTIFY_SOCKET")?;
    drop(write);
    match process::poll2(read.0, -1, Some(BARRIER_MS)).on("wait for", "NOTIFY_SOCKET")? {
        (true, _) => Ok(()),
        _ => {
            crate::log::warn("NOTIFY_SOCKET: the messages have not been read for 30 s");
            Ok(())
        }
    }
}
