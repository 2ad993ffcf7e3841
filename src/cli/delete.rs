//! `hull delete`.

use super::Global;
use crate::Result;
use crate::container::delete::delete;

/// Options of `delete`.
#[derive(clap::Args)]
pub struct Args {
    /// End a running container first; a container that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// The containers' ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// Carries the command out.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let store = global.store();
    let mut result = Ok(0);
    for id in &args.ids {
        if let Err(error) = delete(&store, id, args.force) {
            if args.ids.len() > 1 {
                super::complain::say(&format!("hull: {error}"));
            }
            result = Err(error);
        }
    }
    result
}
