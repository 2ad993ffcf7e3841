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

/// Freezes.
pub fn pause(args: &Args, global: &Global) -> Result<u8> {
    Container::open(&global.store(), &args.id)?.pause()?;
    Ok(0)
}

/// Thaws.
pub fn resume(args: &Args, global: &Global) -> Result<u8> {
    Container::open(&global.store(), &args.id)?.resume()?;
    Ok(0)
}
