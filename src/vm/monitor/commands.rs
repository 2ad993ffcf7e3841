//! Requests of hull's commands, QEMU's replies, and signals to the monitor.

use super::guest::{clock, wire_session};
use super::state::{Monitor, PAUSED, PendingCommand, Stage, VmmCommand};
use crate::sys::fd::Fd;
use crate::vm::channel::client::{self, MonitorRequest};
use crate::vm::channel::frame::Kind;
use crate::vm::channel::message::{AGENT, FromGuest, PROGRAM, Task, ToGuest};
use crate::vm::host_process::{Forwarded, forwarded};
use crate::vm::stdio::Ends;
use crate::{Error, Result};

impl Monitor {
    /// Reads a request from a connection. An error is the command's, not the monitor's.
    pub(super) fn read_request(&mut self, number: u64) -> Result<()> {
        let Some(connection) = self.connections.get(&number) else {
            return Ok(());
        };
        match client::receive::<MonitorRequest>(&connection.socket) {
            Ok(Some((request, descriptors))) => {
                if let Err(error) = self.handle_request(number, request, descriptors) {
                    self.answer(number, &FromGuest::Refused(error.to_string()));
                }
                Ok(())
            }
            Ok(None) | Err(_) => self.connection_closed(number),
        }
    }

    /// When the proxy of an exec is gone, such as by SIGKILL, its program is killed.
    fn connection_closed(&mut self, number: u64) -> Result<()> {
        let session = self
            .connections
            .remove(&number)
            .and_then(|connection| connection.session);
        match session.filter(|session| self.sessions.contains_key(session)) {
            Some(session) => self
                .channel
                .message(session, &ToGuest::Signal(libc::SIGKILL)),
            None => Ok(()),
        }
    }

    fn handle_request(
        &mut self,
        number: u64,
        request: MonitorRequest,
        descriptors: Vec<Fd>,
    ) -> Result<()> {
        if self.stage < Stage::Created || self.stage == Stage::Ended {
            return Err(Error::new("container not running"));
        }
        let session = self
            .connections
            .get(&number)
            .and_then(|connection| connection.session);
        match request {
            MonitorRequest::Signal(signal) if session.is_none() && !self.paused => {
                self.ask_guest(number, &ToGuest::SignalProgram(signal))
            }
            // A paused guest gets the signal when it is resumed; the command does not wait.
            MonitorRequest::Signal(signal) => {
                self.channel
                    .message(session.unwrap_or(PROGRAM), &ToGuest::Signal(signal))?;
                if session.is_none() {
                    self.answer(number, &FromGuest::Done);
                }
                Ok(())
            }
            MonitorRequest::SignalAll(signal) if self.paused => {
                self.pending_guest.push_back(None);
                self.channel.message(AGENT, &ToGuest::SignalAll(signal))?;
                self.answer(number, &FromGuest::Done);
                Ok(())
            }
            MonitorRequest::SignalAll(signal) => {
                self.ask_guest(number, &ToGuest::SignalAll(signal))
            }
            MonitorRequest::Resize(rows, columns) => session.map_or(Ok(()), |session| {
                self.channel
                    .message(session, &ToGuest::Resize(rows, columns))
            }),
            MonitorRequest::Exec(task) => self.exec(number, task, descriptors),
            MonitorRequest::Watch => {
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.watches_oom = true;
                }
                self.answer(number, &FromGuest::Done);
                Ok(())
            }
            MonitorRequest::Stats => self.ask_guest(number, &ToGuest::Stats),
            MonitorRequest::Processes => self.ask_guest(number, &ToGuest::Processes),
            MonitorRequest::Handled => self.ask_guest(number, &ToGuest::Handled),
            MonitorRequest::Update(resources) => {
                self.ask_guest(number, &ToGuest::Update(resources))
            }
            MonitorRequest::Pause => {
                self.qemu.pause()?;
                self.await_reply(number, VmmCommand::Pause)
            }
            MonitorRequest::Resume => {
                self.qemu.resume()?;
                self.await_reply(number, VmmCommand::Resume)
            }
            MonitorRequest::Memory(_) if self.paused => Err(vm_paused()),
            MonitorRequest::Memory(memory) => {
                self.qemu.set_balloon(memory.at_boot)?;
                let plugged = memory.plugged;
                self.await_reply(number, VmmCommand::SetBalloon { plugged })
            }
            MonitorRequest::Plugged => {
                self.qemu.query_plugged()?;
                self.await_reply(number, VmmCommand::QueryPlugged)
            }
            MonitorRequest::Balloon => {
                self.qemu.query_balloon()?;
                self.await_reply(number, VmmCommand::QueryBalloon)
            }
        }
    }

    /// Sends the guest's agent a request, whose answer goes to the connection.
    fn ask_guest(&mut self, number: u64, message: &ToGuest) -> Result<()> {
        if self.paused {
            return Err(vm_paused());
        }
        self.pending_guest.push_back(Some(number));
        self.channel.message(AGENT, message)
    }

    /// Notes a command to QEMU, whose reply goes to the connection.
    fn await_reply(&mut self, number: u64, command: VmmCommand) -> Result<()> {
        self.pending_vmm.push_back(PendingCommand {
            command,
            connection: Some(number),
        });
        Ok(())
    }

    /// Reads QEMU's replies and answers the commands that wait for them.
    pub(super) fn handle_replies(&mut self) -> Result<()> {
        for reply in self.qemu.replies()? {
            let Some(pending) = self.pending_vmm.pop_front() else {
                continue;
            };
            let answer = match reply {
                Ok(value) => match self.command_done(&pending, value)? {
                    Some(answer) => answer,
                    None => continue,
                },
                Err(why) => FromGuest::Refused(why),
            };
            if let Some(number) = pending.connection {
                self.answer(number, &answer);
            }
        }
        Ok(())
    }

    /// Does what follows a command to QEMU. Returns the answer for hull's command, or `None` if a
    /// second command to QEMU follows.
    fn command_done(
        &mut self,
        pending: &PendingCommand,
        value: serde_json::Value,
    ) -> Result<Option<FromGuest>> {
        let mark = self.config.directory.join(PAUSED);
        match pending.command {
            VmmCommand::Pause => {
                self.paused = true;
                std::fs::write(&mark, b"")
                    .map_err(|error| Error::io("write", mark.display(), &error))?;
            }
            VmmCommand::Resume => {
                self.paused = false;
                let _ = std::fs::remove_file(&mark);
                // The guest's clock was stopped.
                self.pending_guest.push_back(None);
                self.channel.message(AGENT, &ToGuest::Clock(clock()))?;
            }
            VmmCommand::SetBalloon { plugged } if self.config.memory_max.is_some() => {
                self.qemu.set_plugged(plugged)?;
                self.pending_vmm.push_back(PendingCommand {
                    command: VmmCommand::SetPlugged,
                    connection: pending.connection,
                });
                return Ok(None);
            }
            VmmCommand::QueryPlugged | VmmCommand::QueryBalloon => {
                return Ok(Some(FromGuest::Value(value)));
            }
            VmmCommand::Capabilities | VmmCommand::SetBalloon { .. } | VmmCommand::SetPlugged => {}
        }
        Ok(Some(FromGuest::Done))
    }

    /// Starts a session for an exec.
    fn exec(&mut self, number: u64, task: Box<Task>, descriptors: Vec<Fd>) -> Result<()> {
        let mut descriptors = descriptors.into_iter();
        let (Some(steps), Some(stdin), Some(stdout)) =
            (descriptors.next(), descriptors.next(), descriptors.next())
        else {
            return Err(Error::new("an exec request lacks its descriptors"));
        };
        let ends = Ends {
            stdin,
            stdout,
            stderr: descriptors.next(),
        };
        let steps = client::read_all(&steps)?;
        let session = self.next_session();
        wire_session(&mut self.streams, session, ends)?;
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.session = Some(session);
        }
        self.sessions.insert(session, number);
        self.channel.put(Kind::Blob, session, &steps);
        self.channel.message(session, &ToGuest::Spawn(task))
    }

    /// Passes the signals that this process got on to the container's program.
    pub(super) fn forward_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let message = match forwarded(&info, &self.stdio) {
                Some(Forwarded::Signal(signal)) => ToGuest::Signal(signal),
                Some(Forwarded::Resize(rows, columns)) => ToGuest::Resize(rows, columns),
                None => continue,
            };
            let _ = self.channel.message(PROGRAM, &message);
        }
    }
}

fn vm_paused() -> Error {
    Error::new("the container's VM is paused")
}
