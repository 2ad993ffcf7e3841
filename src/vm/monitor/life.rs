//! What the guest says, and what the monitor makes of it.

use super::{Monitor, PATIENCE, Stage};
use crate::backend::errors;
use crate::plan;
use crate::stdio::notify;
use crate::step::container::Step;
use crate::step::report::{Detail, Fault};
use crate::sys::fd::Fd;
use crate::sys::process::Ended;
use crate::vm::channel::client::News;
use crate::vm::channel::frame::{Frame, Kind};
use crate::vm::channel::message::{DISKS, FromGuest, Guest, MACHINE, PROGRAM, Setup, ToGuest};
use crate::vm::channel::mux::{STDERR, STDIN, STDOUT, stream};
use crate::vm::{plan as vm_plan, share, translate};
use crate::{Error, Result};
use nix::errno::Errno;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64)
}

impl Monitor {
    pub(super) fn take(&mut self, frame: &Frame) -> Result<()> {
        match frame.kind {
            Kind::Hello => self.greeted(&frame.payload),
            Kind::Message => {
                let message: FromGuest =
                    serde_json::from_slice(&frame.payload).map_err(|error| {
                        Error::new(format!("the guest says what cannot be read: {error}"))
                    })?;
                match frame.stream {
                    MACHINE => self.machine_says(message),
                    PROGRAM => self.program_says(message),
                    session => self.exec_says(session, &message),
                }
            }
            _ => {
                self.streams.take(&mut self.channel, frame);
                Ok(())
            }
        }
    }

    /// The handshake's answer. One with another nonce is an answer to somebody before.
    fn greeted(&mut self, payload: &[u8]) -> Result<()> {
        let Some((nonce, text)) = payload.split_at_checked(16) else {
            return Ok(());
        };
        if nonce != self.nonce || self.stage != Stage::Booting {
            return Ok(());
        }
        let guest: Guest = serde_json::from_slice(text)
            .map_err(|error| Error::new(format!("the guest says what cannot be read: {error}")))?;
        crate::log::debug(|| {
            format!(
                "guest: {} after {} ms",
                guest.kernel,
                guest.uptime / 1_000_000
            )
        });
        let facts = translate::facts(
            &self.job.spec,
            Some((guest.last_capability, &guest.cgroups)),
        );
        let request = crate::compile::request(
            &self.job.store,
            &self.job.spec,
            &facts,
            &self.job.id,
            &self.job.create,
        )?;
        let plan = plan::plan(&self.job.spec, &facts, &request)?;
        let interfaces = if vm_plan::has_network(&plan) {
            Vec::new()
        } else {
            self.job.interfaces.clone()
        };
        self.plan = Some(plan);
        self.job.facts = Some(facts);
        let setup = Setup {
            modules: self.job.modules(),
            share: (!self.job.shares.is_empty()).then(|| share::TAG.to_owned()),
            clock: now(),
            interfaces,
            interpreter: self.job.interpreter.clone(),
            nodes: self.job.nodes.clone(),
            disks: self
                .job
                .disks
                .iter()
                .map(|disk| disk.purpose.clone())
                .collect(),
            notify: self.job.create.notify,
        };
        self.stage = Stage::SettingUp;
        self.asked_guest.push_back(0);
        self.channel.message(MACHINE, &ToGuest::Setup(setup))
    }

    fn machine_says(&mut self, message: FromGuest) -> Result<()> {
        if let FromGuest::Notify(line) = &message {
            if let Err(error) = notify::pass_on(&self.job.directory, line) {
                crate::log::debug(|| {
                    format!("the container's word that it is ready reaches nobody: {error}")
                });
            }
            return Ok(());
        }
        if matches!(message, FromGuest::Oom(_)) {
            let watching: Vec<u64> = self
                .connections
                .iter()
                .filter(|(_, connection)| connection.watches)
                .map(|(number, _)| *number)
                .collect();
            watching
                .into_iter()
                .for_each(|number| self.answer_connection(number, &message));
            return Ok(());
        }
        match self.asked_guest.pop_front() {
            Some(0) if self.stage == Stage::SettingUp => match message {
                FromGuest::Done => self.make(),
                FromGuest::Refused(why) => Err(Error::new(format!("guest: {why}"))),
                _ => Err(Error::new("the guest answers something else")),
            },
            Some(0) | None => Ok(()),
            Some(number) => {
                self.answer_connection(number, &message);
                Ok(())
            }
        }
    }

    fn make(&mut self) -> Result<()> {
        let plan = self
            .plan
            .as_ref()
            .ok_or_else(|| Error::new("there is no plan"))?;
        let task = vm_plan::guest(plan, &self.job.interfaces)?;
        self.channel.put(Kind::Blob, PROGRAM, &plan.encode());
        self.stage = Stage::Making;
        self.channel
            .message(PROGRAM, &ToGuest::Spawn(Box::new(task)))?;
        // Only now is there somebody in the guest who keeps what comes.
        self.stdin.take().map_or(Ok(()), |stdin| {
            self.streams.send(stream(PROGRAM, STDIN), stdin)
        })?;
        match self.stdio.size() {
            Some((rows, columns)) => self
                .channel
                .message(PROGRAM, &ToGuest::Resize(rows, columns)),
            None => Ok(()),
        }
    }

    fn program_says(&mut self, message: FromGuest) -> Result<()> {
        match message {
            FromGuest::Ready(codes) => {
                self.stage = Stage::Created;
                let outcomes = self
                    .plan
                    .as_ref()
                    .map(|plan| errors::outcomes(plan, &codes))
                    .unwrap_or_default();
                self.tell_maker(&News::Ready(outcomes, self.job.facts.clone().map(Box::new)))
            }
            FromGuest::Started(fault) => {
                self.started(fault);
                Ok(())
            }
            FromGuest::Exited(status) => self.ends(Ended::Exited(status)),
            FromGuest::Killed(signal) => self.ends(Ended::Killed(signal)),
            FromGuest::Failed(step, errno, detail, ended) => {
                let plan = self
                    .plan
                    .as_ref()
                    .ok_or_else(|| Error::new("there is no plan"))?;
                Err(crate::backend::errors::failed_step(
                    plan,
                    &errors::Failure {
                        step,
                        errno,
                        detail,
                        ended: ended.map(ended_as),
                    },
                ))
            }
            FromGuest::Refused(why) => Err(Error::new(why)),
            FromGuest::Done | FromGuest::Value(_) | FromGuest::Oom(_) | FromGuest::Notify(_) => {
                Ok(())
            }
        }
    }

    /// Whoever waits for the start hears of it by the ends of the fifo and of the maker's socket,
    /// as from a child of the namespace backend.
    fn started(&mut self, fault: Option<(u32, i32, u32)>) {
        if let Some((step, errno, detail)) = fault {
            // A program that the kernel refuses is told of on the container's stderr, and by its
            // status.
            let refused = Detail::from_code(detail) == Detail::Execve;
            let wait = self.plan.as_ref().and_then(|plan| {
                plan.container
                    .iter()
                    .position(|placed| matches!(placed.step, Step::WaitStart {}))
            });
            let bytes = Fault {
                errno: Errno::from_raw(errno),
                detail,
            }
            .to_bytes(step.saturating_sub(wait.unwrap_or(0) as u32));
            if !refused {
                let _ = crate::sys::file::write(self.job.start.0, &bytes);
            }
            let report = self.page.report();
            report.step.store(step, Ordering::Relaxed);
            report.detail.store(detail, Ordering::Relaxed);
            report.errno.store(errno, Ordering::Release);
        }
        self.job.start = Fd(-1);
        self.maker = None;
    }

    /// The program's end. Before its start it is the same: the container is stopped.
    fn ends(&mut self, ended: Ended) -> Result<()> {
        self.ended = Some(ended);
        self.stage = Stage::Ended;
        self.streams.stop_sending(stream(PROGRAM, STDIN));
        Ok(())
    }

    /// Done once all that the program wrote is taken, or kept by a pipe; or once its reader has
    /// taken nothing for long.
    pub(super) fn finished(&mut self) -> Option<Ended> {
        let ended = self.ended?;
        let streams = [STDOUT, STDERR].map(|which| stream(PROGRAM, which));
        if self.stdio.is_done() && !streams.iter().any(|stream| self.streams.is_open(*stream)) {
            return Some(ended);
        }
        let taken = (
            streams.map(|stream| self.streams.pending(stream)),
            self.stdio.taken(),
        );
        if self.taken != Some(taken) {
            self.taken = Some(taken);
            self.deadline = Instant::now() + PATIENCE;
        } else {
            self.stdio.make_room();
        }
        (Instant::now() >= self.deadline).then_some(ended)
    }

    fn exec_says(&mut self, session: u32, message: &FromGuest) -> Result<()> {
        let Some(number) = self.sessions.get(&session).copied() else {
            return Ok(());
        };
        self.answer_connection(number, message);
        if matches!(
            message,
            FromGuest::Exited(_)
                | FromGuest::Killed(_)
                | FromGuest::Failed(..)
                | FromGuest::Refused(_)
        ) {
            self.sessions.remove(&session);
            self.streams.stop_sending(stream(session, STDIN));
            if !self.connections.contains_key(&number)
                || matches!(message, FromGuest::Failed(..) | FromGuest::Refused(_))
            {
                self.streams.forget(session);
            }
        }
        Ok(())
    }
}

/// How a child ended: a status, or a signal as a negative number.
pub fn ended_as(code: i32) -> Ended {
    if code < 0 {
        Ended::Killed(-code)
    } else {
        Ended::Exited(code)
    }
}

impl crate::vm::monitor::boot::Job {
    /// What the guest's kernel needs beyond the channel and the share.
    fn modules(&self) -> Vec<String> {
        let mut modules = Vec::new();
        if !self.interfaces.is_empty() {
            modules.push("virtio_net");
        }
        if self.memory_max.is_some() {
            modules.push("virtio_mem");
        }
        if !self.disks.is_empty() {
            modules.push("virtio_blk");
        }
        if self.interpreter.is_some() {
            modules.push("binfmt_misc");
        }
        // A file system on a disk of the config's.
        let kinds = self.spec.config().mounts.iter().filter(|mount| {
            mount
                .source
                .as_deref()
                .is_some_and(|source| source.starts_with(DISKS))
        });
        modules.extend(["ext4", "erofs", "squashfs", "xfs"].iter().filter(|kind| {
            kinds
                .clone()
                .any(|mount| mount.typ.as_deref() == Some(**kind))
        }));
        if self.create.layers.is_some() {
            modules.push("overlay");
        }
        modules.into_iter().map(str::to_owned).collect()
    }
}
