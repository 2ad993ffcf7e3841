//! `hull kill`.

use super::Global;
use crate::Result;
use crate::container::{Container, signal};

/// Options of `kill`.
#[derive(clap::Args)]
pub struct Args {
    /// Send the signal to all processes of the container
    #[arg(short, long)]
    all: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// Name or number of the signal
    #[arg(
        value_name = "SIGNAL",
        default_value = "SIGTERM",
        allow_hyphen_values = false
    )]
    signal: String,
}

/// Executes the command.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let container = Container::open(&global.store(), &args.id)?;
    container.kill(signal::parse(&args.signal)?, args.all)?;
    Ok(0)
}
