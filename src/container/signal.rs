//! `kill`: a signal by name or number, to init or to everything in the container.

use super::{Container, Status};
use crate::sys::process;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::sys::signal::Signal;

/// A signal from a name (`KILL`, `sigkill`, `RTMIN+3`) or a number.
///
/// # Errors
/// `unknown signal`.
pub fn parse(text: &str) -> Result<i32> {
    let unknown = || Error::new(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let (low, high) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let real_time = |base: i32, rest: &str| match rest {
        "" => Some(base),
        rest => rest.parse::<i32>().ok().map(|offset| base + offset).filter(|number| (low..=high).contains(number)),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return real_time(low, rest).ok_or_else(unknown);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return real_time(high, rest).ok_or_else(unknown);
    }
    format!("SIG{name}").parse::<Signal>().map(|signal| signal as i32).map_err(|_| unknown())
}

impl Container {
    /// Sends a signal to init, or to all.
    ///
    /// # Errors
    /// `container not running`.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        if all {
            return self.kill_all(signal);
        }
        if matches!(self.status(), Status::Stopped) {
            // A container without a process namespace of its own may have children that outlived init.
            return Err(Error::new("container not running"));
        }
        let pidfd = self.pidfd()?;
        match process::pidfd_send_signal(pidfd.0, signal) {
            Err(Errno::ESRCH) => Err(Error::new("container not running")),
            other => other.on("send signal to container", &self.record.id),
        }?;
        crate::log::debug(|| format!("container {}: signal {signal} sent to process {}", self.record.id, self.record.pid));
        // SIGKILL reaches a process frozen by v1's freezer only once it is thawed.
        if signal == libc::SIGKILL && self.status() == Status::Paused {
            self.needed_group()?.thaw()?;
        }
        Ok(())
    }

    fn kill_all(&self, signal: i32) -> Result<()> {
        let Some(group) = self.group()? else {
            return Err(Error::new(format!("container {} has no cgroup: its processes are not known", self.record.id)));
        };
        crate::log::debug(|| format!("container {}: signal {signal} for all processes", self.record.id));
        match Signal::try_from(signal) {
            Ok(signal) => group.kill(signal),
            Err(_) => {
                for pid in group.pids(true)? {
                    match process::pidfd_open(pid.as_raw()).map(crate::init::Held) {
                        Ok(pidfd) => process::pidfd_send_signal(pidfd.0, signal).on("send signal to", pid)?,
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
        for (text, number) in [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGUSR1", 10), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("0", 0)] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "FOO", "65", "-1", "RTMIN+99"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
