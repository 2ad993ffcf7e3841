//! sd_notify(3) for a container, as runc has it: a hull that was started with `NOTIFY_SOCKET` gives
//! the container a socket of its own, and when READY=1 comes over it, says so to the caller, with
//! the container's first process as the one to watch.
//!
//! ```text
//! systemd, Podman ◀──READY=1, MAINPID=─── hull ◀──READY=1─── /run/notify/notify.sock in the container
//! ```
//! `create` mounts the directory, `start` and `run` bind the socket in it; `start` and `run --detach`
//! return when READY=1 was passed on.
//!
//! A socket cannot cross into a virtual machine: the guest has one of its own, and what comes over
//! it the monitor sends to hull's.
//! ```text
//! hull start ◀──notify/notify.sock── monitor ◀──channel: Notify── guest: hull ◀──READY=1── /run/notify/notify.sock in the container
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

/// The directory's name in the container's record, and the socket's in it.
const DIR: &str = "notify";
const SOCKET: &str = "notify.sock";
/// The directory in a guest's own root. No container's directory can have this name.
pub const OF_GUEST: &str = "/run/hull/@notify";
/// More of a message than this is not looked at, in bytes.
const LONGEST: usize = 4096;
/// Where the directory is mounted in the container.
const INSIDE: &str = "/run/notify";

/// How long the caller's manager may take for what it was told before hull ends: after that it
/// could not tell whose message it was (sd_notify_barrier(3)). One that does not know barriers
/// closes the descriptor at once.
const BARRIER_MS: u64 = 30_000;

/// The caller's socket, if it gave one: a path, or an abstract name that begins with `@`.
pub fn asked() -> Option<String> {
    std::env::var("NOTIFY_SOCKET")
        .ok()
        .filter(|name| !name.is_empty())
}

/// The same config with the directory mounted where the program's environment says.
///
/// # Errors
/// There is no working directory to begin a relative path with.
pub fn add_to(spec: &Spec, container: &Path) -> Result<Spec> {
    let source = std::path::absolute(container.join(DIR)).on("find", container.display())?;
    Ok(with_directory(spec, &source.to_string_lossy()))
}

/// The same for a container in VM mode: the directory is the guest's.
pub fn add_to_guest(spec: &Spec) -> Spec {
    with_directory(spec, OF_GUEST)
}

fn with_directory(spec: &Spec, source: &str) -> Spec {
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"]
        .map(str::to_owned)
        .to_vec();
    let mount = Mount {
        destination: INSIDE.to_owned(),
        source: Some(source.to_owned()),
        options,
        ..Mount::default()
    };
    spec.with_mount(mount, format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}"))
}

/// Makes that directory; the container's processes may look into it.
///
/// # Errors
/// The kernel's.
pub fn make_directory(container: &Path) -> Result<()> {
    let directory = container.join(DIR);
    std::fs::DirBuilder::new()
        .mode(0o755)
        .create(&directory)
        .on("make", directory.display())
}

/// A container's socket, and who is told.
pub struct Notify {
    socket: UnixDatagram,
    host: String,
    pid: i32,
}

impl Notify {
    /// Binds the container's socket. There is none where the caller gave none, or did not when the
    /// container was created.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind(container: &Path, pid: i32) -> Result<Option<Self>> {
        let Some(host) = asked() else { return Ok(None) };
        let Some(socket) = listen(&container.join(DIR))? else {
            return Ok(None);
        };
        Ok(Some(Self { socket, host, pid }))
    }

    /// Readable when the container says something.
    pub fn descriptor(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// Takes one message, and passes READY on; the caller's socket, once it was told.
    ///
    /// # Errors
    /// The caller's socket does not take it.
    pub fn take(&self) -> Result<Option<UnixDatagram>> {
        let Some(ready) = ready(&self.socket)? else {
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

    /// Waits until the container is ready, or gone, and the caller's manager has heard of it.
    ///
    /// # Errors
    /// The caller's socket does not take it.
    pub fn wait(self, init: &Fd) -> Result<()> {
        loop {
            let (said, _) = process::poll2(self.descriptor(), init.0, None)
                .on("wait for", "the container's notification")?;
            if !said {
                return Ok(());
            }
            if let Some(host) = self.take()? {
                return barrier(&host);
            }
        }
    }
}

/// A directory by its descriptor: a socket's path has at most 107 bytes (unix(7)), and so it is always
/// short. None where there is not a directory.
fn short(directory: &Path) -> Result<Option<(Fd, PathBuf)>> {
    let name = crate::sys::fd::c_path(directory)?;
    let held = match file::openat(libc::AT_FDCWD, &name, libc::O_PATH | libc::O_DIRECTORY, 0) {
        Err(nix::errno::Errno::ENOENT) => return Ok(None),
        other => Fd(other.on("open", directory.display())?),
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", held.0));
    Ok(Some((held, path)))
}

/// The socket for the container's processes, whatever their users are. None where there is no
/// directory.
///
/// # Errors
/// The kernel's.
pub fn listen(directory: &Path) -> Result<Option<UnixDatagram>> {
    let Some((_held, path)) = short(directory)? else {
        return Ok(None);
    };
    let socket = UnixDatagram::bind(&path).on("make", directory.join(SOCKET).display())?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
        .on("open to all", directory.join(SOCKET).display())?;
    Ok(Some(socket))
}

/// Takes one message; its line that says READY, the only one that is passed on.
///
/// # Errors
/// The kernel's.
pub fn ready(socket: &UnixDatagram) -> Result<Option<String>> {
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

/// Sends what a guest's program said to the socket that `start` or `run` has bound for it. It never
/// waits.
///
/// # Errors
/// Nobody listens there (any more): as with the namespace backend, where the program itself hears of
/// that.
pub fn pass_on(container: &Path, line: &str) -> Result<()> {
    let directory = container.join(DIR);
    let Some((_held, path)) = short(&directory)? else {
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

/// Sends one end of a pipe along and waits until the other side has closed it.
fn barrier(host: &UnixDatagram) -> Result<()> {
    let (read, write) = file::pipe()
        .map(|(read, write)| (Fd(read), Fd(write)))
        .on("make", "a pipe")?;
    socket::send_fd(host.as_raw_fd(), b"BARRIER=1", write.0).on("send to", "NOTIFY_SOCKET")?;
    drop(write);
    match process::poll2(read.0, -1, Some(BARRIER_MS)).on("wait for", "NOTIFY_SOCKET")? {
        (true, _) => Ok(()),
        _ => {
            crate::log::warn("NOTIFY_SOCKET: what was sent has not been read for 30 s");
            Ok(())
        }
    }
}
