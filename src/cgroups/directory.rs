//! One directory of a hierarchy: its processes, the cgroups below it, and its removal.

use super::file;
use super::place::Place;
use super::tree::Version;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long hull waits for a cgroup to become frozen, or empty after its processes were killed. On
/// a loaded host it takes seconds; a process in an uninterruptible system call delays it for ever.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a cgroup's directory. (CLONE_INTO_CGROUP and bpf(2) do not take a descriptor with O_PATH.)
pub(super) fn open_dir(dir: &str) -> Result<OwnedFd> {
    open(
        dir,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .on("open", dir)
}

/// Moves a process with all its threads. EINVAL is the answer for a process that is just being
/// created, so the write is repeated.
pub(super) fn join(dir: &str, pid: Pid) -> Result<()> {
    const TRIES: u32 = 5;
    for n in 1.. {
        match file::write(dir, "cgroup.procs", &pid.to_string()) {
            Err(Errno::EINVAL) if n < TRIES => {
                std::thread::sleep(std::time::Duration::from_millis(30))
            }
            result => {
                return result.on(
                    &format!("write {pid} to"),
                    format_args!("{dir}/cgroup.procs"),
                );
            }
        }
    }
    Ok(())
}

/// The directory of a process's cgroup in one hierarchy.
pub(super) fn dir_of(place: &Place, pid: Pid) -> Result<String> {
    let path = format!("/proc/{pid}");
    let text = file::read(&path, "cgroup").on("read", format_args!("{path}/cgroup"))?;
    let is_it = |names: &str| match place.version {
        Version::V2 => names.is_empty(),
        Version::V1 => names
            .split(',')
            .any(|name| place.controllers.iter().any(|c| c == name)),
    };
    let own = text.lines().find_map(|line| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        is_it(names).then_some(path)
    });
    let own = own.unwrap_or_default();
    let below = if place.root == "/" {
        Some(own)
    } else {
        own.strip_prefix(place.root.as_str())
    };
    match below {
        Some(below) => Ok(format!(
            "{}{}",
            place.mount_point,
            below.trim_end_matches('/')
        )),
        None => Err(Error::new(format!(
            "cgroup {own} of process {pid} is not within the mount on {}",
            place.mount_point
        ))),
    }
}

/// The processes of one cgroup; none of one that is gone. A threaded cgroup (v2) lists only
/// threads; their processes are listed by the domain above it.
pub(super) fn pids_in(dir: &str) -> Result<BTreeSet<Pid>> {
    let text = match file::read(dir, "cgroup.procs") {
        Err(Errno::EOPNOTSUPP) => file::read(dir, "cgroup.threads"),
        other => other,
    };
    match text {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|n| *n > 0)
            .map(Pid::from_raw)
            .collect()),
        Err(Errno::ENOENT | Errno::ENODEV) => Ok(BTreeSet::new()),
        Err(errno) => Err(Error::sys(
            "read",
            format_args!("{dir}/cgroup.procs"),
            errno,
        )),
    }
}

/// The processes of a cgroup and of all below it.
pub(super) fn pids_below(dir: &str) -> Result<Vec<Pid>> {
    let mut all = BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        all.append(&mut pids_in(&dir)?);
        todo.extend(below(&dir)?);
    }
    Ok(all.into_iter().collect())
}

/// The directories of the cgroups directly below; none of one that is gone.
pub(super) fn below(dir: &str) -> Result<Vec<String>> {
    let gone = |e: &std::io::Error| matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV));
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if gone(&e) => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", dir, &e)),
    };
    let directories = entries.filter_map(|entry| {
        entry
            .ok()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
    });
    Ok(directories
        .filter_map(|e| e.path().to_str().map(str::to_owned))
        .collect())
}

/// Removes a cgroup with all below it, and waits for processes that are ending. One that is gone is
/// no error.
pub(super) fn remove_dir(dir: &str) -> Result<()> {
    remove_until(dir, Instant::now() + PATIENCE)
}

pub(super) fn remove_until(dir: &str, end: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(100);
    loop {
        match rmdir(dir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) => {}
            Err(errno) => return Err(Error::sys("rmdir", dir, errno)),
        }
        for child in below(dir)? {
            remove_until(&child, end)?;
        }
        if rmdir(dir).is_ok() {
            return Ok(());
        }
        if Instant::now() > end {
            let left = pids_below(dir)?.len();
            return Err(Error::sys("rmdir", dir, Errno::EBUSY).within(format_args!(
                "{left} process(es) left after {} s",
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn rmdir(dir: &str) -> nix::Result<()> {
    std::fs::remove_dir(dir).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
}
