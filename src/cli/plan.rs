//! `hull plan`.

use super::Global;
use crate::compile::{Options, compile};
use crate::spec::Spec;
use crate::state::Record;
use crate::step::layers::Layers;
use crate::vm::backend;
use crate::vm::backend::Preview;
use crate::{Context, Error, Result, plan};
use clap::ValueEnum;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Options of `plan`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the bundle
    #[arg(value_name = "BUNDLE", default_value = ".")]
    bundle: PathBuf,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: PlanFormat,
    /// The id that the container would have
    #[arg(long, default_value = "container")]
    id: String,
    #[command(flatten)]
    network: super::network::Wiring,
    #[command(flatten)]
    machine: crate::cli::vm::Machine,
}

#[derive(Clone, Copy, ValueEnum)]
enum PlanFormat {
    Text,
    Json,
}

/// Carries the command out.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let spec = Spec::load(&args.bundle)?;
    let layers = recorded_layers(&args.bundle)?;
    let network = crate::net::setup::Asked {
        preview: true,
        ..args.network.asked()
    };
    let options = Options {
        systemd_cgroup: global.systemd_cgroup,
        layers,
        network,
        vm: args.machine.asked(),
        ..Options::default()
    };
    if let Some(machine) = options.vm.for_spec(&spec)? {
        let preview = backend::preview(&global.store(), &spec, &args.id, &options, &machine)?;
        match args.format {
            PlanFormat::Text => print!("{}", machine_as_text(&preview)),
            PlanFormat::Json => println!("{}", super::state::pretty(&machine_as_json(&preview))?),
        }
        return Ok(0);
    }
    let plan = compile(&global.store(), &spec, &args.id, &options)?.plan;
    match args.format {
        PlanFormat::Text => print!("{}", plan::print::as_text(&plan)),
        PlanFormat::Json => println!("{}", super::state::pretty(&plan::print::as_json(&plan))?),
    }
    Ok(0)
}

/// The machine, what it sees of the host, and then the steps of the guest, both sides of which are
/// in it.
fn machine_as_text(preview: &Preview) -> String {
    let Preview {
        kernel,
        accelerator,
        memory,
        memory_max,
        cpus,
        shares,
        plan,
    } = preview;
    let most = memory_max.map_or(String::new(), |most| {
        format!(" and up to {} MiB", most >> 20)
    });
    let (image, release, accelerator) =
        (kernel.image.display(), &kernel.release, accelerator.name());
    let mut out = format!(
        "machine  {image} ({release}), {accelerator}, {} MiB{most}, {cpus} processors\n",
        memory >> 20
    );
    for share in shares {
        let rights = if share.read_only { ", read-only" } else { "" };
        out.push_str(&format!(
            "share    {}: {}{rights}\n",
            share.name,
            share.path.display()
        ));
    }
    out.push_str("guest    executes all that follows, hooks aside\n");
    out + &plan::print::as_text(plan)
}

fn machine_as_json(preview: &Preview) -> serde_json::Value {
    let Preview {
        kernel,
        accelerator,
        memory,
        memory_max,
        cpus,
        shares,
        plan,
    } = preview;
    json!({
        "machine": {
            "kernel": kernel.image, "release": kernel.release, "accelerator": accelerator.name(), "memory": memory, "memoryMax": memory_max,
            "cpus": cpus, "shares": shares,
        },
        "guest": plan::print::as_json(plan),
    })
}

/// A container that people made has its bundle in its own directory, and beside it the record, which
/// knows what the root is made of.
fn recorded_layers(bundle: &Path) -> Result<Option<Layers>> {
    let path = bundle.join("state.json");
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read(&path).on("read", path.display())?;
    let record: Record = serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("read {}: {error}", path.display())))?;
    Ok(record.layers)
}
