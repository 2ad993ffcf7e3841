//! `hull clone`.

use super::Global;
use super::checkpoint::Shared;
use crate::checkpoint;
use crate::checkpoint::clone::Clones;
use crate::stdio::output::print_line;
use crate::{Error, Result};

/// Options of `clone`.
#[derive(clap::Args)]
pub struct Args {
    /// The running container
    #[arg(value_name = "ID")]
    id: String,
    /// The copy's id; with --count the front of the copies' ids
    #[arg(value_name = "NEW")]
    new: String,
    /// Make so many copies, NEW-1, NEW-2 and so on
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    /// Let the copies write the same volumes and root as the source
    #[arg(long)]
    share_volumes: bool,
    #[command(flatten)]
    shared: Shared,
}

/// Carries the command out; prints the copies' ids.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let names: Vec<String> = match args.count {
        None => vec![args.new.clone()],
        Some(0) => return Err(Error::new("--count 0 makes nothing")),
        Some(count) => (1..=count)
            .map(|number| format!("{}-{number}", args.new))
            .collect(),
    };
    let clones = Clones {
        common: args.shared.common(global),
        names,
        share: args.share_volumes,
        systemd_cgroup: global.systemd_cgroup,
    };
    checkpoint::clone::clone(&global.store(), &args.id, &clones)
        .map_err(|error| error.within(format!("clone {}", args.id)))?;
    clones.names.iter().try_for_each(print_line)?;
    Ok(0)
}
