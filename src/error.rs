//! The one error type: what hull was doing, to what, and why it failed, in one sentence.

#![forbid(unsafe_code)]

use nix::errno::Errno;
use std::fmt;

/// An operation that failed, worded once, where the object was known.
#[derive(Clone)]
pub struct Error {
    message: String,
    errno: Option<Errno>,
    status: Option<u8>,
}

/// hull's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that is not a system call's: the whole sentence is given.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            errno: None,
            status: None,
        }
    }

    /// A system call's error: `operation object: why`.
    pub fn sys(operation: &str, object: impl fmt::Display, errno: Errno) -> Self {
        Self {
            message: format!("{operation} {object}: {}", words(errno)),
            errno: Some(errno),
            status: None,
        }
    }

    /// The same for an error of the standard library.
    pub fn io(operation: &str, object: impl fmt::Display, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(raw) => Self::sys(operation, object, Errno::from_raw(raw)),
            None => Self::new(format!("{operation} {object}: {error}")),
        }
    }

    /// Puts the larger operation in front: `context: message`.
    #[must_use]
    pub fn within(self, context: impl fmt::Display) -> Self {
        Self {
            message: format!("{context}: {}", self.message),
            ..self
        }
    }

    /// Names the exit status that a shell would give.
    #[must_use]
    pub fn with_status(self, status: u8) -> Self {
        Self {
            status: Some(status),
            ..self
        }
    }

    /// The exit status that a shell would give, where it would not be the common one.
    pub fn status(&self) -> Option<u8> {
        self.status
    }

    /// The system's error number, if one was the cause.
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }
}

impl fmt::Display for Error {
    /// One line: what a config or an image put into a name can neither end the line of a log nor
    /// speak to a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.message.split_inclusive(char::is_control) {
            match part.char_indices().next_back() {
                Some((at, last)) if last.is_control() => {
                    write!(f, "{}{}", &part[..at], last.escape_default())?
                }
                _ => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// The error number in words, in lower case as engines match them ("permission denied").
pub fn words(errno: Errno) -> String {
    let text = errno.desc();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Names operation and object on a failed call.
pub trait Context<T> {
    /// Turns the bare error into `operation object: why`.
    ///
    /// # Errors
    /// The error itself, worded.
    fn on(self, operation: &str, object: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn on(self, operation: &str, object: impl fmt::Display) -> Result<T> {
        self.map_err(|errno| Error::sys(operation, object, errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn on(self, operation: &str, object: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::io(operation, object, &error))
    }
}
