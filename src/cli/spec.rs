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
    /// A config for an ordinary user
    #[arg(long)]
    rootless: bool,
}

/// Carries the command out.
pub fn run(args: &Args) -> Result<u8> {
    let path = args.bundle.join("config.json");
    if path.exists() {
        return Err(Error::new(format!(
            "File {} exists. Remove it first",
            path.display()
        )));
    }
    let document = default::document(args.rootless.then(|| {
        (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        )
    }));
    let text = super::state::pretty(&document)?;
    std::fs::write(&path, text + "\n").on("write", path.display())?;
    Ok(0)
}
