//! `hull logs`, and the entry of the log keeper.

use super::Global;
use crate::adhoc;
use crate::adhoc::keeper::KeeperOptions;
use crate::store::Store;
use crate::{Error, Result};
use std::path::PathBuf;

/// Options of `logs`.
#[derive(clap::Args)]
pub struct Args {
    /// Go on printing until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Print only the last N lines
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
    tail: String,
    /// Print the time of each line
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
    /// stdin is a socket over which the child sends the terminal
    #[arg(long)]
    terminal: bool,
    /// Delete this container when it has ended
    #[arg(long)]
    remove: Option<String>,
}

/// Executes the command.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let tail = match args.tail.as_str() {
        "all" => None,
        number => Some(number.parse().map_err(|_| {
            Error::new(format!(
                "--tail {number:?}: neither a number of lines nor all"
            ))
        })?),
    };
    let options = adhoc::logs::LogOptions {
        follow: args.follow,
        tail,
        timestamps: args.timestamps,
    };
    adhoc::logs::show(&global.store(), &args.id, options)?;
    Ok(0)
}

/// Executes the hidden command `log-keeper`.
pub fn run_keeper(args: KeeperArgs, global: &Global) -> Result<u8> {
    let remove = args
        .remove
        .map(|id| (Store::new(global.store().root().to_owned()), id));
    adhoc::keeper::run(&KeeperOptions {
        directory: args.directory,
        terminal: args.terminal,
        remove,
    })?;
    Ok(0)
}
