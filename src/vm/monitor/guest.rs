//! Frames from the guest: the handshake, the answers of its agent, and the reports of its sessions.

use super::state::{Monitor, ReaderProgress, Stage};
use crate::backend::errors;
use crate::plan;
use crate::stdio::notify;
use crate::step::container::Step;
use crate::step::draft::Plan;
use crate::step::report::{Detail, Fault};
use crate::sys::fd::Fd;
use crate::sys::process::Ended;
use crate::vm::channel::client::ToParent;
use crate::vm::channel::frame::{Frame, Kind};
use crate::vm::channel::message::{AGENT, FromGuest, Guest, PROGRAM, Setup, ToGuest};
use crate::vm::channel::mux::{STDERR, STDIN, STDOUT, Streams, stream};
use crate::vm::host_process::decode_ended;
use crate::vm::stdio::Ends;
use crate::vm::translate::facts::guest_facts;
use crate::vm::{plan as vm_plan, share};
use crate::{Error, Result};
use nix::errno::Errno;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the monitor waits, after the program's end, for a reader that does not read the
/// program's output while no pipe can hold it.
const READER_TIMEOUT: Duration = Duration::from_secs(10);

/// The host's time, in nanoseconds since 1970.
pub(super) fn clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64)
}

/// Connects the stdio of a session to its streams.
pub(super) fn wire_session(streams: &mut Streams, session: u32, ends: Ends) -> Result<()> {
    streams.add_source(stream(session, STDIN), ends.stdin)?;
    streams.add_sink(stream(session, STDOUT), ends.stdout)?;
    ends.stderr.map_or(Ok(()), |stderr| {
        streams.add_sink(stream(session, STDERR), stderr)
    })
}

impl Monitor {
    /// Handles a frame from the guest.
    ///
    /// # Errors
    /// The guest cannot create the container, or sends a message that is not valid.
    pub(super) fn handle_frame(&mut self, frame: &Frame) -> Result<()> {
        match frame.kind {
            Kind::Hello => self.handle_hello(&frame.payload),
            Kind::Message => {
                let message = serde_json::from_slice(&frame.payload).map_err(invalid_message)?;
                match frame.stream {
                    AGENT => self.agent_message(message),
                    PROGRAM => self.program_message(message),
                    session => self.exec_message(session, &message),
                }
            }
            _ => {
                self.streams.handle(&mut self.channel, frame);
                Ok(())
            }
        }
    }

    /// The answer to the handshake. An answer with another nonce was meant for an earlier process.
    fn handle_hello(&mut self, payload: &[u8]) -> Result<()> {
        let Some((nonce, text)) = payload.split_at_checked(self.nonce.len()) else {
            return Ok(());
        };
        if nonce != self.nonce || self.stage != Stage::Booting {
            return Ok(());
        }
        let guest: Guest = serde_json::from_slice(text).map_err(invalid_message)?;
        crate::log::debug(|| {
            format!(
                "guest: {} after {} ms",
                guest.kernel,
                guest.uptime / 1_000_000
            )
        });
        let config = &self.config;
        let facts = guest_facts(&config.spec, Some(&guest));
        let request = crate::compile::request(
            &config.store,
            &config.spec,
            &facts,
            &config.id,
            &config.create,
        )?;
        let plan = plan::plan(&config.spec, &facts, &request)?;
        let interfaces = if vm_plan::has_network(&plan) {
            Vec::new()
        } else {
            self.interfaces.clone()
        };
        let setup = Setup {
            modules: config.modules(!self.interfaces.is_empty()),
            share: (!config.shares.is_empty()).then(|| share::TAG.to_owned()),
            clock: clock(),
            interfaces,
            interpreter: config.interpreter.clone(),
            nodes: config.nodes.clone(),
            disks: config
                .disks
                .iter()
                .map(|disk| disk.purpose.clone())
                .collect(),
            notify: config.create.notify,
        };
        self.plan = Some(plan);
        self.facts = Some(facts);
        self.stage = Stage::SettingUp;
        self.pending_guest.push_back(None);
        self.channel.message(AGENT, &ToGuest::Setup(setup))
    }

    /// A message of the guest's agent: a notification, or the answer to the oldest request.
    fn agent_message(&mut self, message: FromGuest) -> Result<()> {
        if let FromGuest::Notify(line) = &message {
            if let Err(error) = notify::pass_on(&self.config.directory, line) {
                crate::log::debug(|| {
                    format!("the container's readiness notification is not delivered: {error}")
                });
            }
            return Ok(());
        }
        if matches!(message, FromGuest::Oom(_)) {
            let watching: Vec<u64> = self
                .connections
                .iter()
                .filter(|(_, connection)| connection.watches_oom)
                .map(|(number, _)| *number)
                .collect();
            watching
                .into_iter()
                .for_each(|number| self.answer(number, &message));
            return Ok(());
        }
        match self.pending_guest.pop_front() {
            Some(None) if self.stage == Stage::SettingUp => match message {
                FromGuest::Done => self.create(),
                FromGuest::Refused(why) => Err(Error::new(format!("guest: {why}"))),
                _ => Err(Error::new("the guest sent an unexpected answer")),
            },
            Some(None) | None => Ok(()),
            Some(Some(number)) => {
                self.answer(number, &message);
                Ok(())
            }
        }
    }

    /// The guest is set up: has it execute the plan.
    fn create(&mut self) -> Result<()> {
        let plan = self.plan()?;
        let task = vm_plan::guest(plan, &self.interfaces)?;
        let steps = plan.encode();
        self.channel.put(Kind::Blob, PROGRAM, &steps);
        self.stage = Stage::Creating;
        self.channel
            .message(PROGRAM, &ToGuest::Spawn(Box::new(task)))?;
        // Before Spawn, no session in the guest keeps what comes on the stream.
        self.stdin.take().map_or(Ok(()), |stdin| {
            self.streams.add_source(stream(PROGRAM, STDIN), stdin)
        })?;
        match self.stdio.size() {
            Some((rows, columns)) => self
                .channel
                .message(PROGRAM, &ToGuest::Resize(rows, columns)),
            None => Ok(()),
        }
    }

    fn plan(&self) -> Result<&Plan> {
        self.plan
            .as_ref()
            .ok_or_else(|| Error::new("the guest reported a program before the handshake"))
    }

    /// A message of the session of the container's program.
    fn program_message(&mut self, message: FromGuest) -> Result<()> {
        match message {
            FromGuest::Ready(codes) => {
                self.stage = Stage::Created;
                let outcomes = self
                    .plan
                    .as_ref()
                    .map(|plan| errors::outcomes(plan, &codes))
                    .unwrap_or_default();
                self.report(&ToParent::Ready(outcomes, self.facts.clone().map(Box::new)))
            }
            FromGuest::Started(fault) => {
                self.started(fault);
                Ok(())
            }
            FromGuest::Exited(status) => self.program_ended(Ended::Exited(status)),
            FromGuest::Killed(signal) => self.program_ended(Ended::Killed(signal)),
            FromGuest::Failed(step, errno, detail, ended) => {
                let failure = errors::Failure {
                    step,
                    errno,
                    detail,
                    ended: ended.map(decode_ended),
                    said: Vec::new(),
                };
                Err(errors::failed_step(self.plan()?, &failure))
            }
            FromGuest::Refused(why) => Err(Error::new(why)),
            FromGuest::Done | FromGuest::Value(_) | FromGuest::Oom(_) | FromGuest::Notify(_) => {
                Ok(())
            }
        }
    }

    /// The program runs, or a step after the start failed. `hull start` learns it as from a child
    /// of the namespace backend: from the start fifo, from the closed socket to the parent, and
    /// from the shared page.
    fn started(&mut self, fault: Option<(u32, i32, u32)>) {
        if let Some((step, errno, detail)) = fault {
            // If execve(2) fails, `hull start` succeeds: the guest's side writes the error to the
            // container's stderr, and the exit status tells it.
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
                let _ = crate::sys::file::write(self.config.start.0, &bytes);
            }
            let report = self.page.report();
            report.step.store(step, Ordering::Relaxed);
            report.detail.store(detail, Ordering::Relaxed);
            report.errno.store(errno, Ordering::Release);
        }
        self.config.start = Fd(-1);
        self.parent = None;
    }

    fn program_ended(&mut self, ended: Ended) -> Result<()> {
        self.ended = Some(ended);
        self.stage = Stage::Ended;
        self.streams.remove_source(stream(PROGRAM, STDIN));
        Ok(())
    }

    /// How the program ended, once all its output is read or a pipe holds it, or once its reader
    /// has not read for [`READER_TIMEOUT`].
    pub(super) fn finished(&mut self) -> Option<Ended> {
        let ended = self.ended?;
        let streams = [STDOUT, STDERR].map(|which| stream(PROGRAM, which));
        if self.stdio.is_done() && !streams.iter().any(|stream| self.streams.is_open(*stream)) {
            return Some(ended);
        }
        let progress = Some(ReaderProgress {
            pending: streams.map(|stream| self.streams.pending(stream)),
            read: self.stdio.read_by_readers(),
        });
        if self.progress != progress {
            self.progress = progress;
            self.deadline = Instant::now() + READER_TIMEOUT;
        } else {
            self.stdio.enlarge_pipes();
        }
        (Instant::now() >= self.deadline).then_some(ended)
    }

    /// A message of the session of an exec, which goes to its proxy.
    fn exec_message(&mut self, session: u32, message: &FromGuest) -> Result<()> {
        let Some(number) = self.sessions.get(&session).copied() else {
            return Ok(());
        };
        self.answer(number, message);
        if matches!(
            message,
            FromGuest::Exited(_)
                | FromGuest::Killed(_)
                | FromGuest::Failed(..)
                | FromGuest::Refused(_)
        ) {
            self.sessions.remove(&session);
            self.streams.remove_source(stream(session, STDIN));
            if !self.connections.contains_key(&number)
                || matches!(message, FromGuest::Failed(..) | FromGuest::Refused(_))
            {
                self.streams.remove_session(session);
            }
        }
        Ok(())
    }
}

fn invalid_message(error: serde_json::Error) -> Error {
    Error::new(format!("invalid message from the guest: {error}"))
}
