//! `hull logs`, and the process that keeps them.

use super::Global;
use crate::adhoc;
use crate::adhoc::keeper::Keep;
use crate::store::Store;
use crate::{Error, Result};
use std::path::PathBuf;

/// Options of `logs`.
#[derive(clap::Args)]
pub struct Args {
    /// Go on until the container's end
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
    tail: String,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Options of `log-keeper`.
#[derive(clap::Args)]
pub struct KeeperArgs {
    /// The container's directory
    #[arg(long)]
    directory: PathBuf,
    /// A terminal comes over the socket that stdin is
    #[arg(long)]
    terminal: bool,
    /// Remove this container when it has ended
    #[arg(long)]
    remove: Option<String>,
}

/// Carries the command out.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let tail = match args.tail.as_str() {
        "all" => None,
        number => Some(number.parse().map_err(|_| {
            Error::new(format!(
                "--tail {number:?}: neither a number of lines nor all"
            ))
        })?),
    };
    let options = adhoc::logs::Options {
        follow: args.follow,
        tail,
        timestamps: args.timestamps,
    };
    adhoc::logs::show(&global.store(), &args.id, options)?;
    Ok(0)
}

/// Carries the hidden command out.
pub fn keep(args: KeeperArgs, global: &Global) -> Result<u8> {
    let remove = args
        .remove
        .map(|id| (Store::new(global.store().root().to_owned()), id));
    adhoc::keeper::keep(&Keep {
        directory: args.directory,
        terminal: args.terminal,
        remove,
    })?;
    Ok(0)
}
