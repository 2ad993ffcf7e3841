//! `hull init`: a fresh process that executes the container steps of a plan. For hull's own use.

use crate::Result;
use crate::init::fresh::run_init;

/// Options of `init`.
#[derive(clap::Args)]
pub struct Args {
    /// Descriptor of the encoded container steps
    #[arg(long)]
    steps: i32,
    /// Descriptors of the slots, with commas between them; -1 is an empty slot
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    slots: Vec<i32>,
}

/// Executes the steps; returns only with an error.
pub fn run(args: &Args) -> Result<u8> {
    match run_init(args.steps, &args.slots)? {}
}
