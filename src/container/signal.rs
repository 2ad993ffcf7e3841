//! `kill`: a signal by name or number, to init or to everything in the container.

use super::create::has_pid_namespace;
use super::{Container, Status};
use crate::sys::process;
use crate::vm::channel::client::MonitorRequest;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::time::Duration;

/// A signal from a name (`KILL`, `sigkill`, `RTMIN+3`) or a number.
///
/// # Errors
/// `unknown signal`.
pub fn parse(text: &str) -> Result<i32> {
    let unknown = || Error::new(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let (low, high) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let real_time = |base: i32, rest: &str| match rest {
        "" => Some(base),
        rest => rest
            .parse::<i32>()
            .ok()
            .map(|offset| base + offset)
            .filter(|number| (low..=high).contains(number)),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return real_time(low, rest).ok_or_else(unknown);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return real_time(high, rest).ok_or_else(unknown);
    }
    format!("SIG{name}")
        .parse::<Signal>()
        .map(|signal| signal as i32)
        .map_err(|_| unknown())
}

/// How long after its start at the most a program is taken to be still about to install its
/// handlers.
const SETTLING: Duration = Duration::from_secs(5);

/// Whether a process neither catches, nor ignores, nor blocks a signal.
fn leaves_to_default(pid: i32, signal: i32) -> bool {
    crate::sys::procfs::handled(pid) & (1 << (signal - 1)) == 0
}

impl Container {
    /// Whether the program does nothing about a signal; in VM mode its own kernel is
    /// asked.
    pub fn leaves_to_default(&self, signal: i32) -> bool {
        if self.record.vm.is_none() {
            return leaves_to_default(self.record.pid, signal);
        }
        self.vm().leaves_to_default(signal)
    }

    /// Sends a signal to init, or to all.
    ///
    /// # Errors
    /// `container not running`.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        if all && self.record.vm.is_some() && signal != libc::SIGKILL {
            return self.vm().signal(&MonitorRequest::SignalAll(signal));
        }
        // Without a process namespace of its own the end of init ends nobody else, and others may
        // have outlived it: SIGKILL is for all, as in runc since 1.2.
        let whole = signal == libc::SIGKILL && !has_pid_namespace(&self.record.spec);
        let left = || self.pids().is_ok_and(|pids| !pids.is_empty());
        let all = all || whole && matches!(self.group(), Ok(Some(_))) && left();
        if all && self.record.vm.is_none() {
            return self.kill_all(signal);
        }
        if matches!(self.status(), Status::Stopped) {
            // A container without a process namespace of its own may have children that outlived
            // init.
            return Err(Error::new("container not running"));
        }
        if self.record.vm.is_some() && signal != libc::SIGKILL {
            return self.vm().signal(&MonitorRequest::Signal(signal));
        }
        let pidfd = self.pidfd()?;
        self.let_settle(signal);
        match process::pidfd_send_signal(pidfd.0, signal) {
            Err(Errno::ESRCH) => Err(Error::new("container not running")),
            other => other.on("send signal to container", &self.record.id),
        }?;
        crate::log::debug(|| {
            format!(
                "container {}: signal {signal} sent to process {}",
                self.record.id, self.record.pid
            )
        });
        // SIGKILL reaches a process frozen by v1's freezer only once it is thawed.
        if signal == libc::SIGKILL && self.record.vm.is_none() && self.status() == Status::Paused {
            self.needed_group()?.thaw()?;
        }
        Ok(())
    }

    /// The kernel drops what process 1 of a namespace has no handler for (pid_namespaces(7)),
    /// SIGKILL and SIGSTOP apart. A program that was started a moment ago may be about to install
    /// its handlers, so it gets that moment (`crate::sys::procfs::has_begun`). From `start` to
    /// `kill` takes hull little more than a shell needs for its first `trap`; slower runtimes give
    /// it ten times that by being slow.
    fn let_settle(&self, signal: i32) {
        if [0, libc::SIGKILL, libc::SIGSTOP].contains(&signal)
            || !has_pid_namespace(&self.record.spec)
            || self.status() != Status::Running
        {
            return;
        }
        // `start` takes the fifo out of the directory.
        let since_start = || {
            std::fs::metadata(self.directory())
                .and_then(|directory| directory.modified())
                .ok()
                .and_then(|then| then.elapsed().ok())
        };
        let pid = self.record.pid;
        while since_start().is_some_and(|time| time < SETTLING)
            && leaves_to_default(pid, signal)
            && !crate::sys::procfs::has_begun(pid)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn kill_all(&self, signal: i32) -> Result<()> {
        let Some(group) = self.group()? else {
            return Err(Error::new(format!(
                "container {} has no cgroup: its processes are not known",
                self.record.id
            )));
        };
        crate::log::debug(|| {
            format!(
                "container {}: signal {signal} for all processes",
                self.record.id
            )
        });
        match Signal::try_from(signal) {
            Ok(signal) => group.kill(signal),
            Err(_) => {
                for pid in group.pids(true)? {
                    match process::pidfd_open(pid.as_raw()).map(crate::sys::fd::Fd) {
                        Ok(pidfd) => {
                            process::pidfd_send_signal(pidfd.0, signal).on("send signal to", pid)?
                        }
                        Err(Errno::ESRCH) => {}
                        Err(errno) => return Err(Error::sys("send signal to", pid, errno)),
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigterm", 15),
            ("SIGUSR1", 10),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("0", 0),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "FOO", "65", "-1", "RTMIN+99"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
