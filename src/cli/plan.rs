//! `hull plan`.

use super::{Global, process_args};
use crate::checkpoint;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::options::CommonOptions;
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
    /// Print the steps of an exec of the process in this file
    #[arg(long, value_name = "PROCESS", conflicts_with = "restore")]
    exec: Option<PathBuf>,
    /// Print the steps of a restore from this directory of images
    #[arg(long, value_name = "IMAGES")]
    restore: Option<PathBuf>,
    /// Format of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: PlanFormat,
    /// Id that the container would have
    #[arg(long, default_value = "container")]
    id: String,
    #[command(flatten)]
    network: super::network::NetworkArgs,
    #[command(flatten)]
    vm: crate::cli::vm::VmArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum PlanFormat {
    Text,
    Json,
}

/// A plan in both formats.
struct Printed {
    text: String,
    json: Value,
}

/// Executes the command.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let options = CreateOptions {
        cgroup_manager: global.cgroup_manager(),
        layers: recorded_layers(&args.bundle)?,
        network: crate::net::setup::NetworkOptions {
            preview: true,
            ..args.network.options()
        },
        vm: args.vm.options(),
        ..CreateOptions::default()
    };
    let printed = match (&args.restore, &args.exec) {
        (Some(images), _) => restore(args, global, options, images)?,
        (None, Some(process)) => exec(args, global, &options, process)?,
        (None, None) => create(args, global, &options)?,
    };
    match args.format {
        PlanFormat::Text => print(printed.text)?,
        PlanFormat::Json => print_line(super::state::pretty(&printed.json)?)?,
    }
    Ok(0)
}

fn on_host(plan: &Plan) -> Printed {
    Printed {
        text: as_text(plan, Side::Host),
        json: as_json(plan, Side::Host),
    }
}

/// The steps of a container in VM mode: host steps, and then the guest's host and container steps.
fn in_vm(host: &[Placed<HostStep>], guest: &Plan) -> Printed {
    Printed {
        text: host_as_text(host) + &as_text(guest, Side::Guest),
        json: json!({
            "host": host_as_json(host, Side::Host),
            "guest": as_json(guest, Side::Guest),
        }),
    }
}

fn create(args: &Args, global: &Global, options: &CreateOptions) -> Result<Printed> {
    let spec = Spec::load(&args.bundle)?;
    match options.vm.for_spec(&spec)? {
        Some(vm) => {
            vm.warnings.iter().for_each(|text| crate::log::warn(text));
            let store = global.store();
            vm::backend::preview(&store, &spec, &args.id, options, &vm)
                .map(|preview| create_vm(&preview))
        }
        None => {
            let compiled = compile::compile(&global.store(), &spec, &args.id, options)?;
            Ok(on_host(&compiled.plan))
        }
    }
}

/// The VM, the directories of the host that it shares, and the steps.
fn create_vm(preview: &Preview) -> Printed {
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
    let cpu_word = if *cpus == 1 { "CPU" } else { "CPUs" };
    let mut text = format!(
        "vm        {image} ({release}), {accelerator}, {} MiB{most}, {cpus} {cpu_word}\n",
        memory >> 20
    );
    for share in shares {
        let rights = if share.read_only { ", read-only" } else { "" };
        let (name, path) = (&share.name, share.path.display());
        text.push_str(&format!("share     {name}: {path}{rights}\n"));
    }
    let mut printed = in_vm(host, guest);
    printed.text.insert_str(0, &text);
    printed.json["vm"] = json!({
        "kernel": kernel.image,
        "release": kernel.release,
        "accelerator": accelerator,
        "memory": memory,
        "memoryMax": memory_max,
        "cpus": cpus,
        "shares": shares,
    });
    printed
}

/// The plan of an exec in a container that this bundle would give on this host.
fn exec(args: &Args, global: &Global, options: &CreateOptions, file: &Path) -> Result<Printed> {
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
        let guest = vm::translate::facts::guest_facts(&spec, None);
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

/// The plan of a restore. If the bundle's directory has no config, hull uses the one in the images.
fn restore(args: &Args, global: &Global, options: CreateOptions, images: &Path) -> Result<Printed> {
    let store = global.store();
    let manifest = Manifest::read(images)?;
    let spec = if args.bundle.join("config.json").exists() {
        Spec::load(&args.bundle)?
    } else {
        manifest.spec_for(&store, &args.id)?
    };
    let request = RestoreOptions {
        common: CommonOptions {
            images: images.to_owned(),
            ..CommonOptions::default()
        },
        options,
        ..RestoreOptions::default()
    };
    let steps = checkpoint::restore::preview(&store, &args.id, &spec, &request)?;
    Ok(Printed {
        text: host_as_text(&steps),
        json: json!({ "host": host_as_json(&steps, Side::Host) }),
    })
}

/// The layers of an ad hoc container: its directory is a bundle, and its record is beside the
/// config.
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
