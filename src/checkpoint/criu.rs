//! The criu program: where it is, how it is started beside hull (`criu swrk`), and the conversation
//! with it.
//!
//! ```text
//! hull                                   criu swrk 3
//! VERSION, keep_open             ──────▶
//!                                ◀──────  version
//! FEATURE_CHECK, keep_open       ──────▶             (only where a feature is asked for)
//!                                ◀──────  features
//! DUMP | RESTORE | PRE_DUMP      ──────▶
//!                                ◀──────  NOTIFY script, pid [, a descriptor]    as often as there is something
//! NOTIFY, success or not         ──────▶  without it, or with a failure, criu takes back what it did
//!                                ◀──────  the end: success, or the error
//! ```

use super::log;
use super::rpc::{Features, Kind, Options, Request, Response};
use super::tmpfs::StandIn;
use crate::checkpoint::writeback;
use crate::checkpoint::writeback::Following;
use crate::sys::fd::{Fd, c_path, c_string, socket_pair};
use crate::sys::process::{self, Arrays, Cloned};
use crate::sys::search::in_path_or_sbin;
use crate::sys::{Sys, file, mount, socket};
use crate::{Context, Error, Result};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use prost::Message;
use std::ffi::{CStr, CString};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Descriptors in criu's process: the socket, the directory of images, the work directory, and then what
/// else it inherits.
const SOCKET: i32 = 3;
/// The directory of images.
pub const IMAGES: i32 = 4;
/// The directory of log and work.
pub const WORK: i32 = 5;
/// The first of what else it inherits.
pub const FIRST: i32 = 6;

/// criu 3.0 was the first with the version request.
pub const OLDEST: u32 = 30_000;

/// criu 3.19 was the first that can be told to lock no network.
pub const SKIPS_LOCK: u32 = 31_900;

/// The criu program: as given, by the environment variable `HULL_CRIU`, by `criu` in the
/// administrator's defaults ([`crate::settings`]), or the first in PATH and sbin.
///
/// # Errors
/// There is none; the configuration cannot be read.
pub fn find(given: Option<&Path>) -> Result<PathBuf> {
    let named = match given.map(Path::to_owned).or_else(|| {
        std::env::var_os("HULL_CRIU")
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
    }) {
        Some(path) => Some(path),
        None => crate::settings::read()?.criu,
    };
    if let Some(path) = named {
        // A name without a slash is looked up, as everybody does.
        let found = if path.components().count() == 1 {
            in_path_or_sbin(&path)
        } else {
            Some(path.clone()).filter(|path| path.is_file())
        };
        return found.ok_or_else(|| {
            Error::new(format!(
                "criu: {} is not there; name the criu program with --criu PATH",
                path.display()
            ))
        });
    }
    in_path_or_sbin("criu").ok_or_else(|| {
        Error::new(
            "criu is not installed: checkpoint and \
        restore need it (the package criu), or --criu PATH",
        )
    })
}

/// A mount that is there for criu alone.
pub struct Mounting {
    /// A directory that is bound, with what is mounted below, or nothing for an overlay.
    pub source: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// The overlay's layers, as its mount options.
    pub overlay: Option<String>,
}

/// What criu starts with.
pub struct World<'a> {
    /// The directory of images, absolute.
    pub images: &'a Path,
    /// The directory of log and work, absolute.
    pub work: &'a Path,
    /// Descriptors that it inherits, from [`FIRST`] on.
    pub inherit: &'a [i32],
    /// It keeps hull's stdin, stdout and stderr, which become the container's.
    pub stdio: bool,
    /// Mounts of a mount namespace of its own; none of these, and it stays in hull's.
    pub mounts: &'a [Mounting],
    /// The v2 cgroup it is born in.
    pub cgroup: Option<i32>,
    /// The `tasks` files of v1 cgroups that it enters.
    pub tasks: &'a [i32],
    /// What it finds before PATH.
    pub stand_in: &'a StandIn,
    /// It may have to do with TLS.
    pub tls: bool,
}

/// A running criu.
pub struct Session {
    socket: Fd,
    pidfd: Option<Fd>,
    /// Its process id.
    pub pid: i32,
    program: PathBuf,
    /// What it says where it has no log.
    messages: Fd,
    /// It was given something to execute.
    works: bool,
    /// Major, minor and sublevel, as 40201; known once it was greeted.
    pub version: u32,
}

/// What criu says.
pub enum Heard {
    /// Something happens, and criu waits for a reply.
    Event(Event),
    /// What was asked for is done, or has failed.
    Answer(Box<Response>),
}

/// Answers what criu tells; it may ask what is known of the images.
pub type Answer<'a> = &'a mut dyn FnMut(Event, Option<&Following>) -> Result<()>;

/// What criu tells while it works.
pub struct Event {
    /// How far it is.
    pub script: String,
    /// The process that is meant.
    pub pid: i32,
    /// What came with it.
    pub descriptor: Option<OwnedFd>,
}

impl Drop for Session {
    /// Without its peer criu takes back what it has not finished. One that has not begun would only
    /// complain, to hull's caller.
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            if !self.works {
                let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
            }
            drop(std::mem::replace(&mut self.socket, Fd(-1)));
            let _ = process::wait(pidfd.0, false);
        }
    }
}

/// What the child does between clone and execve: plain system calls only.
///
/// criu opens the directories that a request names by `/proc/PID/fd/N` of whoever made the socket, and
/// mounts below its work directory: so the child itself makes the socket and opens the directories, in the
/// mount namespace that criu will be in. hull is sent its end.
struct Birth<'a> {
    images: CString,
    work: CString,
    inherit: &'a [Fd],
    stdio: Option<(i32, i32)>,
    mounts: Vec<(CString, CString, Option<CString>)>,
    tasks: &'a [i32],
    /// Where the child sends hull's end of the socket.
    sync: i32,
}

impl Birth<'_> {
    fn enter(&self) -> Sys<()> {
        for &tasks in self.tasks {
            file::write(tasks, b"0")?;
        }
        if !self.mounts.is_empty() {
            process::unshare(libc::CLONE_NEWNS as u64)?;
            mount::mount(c"", c"/", c"", libc::MS_SLAVE | libc::MS_REC, c"")?;
        }
        for (source, target, overlay) in &self.mounts {
            match overlay {
                Some(layers) => mount::mount(c"overlay", target, c"overlay", 0, layers)?,
                None => mount::mount(source, target, c"", libc::MS_BIND | libc::MS_REC, c"")?,
            }
        }
        let images = file::openat(
            libc::AT_FDCWD,
            &self.images,
            libc::O_RDONLY | libc::O_DIRECTORY,
            0,
        )
        .and_then(high)?;
        let work = file::openat(
            libc::AT_FDCWD,
            &self.work,
            libc::O_RDONLY | libc::O_DIRECTORY,
            0,
        )
        .and_then(high)?;
        let (hulls, own) = socket::message_pair()?;
        let (hulls, own) = (high(hulls)?, high(own)?);
        if let Some((null, messages)) = self.stdio {
            file::dup_to(null, 0)?;
            file::dup_to(messages, 1)?;
            file::dup_to(messages, 2)?;
        }
        socket::send_fd(self.sync, &[0], hulls)?;
        for (number, from) in [(SOCKET, own), (IMAGES, images), (WORK, work)]
            .into_iter()
            .chain((FIRST..).zip(self.inherit.iter().map(|held| held.0)))
        {
            file::dup_to(from, number)?;
        }
        process::default_signals(1 << (libc::SIGPIPE - 1));
        process::unblock_signals();
        Ok(())
    }
}

/// A descriptor out of the way of those that criu gets.
fn high(raw: i32) -> Sys<i32> {
    nix::fcntl::fcntl(
        socket::borrow(raw),
        nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(512),
    )
}

impl Session {
    /// Starts criu and sends it the question for its version. It needs milliseconds to load, which
    /// are the caller's until [`Self::greet`].
    ///
    /// # Errors
    /// It cannot be run.
    pub fn start(program: &Path, world: &World) -> Result<Self> {
        let inherit = world
            .inherit
            .iter()
            .map(|raw| high(*raw).map(Fd).on("copy", "a descriptor for criu"))
            .collect::<Result<Vec<_>>>()?;
        let messages = file::memfd(c"criu:messages", 0)
            .map(Fd)
            .on("make", "a memory file for criu's messages")?;
        let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0)
            .map(Fd)
            .on("open", "/dev/null")?;
        let c_mount = |one: &Mounting| {
            Ok((
                c_path(&one.source)?,
                c_path(&one.target)?,
                one.overlay.as_ref().map(c_path).transpose()?,
            ))
        };
        let mounts = world
            .mounts
            .iter()
            .map(c_mount)
            .collect::<Result<Vec<_>>>()?;
        let (sync, theirs) = socket_pair()?;
        let birth = Birth {
            images: c_path(world.images)?,
            work: c_path(world.work)?,
            inherit: &inherit,
            stdio: (!world.stdio).then_some((null.0, messages.0)),
            mounts,
            tasks: world.tasks,
            sync: theirs.0,
        };
        let path = c_path(program)?;
        let args = [c"criu".to_owned(), c"swrk".to_owned(), c"3".to_owned()];
        let env = environment(world);
        let mut arrays = Arrays::with_room(args.len() + env.len());
        let (pid, pidfd) = match process::clone(0, world.cgroup).on("start", program.display())? {
            Cloned::Child => {
                let errno = match birth.enter() {
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
            works: false,
            version: 0,
        };
        session.take_socket(&sync)?;
        let question = Request {
            kind: Kind::Version as i32,
            keep_open: Some(true),
            ..Request::default()
        };
        session
            .send(&question)
            .map_err(|_| session.did_not_start())?;
        Ok(session)
    }

    fn take_socket(&mut self, sync: &Fd) -> Result<()> {
        let Ok((1, Some(descriptor))) = message(sync.0, &mut [0]) else {
            return Err(self.did_not_start());
        };
        self.socket = Fd(descriptor.into_raw_fd());
        Ok(())
    }

    /// Hears criu's version, without which nothing is asked of it.
    ///
    /// # Errors
    /// It ended, or is too old to be asked.
    pub fn greet(&mut self) -> Result<()> {
        let answer = self.receive().map_err(|_| self.did_not_start())?.0;
        let version = answer.version.filter(|_| answer.success).ok_or_else(|| {
            Error::new(format!(
                "{} does not tell its version: criu 3.0 or later is needed",
                self.program.display()
            ))
        })?;
        let number = (version.major * 10_000 + version.minor * 100 + version.sublevel.unwrap_or(0))
            .unsigned_abs();
        crate::log::debug(|| {
            format!(
                "criu {} is version {}",
                self.program.display(),
                words(number)
            )
        });
        if number < OLDEST {
            return Err(Error::new(format!(
                "criu {} ({}) is too old: 3.0 or later is needed",
                words(number),
                self.program.display()
            )));
        }
        self.version = number;
        Ok(())
    }

    /// It ended before it said a word: the loader's message, or its exit status, which is the error
    /// number where execve failed.
    fn did_not_start(&mut self) -> Error {
        let ended = self
            .pidfd
            .take()
            .and_then(|pidfd| process::wait(pidfd.0, false).ok().flatten());
        let text = said(self.messages.0);
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

    /// Asks what kernel and criu can do together.
    ///
    /// # Errors
    /// criu ended, or cannot be asked.
    pub fn features(&mut self, wanted: Features) -> Result<Features> {
        let request = Request {
            kind: Kind::FeatureCheck as i32,
            keep_open: Some(true),
            features: Some(wanted),
            ..Request::default()
        };
        self.send(&request)?;
        let answer = self.receive()?.0;
        answer.features.filter(|_| answer.success).ok_or_else(|| {
            Error::new(format!(
                "criu {} cannot tell its features",
                words(self.version)
            ))
        })
    }

    /// Asks for one thing; criu tells its events until [`Heard::Answer`].
    ///
    /// # Errors
    /// criu has ended.
    pub fn ask(&mut self, kind: Kind, options: Options) -> Result<()> {
        let request = Request {
            kind: kind as i32,
            options: Some(options),
            ..Request::default()
        };
        self.works = true;
        self.send(&request)
    }

    /// What criu says next. An event waits for [`Self::reply`].
    ///
    /// # Errors
    /// criu ended, in its own decisive words.
    pub fn hear(&mut self, log: &Path) -> Result<Heard> {
        let (answer, descriptor) = self
            .receive()
            .map_err(|error| self.failed(log, Some(error)))?;
        if answer.kind() != Kind::Notify || !answer.success {
            return Ok(Heard::Answer(Box::new(answer)));
        }
        let notice = answer.notify.unwrap_or_default();
        let event = Event {
            script: notice.script.unwrap_or_default(),
            pid: notice.pid.unwrap_or(0),
            descriptor,
        };
        crate::log::debug(|| format!("criu: {}", event.script));
        Ok(Heard::Event(event))
    }

    /// Answers an event: criu goes on, or takes back what it has done.
    ///
    /// # Errors
    /// criu has ended.
    pub fn reply(&self, accepted: bool) -> Result<()> {
        self.send(&Request {
            kind: Kind::Notify as i32,
            notify_success: Some(accepted),
            ..Request::default()
        })
    }

    /// The answer to what was asked for, if it says that it is done.
    ///
    /// # Errors
    /// It is not, in criu's own decisive words.
    pub fn done(&self, kind: Kind, answer: Response, log: &Path) -> Result<Response> {
        if answer.success && answer.kind() == kind {
            Ok(answer)
        } else {
            Err(self.failed(log, answer.message.map(Error::new)))
        }
    }

    /// Executes one request; `on` answers what criu tells meanwhile, and its error is criu's
    /// failure. Where nothing is told, the images are followed.
    ///
    /// # Errors
    /// criu's, in its own decisive words; that of `on`.
    pub fn execute(
        &mut self,
        kind: Kind,
        options: Options,
        log: &Path,
        mut following: Option<&mut Following>,
        on: Answer,
    ) -> Result<Response> {
        self.ask(kind, options)?;
        let mut refused = None;
        loop {
            if let Some(following) = &mut following {
                self.wait_with(following)?;
            }
            match self.hear(log) {
                Ok(Heard::Event(event)) => {
                    let accepted = on(event, following.as_deref());
                    let succeeded = accepted.is_ok();
                    if let Err(error) = accepted {
                        refused.get_or_insert(error);
                    }
                    self.reply(succeeded)?;
                }
                Ok(Heard::Answer(answer)) => {
                    return match refused {
                        Some(error) => Err(error),
                        None => self.done(kind, *answer, log),
                    };
                }
                Err(error) => return Err(refused.unwrap_or(error)),
            }
        }
    }

    /// Waits for criu's own end.
    ///
    /// # Errors
    /// It ended with another status than 0.
    pub fn end(mut self, log: &Path) -> Result<()> {
        drop(std::mem::replace(&mut self.socket, Fd(-1)));
        let Some(pidfd) = self.pidfd.take() else {
            return Ok(());
        };
        match process::wait(pidfd.0, false).on("wait for", "criu")? {
            Some(process::Ended::Exited(0)) | None => Ok(()),
            Some(_) => Err(self.failed(log, None)),
        }
    }

    fn failed(&self, path: &Path, said: Option<Error>) -> Error {
        let decisive = log::decisive(path).or_else(|| {
            said.map(|error| error.to_string())
                .filter(|text| !text.is_empty())
        });
        let why = decisive.unwrap_or_else(|| "it did not say why".to_owned());
        let hint = log::hint(&why, self.version)
            .map(|hint| format!("; {hint}"))
            .unwrap_or_default();
        let place = if path.exists() {
            format!(" (criu {}, log: {})", words(self.version), path.display())
        } else {
            format!(" (criu {})", words(self.version))
        };
        Error::new(format!("criu failed: {why}{place}{hint}"))
    }

    fn send(&self, request: &Request) -> Result<()> {
        socket::send(self.socket.0, &request.encode_to_vec()).on("send a request to", "criu")
    }

    /// Until criu says something.
    fn wait_with(&self, following: &mut Following) -> Result<()> {
        loop {
            let mut fds = [PollFd::new(
                socket::borrow(self.socket.0),
                PollFlags::POLLIN,
            )];
            match poll(&mut fds, writeback::PAUSE) {
                Ok(0) => following.look(),
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(Error::sys("wait for", "criu", errno)),
            }
        }
    }

    /// One message; a descriptor may come with it.
    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut bytes = vec![0_u8; 64 * 1024];
        let (count, descriptor) = message(self.socket.0, &mut bytes)?;
        if count == 0 {
            return Err(Error::new("criu ended without an answer"));
        }
        let response = Response::decode(&bytes[..count])
            .map_err(|error| Error::new(format!("criu's answer cannot be read: {error}")))?;
        Ok((response, descriptor))
    }
}

/// One message into a buffer: how long it is, and the descriptor that came with it.
fn message(socket: i32, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
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

/// 40201 as 4.2.1.
pub fn words(version: u32) -> String {
    let (major, minor, sublevel) = (version / 10_000, version / 100 % 100, version % 100);
    if sublevel == 0 {
        format!("{major}.{minor}")
    } else {
        format!("{major}.{minor}.{sublevel}")
    }
}

/// hull's own, as criu looks for iptables and its plugins by it.
fn environment(world: &World) -> Vec<CString> {
    let join = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        c_string([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
    };
    let spared = (!world.tls).then(|| NO_TLS.to_owned());
    world
        .stand_in
        .environment(std::env::vars_os())
        .into_iter()
        .filter_map(join)
        .chain(spared)
        .collect()
}

/// gnutls_global_init(3): the library need not get ready as it is loaded, which takes it most of a
/// millisecond. criu uses it for the pages that it sends or gets with `tls`, and relies on its
/// being ready.
const NO_TLS: &CStr = c"GNUTLS_NO_IMPLICIT_INIT=1";

/// Whether criu may be told by one of its own configuration files to use TLS (criu(8),
/// "Configuration files"): they are not looked into.
pub fn is_configured() -> bool {
    let own = std::env::var_os("HOME").map(|home| Path::new(&home).join(".criu/default.conf"));
    std::env::var_os("CRIU_CONFIG_FILE").is_some()
        || own.is_some_and(|path| path.exists())
        || Path::new("/etc/criu/default.conf").exists()
}

/// What a program wrote into a memory file, as far as it is of use in a sentence.
pub fn said(raw: i32) -> String {
    let mut buffer = [0_u8; 4096];
    let count = file::rewind(raw)
        .and_then(|()| file::read(raw, &mut buffer))
        .unwrap_or(0);
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}
