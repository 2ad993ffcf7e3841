//! `hull spec`.

use crate::spec::default;
use crate::{Context, Error, Result};
use std::path::PathBuf;

/// Options of `spec`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Write a config for an unprivileged user
    #[arg(long)]
    rootless: bool,
}

/// Whether the host's cgroups are one v2 tree, without hierarchies of v1.
fn has_one_v2_tree() -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    crate::sys::file::filesystem_of(c"/sys/fs/cgroup").is_ok_and(|kind| kind == CGROUP2_SUPER_MAGIC)
}

/// Executes the command.
pub fn run(args: &Args) -> Result<u8> {
    let path = args.bundle.join("config.json");
    if path.exists() {
        return Err(Error::new(format!(
            "File {} exists. Remove it first",
            path.display()
        )));
    }
    let own = || {
        (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        )
    };
    let document = default::document(args.rootless.then(own), has_one_v2_tree());
    let text = super::state::pretty(&document)?;
    std::fs::write(&path, text + "\n").on("write", path.display())?;
    Ok(0)
}
