//! What a command prints on standard output. If its reader has closed it (`hull list | head -1`),
//! the error is [`Kind::OutputClosed`], for which the command line exits without a message.

use crate::error::{EscapedLines, Kind};
use crate::{Error, Result};
use std::fmt;
use std::io::{self, Write};

/// Writes a text to standard output. What an image or a container put into it does not reach the
/// terminal as a control sequence ([`EscapedLines`]).
///
/// # Errors
/// write(2) fails, for instance with ENOSPC; [`Kind::OutputClosed`] where it fails with EPIPE.
pub fn print(text: impl fmt::Display) -> Result<()> {
    print_raw(EscapedLines(&text.to_string()))
}

/// Writes a text with control sequences of hull's own.
///
/// # Errors
/// As of [`print`].
pub fn print_raw(text: impl fmt::Display) -> Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| failed(&error))
}

/// Writes a text and a newline to standard output.
///
/// # Errors
/// As of [`print`].
pub fn print_line(text: impl fmt::Display) -> Result<()> {
    print(format_args!("{text}\n"))
}

fn failed(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::of_kind(
            Kind::OutputClosed,
            "write to standard output: its reader has closed it",
        ),
        _ => Error::io("write to", "standard output", error),
    }
}
