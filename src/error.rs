//! The one error type: what hull was doing, to what, and why it failed, in one sentence.

#![forbid(unsafe_code)]

use nix::errno::Errno;
use std::fmt;
use std::sync::Arc;

/// What a caller may act on. An error of which nobody needs to know more than its words is
/// [`Kind::Other`]; a failed system call has its number besides ([`Error::errno`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// No container has this id: `delete --force` has nothing to do.
    NoSuchContainer,
    /// A container has this id already.
    ContainerExists,
    /// The container must be stopped first.
    NotStopped,
    /// The bundle has no `config.json`.
    NoConfig,
    /// The container's program is not there: a shell's status 127.
    ProgramNotFound,
    /// The container's program is there and cannot be executed: a shell's status 126.
    ProgramNotExecutable,
    /// The reader of hull's standard output has closed it.
    OutputClosed,
    /// Everything else.
    #[default]
    Other,
}

/// Why an operation failed, where that is an error of its own.
#[derive(Clone)]
enum Source {
    Errno(Errno),
    Other(Arc<dyn std::error::Error + Send + Sync>),
}

/// An operation that failed. Its words are put together by `Display`: the larger operations first,
/// the source last.
#[derive(Clone)]
pub struct Error {
    kind: Kind,
    /// The whole sentence, or `operation object` where there is a source.
    message: String,
    source: Option<Source>,
}

/// hull's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that no other one caused: the whole sentence is given.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Other,
            message: message.into(),
            source: None,
        }
    }

    /// The same, of a kind that some caller acts on.
    pub fn of_kind(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            ..Self::new(message)
        }
    }

    /// A system call's error: `operation object: why`.
    pub fn sys(operation: &str, object: impl fmt::Display, errno: Errno) -> Self {
        Self {
            source: Some(Source::Errno(errno)),
            ..Self::new(format!("{operation} {object}"))
        }
    }

    /// The same for an error of the standard library.
    pub fn io(operation: &str, object: impl fmt::Display, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(raw) => Self::sys(operation, object, Errno::from_raw(raw)),
            // Not of the system, and so cheap to make again: the type cannot be cloned.
            None => Self::caused(
                operation,
                object,
                std::io::Error::new(error.kind(), error.to_string()),
            ),
        }
    }

    /// The same for any other error, such as one of a parser.
    pub fn caused(
        operation: &str,
        object: impl fmt::Display,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            source: Some(Source::Other(Arc::new(source))),
            ..Self::new(format!("{operation} {object}"))
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

    /// Marks a program that could not be executed by the status that a shell gives for it: 127
    /// where it is not there, 126 where the kernel refused it. Other numbers say nothing.
    #[must_use]
    pub fn with_status(self, status: u8) -> Self {
        let kind = match status {
            127 => Kind::ProgramNotFound,
            126 => Kind::ProgramNotExecutable,
            _ => self.kind,
        };
        Self { kind, ..self }
    }

    /// What a caller may act on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit status that a shell would give, where it would not be the common one.
    pub fn status(&self) -> Option<u8> {
        match self.kind {
            Kind::ProgramNotFound => Some(127),
            Kind::ProgramNotExecutable => Some(126),
            _ => None,
        }
    }

    /// The system's error number, if one was the cause.
    pub fn errno(&self) -> Option<Errno> {
        match self.source {
            Some(Source::Errno(errno)) => Some(errno),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    /// One line: what a config or an image put into a name can neither end the line of a log nor
    /// speak to a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.message).fmt(f)?;
        match &self.source {
            None => Ok(()),
            Some(Source::Errno(errno)) => write!(f, ": {}", words(*errno)),
            Some(Source::Other(source)) => {
                f.write_str(": ")?;
                Escaped(&source.to_string()).fmt(f)
            }
        }
    }
}

/// A text on one line without control characters: what a name brought along can neither begin a
/// second line nor speak to a terminal.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, &[])
    }
}

/// A text of several lines: as [`Escaped`], with its line ends and tabs.
pub struct EscapedLines<'a>(pub &'a str);

impl fmt::Display for EscapedLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, &['\n', '\t'])
    }
}

/// The one place that escapes what hull prints. The forms are JSON's, so that a string in printed
/// JSON stays one.
fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str, kept: &[char]) -> fmt::Result {
    let escapes = |c: char| c.is_control() && !kept.contains(&c);
    for part in text.split_inclusive(escapes) {
        let Some((at, last)) = part.char_indices().next_back().filter(|(_, c)| escapes(*c)) else {
            f.write_str(part)?;
            continue;
        };
        f.write_str(&part[..at])?;
        match last {
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            other => write!(f, "\\u{:04x}", u32::from(other))?,
        }
    }
    Ok(())
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    /// The error number, or the other library's error. Its words are in this error's own already:
    /// engines read one line.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.source {
            None => None,
            Some(Source::Errno(errno)) => Some(errno),
            Some(Source::Other(source)) => Some(source.as_ref()),
        }
    }
}

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
    /// The error itself, with these words.
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

impl<T> Context<T> for serde_json::Result<T> {
    fn on(self, operation: &str, object: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::caused(operation, object, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn words_and_source_are_those_of_the_cause() {
        let error = Error::sys("open", "/x", Errno::ENOENT).within("start");
        assert_eq!(
            error.to_string(),
            "start: open /x: no such file or directory"
        );
        assert_eq!(error.errno(), Some(Errno::ENOENT));
        assert_eq!(
            error.source().and_then(|source| source.downcast_ref()),
            Some(&Errno::ENOENT)
        );
        let parsed: Result<u8> = serde_json::from_str::<u8>("x").on("read", "a\nb");
        let error = parsed.unwrap_err();
        assert!(
            error
                .source()
                .is_some_and(|source| source.is::<serde_json::Error>())
        );
        assert!(error.to_string().starts_with("read a\\nb: expected value"));
        assert!(Error::new("x").source().is_none());
    }

    #[test]
    fn a_kind_outlives_what_is_put_around_it() {
        let error = Error::of_kind(Kind::NoSuchContainer, "container does not exist: x");
        assert_eq!(error.within("delete").kind(), Kind::NoSuchContainer);
        assert_eq!(Error::new("x").with_status(127).status(), Some(127));
        assert_eq!(Error::new("x").with_status(1).kind(), Kind::Other);
    }
}
