//! Standard input, output and error: those of the container's program, which hull relays while it
//! stays in the foreground, and those of hull itself. Also readiness notification (sd_notify(3)).

#![forbid(unsafe_code)]

pub(crate) mod foreground;
pub(crate) mod notify;
pub(crate) mod output;
pub(crate) mod streams;
