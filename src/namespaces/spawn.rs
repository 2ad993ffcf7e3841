//! Clones the child into its namespaces, directly or through a stage.
//!
//! ```text
//! hull ──clone3(CLONE_NEW*, CLONE_INTO_CGROUP)──▶ child: executes the container steps
//!
//! hull ──clone3──▶ stage: setns(2) of the namespaces that the old user namespace owns, of the
//!                   │     user namespace, of the namespaces that this one owns; unshare(2) of a
//!                   │     time namespace, and its offsets
//!                   └─clone3(CLONE_PARENT, CLONE_NEW*)──▶ child: hull's own child too
//! ```
//! hull itself never joins a namespace, so it keeps its privileges over the host.

use crate::process::child::identity;
use crate::step::child::Buffers;
use crate::step::container::slot;
use crate::step::host::Stage;
use crate::step::report::Detail;
use crate::step::wire::Malformed;
use crate::sys::fd::{Fd, c_string, socket_pair};
use crate::sys::page::{Page, Report};
use crate::sys::process::{self, Arrays, Cloned};
use crate::sys::{Sys, file};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::ffi::CString;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

/// The step number in the report page that means: the stage failed.
pub const STAGE: u32 = u32::MAX;

/// A child that hull has cloned.
pub struct Child {
    /// Its process id in hull's PID namespace.
    pub pid: i32,
    /// A pidfd of it.
    pub pidfd: Fd,
    /// hull's end of the socket for barriers.
    pub sync: Fd,
    /// The page that it shares with hull, in which it reports its progress and failures.
    pub page: Page,
}

/// The executor of container steps: it takes the encoded steps, the slots, the report page and the
/// buffers.
pub type Executor = fn(&[u8], &[i32], &Report, &mut Buffers) -> !;

/// The arguments of [`spawn`].
pub struct SpawnRequest<'a> {
    /// The child's new namespaces (`CLONE_NEW*`).
    pub flags: u64,
    /// The stage that clones the child, if one is needed.
    pub stage: Option<&'a Stage>,
    /// A descriptor of the v2 cgroup that the child is cloned into.
    pub cgroup: Option<i32>,
    /// The encoded container steps.
    pub steps: &'a [u8],
    /// The slots, -1 where one is empty. [`spawn`] fills the slot of the barriers' socket.
    pub slots: &'a mut [i32],
    /// Executes the container steps: `init::executor::execute`. It is passed because that module
    /// depends on this one.
    pub executor: Executor,
    /// The child executes `hull init` first, and that fresh process executes the container steps.
    pub fresh: bool,
}

/// Clones the child.
///
/// # Errors
/// socketpair(2), memfd_create(2) or clone3(2) fails; the stage cannot join a namespace.
pub fn spawn(request: SpawnRequest) -> Result<Child> {
    let SpawnRequest {
        flags,
        stage,
        cgroup,
        steps,
        slots,
        executor,
        fresh,
    } = request;
    let (sync, child_end) = socket_pair()?;
    slots[slot::SYNC as usize] = child_end.0;
    let mut buffers = Buffers::for_steps(steps)
        .map_err(|Malformed| Error::new("the plan's container steps are malformed"))?;
    let (page, mut image) = if fresh {
        Image::make(steps, slots)?
    } else {
        (Page::new().on("make", "the report page")?, None)
    };
    let offsets = stage
        .and_then(|stage| stage.time.as_ref())
        .map(offsets_text);
    let mut become_child = |page: &Page, buffers: &mut Buffers, slots: &[i32]| -> ! {
        file::close(sync.0);
        match &mut image {
            Some(image) => image.run(page.report()),
            None => executor(steps, slots, page.report(), buffers),
        }
    };
    let (pid, pidfd) = match stage {
        None => match process::clone(flags, cgroup).on("clone", "the container's process")? {
            Cloned::Child => become_child(&page, &mut buffers, slots),
            Cloned::Parent { pid, pidfd } => (pid, Fd(pidfd)),
        },
        Some(stage) => match process::clone(0, None).on("clone", "the stage process")? {
            Cloned::Child => {
                if let Err((errno, which)) = enter(stage, slots, offsets.as_deref()) {
                    stage_failed(page.report(), errno, which);
                }
                match process::clone(flags | libc::CLONE_PARENT as u64, cgroup) {
                    Ok(Cloned::Child) => become_child(&page, &mut buffers, slots),
                    Ok(Cloned::Parent { pid, .. }) => {
                        page.report().pid.store(pid, Ordering::Release);
                        process::exit(0)
                    }
                    Err(errno) => stage_failed(page.report(), errno, 0),
                }
            }
            Cloned::Parent { pidfd, .. } => after_stage(&Fd(pidfd), page.report())?,
        },
    };
    drop(child_end);
    Ok(Child {
        pid,
        pidfd,
        sync,
        page,
    })
}

fn stage_failed(report: &Report, errno: Errno, which: u32) -> ! {
    report.step.store(STAGE, Ordering::Relaxed);
    report
        .detail
        .store(Detail::Stage as u32 | (which << 8), Ordering::Relaxed);
    report.errno.store(errno as i32, Ordering::Release);
    process::exit(1)
}

fn after_stage(stage: &Fd, report: &Report) -> Result<(i32, Fd)> {
    process::wait(stage.0, false).on("wait for", "the stage process")?;
    let errno = report.errno.load(Ordering::Acquire);
    let pid = report.pid.load(Ordering::Acquire);
    if pid == 0 {
        let kind = report.detail.load(Ordering::Acquire) >> 8;
        let what = match kind {
            0 => "clone the container's process in the joined namespaces".to_owned(),
            kind => format!(
                "join the {} namespace",
                crate::spec::names::kind_name(1 << kind)
            ),
        };
        let errno = if errno == 0 {
            Errno::ECHILD
        } else {
            Errno::from_raw(errno)
        };
        return Err(Error::new(format!(
            "{what}: {}",
            crate::error::words(errno)
        )));
    }
    let pidfd = process::pidfd_open(pid).on("open", "the container's process")?;
    Ok((pid, Fd(pidfd)))
}

/// The number of the bit of a `CLONE_NEW*`, which fits into the detail.
fn code(kind: u32) -> u32 {
    kind.trailing_zeros()
}

fn enter(stage: &Stage, slots: &[i32], offsets: Option<&str>) -> Result<(), (Errno, u32)> {
    let at = |slot: u32| slots.get(slot as usize).copied().unwrap_or(-1);
    for &(slot, kind) in &stage.before {
        process::setns(at(slot), u64::from(kind)).map_err(|errno| (errno, code(kind)))?;
    }
    if let Some(user) = stage.user {
        let kind = libc::CLONE_NEWUSER as u32;
        process::setns(at(user), u64::from(kind)).map_err(|errno| (errno, code(kind)))?;
    }
    for &(slot, kind) in &stage.after {
        process::setns(at(slot), u64::from(kind)).map_err(|errno| (errno, code(kind)))?;
    }
    if let Some(text) = offsets {
        time_namespace(at(slot::PROC), text).map_err(|errno| (errno, code(0x80)))?;
    }
    Ok(())
}

fn offsets_text(
    offsets: &std::collections::BTreeMap<String, crate::spec::config::TimeOffset>,
) -> String {
    offsets
        .iter()
        .fold(String::new(), |mut text, (clock, offset)| {
            let _ = writeln!(text, "{clock} {} {}", offset.secs, offset.nanosecs);
            text
        })
}

fn time_namespace(proc: i32, text: &str) -> Sys<()> {
    process::unshare(0x80)?;
    if text.is_empty() {
        return Ok(());
    }
    let held = Fd(file::openat2(
        proc,
        c"self/timens_offsets",
        libc::O_WRONLY,
        0,
        file::RESOLVE_BENEATH,
    )?);
    file::write(held.0, text.as_bytes()).map(drop)
}

/// Everything that execve(2) of a fresh `hull init` needs: the container steps and the report page
/// as memfds, the slots, and a command line.
struct Image {
    /// A descriptor of hull's own binary: in a joined mount namespace, `/proc/self/exe` would be
    /// resolved in the `/proc` of another container.
    program: Fd,
    steps: Fd,
    slots: Vec<i32>,
    args: Vec<CString>,
    arrays: Arrays,
}

impl Image {
    fn make(steps: &[u8], slots: &mut [i32]) -> Result<(Page, Option<Self>)> {
        let file = Fd(file::memfd(c"hull:steps", 0).on("make", "a memfd for the container steps")?);
        file::write(file.0, steps).on("write", "the container steps")?;
        let page = Fd(file::memfd(c"hull:page", 0).on("make", "a memfd for the report page")?);
        file::write(page.0, &[0_u8; 4096]).on("write", "the report page")?;
        let mapped = Page::from_file(page.0).on("map", "the report page")?;
        slots[slot::PAGE as usize] = page.keep();
        let program = Fd(
            file::openat(libc::AT_FDCWD, c"/proc/self/exe", libc::O_PATH, 0)
                .on("open", "/proc/self/exe")?,
        );
        let numbers: Vec<String> = slots.iter().map(ToString::to_string).collect();
        let args: Vec<CString> = [
            "hull".into(),
            "init".into(),
            "--steps".into(),
            file.0.to_string(),
            "--slots".into(),
            numbers.join(","),
        ]
        .into_iter()
        .map(|arg: String| c_string(arg))
        .collect::<Result<_>>()?;
        let arrays = Arrays::with_room(args.len());
        Ok((
            mapped,
            Some(Self {
                program,
                steps: file,
                slots: slots.to_vec(),
                args,
                arrays,
            }),
        ))
    }

    /// execve(2) of `hull init`, which inherits the descriptors of the slots and no others.
    fn run(&mut self, report: &Report) -> ! {
        for &raw in self
            .slots
            .iter()
            .filter(|raw| **raw >= 0)
            .chain([&self.steps.0])
        {
            let _ = file::clear_cloexec(raw);
        }
        if let Err(errno) = identity::keep_over_execve() {
            stage_failed(report, errno, 0)
        }
        let args = self.args.iter().map(CString::as_c_str);
        let errno = self
            .arrays
            .execveat(self.program.0, c"", args, [], libc::AT_EMPTY_PATH);
        stage_failed(report, errno, 0)
    }
}
