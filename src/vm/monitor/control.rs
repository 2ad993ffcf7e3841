//! What hull's commands ask, and what signals say.

use super::boot::wire;
use super::life::now;
use super::{Monitor, Stage};
use crate::Result;
use crate::sys::fd::Fd;
use crate::vm::channel::client;
use crate::vm::channel::client::Request;
use crate::vm::channel::frame::Kind;
use crate::vm::channel::message::{FromGuest, MACHINE, PROGRAM, Task, ToGuest};
use crate::vm::engine::Happened;
use crate::vm::stdio::Ends;

/// A file in the container's directory while its machine is stopped.
pub const PAUSED: &str = "vm.paused";

/// A command that listens.
pub(super) struct Connection {
    /// To it.
    pub(super) socket: Fd,
    /// The exec that it is for.
    session: Option<u32>,
    /// It wants to hear of kills for lack of memory.
    pub(super) watches: bool,
}

/// What was asked of the engine.
#[derive(Clone, Copy)]
pub(super) enum Asked {
    /// Its language's opening.
    Opening,
    Pause,
    Resume,
    /// Then, so much is to be plugged in.
    Balloon(u64),
    Plug,
    Plugged,
    Left,
}

impl Monitor {
    /// Takes a command. One that cannot be taken, for it is gone or there is no descriptor left, is
    /// no reason for the container to end.
    pub(super) fn accept(&mut self) {
        match client::accept(&self.listener) {
            Ok(socket) => {
                self.connections.insert(
                    self.next,
                    Connection {
                        socket,
                        session: None,
                        watches: false,
                    },
                );
                self.next += 1;
            }
            // It waits until others have ended; hull must not turn in a circle meanwhile.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }

    /// A command speaks. What is wrong with it is its own to hear.
    pub(super) fn asked(&mut self, number: u64) -> Result<()> {
        let Some(connection) = self.connections.get(&number) else {
            return Ok(());
        };
        match client::receive::<Request>(&connection.socket) {
            Ok(Some((request, descriptors))) => {
                if let Err(error) = self.execute(number, request, descriptors) {
                    self.answer_connection(number, &FromGuest::Refused(error.to_string()));
                }
            }
            Ok(None) | Err(_) => self.hung_up(number)?,
        }
        Ok(())
    }

    /// An exec whose process is gone, by SIGKILL, goes with it.
    fn hung_up(&mut self, number: u64) -> Result<()> {
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

    fn execute(&mut self, number: u64, request: Request, descriptors: Vec<Fd>) -> Result<()> {
        if self.stage < Stage::Created || self.stage == Stage::Ended {
            return Err(crate::Error::new("container not running"));
        }
        let session = self
            .connections
            .get(&number)
            .and_then(|connection| connection.session);
        match request {
            // One for a machine that is paused waits in it.
            Request::Signal(signal) if session.is_none() && !self.paused => {
                self.guest(number, &ToGuest::SignalProgram(signal))
            }
            Request::Signal(signal) => {
                self.channel
                    .message(session.unwrap_or(PROGRAM), &ToGuest::Signal(signal))?;
                if session.is_none() {
                    self.answer_connection(number, &FromGuest::Done);
                }
                Ok(())
            }
            Request::Resize(rows, columns) => session.map_or(Ok(()), |session| {
                self.channel
                    .message(session, &ToGuest::Resize(rows, columns))
            }),
            Request::Exec(task) => self.exec(number, task, descriptors),
            Request::Pause => self.engine(number, Asked::Pause),
            Request::Resume => self.engine(number, Asked::Resume),
            Request::Memory(..) if self.paused => {
                Err(crate::Error::new("the container's machine is paused"))
            }
            Request::Memory(bytes, plugged) => {
                self.machine.balloon(bytes)?;
                self.asked_engine
                    .push_back((Asked::Balloon(plugged), number));
                Ok(())
            }
            Request::Plugged => self.engine(number, Asked::Plugged),
            Request::Left => self.engine(number, Asked::Left),
            Request::SignalAll(signal) if self.paused => {
                self.asked_guest.push_back(0);
                self.channel.message(MACHINE, &ToGuest::SignalAll(signal))?;
                self.answer_connection(number, &FromGuest::Done);
                Ok(())
            }
            Request::SignalAll(signal) => self.guest(number, &ToGuest::SignalAll(signal)),
            Request::Watch => {
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.watches = true;
                }
                self.answer_connection(number, &FromGuest::Done);
                Ok(())
            }
            Request::Stats => self.guest(number, &ToGuest::Stats),
            Request::Processes => self.guest(number, &ToGuest::Processes),
            Request::Handled => self.guest(number, &ToGuest::Handled),
            Request::Update(resources) => self.guest(number, &ToGuest::Update(resources)),
        }
    }

    fn guest(&mut self, number: u64, message: &ToGuest) -> Result<()> {
        if self.paused {
            return Err(crate::Error::new("the container's machine is paused"));
        }
        self.asked_guest.push_back(number);
        self.channel.message(MACHINE, message)
    }

    fn engine(&mut self, number: u64, what: Asked) -> Result<()> {
        match what {
            Asked::Pause => self.machine.pause()?,
            Asked::Plugged => self.machine.plugged()?,
            Asked::Left => self.machine.left()?,
            _ => self.machine.resume()?,
        }
        self.asked_engine.push_back((what, number));
        Ok(())
    }

    pub(super) fn engine_answers(&mut self) -> Result<()> {
        for happened in self.machine.listen()? {
            let Happened::Answered(answer) = happened else {
                continue;
            };
            let Some((asked, number)) = self.asked_engine.pop_front() else {
                continue;
            };
            let answer = match answer {
                Ok(value) => match self.engine_did(asked, number, value)? {
                    Some(answer) => answer,
                    None => continue,
                },
                Err(why) => FromGuest::Refused(why),
            };
            self.answer_connection(number, &answer);
        }
        Ok(())
    }

    /// What follows, and the answer; none where there is more to be asked.
    fn engine_did(
        &mut self,
        asked: Asked,
        number: u64,
        value: serde_json::Value,
    ) -> Result<Option<FromGuest>> {
        let mark = self.job.directory.join(PAUSED);
        match asked {
            Asked::Pause => {
                self.paused = true;
                std::fs::write(&mark, b"")
                    .map_err(|error| crate::Error::io("write", mark.display(), &error))?;
            }
            Asked::Resume => {
                self.paused = false;
                let _ = std::fs::remove_file(&mark);
                // The guest's clock stood still.
                self.asked_guest.push_back(0);
                self.channel.message(MACHINE, &ToGuest::Clock(now()))?;
            }
            Asked::Balloon(plugged) if self.job.memory_max.is_some() => {
                self.machine.plug(plugged)?;
                self.asked_engine.push_back((Asked::Plug, number));
                return Ok(None);
            }
            Asked::Plugged | Asked::Left => return Ok(Some(FromGuest::Value(value))),
            Asked::Opening | Asked::Balloon(_) | Asked::Plug => {}
        }
        Ok(Some(FromGuest::Done))
    }

    fn exec(&mut self, number: u64, task: Box<Task>, descriptors: Vec<Fd>) -> Result<()> {
        let mut descriptors = descriptors.into_iter();
        let (Some(script), Some(stdin), Some(stdout)) =
            (descriptors.next(), descriptors.next(), descriptors.next())
        else {
            return Err(crate::Error::new("an exec without its descriptors"));
        };
        let script = client::read_all(&script)?;
        let session = self.job.next_session();
        wire(
            &mut self.streams,
            session,
            Ends {
                stdin,
                stdout,
                stderr: descriptors.next(),
            },
        )?;
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.session = Some(session);
        }
        self.sessions.insert(session, number);
        self.channel.put(Kind::Blob, session, &script);
        self.channel.message(session, &ToGuest::Spawn(task))
    }

    /// A signal for this process is the program's.
    pub(super) fn signalled(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = info.ssi_signo as i32;
            let message = match signal {
                // The kernel's own word of a child's end, and not somebody's.
                libc::SIGCHLD if info.ssi_code > 0 => continue,
                libc::SIGPIPE | libc::SIGURG => continue,
                libc::SIGWINCH => match self.stdio.size() {
                    Some((rows, columns)) => ToGuest::Resize(rows, columns),
                    None => ToGuest::Signal(signal),
                },
                _ => ToGuest::Signal(signal),
            };
            let _ = self.channel.message(PROGRAM, &message);
        }
    }
}
