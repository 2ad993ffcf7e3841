//! `hull pause` and `hull resume`.

use super::Global;
use crate::Result;
use crate::container::Container;

/// Options of `pause` and `resume`.
#[derive(clap::Args)]
pub struct Args {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Executes `hull pause`.
pub fn pause(args: &Args, global: &Global) -> Result<u8> {
    Container::open(&global.store(), &args.id)?.pause()?;
    Ok(0)
}

/// Executes `hull resume`.
pub fn resume(args: &Args, global: &Global) -> Result<u8> {
    Container::open(&global.store(), &args.id)?.resume()?;
    Ok(0)
}
