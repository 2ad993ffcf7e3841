//! `hull features`.

use crate::Result;
use crate::stdio::output::print_line;

/// `features` has no options of its own.
#[derive(clap::Args)]
pub struct Args {}

/// Carries the command out.
pub fn run(_args: &Args) -> Result<u8> {
    let names: Vec<&str> = crate::spec::mount_options::names().collect();
    print_line(super::state::pretty(&crate::features::document(&names))?)?;
    Ok(0)
}
