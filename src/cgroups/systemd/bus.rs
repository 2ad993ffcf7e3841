//! D-Bus on a blocking socket: one call at a time, no thread (D-Bus specification 0.41; the marshalling is zvariant's).

use super::Value;
use crate::{Context as _, Error, Result};
use serde::Serialize;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use zvariant::serialized::{Context, Data};
use zvariant::{Array, DynamicType, LE, ObjectPath, Signature, Structure, Type, to_bytes};

/// How long an answer, or the end of systemd's job, may take (runc's 30 s).
const PATIENCE: Duration = Duration::from_secs(30);

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// The header's fields: code and value.
type Fields<'a> = Vec<(u8, zvariant::Value<'a>)>;
type Header<'a> = (u8, u8, u8, u8, u32, u32, Fields<'a>);

/// An open connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// A bus in between needs a destination; systemd's own socket has none.
    pub(super) is_direct: bool,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    body: Vec<u8>,
}

/// What a call came back with when not with an answer.
pub(super) enum Failure {
    /// The other side refuses: the error's name, and its words.
    Refused(String, String),
    /// The connection does not work.
    Broken(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(name, words) if words.is_empty() => Self::new(name),
            Failure::Refused(_, words) => Self::new(words),
            Failure::Broken(error) => error,
        }
    }
}

impl Bus {
    /// Connects and authenticates: the socket tells who we are, so no name is given (also right within a user namespace).
    pub(super) fn connect(path: &str, is_direct: bool) -> Result<Self> {
        let stream = if let Some(name) = path.strip_prefix('@') {
            let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
            address.and_then(|a| UnixStream::connect_addr(&a))
        } else {
            UnixStream::connect(path)
        };
        let stream = stream.on("connect to", path)?;
        stream.set_read_timeout(Some(PATIENCE)).on("set the timeout of", path)?;
        stream.set_write_timeout(Some(PATIENCE)).on("set the timeout of", path)?;
        let mut bus = Self { stream, serial: 0, is_direct, signals: Vec::new() };
        bus.authenticate().map_err(|e| e.within(format_args!("D-Bus on {path}")))?;
        if !is_direct {
            bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", None::<&()>)?;
        }
        Ok(bus)
    }

    fn authenticate(&mut self) -> Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\n")?;
        let answer = self.line()?;
        let answer = if answer.starts_with("DATA") {
            self.send(b"DATA\r\n")?;
            self.line()?
        } else {
            answer
        };
        if !answer.starts_with("OK") {
            return Err(Error::new(format!("authentication: {answer}")));
        }
        self.send(b"BEGIN\r\n")
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).on("write to", "D-Bus")
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).on("read from", "D-Bus")?;
            line.push(byte[0]);
            if line.len() > 4096 {
                return Err(Error::new("D-Bus: an endless line"));
            }
        }
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    }

    /// Calls a method and waits for its answer.
    pub(super) fn call<B: Serialize + DynamicType>(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Option<&B>,
    ) -> std::result::Result<Message, Failure> {
        let serial = self.begin(destination, path, interface, member, body).map_err(Failure::Broken)?;
        loop {
            let message = self.receive().map_err(Failure::Broken)?;
            match message.kind {
                RETURN if message.reply_to == serial => return Ok(message),
                ERROR if message.reply_to == serial => {
                    let words = message.body::<String>().unwrap_or_default();
                    return Err(Failure::Refused(message.error, words));
                }
                SIGNAL => self.signals.push(message),
                _ => {}
            }
        }
    }

    fn begin<B: Serialize + DynamicType>(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Option<&B>,
    ) -> Result<u32> {
        self.serial += 1;
        let context = Context::new_dbus(LE, 0);
        let object = ObjectPath::try_from(path).map_err(|e| wire(&e))?;
        let mut fields: Fields = vec![(1, object.into()), (2, interface.into()), (3, member.into())];
        if !self.is_direct {
            fields.push((6, destination.into()));
        }
        let mut bytes = Vec::new();
        if let Some(body) = body {
            // A body of several values is their sequence: the signature without the structure's brackets.
            let signature = body.signature().to_string_no_parens();
            fields.push((8, signature_of(&signature)?.into()));
            bytes = to_bytes(context, body).map_err(|e| wire(&e))?.bytes().to_vec();
        }
        let header: Header = (b'l', CALL, 0, 1, bytes.len() as u32, self.serial, fields);
        let mut message = to_bytes(context, &header).map_err(|e| wire(&e))?.bytes().to_vec();
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend(bytes);
        self.send(&message)?;
        Ok(self.serial)
    }

    /// The next signal of a name.
    pub(super) fn signal(&mut self, member: &str) -> Result<Message> {
        loop {
            if let Some(at) = self.signals.iter().position(|m| m.member == member) {
                return Ok(self.signals.remove(at));
            }
            let message = self.receive()?;
            if message.kind == SIGNAL {
                self.signals.push(message);
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        const MOST: usize = 1 << 27; // the specification's longest message
        let mut bytes = vec![0; 16];
        self.stream.read_exact(&mut bytes).on("read from", "D-Bus")?;
        if bytes[0] != b'l' {
            return Err(Error::new("D-Bus: a message of the other byte order"));
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let (body, fields) = (word(4), word(12));
        if body > MOST || fields > MOST {
            return Err(Error::new("D-Bus: a message that is too long"));
        }
        let start = (16 + fields).next_multiple_of(8);
        bytes.resize(start + body, 0);
        self.stream.read_exact(&mut bytes[16..]).on("read from", "D-Bus")?;
        let data = Data::new(bytes[..start].to_vec(), Context::new_dbus(LE, 0));
        let (header, _): (Header, usize) = data.deserialize().map_err(|e| wire(&e))?;
        let mut message = Message { kind: header.1, reply_to: 0, member: String::new(), error: String::new(), body: bytes[start..].to_vec() };
        for (code, value) in &header.6 {
            match (code, value) {
                (3, zvariant::Value::Str(text)) => message.member = text.to_string(),
                (4, zvariant::Value::Str(text)) => message.error = text.to_string(),
                (5, zvariant::Value::U32(serial)) => message.reply_to = *serial,
                _ => {}
            }
        }
        Ok(message)
    }
}

impl Message {
    /// The body as values of known types.
    pub(super) fn body<T: for<'d> serde::Deserialize<'d> + Type>(&self) -> Result<T> {
        let data = Data::new(self.body.clone(), Context::new_dbus(LE, 0));
        data.deserialize().map(|(value, _)| value).map_err(|e| wire(&e))
    }
}

fn wire(error: &zvariant::Error) -> Error {
    Error::new(format!("D-Bus: {error}"))
}

fn signature_of(text: &str) -> Result<Signature> {
    Signature::try_from(text).map_err(|e| Error::new(format!("D-Bus: type {text}: {e}")))
}

/// hull's value as zvariant's.
pub(super) fn variant(value: &Value) -> Result<zvariant::Value<'static>> {
    Ok(match value {
        Value::Bool(v) => (*v).into(),
        Value::Byte(v) => (*v).into(),
        Value::I16(v) => (*v).into(),
        Value::U16(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::U32(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::F64(v) => (*v).into(),
        Value::Str(v) => v.clone().into(),
        Value::Path(v) => ObjectPath::try_from(v.clone()).map_err(|e| wire(&e))?.into(),
        Value::Array(element, values) => {
            let mut array = Array::new(&signature_of(element)?);
            for value in values {
                array.append(variant(value)?).map_err(|e| wire(&e))?;
            }
            array.into()
        }
        Value::Pairs(pairs) => {
            let mut array = Array::new(&signature_of("(ss)")?);
            for (a, b) in pairs {
                let one: Structure = (a.clone(), b.clone()).into();
                array.append(one.into()).map_err(|e| wire(&e))?;
            }
            array.into()
        }
    })
}
