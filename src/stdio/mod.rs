//! Standard input, output and error: those of the container's program, which hull relays while it
//! stays in the foreground, and those of hull itself. Also readiness notification (sd_notify(3)).

#![forbid(unsafe_code)]

pub mod foreground;
pub mod notify;
pub mod output;
pub mod streams;
