//! `hull features`.

use crate::Result;

/// `features` has no options of its own.
#[derive(clap::Args)]
pub struct Args {}

/// Carries the command out.
pub fn run(_args: &Args) -> Result<u8> {
    let names: Vec<&str> = crate::spec::mount_options::names().collect();
    println!(
        "{}",
        super::state::pretty(&crate::features::document(&names))?
    );
    Ok(0)
}
