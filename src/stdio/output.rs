//! What a command answers on standard output. A reader that has closed it (`hull list | head -1`) is
//! an error of a kind of its own, for which the command line ends quietly.

use crate::error::Kind;
use crate::{Error, Result};
use std::fmt;
use std::io::{self, Write};

/// Writes a text to standard output.
///
/// # Errors
/// write(2) fails: the disk is full; [`Kind::OutputClosed`] where the reader is gone.
pub fn print(text: impl fmt::Display) -> Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| failed(&error))
}

/// Writes a text and a line end to standard output.
///
/// # Errors
/// As [`print`].
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
