//! QEMU's own language: JSON by lines (QEMU Machine Protocol). Commands are answered in their
//! order; events come between.

use crate::sys::fd::Fd;
use crate::sys::{event, file};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use serde_json::{Value, json};

/// A line of QEMU's answers to what hull asks has some hundred bytes; QEMU stands next to the
/// guest.
const LONGEST: usize = 1 << 20;

/// The monitor's end.
pub struct Qmp {
    fd: Fd,
    buffer: Vec<u8>,
}

/// What QEMU says.
#[derive(Debug, PartialEq)]
pub enum Said {
    /// A command's answer, or why it is refused.
    Answer(Result<Value, String>),
    /// Something happened.
    Event(String),
}

impl Qmp {
    /// Takes a connected socket, and asks for the commands.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(fd: Fd) -> Result<Self> {
        event::nonblocking(fd.0).on("use", "QEMU's monitor")?;
        let mut qmp = Self {
            fd,
            buffer: Vec::new(),
        };
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// For poll(2).
    pub fn descriptor(&self) -> i32 {
        self.fd.0
    }

    /// Gives a command; its answer comes by [`Qmp::read`].
    ///
    /// # Errors
    /// QEMU is gone. A few short lines always fit into a socket's buffer.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<()> {
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        match file::write(self.fd.0, line.as_bytes()) {
            Ok(count) if count == line.len() => Ok(()),
            Ok(_) => Err(Error::new(format!("tell QEMU {name}: it does not listen"))),
            Err(errno) => Err(Error::sys("tell QEMU", name, errno)),
        }
    }

    /// What has come.
    ///
    /// # Errors
    /// QEMU is gone, or says what is no JSON.
    pub fn read(&mut self) -> Result<Vec<Said>> {
        let mut piece = [0_u8; 8192];
        match file::read(self.fd.0, &mut piece) {
            Ok(0) => return Err(Error::new("QEMU closed its monitor")),
            Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(Error::sys("read", "QEMU's monitor", errno)),
        }
        let mut said = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            said.extend(parse(&line)?);
        }
        if self.buffer.len() > LONGEST {
            return Err(Error::new("QEMU's monitor: a line without an end"));
        }
        Ok(said)
    }
}

fn parse(line: &[u8]) -> Result<Option<Said>> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|error| Error::new(format!("QEMU's monitor: {error}")))?;
    if let Some(answer) = value.get("return") {
        return Ok(Some(Said::Answer(Ok(answer.clone()))));
    }
    if let Some(error) = value.get("error") {
        let text = error
            .get("desc")
            .and_then(Value::as_str)
            .unwrap_or("no reason given");
        return Ok(Some(Said::Answer(Err(text.to_owned()))));
    }
    Ok(value
        .get("event")
        .and_then(Value::as_str)
        .map(|name| Said::Event(name.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_refusals_and_events_are_told_apart() {
        let said = |line: &str| parse(line.as_bytes()).unwrap();
        assert_eq!(said(r#"{"QMP": {"version": {}}}"#), None);
        assert_eq!(
            said(r#"{"return": {"actual": 5}}"#),
            Some(Said::Answer(Ok(json!({ "actual": 5 }))))
        );
        assert_eq!(
            said(r#"{"error": {"class": "GenericError", "desc": "no"}}"#),
            Some(Said::Answer(Err("no".into())))
        );
        assert_eq!(
            said(r#"{"event": "STOP", "timestamp": {}}"#),
            Some(Said::Event("STOP".into()))
        );
        assert!(parse(b"nonsense\n").is_err());
    }
}
