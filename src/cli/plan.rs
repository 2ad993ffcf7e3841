//! `hull plan`.

use super::Global;
use crate::container::create::{Options, compile};
use crate::spec::Spec;
use crate::{Result, plan};
use clap::ValueEnum;
use std::path::PathBuf;

/// Options of `plan`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the bundle
    #[arg(value_name = "BUNDLE", default_value = ".")]
    bundle: PathBuf,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: PlanFormat,
    /// The id that the container would have
    #[arg(long, default_value = "container")]
    id: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum PlanFormat {
    Text,
    Json,
}

/// Carries the command out.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let spec = Spec::load(&args.bundle)?;
    let options = Options { systemd_cgroup: global.systemd_cgroup, ..Options::default() };
    let (_, plan) = compile(&global.store(), &spec, &args.id, &options)?;
    match args.format {
        PlanFormat::Text => print!("{}", plan::as_text(&plan)),
        PlanFormat::Json => println!("{}", super::state::pretty(&plan::as_json(&plan))?),
    }
    Ok(0)
}
