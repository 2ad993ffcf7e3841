//! `hull clone`.

use super::Global;
use super::checkpoint::CriuArgs;
use crate::checkpoint;
use crate::checkpoint::clone::CloneOptions;
use crate::stdio::output::print_line;
use crate::{Error, Result};

/// Options of `clone`.
#[derive(clap::Args)]
pub struct Args {
    /// The running container
    #[arg(value_name = "ID")]
    id: String,
    /// The id of the copy; with --count the prefix of the copies' ids
    #[arg(value_name = "NEW")]
    new: String,
    /// Make N copies: NEW-1, NEW-2 and so on
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    /// Share writable volumes and the root filesystem with the source
    #[arg(long)]
    share_volumes: bool,
    #[command(flatten)]
    criu: CriuArgs,
}

/// Executes the command; prints the copies' ids.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let names: Vec<String> = match args.count {
        None => vec![args.new.clone()],
        Some(0) => return Err(Error::new("--count must be at least 1")),
        Some(count) => (1..=count)
            .map(|number| format!("{}-{number}", args.new))
            .collect(),
    };
    let options = CloneOptions {
        common: args.criu.common(global),
        names,
        share_volumes: args.share_volumes,
        cgroup_manager: global.cgroup_manager(),
    };
    checkpoint::clone::clone(&global.store(), &args.id, &options)
        .map_err(|error| error.within(format!("clone {}", args.id)))?;
    options.names.iter().try_for_each(print_line)?;
    Ok(0)
}
