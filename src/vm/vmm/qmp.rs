//! QMP, the QEMU Machine Protocol: one JSON object per line. QEMU answers commands in their order
//! and sends events between the answers.

use crate::sys::fd::Fd;
use crate::sys::{event, file};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use serde_json::{Value, json};

/// The longest line that hull accepts, in bytes. QEMU's replies to hull's commands have some
/// hundred; a guest that has taken over QEMU must not use up the monitor's memory.
const LONGEST: usize = 1 << 20;

/// hull's end of the QMP socket.
pub(crate) struct Qmp {
    fd: Fd,
    buffer: Vec<u8>,
}

/// A message from QEMU.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    /// The reply to a command: its value, or the reason why QEMU refused it.
    Reply(Result<Value, String>),
    /// An event. hull uses none.
    Event,
}

impl Qmp {
    /// Takes a connected socket and leaves QMP's negotiation mode (`qmp_capabilities`).
    ///
    /// # Errors
    /// fcntl(2) or write(2) fails.
    pub fn new(fd: Fd) -> Result<Self> {
        event::nonblocking(fd.0).on("use", "the QMP socket")?;
        let mut qmp = Self {
            fd,
            buffer: Vec::new(),
        };
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// The descriptor, for poll(2).
    pub fn descriptor(&self) -> i32 {
        self.fd.0
    }

    /// Sends a command; [`Qmp::read`] returns its reply later.
    ///
    /// # Errors
    /// QEMU has ended, or has stopped reading and the socket's buffer is full.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<()> {
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        match file::write(self.fd.0, line.as_bytes()) {
            Ok(count) if count == line.len() => Ok(()),
            Ok(_) => Err(Error::new(format!(
                "QMP command {name}: QEMU does not read its socket"
            ))),
            Err(errno) => Err(Error::sys("QMP command", name, errno)),
        }
    }

    /// The messages that have come.
    ///
    /// # Errors
    /// QEMU has closed the socket; read(2) fails; a line is not JSON or longer than 1 MiB.
    pub fn read(&mut self) -> Result<Vec<Message>> {
        let mut piece = [0_u8; 8192];
        match file::read(self.fd.0, &mut piece) {
            Ok(0) => return Err(Error::new("QEMU closed the QMP socket")),
            Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(Error::sys("read", "the QMP socket", errno)),
        }
        let mut messages = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            messages.extend(parse(&line)?);
        }
        if self.buffer.len() > LONGEST {
            return Err(Error::new(format!(
                "QMP: a line is longer than {LONGEST} bytes"
            )));
        }
        Ok(messages)
    }
}

/// Parses one line; the greeting is none of the messages.
fn parse(line: &[u8]) -> Result<Option<Message>> {
    let value: Value =
        serde_json::from_slice(line).map_err(|error| Error::new(format!("QMP: {error}")))?;
    if let Some(reply) = value.get("return") {
        return Ok(Some(Message::Reply(Ok(reply.clone()))));
    }
    if let Some(error) = value.get("error") {
        let text = error
            .get("desc")
            .and_then(Value::as_str)
            .unwrap_or("no reason given");
        return Ok(Some(Message::Reply(Err(text.to_owned()))));
    }
    Ok(value.get("event").map(|_| Message::Event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_errors_and_events_are_told_apart() {
        let message = |line: &str| parse(line.as_bytes()).unwrap();
        assert_eq!(message(r#"{"QMP": {"version": {}}}"#), None);
        assert_eq!(
            message(r#"{"return": {"actual": 5}}"#),
            Some(Message::Reply(Ok(json!({ "actual": 5 }))))
        );
        assert_eq!(
            message(r#"{"error": {"class": "GenericError", "desc": "no"}}"#),
            Some(Message::Reply(Err("no".into())))
        );
        assert_eq!(
            message(r#"{"event": "STOP", "timestamp": {}}"#),
            Some(Message::Event)
        );
        assert!(parse(b"nonsense\n").is_err());
    }
}
