//! The monitor: the process that the pid file names. It owns the machine and the channel, stands
//! for the container's program towards whoever made it, and ends as the program ends.

pub mod boot;
pub mod control;
pub mod forward;
pub mod life;

use super::engine::Machine;
use super::share;
use super::stdio::Stdio;
use super::translate::Network;
use crate::step::draft::Plan;
use crate::sys::fd::Fd;
use crate::sys::page::Page;
use crate::sys::process::Ended;
use crate::sys::{event, file};
use crate::vm::channel::client;
use crate::vm::channel::client::News;
use crate::vm::channel::message::{FromGuest, PROGRAM, ToGuest};
use crate::vm::channel::mux::{Channel, Streams};
use crate::vm::monitor::boot::Job;
use crate::{Context, Error, Result};
use control::Connection;
use forward::Forward;
use nix::sys::signalfd::SignalFd;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How much of the guest's console is kept, in bytes.
const CONSOLE: usize = 4096;
/// A guest that does not take this many bytes is not heard either, until it does: what it says may
/// ask for an answer. Its own side always reads.
const UNSENT: usize = 16 << 20;
/// How long a reader may take nothing of what the program wrote and no pipe can hold, once it has
/// ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far the container has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The guest has not spoken.
    Booting,
    /// It gets its shares.
    SettingUp,
    /// `inside` is executed.
    Making,
    /// It waits for start.
    Created,
    /// The program runs.
    Running,
    /// The program has ended.
    Ended,
}

/// The monitor's all.
struct Monitor {
    job: Job,
    stage: Stage,
    machine: Machine,
    share: Option<share::Server>,
    channel: Channel,
    streams: Streams,
    /// The program's, until the guest has a program.
    stdin: Option<Fd>,
    stdio: Stdio,
    signals: SignalFd,
    console: Fd,
    tail: VecDeque<u8>,
    listener: Fd,
    /// Connections from within the network namespace.
    forward: Option<Forward>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Sessions of the guest's: whose they are.
    sessions: BTreeMap<u32, u64>,
    /// Who waits for the guest's first process to answer; 0 is nobody.
    asked_guest: VecDeque<u64>,
    /// Who waits for the engine, and what is done when it has answered.
    asked_engine: VecDeque<(control::Asked, u64)>,
    paused: bool,
    nonce: [u8; 16],
    plan: Option<Plan>,
    /// Whoever makes the container.
    maker: Option<Fd>,
    /// It has written the record: from here on the container outlives it.
    recorded: bool,
    /// What it looks at after the start.
    page: Page,
    deadline: Instant,
    ended: Option<Ended>,
    /// How far the readers of what the program wrote had come at the last look, once it has ended.
    taken: Option<([usize; 2], u64)>,
}

/// Runs to the container's end; `maker` is where whoever makes it listens.
pub fn run(job: Job, maker: Fd, page: Page) -> ! {
    let status = match Monitor::boot(job, maker, page) {
        Ok(mut monitor) => match monitor.serve() {
            Ok(ended) => {
                monitor.end_machine();
                let _ = std::fs::remove_file(monitor.job.directory.join(control::PAUSED));
                end_as(ended)
            }
            Err(error) => monitor.fail(&error),
        },
        Err((error, maker)) => {
            let _ = client::send(
                &maker,
                &News::Failed(error.to_string(), error.status()),
                &[],
            );
            1
        }
    };
    crate::sys::process::exit(status)
}

/// Ends this process as the program did.
pub fn end_as(ended: Ended) -> ! {
    if let Ended::Killed(signal) = ended {
        event::end_by(signal);
    }
    crate::sys::process::exit(ended.status())
}

/// Whose a descriptor of the poll is.
#[derive(Clone, Copy)]
enum Whose {
    Channel,
    Signals,
    MachineEnded,
    Machine,
    Console,
    Listener,
    Forward,
    Start,
    Maker,
    Connection(u64),
    Stream((u32, bool)),
}

impl Monitor {
    fn serve(&mut self) -> Result<Ended> {
        loop {
            self.channel.flush()?;
            let (mut fds, whose) = self.interests();
            let wait = self.patience();
            event::poll(&mut fds, wait.map(|wait| wait.as_millis() as u64 + 1))
                .on("wait for", "the machine")?;
            for (which, events) in whose.iter().zip(fds.iter().map(|fd| fd.revents)) {
                if events != 0 {
                    self.ready(*which, events)?;
                }
            }
            while let Some(frame) = self.channel.next_frame() {
                self.take(&frame)?;
            }
            if let Some(ended) = self.finished() {
                return Ok(ended);
            }
            if Instant::now() >= self.deadline && self.stage < Stage::Created {
                return Err(Error::new(format!(
                    "the guest did not come up within {} s",
                    self.job.timeout.as_secs()
                )));
            }
        }
    }

    fn interests(&self) -> (Vec<libc::pollfd>, Vec<Whose>) {
        let (ended, engine) = self.machine.descriptors();
        let mut fds = vec![self.channel.interest()];
        if self.channel.unsent() > UNSENT {
            fds[0].events &= !libc::POLLIN;
        }
        let mut whose = vec![Whose::Channel];
        let mut add = |fd: i32, which: Whose| {
            fds.push(libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            });
            whose.push(which);
        };
        add(self.signals.as_raw_fd(), Whose::Signals);
        add(ended, Whose::MachineEnded);
        add(engine, Whose::Machine);
        add(self.console.0, Whose::Console);
        add(self.listener.0, Whose::Listener);
        let forward = self.forward.iter().filter(|_| self.may_forward());
        forward
            .flat_map(Forward::descriptors)
            .for_each(|fd| add(fd, Whose::Forward));
        if self.stage == Stage::Created && self.job.start.0 >= 0 {
            add(self.job.start.0, Whose::Start);
        }
        if let Some(maker) = &self.maker {
            add(maker.0, Whose::Maker);
        }
        for (number, connection) in &self.connections {
            // One thing at a time: of a command that asks on and on only its end is heard, until it
            // is answered.
            let waits = self.asked_guest.contains(number)
                || self.asked_engine.iter().any(|(_, asked)| asked == number);
            fds.push(libc::pollfd {
                fd: connection.socket.0,
                events: if waits { 0 } else { libc::POLLIN },
                revents: 0,
            });
            whose.push(Whose::Connection(*number));
        }
        let mut streams = Vec::new();
        self.streams.interests(&mut fds, &mut streams);
        whose.extend(streams.into_iter().map(Whose::Stream));
        (fds, whose)
    }

    /// How long to wait at most.
    fn patience(&self) -> Option<Duration> {
        match self.stage {
            Stage::Created | Stage::Running => None,
            Stage::Ended => Some(Duration::from_millis(20)),
            _ => Some(self.deadline.saturating_duration_since(Instant::now())),
        }
    }

    fn ready(&mut self, which: Whose, events: i16) -> Result<()> {
        match which {
            Whose::Channel => {
                if events & !libc::POLLOUT != 0 && !self.channel.fill()? {
                    return Err(Error::new("the machine ended"));
                }
                Ok(())
            }
            Whose::Signals => {
                self.signalled();
                Ok(())
            }
            Whose::MachineEnded => {
                // What it said last may still be in the channel.
                while self.channel.fill()? {
                    while let Some(frame) = self.channel.next_frame() {
                        self.take(&frame)?;
                    }
                    if self.stage == Stage::Ended {
                        return Ok(());
                    }
                }
                Err(Error::new("the machine ended"))
            }
            Whose::Machine => self.engine_answers(),
            Whose::Console => {
                self.read_console();
                Ok(())
            }
            Whose::Listener => {
                self.accept();
                Ok(())
            }
            Whose::Forward => self.forward(),
            Whose::Start => self.start(),
            Whose::Maker => self.maker_speaks(),
            Whose::Connection(number) => self.asked(number),
            Whose::Stream(which) => {
                self.streams.ready(&mut self.channel, which, events);
                Ok(())
            }
        }
    }

    fn read_console(&mut self) {
        let mut piece = [0_u8; 1024];
        let count = file::read(self.console.0, &mut piece).unwrap_or(0);
        self.tail.extend(&piece[..count]);
        let over = self.tail.len().saturating_sub(CONSOLE);
        self.tail.drain(..over);
        if count == 0 {
            // Its end is the machine's, which is told otherwise; a descriptor that is always ready
            // would keep hull busy.
            self.console = Fd(-1);
        }
    }

    fn start(&mut self) -> Result<()> {
        let mut byte = [0_u8; 1];
        if file::read(self.job.start.0, &mut byte) == Ok(1) {
            self.stage = Stage::Running;
            self.channel.message(PROGRAM, &ToGuest::Start)?;
        }
        Ok(())
    }

    /// The end of whoever makes the container, before it is made, is the container's end.
    fn maker_speaks(&mut self) -> Result<()> {
        let Some(maker) = &self.maker else {
            return Ok(());
        };
        let mut byte = [0_u8; 1];
        match crate::sys::socket::recv(maker.0, &mut byte) {
            Ok(1) => {
                self.recorded = true;
                Ok(())
            }
            _ if self.recorded => {
                self.maker = None;
                Ok(())
            }
            _ => Err(Error::new("the parent process exited")),
        }
    }

    /// Ends QEMU and the share server, and waits: whoever waits for this process finds nothing of
    /// the machine's left. What QEMU said.
    fn end_machine(&mut self) -> String {
        let said = self.machine.kill();
        if let Some(share) = self.share.take() {
            let _ = crate::sys::process::pidfd_send_signal(share.pidfd.0, libc::SIGKILL);
            let _ = crate::sys::process::wait(share.pidfd.0, false);
        }
        // One that was given outlives the container.
        if matches!(self.job.network, Network::Path(_)) {
            crate::vm::network::let_go();
            if let Some(forward) = self.forward.take() {
                forward.close();
            }
        }
        said
    }

    /// A failure: before the container is made it is its maker's to tell; afterwards it goes to the
    /// log, with the end of the console.
    fn fail(&mut self, error: &Error) -> i32 {
        let said = self.end_machine();
        self.read_console();
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let tail = String::from_utf8_lossy(&tail);
        let lines: Vec<&str> = tail
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect();
        // From the panic's own words on, where there are any.
        let from = lines
            .iter()
            .position(|line| line.contains("Kernel panic"))
            .unwrap_or(lines.len().saturating_sub(12));
        let tail = lines[from..]
            .iter()
            .take(24)
            .copied()
            .collect::<Vec<_>>()
            .join(" | ");
        let mut text = error.to_string();
        for (name, part) in [("QEMU", said), ("its console", tail)] {
            if !part.is_empty() && error.status().is_none() {
                text.push_str(&format!("; {name}: {part}"));
            }
        }
        match self.maker.take().filter(|_| !self.recorded) {
            Some(maker) => drop(client::send(
                &maker,
                &News::Failed(text, error.status()),
                &[],
            )),
            None => crate::log::warn(&format!("container {}: {text}", self.job.id)),
        }
        255
    }

    fn tell_maker(&self, news: &News) -> Result<()> {
        self.maker
            .as_ref()
            .map_or(Ok(()), |maker| client::send(maker, news, &[]))
    }

    /// Nobody's answer is waited for: a command that has stopped to listen is as one that is gone.
    fn answer_connection(&mut self, number: u64, answer: &FromGuest) {
        let gone = match self.connections.get(&number) {
            Some(connection) => client::send_at_once(&connection.socket, answer).is_err(),
            None => false,
        };
        if gone {
            self.connections.remove(&number);
        }
    }
}

impl PartialOrd for Stage {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (*self as u8).partial_cmp(&(*other as u8))
    }
}
