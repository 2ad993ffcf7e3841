//! Errors as people read them: coloured on a terminal only, and with what can be done about it.

use crate::{Error, log};
use std::io::IsTerminal;

/// Whether stderr shows colours (<https://no-color.org>).
fn colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::stderr().is_terminal()
        && set("NO_COLOR").is_none()
        && set("TERM").is_some_and(|term| term != "dumb")
}

/// What a person can do about an error. Only on a terminal: programs that read stderr know the
/// sentence alone.
fn hint(message: &str) -> Option<&'static str> {
    const HINTS: [(&str, &str); 6] = [
        (
            "container does not exist",
            "hull list shows the containers there are",
        ),
        (
            "container with given ID already exists",
            "hull delete removes it; or choose another name",
        ),
        (
            "cannot delete container",
            "hull delete --force ends it first",
        ),
        (
            "executable file not found in $PATH",
            "the program is looked for inside the container",
        ),
        (
            "JSON specification file",
            "--bundle names another directory; hull run --rootfs DIR -- COMMAND needs no bundle",
        ),
        (
            "no space left on device",
            "hull list shows containers that can be deleted",
        ),
    ];
    HINTS
        .iter()
        .find(|(part, _)| message.contains(part))
        .map(|(_, hint)| *hint)
}

/// An error goes to stderr for people, and to the log for engines, which read its last line.
pub fn complain(error: &Error) {
    let message = error.to_string();
    log::error(&message);
    if colours() {
        eprintln!("\x1b[1;31mhull:\x1b[0m {message}");
    } else {
        eprintln!("hull: {message}");
    }
    if let Some(hint) = hint(&message).filter(|_| std::io::stderr().is_terminal()) {
        if colours() {
            eprintln!("\x1b[1mhint:\x1b[0m {hint}")
        } else {
            eprintln!("hint: {hint}")
        }
    }
}
