//! A session with CRIU: hull starts `criu swrk`, which serves the requests that arrive on one
//! socket.
//!
//! ```text
//! hull                                criu swrk 3
//! VERSION, keep_open            ───▶
//!                               ◀───  version
//! FEATURE_CHECK, keep_open      ───▶                only where a feature is needed
//!                               ◀───  features
//! DUMP | RESTORE | PRE_DUMP     ───▶
//!                               ◀───  NOTIFY script, pid [, a file descriptor]    any number
//! NOTIFY, notify_success        ───▶                if false, or if hull ends, CRIU rolls back
//!                               ◀───  success, or the error
//! ```

use super::criu::{self, version_string};
use super::criu_log;
use super::proto::rpc::{CriuFeatures, CriuOpts, CriuReq, CriuReqType, CriuResp};
use super::tmpfs::TarShim;
use super::writeback::{self, Writeback};
use crate::sys::fd::{Fd, c_path, c_string, socket_pair};
use crate::sys::process::{self, Arrays, Cloned};
use crate::sys::{Sys, file, mount, socket};
use crate::{Context, Error, Result};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use prost::Message;
use std::ffi::{CStr, CString};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file descriptor of the socket in the CRIU process.
const SOCKET_FD: i32 = 3;
/// The file descriptor of the directory of images in the CRIU process.
pub const IMAGES_FD: i32 = 4;
/// The file descriptor of the work directory in the CRIU process.
pub const WORK_FD: i32 = 5;
/// The first of the other file descriptors that the CRIU process inherits.
pub const FIRST_INHERITED_FD: i32 = 6;

/// A mount in CRIU's own mount namespace.
pub struct CriuMount {
    /// What is mounted.
    pub source: MountSource,
    /// The mount point.
    pub target: PathBuf,
}

/// What is mounted for CRIU.
pub enum MountSource {
    /// A directory, with what is mounted below it.
    Bind(PathBuf),
    /// An overlay with these mount options.
    Overlay(String),
}

/// How a CRIU process is started.
pub struct SessionConfig<'a> {
    /// The directory of images, absolute.
    pub images: &'a Path,
    /// The work directory, absolute.
    pub work: &'a Path,
    /// File descriptors that it inherits, as [`FIRST_INHERITED_FD`] and the numbers after it.
    pub inherit: &'a [i32],
    /// It keeps hull's stdin, stdout and stderr, which become the container's. Otherwise it gets
    /// `/dev/null` and a file for its messages.
    pub keep_stdio: bool,
    /// Mounts in a mount namespace of its own; if there are none, it stays in hull's.
    pub mounts: &'a [CriuMount],
    /// The cgroup v2 directory in which the process is created.
    pub cgroup: Option<i32>,
    /// The `tasks` files of the cgroup v1 directories that it enters.
    pub tasks: &'a [i32],
    /// hull in the place of `tar`, which CRIU runs.
    pub tar_shim: &'a TarShim,
    /// It may use TLS.
    pub tls: bool,
}

/// A running CRIU process.
pub struct Session {
    socket: Fd,
    pidfd: Option<Fd>,
    /// Its process id.
    pub pid: i32,
    program: PathBuf,
    /// The memory file with its output, for errors before it has a log.
    messages: Fd,
    /// A dump, pre-dump or restore was requested.
    requested: bool,
    /// Its version, such as 40201 for 4.2.1; 0 before [`Self::check_version`].
    pub version: u32,
}

/// What CRIU sends in the course of a request.
pub enum Incoming {
    /// CRIU has come to an action, and waits for [`Session::acknowledge`].
    Notification(Notification),
    /// The request is complete, or has failed.
    Response(Box<CriuResp>),
}

/// Handles the notifications of a request. The second argument is that of [`Session::execute`].
pub type OnNotify<'a> = &'a mut dyn FnMut(Notification, Option<&Writeback>) -> Result<()>;

/// A notification of CRIU, which waits until hull has acknowledged it.
pub struct Notification {
    /// The name of the action (criu(8), `--action-script`).
    pub script: String,
    /// The process that the action concerns; 0 where there is none.
    pub pid: i32,
    /// The file descriptor that came with it.
    pub descriptor: Option<OwnedFd>,
}

impl Drop for Session {
    /// When its socket is closed, CRIU rolls back what it has not finished. A CRIU without a
    /// request would print an error to hull's caller, and is killed.
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            if !self.requested {
                let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
            }
            drop(std::mem::replace(&mut self.socket, Fd(-1)));
            let _ = process::wait(pidfd.0, false);
        }
    }
}

/// A mount of the child, as system calls take it.
struct ChildMount {
    overlay: bool,
    /// The path of a bind mount, or the mount options of an overlay.
    source: CString,
    target: CString,
}

impl ChildMount {
    fn new(mount: &CriuMount) -> Result<Self> {
        let (overlay, source) = match &mount.source {
            MountSource::Bind(path) => (false, path.as_path()),
            MountSource::Overlay(options) => (true, Path::new(options)),
        };
        Ok(Self {
            overlay,
            source: c_path(source)?,
            target: c_path(&mount.target)?,
        })
    }

    fn make(&self) -> Sys<()> {
        if self.overlay {
            mount::mount(c"overlay", &self.target, c"overlay", 0, &self.source)
        } else {
            let flags = libc::MS_BIND | libc::MS_REC;
            mount::mount(&self.source, &self.target, c"", flags, c"")
        }
    }
}

/// What the child does between clone and execve, by system calls alone.
///
/// CRIU opens the directories of a request as `/proc/PID/fd/N`, where PID is the process that made
/// the socket, and mounts below its work directory. Therefore the child makes the socket and opens
/// the directories, in the mount namespace in which CRIU will run, and sends hull its end.
struct ChildSetup<'a> {
    images: CString,
    work: CString,
    inherit: &'a [Fd],
    /// Replace stdin, stdout and stderr.
    stdio: Option<ChildStdio>,
    mounts: Vec<ChildMount>,
    tasks: &'a [i32],
    /// The socket on which the child sends hull's end of CRIU's socket.
    sync: i32,
}

#[derive(Clone, Copy)]
struct ChildStdio {
    /// Becomes stdin.
    null: i32,
    /// Becomes stdout and stderr.
    messages: i32,
}

impl ChildSetup<'_> {
    fn run(&self) -> Sys<()> {
        for &tasks in self.tasks {
            file::write(tasks, b"0")?;
        }
        if !self.mounts.is_empty() {
            process::unshare(libc::CLONE_NEWNS as u64)?;
            mount::mount(c"", c"/", c"", libc::MS_SLAVE | libc::MS_REC, c"")?;
        }
        self.mounts.iter().try_for_each(ChildMount::make)?;
        let images = open_directory(&self.images)?;
        let work = open_directory(&self.work)?;
        let (hulls, own) = socket::message_pair()?;
        let (hulls, own) = (dup_high(hulls)?, dup_high(own)?);
        if let Some(stdio) = self.stdio {
            file::dup_to(stdio.null, 0)?;
            file::dup_to(stdio.messages, 1)?;
            file::dup_to(stdio.messages, 2)?;
        }
        socket::send_fd(self.sync, &[0], hulls)?;
        for (number, from) in [(SOCKET_FD, own), (IMAGES_FD, images), (WORK_FD, work)]
            .into_iter()
            .chain((FIRST_INHERITED_FD..).zip(self.inherit.iter().map(|fd| fd.0)))
        {
            file::dup_to(from, number)?;
        }
        process::default_signals(1 << (libc::SIGPIPE - 1));
        process::unblock_signals();
        Ok(())
    }
}

fn open_directory(path: &CStr) -> Sys<i32> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    file::openat(libc::AT_FDCWD, path, flags, 0).and_then(dup_high)
}

/// Duplicates a file descriptor to a number above those that the CRIU process gets.
fn dup_high(raw: i32) -> Sys<i32> {
    nix::fcntl::fcntl(
        socket::borrow(raw),
        nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(512),
    )
}

impl Session {
    /// Starts CRIU and sends the request for its version. CRIU needs milliseconds to load; the
    /// caller may do something else before [`Self::check_version`], which waits for the response.
    ///
    /// # Errors
    /// The program cannot be executed, or it ends at once.
    pub fn start(program: &Path, config: &SessionConfig) -> Result<Self> {
        let inherit = config
            .inherit
            .iter()
            .map(|raw| {
                dup_high(*raw)
                    .map(Fd)
                    .on("duplicate", "a descriptor for criu")
            })
            .collect::<Result<Vec<_>>>()?;
        let messages = file::memfd(c"criu:messages", 0)
            .map(Fd)
            .on("make", "a memory file for criu's messages")?;
        let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0)
            .map(Fd)
            .on("open", "/dev/null")?;
        let (sync, theirs) = socket_pair()?;
        let setup = ChildSetup {
            images: c_path(config.images)?,
            work: c_path(config.work)?,
            inherit: &inherit,
            stdio: (!config.keep_stdio).then_some(ChildStdio {
                null: null.0,
                messages: messages.0,
            }),
            mounts: config
                .mounts
                .iter()
                .map(ChildMount::new)
                .collect::<Result<Vec<_>>>()?,
            tasks: config.tasks,
            sync: theirs.0,
        };
        let path = c_path(program)?;
        let args = [c"criu".to_owned(), c"swrk".to_owned(), c"3".to_owned()];
        let env = environment(config);
        let mut arrays = Arrays::with_room(args.len() + env.len());
        let (pid, pidfd) = match process::clone(0, config.cgroup).on("start", program.display())? {
            Cloned::Child => {
                let errno = match setup.run() {
                    Ok(()) => arrays.execveat(
                        libc::AT_FDCWD,
                        &path,
                        args.iter().map(CString::as_c_str),
                        env.iter().map(CString::as_c_str),
                        0,
                    ),
                    Err(errno) => errno,
                };
                process::exit(errno as i32)
            }
            Cloned::Parent { pid, pidfd } => (pid, Fd(pidfd)),
        };
        drop(theirs);
        let mut session = Self {
            socket: Fd(-1),
            pidfd: Some(pidfd),
            pid,
            program: program.to_owned(),
            messages,
            requested: false,
            version: 0,
        };
        session.receive_socket(&sync)?;
        let request = CriuReq {
            r#type: CriuReqType::Version as i32,
            keep_open: Some(true),
            ..CriuReq::default()
        };
        session.send(&request).map_err(|_| session.start_error())?;
        Ok(session)
    }

    fn receive_socket(&mut self, sync: &Fd) -> Result<()> {
        let Ok((1, Some(descriptor))) = receive_message(sync.0, &mut [0]) else {
            return Err(self.start_error());
        };
        self.socket = Fd(descriptor.into_raw_fd());
        Ok(())
    }

    /// Receives CRIU's version. To be called before any other request.
    ///
    /// # Errors
    /// CRIU ended, or is older than [`criu::MIN_VERSION`].
    pub fn check_version(&mut self) -> Result<()> {
        let response = self.receive().map_err(|_| self.start_error())?.0;
        let version = response.version.filter(|_| response.success);
        let version = version.ok_or_else(|| {
            Error::new(format!(
                "{} does not tell its version: criu 3.0 or later is needed",
                self.program.display()
            ))
        })?;
        let number = (version.major_number * 10_000
            + version.minor_number * 100
            + version.sublevel.unwrap_or(0))
        .unsigned_abs();
        crate::log::debug(|| {
            format!(
                "criu {} is version {}",
                self.program.display(),
                version_string(number)
            )
        });
        if number < criu::MIN_VERSION {
            return Err(Error::new(format!(
                "criu {} ({}) is too old: 3.0 or later is needed",
                version_string(number),
                self.program.display()
            )));
        }
        self.version = number;
        Ok(())
    }

    /// The error for a CRIU that ended before its first response. It names the last line of its
    /// output, which may be the dynamic loader's, or its exit status, which is the error number
    /// where the child's set-up or execve failed.
    fn start_error(&mut self) -> Error {
        let ended = self
            .pidfd
            .take()
            .and_then(|pidfd| process::wait(pidfd.0, false).ok().flatten());
        let text = read_output(&self.messages);
        let why = match (text.lines().last(), ended) {
            (Some(line), _) if !line.trim().is_empty() => line.trim().to_owned(),
            (_, Some(process::Ended::Exited(number))) if number != 0 => {
                crate::error::words(nix::errno::Errno::from_raw(number))
            }
            _ => "it ended at once".to_owned(),
        };
        Error::new(format!(
            "criu cannot be run: {}: {why}; name another with --criu PATH",
            self.program.display()
        ))
    }

    /// Asks which of these features kernel and CRIU have.
    ///
    /// # Errors
    /// CRIU ended, or does not know the request.
    pub fn features(&mut self, wanted: CriuFeatures) -> Result<CriuFeatures> {
        let request = CriuReq {
            r#type: CriuReqType::FeatureCheck as i32,
            keep_open: Some(true),
            features: Some(wanted),
            ..CriuReq::default()
        };
        self.send(&request)?;
        let response = self.receive()?.0;
        let features = response.features.filter(|_| response.success);
        features.ok_or_else(|| {
            Error::new(format!(
                "criu {} cannot tell its features",
                version_string(self.version)
            ))
        })
    }

    /// Sends a request. [`Self::next_message`] returns the messages that follow.
    ///
    /// # Errors
    /// CRIU has ended.
    pub fn request(&mut self, kind: CriuReqType, opts: CriuOpts) -> Result<()> {
        let request = CriuReq {
            r#type: kind as i32,
            opts: Some(opts),
            ..CriuReq::default()
        };
        self.requested = true;
        self.send(&request)
    }

    /// Waits for CRIU's next message.
    ///
    /// # Errors
    /// CRIU has ended; the error is that of its log.
    pub fn next_message(&mut self, log: &Path) -> Result<Incoming> {
        let (response, descriptor) = self
            .receive()
            .map_err(|error| self.failed(log, Some(error)))?;
        if response.r#type() != CriuReqType::Notify || !response.success {
            return Ok(Incoming::Response(Box::new(response)));
        }
        let notify = response.notify.unwrap_or_default();
        let notification = Notification {
            script: notify.script.unwrap_or_default(),
            pid: notify.pid.unwrap_or(0),
            descriptor,
        };
        crate::log::debug(|| format!("criu: {}", notification.script));
        Ok(Incoming::Notification(notification))
    }

    /// Acknowledges a notification: CRIU continues, or without `success` aborts and rolls back.
    ///
    /// # Errors
    /// CRIU has ended.
    pub fn acknowledge(&self, success: bool) -> Result<()> {
        self.send(&CriuReq {
            r#type: CriuReqType::Notify as i32,
            notify_success: Some(success),
            ..CriuReq::default()
        })
    }

    /// Checks the response to a request of this kind.
    ///
    /// # Errors
    /// The request failed; the error is that of CRIU's log, or of the response.
    pub fn check(&self, kind: CriuReqType, response: CriuResp, log: &Path) -> Result<()> {
        if response.success && response.r#type() == kind {
            Ok(())
        } else {
            Err(self.failed(log, response.cr_errmsg.map(Error::new)))
        }
    }

    /// Makes CRIU execute one request. `on_notify` handles its notifications; an error of it makes
    /// CRIU abort. While hull waits for CRIU, it looks at the images of `writeback`.
    ///
    /// # Errors
    /// The error of `on_notify`; else CRIU's, in the words of its log.
    pub fn execute(
        &mut self,
        kind: CriuReqType,
        opts: CriuOpts,
        log: &Path,
        mut writeback: Option<&mut Writeback>,
        on_notify: OnNotify,
    ) -> Result<()> {
        self.request(kind, opts)?;
        let mut refused = None;
        loop {
            if let Some(writeback) = &mut writeback {
                self.wait_with(writeback)?;
            }
            match self.next_message(log) {
                Ok(Incoming::Notification(notification)) => {
                    let handled = on_notify(notification, writeback.as_deref());
                    let success = handled.is_ok();
                    if let Err(error) = handled {
                        refused.get_or_insert(error);
                    }
                    self.acknowledge(success)?;
                }
                Ok(Incoming::Response(response)) => {
                    return match refused {
                        Some(error) => Err(error),
                        None => self.check(kind, *response, log),
                    };
                }
                Err(error) => return Err(refused.unwrap_or(error)),
            }
        }
    }

    /// Closes the socket and waits until CRIU has ended.
    ///
    /// # Errors
    /// Its exit status is not 0.
    pub fn wait(mut self, log: &Path) -> Result<()> {
        drop(std::mem::replace(&mut self.socket, Fd(-1)));
        let Some(pidfd) = self.pidfd.take() else {
            return Ok(());
        };
        match process::wait(pidfd.0, false).on("wait for", "criu")? {
            Some(process::Ended::Exited(0)) | None => Ok(()),
            Some(_) => Err(self.failed(log, None)),
        }
    }

    /// CRIU's failure, in the words of its log, else in those of its response.
    fn failed(&self, log: &Path, response: Option<Error>) -> Error {
        let why = criu_log::first_error(log).or_else(|| {
            response
                .map(|error| error.to_string())
                .filter(|text| !text.is_empty())
        });
        let why = why.unwrap_or_else(|| "it did not say why".to_owned());
        let hint = criu_log::hint(&why, self.version)
            .map(|hint| format!("; {hint}"))
            .unwrap_or_default();
        let version = version_string(self.version);
        let place = if log.exists() {
            format!(" (criu {version}, log: {})", log.display())
        } else {
            format!(" (criu {version})")
        };
        Error::new(format!("criu failed: {why}{place}{hint}"))
    }

    fn send(&self, request: &CriuReq) -> Result<()> {
        socket::send(self.socket.0, &request.encode_to_vec()).on("send a request to", "criu")
    }

    /// Looks at the images at intervals until there is a message of CRIU's.
    fn wait_with(&self, writeback: &mut Writeback) -> Result<()> {
        loop {
            let mut fds = [PollFd::new(
                socket::borrow(self.socket.0),
                PollFlags::POLLIN,
            )];
            match poll(&mut fds, writeback::INTERVAL) {
                Ok(0) => writeback.look(),
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(Error::sys("wait for", "criu", errno)),
            }
        }
    }

    /// Receives one response, and the file descriptor that came with it.
    fn receive(&self) -> Result<(CriuResp, Option<OwnedFd>)> {
        let mut bytes = vec![0_u8; 64 * 1024];
        let (count, descriptor) = receive_message(self.socket.0, &mut bytes)?;
        if count == 0 {
            return Err(Error::new("criu ended without an answer"));
        }
        let response = CriuResp::decode(&bytes[..count])
            .map_err(|error| Error::new(format!("criu's answer cannot be read: {error}")))?;
        Ok((response, descriptor))
    }
}

/// Receives one message into a buffer: its length, and the file descriptor that came with it.
fn receive_message(socket: i32, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!(std::os::fd::RawFd);
    loop {
        let mut iov = [std::io::IoSliceMut::new(bytes)];
        let message = match recvmsg::<()>(
            socket,
            &mut iov,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other.on("receive an answer from", "criu")?,
        };
        let mut descriptor = None;
        for control in message.cmsgs().on("receive an answer from", "criu")? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                descriptor = descriptors.first().map(|raw| socket::owned(*raw));
            }
        }
        return Ok((message.bytes, descriptor));
    }
}

/// CRIU's environment: hull's own, in which CRIU finds iptables and its plugins, with the directory
/// of `tar` in front of PATH.
fn environment(config: &SessionConfig) -> Vec<CString> {
    let join = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        c_string([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
    };
    let no_tls = (!config.tls).then(|| NO_TLS.to_owned());
    config
        .tar_shim
        .environment(std::env::vars_os())
        .into_iter()
        .filter_map(join)
        .chain(no_tls)
        .collect()
}

/// gnutls_global_init(3): with this GnuTLS does not initialise itself when it is loaded, which
/// takes most of a millisecond. CRIU uses GnuTLS for pages that it sends or receives with `tls`,
/// and relies on that initialisation.
const NO_TLS: &CStr = c"GNUTLS_NO_IMPLICIT_INIT=1";

/// The first bytes that CRIU wrote into the memory file of its messages.
fn read_output(file: &Fd) -> String {
    let mut buffer = [0_u8; 4096];
    let count = file::rewind(file.0)
        .and_then(|()| file::read(file.0, &mut buffer))
        .unwrap_or(0);
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}
