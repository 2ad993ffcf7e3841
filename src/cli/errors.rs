//! Reports errors on stderr, on a terminal in colour and with a hint, and in the log.

use crate::error::Kind;
use crate::{Error, log};
use nix::errno::Errno;
use std::io::{IsTerminal, Write};

/// Whether to use colours on stderr (<https://no-color.org>).
fn use_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::stderr().is_terminal()
        && set("NO_COLOR").is_none()
        && set("TERM").is_some_and(|term| term != "dumb")
}

/// What the user can do about an error. hull prints it on a terminal only: programs that read
/// stderr match the message.
fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        Kind::NoSuchContainer => Some("hull list shows the containers"),
        Kind::ContainerExists => Some("hull delete removes it; or choose another id"),
        Kind::NotStopped => Some("hull delete --force kills it first"),
        Kind::ProgramNotFound => Some("hull searches for the program in the container"),
        Kind::NoConfig => Some(
            "--bundle names another directory; hull run --rootfs DIR -- COMMAND needs no bundle",
        ),
        _ if error.errno() == Some(Errno::ENOSPC) => {
            Some("hull list shows containers that can be deleted")
        }
        _ => None,
    }
}

/// Reports an error on stderr, and in the log, of which engines read the last line.
pub fn report(error: &Error) {
    let message = error.to_string();
    log::error(&message);
    let (red, bold, plain) = if use_colours() {
        ("\x1b[1;31m", "\x1b[1m", "\x1b[0m")
    } else {
        ("", "", "")
    };
    write_line(&format!("{red}hull:{plain} {message}"));
    if let Some(hint) = hint(error).filter(|_| std::io::stderr().is_terminal()) {
        write_line(&format!("{bold}hint:{plain} {hint}"));
    }
}

/// Writes a line to stderr with one write(2), so that the lines of several processes are not mixed.
/// `eprintln!` would panic if the reader of stderr has closed it.
pub fn write_line(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
