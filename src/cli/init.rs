//! `hull init`: a fresh process that executes `inside`; hull's own use.

use crate::Result;
use crate::init::fresh::run_init;

/// Options of `init`.
#[derive(clap::Args)]
pub struct Args {
    /// Descriptor of the encoded container steps
    #[arg(long)]
    steps: i32,
    /// Descriptors of the slots, by commas; -1 is an empty one
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    slots: Vec<i32>,
}

/// Executes the container steps; returns only with an error.
pub fn run(args: &Args) -> Result<u8> {
    match run_init(args.steps, &args.slots)? {}
}
