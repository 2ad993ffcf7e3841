//! `hull state`.

use super::Global;
use crate::container::Container;
use crate::stdio::output::print_line;
use crate::{Error, Result};

/// Options of `state`.
#[derive(clap::Args)]
pub struct Args {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Carries the command out.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let state = Container::open(&global.store(), &args.id)?.state();
    print_line(pretty(&state)?)?;
    Ok(0)
}

/// JSON for people.
pub fn pretty(value: &serde_json::Value) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|error| Error::new(format!("print JSON: {error}")))
}
