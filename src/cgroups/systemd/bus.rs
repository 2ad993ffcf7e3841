//! D-Bus on a blocking socket: one call at a time, no thread (D-Bus specification 0.41; the
//! marshalling is zvariant's).

use super::value::Value;
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
pub(in crate::cgroups) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// A bus in between needs a destination; systemd's own socket has none.
    pub(super) is_direct: bool,
    /// Bytes that came with the answer to the authentication.
    come: Vec<u8>,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

/// A message that came.
#[derive(Debug)]
pub(in crate::cgroups) struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    body: Vec<u8>,
}

/// What a call came back with when not with an answer.
pub(in crate::cgroups) enum Failure {
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
    /// Connects and authenticates: the socket tells who we are, so no name is given (also right
    /// within a user namespace).
    pub(in crate::cgroups) fn connect(path: &str, is_direct: bool) -> Result<Self> {
        let stream = if let Some(name) = path.strip_prefix('@') {
            let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
            address.and_then(|a| UnixStream::connect_addr(&a))
        } else {
            UnixStream::connect(path)
        };
        let stream = stream.on("connect to", path)?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .on("set the timeout of", path)?;
        stream
            .set_write_timeout(Some(PATIENCE))
            .on("set the timeout of", path)?;
        let mut bus = Self {
            stream,
            serial: 0,
            is_direct,
            come: Vec::new(),
            signals: Vec::new(),
        };
        bus.authenticate()
            .map_err(|e| e.within(format_args!("D-Bus on {path}")))?;
        if !is_direct {
            bus.call(
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "Hello",
                None::<&()>,
            )?;
        }
        Ok(bus)
    }

    /// All in one piece, as systemd's own programs send it, and nothing more before the answer:
    /// what comes in one read with BEGIN lies unread in systemd until something follows. Signals
    /// may come right behind the answer.
    fn authenticate(&mut self) -> Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let mut buffer = [0; 256];
            let count = self.stream.read(&mut buffer).map_err(|e| broken(&e))?;
            self.come.extend_from_slice(&buffer[..count]);
            while let Some(end) = self.come.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.come.drain(..end + 2).take(end).collect();
                match line {
                    _ if line.starts_with(b"OK") => return Ok(()),
                    _ if line.starts_with(b"DATA") => {}
                    _ => {
                        return Err(Error::new(format!(
                            "authentication: {}",
                            String::from_utf8_lossy(&line)
                        )));
                    }
                }
            }
            if count == 0 || self.come.len() > 4096 {
                return Err(Error::new("authentication: no answer"));
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).on("write to", "D-Bus")
    }

    /// Calls a method and waits for its answer.
    pub(in crate::cgroups) fn call<B: Serialize + DynamicType>(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Option<&B>,
    ) -> std::result::Result<Message, Failure> {
        let serial = self
            .begin(destination, path, interface, member, body)
            .map_err(Failure::Broken)?;
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
        let mut fields = Vec::new();
        push_field(&mut fields, 1, b'o', path);
        push_field(&mut fields, 2, b's', interface);
        push_field(&mut fields, 3, b's', member);
        if !self.is_direct {
            push_field(&mut fields, 6, b's', destination);
        }
        let mut bytes = Vec::new();
        if let Some(body) = body {
            // A body of several values is their sequence: the signature without the structure's
            // brackets.
            push_field(
                &mut fields,
                8,
                b'g',
                &body.signature().to_string_no_parens(),
            );
            bytes = to_bytes(Context::new_dbus(LE, 0), body)
                .map_err(|e| wire(&e))?
                .bytes()
                .to_vec();
        }
        let mut message = vec![b'l', CALL, 0, 1];
        for number in [bytes.len() as u32, self.serial, fields.len() as u32] {
            message.extend(number.to_le_bytes());
        }
        message.extend(fields);
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

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let here = self.come.len().min(bytes.len());
        for (to, from) in bytes.iter_mut().zip(self.come.drain(..here)) {
            *to = from;
        }
        self.stream
            .read_exact(&mut bytes[here..])
            .map_err(|e| broken(&e))
    }

    fn receive(&mut self) -> Result<Message> {
        const MOST: usize = 1 << 27; // the specification's longest message
        let mut bytes = vec![0; 16];
        self.fill(&mut bytes)?;
        if bytes[0] != b'l' {
            return Err(Error::new("D-Bus: a message of the other byte order"));
        }
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
        };
        let (body, fields) = (word(4), word(12));
        if body > MOST || fields > MOST {
            return Err(Error::new("D-Bus: a message that is too long"));
        }
        let start = (16 + fields).next_multiple_of(8);
        bytes.resize(start + body, 0);
        self.fill(&mut bytes[16..])?;
        let data = Data::new(bytes[..start].to_vec(), Context::new_dbus(LE, 0));
        let (header, _): (Header, usize) = data.deserialize().map_err(|e| wire(&e))?;
        let mut message = Message {
            kind: header.1,
            reply_to: 0,
            member: String::new(),
            error: String::new(),
            body: bytes[start..].to_vec(),
        };
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
    pub(in crate::cgroups) fn body<T: for<'d> serde::Deserialize<'d> + Type>(&self) -> Result<T> {
        let data = Data::new(self.body.clone(), Context::new_dbus(LE, 0));
        data.deserialize()
            .map(|(value, _)| value)
            .map_err(|e| wire(&e))
    }
}

/// One field of a header: its code, its type and a text. (By hand: zvariant has no type for a
/// signature of several values.)
fn push_field(fields: &mut Vec<u8>, code: u8, kind: u8, text: &str) {
    fields.resize(fields.len().next_multiple_of(8), 0);
    fields.extend([code, 1, kind, 0]);
    // The four bytes end where a text's length may begin.
    if kind == b'g' {
        fields.push(text.len() as u8);
    } else {
        fields.extend((text.len() as u32).to_le_bytes());
    }
    fields.extend(text.as_bytes());
    fields.push(0);
}

fn broken(error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            Error::new(format!("D-Bus: no answer within {} s", PATIENCE.as_secs()))
        }
        _ => Error::io("read from", "D-Bus", error),
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
        Value::Path(v) => ObjectPath::try_from(v.clone())
            .map_err(|e| wire(&e))?
            .into(),
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
