//! `hull start`.

use super::Global;
use crate::Result;
use crate::container::Container;

/// Options of `start`.
#[derive(clap::Args)]
pub struct Args {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Executes the command.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    Container::open(&global.store(), &args.id)?.start()?;
    Ok(0)
}
