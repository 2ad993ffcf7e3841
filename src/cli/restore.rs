//! `hull restore`.

use super::Global;
use super::checkpoint::CriuArgs;
use super::create::connect_console;
use crate::adhoc::keeper::LoggedOutput;
use crate::checkpoint;
use crate::checkpoint::images::TemporaryImages;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::options::CommonOptions;
use crate::checkpoint::request::RestoreOptions;
use crate::compile::CreateOptions;
use crate::container::delete::delete;
use crate::spec::Spec;
use crate::stdio::foreground::{Console, Relays, Signals, attend};
use crate::store::Store;
use crate::{Context, Error, Result};
use std::path::{Path, PathBuf};

/// Options of `restore`.
#[derive(clap::Args)]
pub struct Args {
    /// The container's id; with --import [default: the id at the checkpoint]
    #[arg(value_name = "ID", required_unless_present = "import")]
    id: Option<String>,
    /// Restore from an archive of hull checkpoint --export
    #[arg(long, value_name = "FILE", conflicts_with = "image_path")]
    import: Option<PathBuf>,
    /// The container's id, for --import
    #[arg(long, value_name = "ID", requires = "import", conflicts_with = "id")]
    name: Option<String>,
    #[command(flatten)]
    criu: CriuArgs,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Unix socket that receives the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Write the process id of the program to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Return when the program has been restored
    #[arg(short, long)]
    detach: bool,
    /// No effect, for callers of runc: hull is never a subreaper
    #[arg(long)]
    no_subreaper: bool,
    /// No effect, for callers of runc: criu enters the root filesystem by itself
    #[arg(long)]
    no_pivot: bool,
    /// LSM profile of the restored processes
    #[arg(long, value_name = "KIND:NAME")]
    lsm_profile: Option<String>,
    /// LSM context of the mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
}

/// Executes the command; returns the exit status of the program, or 0 with `--detach`.
pub fn run(args: Args, global: &Global) -> Result<u8> {
    let what = args
        .id
        .clone()
        .or_else(|| args.name.clone())
        .unwrap_or_else(|| {
            args.import
                .as_ref()
                .map_or_else(String::new, |file| file.display().to_string())
        });
    restore(args, global).map_err(|error| error.within(format!("restore {what}")))
}

/// What is restored.
struct Source {
    /// The directory that the archive of `--import` was unpacked to.
    unpacked: Option<TemporaryImages>,
    /// What hull has stored beside criu's images.
    manifest: Manifest,
    id: String,
    spec: Spec,
}

/// Finds the images, the container's id and its config.
fn find(args: &Args, store: &Store, common: &mut CommonOptions) -> Result<Source> {
    let unpacked = match &args.import {
        Some(file) => {
            let scratch = TemporaryImages::new(store, "import")?;
            checkpoint::archive::unpack(file, scratch.path())?;
            scratch.path().clone_into(&mut common.images);
            Some(scratch)
        }
        None => None,
    };
    let manifest = Manifest::read(&common.images)?;
    let id = args
        .id
        .clone()
        .or_else(|| args.name.clone())
        .unwrap_or_else(|| manifest.id.clone());
    // Without --bundle: the bundle in the working directory, as for create, or the config that is
    // stored with the images.
    let here = Path::new(".");
    let spec = match &args.bundle {
        Some(bundle) => Spec::load(bundle)?,
        None if unpacked.is_none() && here.join("config.json").exists() => Spec::load(here)?,
        None if manifest.spec.is_some() => manifest.spec_for(store, &id)?,
        None => Spec::load(here)?,
    };
    Ok(Source {
        unpacked,
        manifest,
        id,
        spec,
    })
}

fn restore(args: Args, global: &Global) -> Result<u8> {
    let store = Store::new(std::path::absolute(global.store().root()).on("find", "the store")?);
    let mut common = args.criu.common(global);
    let Source {
        unpacked,
        manifest,
        id,
        spec,
    } = find(&args, &store, &mut common)?;
    let terminal = spec
        .config()
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    let given = connect_console(args.console_socket.as_deref())?;
    let logged = args.detach && manifest.logs && given.is_none();
    match (terminal, &given, args.detach && !logged) {
        (true, None, true) => {
            return Err(Error::new(
                "cannot allocate tty if hull will detach without setting console socket",
            ));
        }
        (false, Some(_), _) => {
            return Err(Error::new(
                "cannot use console socket if the container has no terminal",
            ));
        }
        _ => {}
    }
    let options = RestoreOptions {
        common,
        options: CreateOptions {
            cgroup_manager: global.cgroup_manager(),
            no_pivot: args.no_pivot,
            pid_file: args.pid_file.clone(),
            ..CreateOptions::default()
        },
        lsm_profile: args.lsm_profile.clone(),
        lsm_mount_context: args.lsm_mount_context.clone(),
        copy: false,
        whole: unpacked.is_some(),
    };
    if logged {
        let mut output = LoggedOutput::new(terminal)?;
        let (container, _) = output.while_redirected(|console| {
            checkpoint::restore::restore(&store, &id, &spec, &options, console)
        })?;
        output
            .start_keeper(&container.directory(), None)
            .inspect_err(|_| drop(container.take_down()))?;
        return Ok(0);
    }
    if args.detach {
        checkpoint::restore::restore(&store, &id, &spec, &options, given)?;
        return Ok(0);
    }
    let mut console = Console::new(terminal, given)?;
    let signals = Signals::block()?;
    let sender = console.sender.take();
    let (container, pidfd) = checkpoint::restore::restore(&store, &id, &spec, &options, sender)?;
    drop(unpacked);
    let attended = |terminal| {
        attend(
            &pidfd,
            &signals,
            Relays {
                terminal,
                ..Relays::default()
            },
        )
    };
    let ended = console.receive().and_then(attended);
    delete(&store, &container.record.id, true)?;
    Ok(ended?.status() as u8)
}
