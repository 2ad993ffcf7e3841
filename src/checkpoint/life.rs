//! A container that comes to life by criu: what hull does at each of its events.

use super::criu::Event;
use super::inventory::Mounts;
use crate::spec::Spec;
use crate::spec::state::state_document;
use crate::state::{Decided, Phase, Record};
use crate::step::container::{Refused, Step};
use crate::step::draft::Plan;
use crate::step::host::HostStep;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::sys::{Sys, process, socket};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::os::fd::AsRawFd;

/// What happens while criu works.
pub struct Life<'a> {
    /// Where the record is.
    pub store: &'a Store,
    /// The record, kept up to date.
    pub record: Record,
    /// The config, for hooks' state.
    pub spec: &'a Spec,
    /// The plan, with the hooks.
    pub plan: &'a Plan,
    /// The socket that takes the terminal.
    pub console: Option<Fd>,
    /// criu leaves its network namespace empty.
    pub empty_network: bool,
    /// Its init, once criu has made it.
    pub pid: i32,
    /// The restored init.
    pub pidfd: Option<Fd>,
}

impl Life<'_> {
    /// Does what an event asks for.
    ///
    /// # Errors
    /// A hook's; the console's; the disk's.
    pub fn on(&mut self, event: Event) -> Result<()> {
        match event.script.as_str() {
            "setup-namespaces" => {
                self.pid = event.pid;
                self.hooks(event.pid)
            }
            "post-setup-namespaces" if self.empty_network => self.network(),
            "orphan-pts-master" => self.terminal(event),
            "post-restore" => self.lives(event.pid),
            _ => Ok(()),
        }
    }

    fn hooks(&self, pid: i32) -> Result<()> {
        for placed in &self.plan.host {
            if let HostStep::Hook { list, index, hook } = &placed.step {
                let status = if *list == "prestart" {
                    "created"
                } else {
                    "creating"
                };
                let state = state_document(self.spec, &self.record.id, status, Some(pid));
                crate::hooks::host::run(list, *index, hook, &state, self.spec.bundle())?;
            }
        }
        Ok(())
    }

    /// What create does in a new network namespace, before there are sockets again: its loopback,
    /// and the config's settings.
    fn network(&self) -> Result<()> {
        let settings = self
            .plan
            .container
            .iter()
            .filter_map(|placed| match &placed.step {
                Step::Sysctl { path, value } if path.starts_with("sys/net/") => {
                    Some((format!("/proc/{path}"), value))
                }
                _ => None,
            });
        let settings: Vec<_> = settings.collect();
        let pidfd = process::pidfd_open(self.pid)
            .map(Fd)
            .on("open", "the restored process")?;
        inside(
            &pidfd,
            libc::CLONE_NEWNET,
            ("set up", "the container's network namespace"),
            || {
                socket::loopback_up()?;
                settings.iter().try_for_each(|(path, value)| {
                    std::fs::write(path, value.as_bytes()).map_err(|error| {
                        nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
                    })
                })
            },
        )
    }

    /// The terminal's other end, for whoever holds the console.
    fn terminal(&self, event: Event) -> Result<()> {
        let master = event
            .descriptor
            .ok_or_else(|| Error::new("criu sent no terminal"))?;
        let Some(console) = &self.console else {
            return Err(Error::new(
                "the images have a terminal, and the config has none: process.terminal is not set",
            ));
        };
        socket::send_fd(console.0, b"/dev/ptmx", master.as_raw_fd())
            .on("send the terminal to", "the console socket")
    }

    /// From here on the record knows it: whatever becomes of hull, `delete` finds it.
    fn lives(&mut self, pid: i32) -> Result<()> {
        self.pidfd = Some(
            process::pidfd_open(pid)
                .map(Fd)
                .on("open", "the restored process")?,
        );
        self.record.pid = pid;
        self.record.phase = Phase::Made;
        self.record.start_time = crate::sys::procfs::process_stat(pid)
            .map(|(_, started)| started)
            .ok_or_else(|| Error::new("the restored process is gone"))?;
        if self.record.outcomes.is_empty() {
            self.record.outcomes = observed(
                self.plan,
                &Mounts::of(pid)?,
                self.spec.namespace(LinuxNamespaceType::User).is_some(),
            );
        }
        self.record.write(self.store)
    }

    /// Warns of a criu that does not bring `no_new_privs` back (before 3.19): nobody else can give
    /// it to a process. Asked when criu is done, which sets it last.
    pub fn compare_privileges(&self) {
        let pid = self.record.pid;
        let wanted = self
            .spec
            .config()
            .process
            .as_ref()
            .is_some_and(|process| process.no_new_privileges);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if wanted && status.lines().any(|line| line == "NoNewPrivs:\t0") {
            crate::log::warn(&format!(
                "container {}: this criu does not restore no_new_privs (3.19 and later do): its \
                    programs may gain privileges",
                self.record.id
            ));
        }
    }
}

/// What the steps' policies have come to in a restored container, which another runtime's images
/// decided: seen in its mounts. The kernel refuses file systems in user namespaces alone.
fn observed(plan: &Plan, mounts: &Mounts, user: bool) -> Vec<Decided> {
    let host = Mounts::of(process::getpid()).ok();
    let is_hosts = |target: &str, source: &str| {
        let of_host = host.as_ref().and_then(|host| {
            host.at(if source.starts_with('/') {
                source
            } else {
                target
            })
        });
        mounts
            .at(target)
            .zip(of_host)
            .is_some_and(|(ours, theirs)| ours.device == theirs.device)
    };
    let mut outcomes = Vec::new();
    for (index, placed) in plan.container.iter().enumerate() {
        let bound = match &placed.step {
            Step::Mount {
                target,
                source,
                refused: Refused::BindHost,
                ..
            } => user && is_hosts(target, source),
            Step::Node {
                path, bind: true, ..
            } => mounts.at(path).is_some(),
            _ => false,
        };
        if bound {
            outcomes.push(Decided {
                step: index as u32,
                from: placed.from.to_string(),
                outcome: "bound-from-host".to_owned(),
            });
        }
    }
    outcomes
}

/// Sets the host name in the container, whose images may have another container's.
///
/// # Errors
/// The kernel's.
pub fn rename(pidfd: &Fd, name: &str) -> Result<()> {
    inside(
        pidfd,
        libc::CLONE_NEWUTS,
        ("set the host name to", name),
        || crate::sys::ids::sethostname(name.as_bytes()),
    )
}

/// Does something in a namespace of the container's, in a process of its own.
fn inside(
    pidfd: &Fd,
    kind: i32,
    (operation, object): (&str, &str),
    work: impl FnOnce() -> Sys<()>,
) -> Result<()> {
    match process::clone(0, None).on("make", "a process in the container's namespaces")? {
        process::Cloned::Child => {
            let done = process::setns(pidfd.0, kind as u64).and_then(|()| work());
            process::exit(done.map_or_else(|errno| errno as i32, |()| 0))
        }
        process::Cloned::Parent { pidfd, .. } => match process::wait(Fd(pidfd).0, false)
            .on("wait for", "a process in the container's namespaces")?
        {
            // It may have come to its end already.
            Some(process::Ended::Exited(0 | libc::ESRCH)) => Ok(()),
            Some(process::Ended::Exited(number)) => Err(Error::sys(
                operation,
                object,
                nix::errno::Errno::from_raw(number),
            )),
            _ => Err(Error::new(format!(
                "{operation} {object}: the process was ended"
            ))),
        },
    }
}
