//! D-Bus on a blocking socket: one call at a time, and no thread (D-Bus specification 0.41).
//! zvariant marshals the values.

use super::value::Value;
use crate::{Context as _, Error, Result};
use serde::Serialize;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;
use zvariant::serialized::{Context, Data};
use zvariant::{Array, DynamicType, LE, ObjectPath, Signature, Structure, Type, to_bytes};

/// How long hull waits for an answer, or for the end of systemd's job (30 s, as runc).
const PATIENCE: Duration = Duration::from_secs(30);

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// The fields of a message's header: code and value.
type Fields<'a> = Vec<(u8, zvariant::Value<'a>)>;
type Header<'a> = (u8, u8, u8, u8, u32, u32, Fields<'a>);

/// An open connection.
#[derive(Debug)]
pub(in crate::cgroups) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// The socket is systemd's private one: messages have no destination there.
    pub(super) is_direct: bool,
    /// Bytes that were read together with the answer to the authentication.
    unread: Vec<u8>,
    /// Signals that arrived while hull waited for an answer.
    signals: Vec<Message>,
}

/// A message that hull received.
#[derive(Debug)]
pub(in crate::cgroups) struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    body: Vec<u8>,
}

/// Why a call has no answer.
pub(in crate::cgroups) enum Failure {
    /// The other side answers with an error: its name, and its text.
    Refused(String, String),
    /// The connection failed.
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
    /// Connects and authenticates. The other side gets hull's user id from the socket, so hull
    /// names none, which would be wrong in a user namespace.
    ///
    /// # Errors
    /// connect(2) fails: nothing listens at the path; the authentication is refused, or has no
    /// answer within 30 s.
    pub(in crate::cgroups) fn connect(path: &str, is_direct: bool) -> Result<Self> {
        let stream = if let Some(name) = path.strip_prefix('@') {
            SocketAddr::from_abstract_name(name).and_then(|a| UnixStream::connect_addr(&a))
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
            unread: Vec::new(),
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

    /// Sends the authentication in one write, as systemd's own programs do, and nothing more before
    /// the answer: systemd does not handle what it reads together with BEGIN until more arrives.
    /// Signals may arrive together with the answer.
    fn authenticate(&mut self) -> Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let mut buffer = [0; 256];
            let count = self.stream.read(&mut buffer).map_err(|e| broken(&e))?;
            self.unread.extend_from_slice(&buffer[..count]);
            while let Some(end) = self.unread.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).take(end).collect();
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
            if count == 0 || self.unread.len() > 4096 {
                return Err(Error::new("authentication: no answer"));
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).on("write to", "D-Bus")
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// The other side answers with an error, or the connection fails.
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
            // The signature of a body of several values is their sequence, without the brackets of
            // a structure.
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

    /// The next signal of a name, one that has arrived before included.
    ///
    /// # Errors
    /// The connection fails, or there is no message within 30 s.
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
        let here = self.unread.len().min(bytes.len());
        for (to, from) in bytes.iter_mut().zip(self.unread.drain(..here)) {
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
    /// The body, as values of the expected types.
    ///
    /// # Errors
    /// The body has other types.
    pub(in crate::cgroups) fn body<T: for<'d> serde::Deserialize<'d> + Type>(&self) -> Result<T> {
        let data = Data::new(self.body.clone(), Context::new_dbus(LE, 0));
        data.deserialize()
            .map(|(value, _)| value)
            .map_err(|e| wire(&e))
    }
}

/// Appends a field of a header: its code, its type and a text. (zvariant has no type for a
/// signature of several values.)
fn push_field(fields: &mut Vec<u8>, code: u8, kind: u8, text: &str) {
    fields.resize(fields.len().next_multiple_of(8), 0);
    fields.extend([code, 1, kind, 0]);
    // After these four bytes the length of a text is aligned.
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

/// A property's value as zvariant's.
///
/// # Errors
/// An object path or an array's type is not valid.
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
