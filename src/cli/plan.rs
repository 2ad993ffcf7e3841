//! `hull plan`.

use super::{Global, process_args};
use crate::checkpoint;
use crate::checkpoint::images::Beside;
use crate::checkpoint::request::RestoreOptions;
use crate::compile::{self, CreateOptions};
use crate::facts::Facts;
use crate::plan::print::{Side, as_json, as_text, host_as_json, host_as_text};
use crate::process::exec::{self, CgroupEntry, ExecRequest};
use crate::spec::Spec;
use crate::state::Record;
use crate::stdio::output::{print, print_line};
use crate::step::draft::{Placed, Plan};
use crate::step::host::HostStep;
use crate::step::layers::Layers;
use crate::vm;
use crate::vm::backend::Preview;
use crate::{Context, Error, Result};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Options of `plan`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the bundle
    #[arg(value_name = "BUNDLE", default_value = ".")]
    bundle: PathBuf,
    /// Show an exec of the process in this file, in a container of the bundle
    #[arg(long, value_name = "PROCESS", conflicts_with = "restore")]
    exec: Option<PathBuf>,
    /// Show a restore from this directory of images
    #[arg(long, value_name = "IMAGES")]
    restore: Option<PathBuf>,
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

/// A plan in both forms.
struct Shown {
    text: String,
    json: Value,
}

/// Executes the command.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let options = CreateOptions {
        systemd_cgroup: global.systemd_cgroup,
        layers: recorded_layers(&args.bundle)?,
        network: crate::net::setup::NetworkOptions {
            preview: true,
            ..args.network.asked()
        },
        vm: args.machine.asked(),
        ..CreateOptions::default()
    };
    let shown = match (&args.restore, &args.exec) {
        (Some(images), _) => restore(args, global, options, images)?,
        (None, Some(process)) => exec(args, global, &options, process)?,
        (None, None) => create(args, global, &options)?,
    };
    match args.format {
        PlanFormat::Text => print(shown.text)?,
        PlanFormat::Json => print_line(super::state::pretty(&shown.json)?)?,
    }
    Ok(0)
}

fn on_host(plan: &Plan) -> Shown {
    Shown {
        text: as_text(plan, Side::Host),
        json: as_json(plan, Side::Host),
    }
}

/// A VM's steps: the host's, and then the guest's with the container's.
fn in_vm(host: &[Placed<HostStep>], guest: &Plan) -> Shown {
    Shown {
        text: host_as_text(host) + &as_text(guest, Side::Guest),
        json: json!({
            "host": host_as_json(host, Side::Host),
            "guest": as_json(guest, Side::Guest),
        }),
    }
}

fn create(args: &Args, global: &Global, options: &CreateOptions) -> Result<Shown> {
    let spec = Spec::load(&args.bundle)?;
    match options.vm.for_spec(&spec)? {
        Some(asked) => {
            let store = global.store();
            vm::backend::preview(&store, &spec, &args.id, options, &asked).map(|vm| create_vm(&vm))
        }
        None => {
            let compiled = compile::compile(&global.store(), &spec, &args.id, options)?;
            Ok(on_host(&compiled.plan))
        }
    }
}

/// The VM, what it sees of the host, and the steps.
fn create_vm(preview: &Preview) -> Shown {
    let Preview {
        kernel,
        accelerator,
        memory,
        memory_max,
        cpus,
        shares,
        host,
        guest,
    } = preview;
    let most = memory_max.map_or(String::new(), |most| {
        format!(" and up to {} MiB", most >> 20)
    });
    let (image, release, accelerator) =
        (kernel.image.display(), &kernel.release, accelerator.name());
    let mut text = format!(
        "vm        {image} ({release}), {accelerator}, {} MiB{most}, {cpus} CPUs\n",
        memory >> 20
    );
    for share in shares {
        let rights = if share.read_only { ", read-only" } else { "" };
        let (name, path) = (&share.name, share.path.display());
        text.push_str(&format!("share     {name}: {path}{rights}\n"));
    }
    let mut shown = in_vm(host, guest);
    shown.text.insert_str(0, &text);
    shown.json["vm"] = json!({
        "kernel": kernel.image,
        "release": kernel.release,
        "accelerator": accelerator,
        "memory": memory,
        "memoryMax": memory_max,
        "cpus": cpus,
        "shares": shares,
    });
    shown
}

/// An exec in a container that was created of this bundle on this host.
fn exec(args: &Args, global: &Global, options: &CreateOptions, file: &Path) -> Result<Shown> {
    let spec = Spec::load(&args.bundle)?;
    let process = exec::completed(&process_args::read(file)?, &spec);
    let facts = Facts::probe(&spec)?;
    let store = global.store();
    let filter = compile::filter(&store, &spec)?;
    let keyring = Some(format!("_ses.{}", args.id));
    if options.vm.for_spec(&spec)?.is_some() {
        let request = ExecRequest {
            filter,
            keyring,
            ..vm::exec::request(&spec)
        };
        let guest = vm::translate::facts(&spec, None);
        let plan = vm::exec::compile(&guest, &process, &request)?;
        return Ok(in_vm(&vm::plan::host_exec(process.terminal), &plan));
    }
    let cgroup = compile::request(&store, &spec, &facts, &args.id, options)?.cgroup;
    let v1 = cgroup.as_ref().map_or(0, |cgroup| cgroup.v1_count());
    let places = cgroup.as_ref().map_or(0, |cgroup| cgroup.places.len());
    let request = ExecRequest {
        joins: exec::joins(&spec, &facts),
        may_set_groups: true,
        filter,
        cgroups: CgroupEntry {
            v1,
            v2: places > v1 as usize,
        },
        keyring,
        ..ExecRequest::of(&spec)
    };
    Ok(on_host(&exec::exec(&process, &facts, &request)?))
}

/// A restore; without a bundle's config in the directory named, by the one among the images.
fn restore(args: &Args, global: &Global, options: CreateOptions, images: &Path) -> Result<Shown> {
    let store = global.store();
    let beside = Beside::read(images)?;
    let spec = if args.bundle.join("config.json").exists() {
        Spec::load(&args.bundle)?
    } else {
        beside.spec_for(&store, &args.id)?
    };
    let asked = RestoreOptions {
        common: checkpoint::Common {
            images: images.to_owned(),
            ..checkpoint::Common::default()
        },
        options,
        ..RestoreOptions::default()
    };
    let steps = checkpoint::restore::preview(&store, &args.id, &spec, &asked)?;
    Ok(Shown {
        text: host_as_text(&steps),
        json: json!({ "host": host_as_json(&steps, Side::Host) }),
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
