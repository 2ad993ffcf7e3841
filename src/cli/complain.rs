//! Errors on stderr: coloured on a terminal only, and there with what can be done about it.

use crate::error::Kind;
use crate::{Error, log};
use nix::errno::Errno;
use std::io::{IsTerminal, Write};

/// Whether stderr shows colours (<https://no-color.org>).
fn colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::stderr().is_terminal()
        && set("NO_COLOR").is_none()
        && set("TERM").is_some_and(|term| term != "dumb")
}

/// What the caller can do about an error. Only on a terminal: programs that read stderr know the
/// sentence alone.
fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        Kind::NoSuchContainer => Some("hull list shows the containers there are"),
        Kind::ContainerExists => Some("hull delete removes it; or choose another name"),
        Kind::NotStopped => Some("hull delete --force ends it first"),
        Kind::ProgramNotFound => Some("the program is looked for inside the container"),
        Kind::NoConfig => Some(
            "--bundle names another directory; hull run --rootfs DIR -- COMMAND needs no bundle",
        ),
        _ if error.errno() == Some(Errno::ENOSPC) => {
            Some("hull list shows containers that can be deleted")
        }
        _ => None,
    }
}

/// Reports an error: on stderr, and in the log, of which engines read the last line.
pub fn complain(error: &Error) {
    let message = error.to_string();
    log::error(&message);
    let (alarm, strong, plain) = if colours() {
        ("\x1b[1;31m", "\x1b[1m", "\x1b[0m")
    } else {
        ("", "", "")
    };
    say(&format!("{alarm}hull:{plain} {message}"));
    if let Some(hint) = hint(error).filter(|_| std::io::stderr().is_terminal()) {
        say(&format!("{strong}hint:{plain} {hint}"));
    }
}

/// Writes a line to stderr by one write(2), so that lines of several processes are not mixed.
/// `eprintln!` would panic where stderr's reader is gone.
pub fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
