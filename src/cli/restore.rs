//! `hull restore`.

use super::Global;
use super::checkpoint::Shared;
use super::create::connect_console;
use crate::adhoc::keeper::Streams;
use crate::checkpoint;
use crate::checkpoint::images::Beside;
use crate::checkpoint::request::RestoreOptions;
use crate::checkpoint::{Common, Scratch};
use crate::compile::CreateOptions;
use crate::container::delete::delete;
use crate::spec::Spec;
use crate::stdio::foreground::{Relays, Signals, attend, console_pair, receive_terminal};
use crate::store::Store;
use crate::{Context, Error, Result};
use std::path::{Path, PathBuf};

/// Options of `restore`.
#[derive(clap::Args)]
pub struct Args {
    /// The container's id; with --import the saved one's unless another is given
    #[arg(value_name = "ID", required_unless_present = "import")]
    id: Option<String>,
    /// RestoreOptions back what hull checkpoint --export saved in this file
    #[arg(long, value_name = "FILE", conflicts_with = "image_path")]
    import: Option<PathBuf>,
    /// The container's id, in place of the saved one
    #[arg(long, value_name = "ID", requires = "import", conflicts_with = "id")]
    name: Option<String>,
    #[command(flatten)]
    shared: Shared,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Unix socket that takes the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Write the program's process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Do not wait for the program
    #[arg(short, long)]
    detach: bool,
    /// Do not become the reaper of the container's orphans (hull never does)
    #[arg(long)]
    no_subreaper: bool,
    /// As for create; criu moves into the root by itself
    #[arg(long)]
    no_pivot: bool,
    /// LSM profile to restore with
    #[arg(long, value_name = "KIND:NAME")]
    lsm_profile: Option<String>,
    /// LSM context to mount with
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
}

/// Carries the command out; in the foreground the status is the program's.
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
    bring_back(args, global).map_err(|error| error.within(format!("restore {what}")))
}

/// The images, whose they were, and the config.
fn find(
    args: &Args,
    store: &Store,
    common: &mut Common,
) -> Result<(Option<Scratch>, String, Spec, Beside)> {
    let scratch = match &args.import {
        Some(file) => {
            let scratch = Scratch::new(store, "import")?;
            checkpoint::archive::unpack(file, scratch.path())?;
            scratch.path().clone_into(&mut common.images);
            Some(scratch)
        }
        None => None,
    };
    let beside = Beside::read(&common.images)?;
    let id = args
        .id
        .clone()
        .or_else(|| args.name.clone())
        .unwrap_or_else(|| beside.id.clone());
    // Without a bundle: the one in the working directory, as with create; or what is among the
    // images.
    let here = Path::new(".");
    let spec = match &args.bundle {
        Some(bundle) => Spec::load(bundle)?,
        None if scratch.is_none() && here.join("config.json").exists() => Spec::load(here)?,
        None if beside.spec.is_some() => beside.spec_for(store, &id)?,
        None => Spec::load(here)?,
    };
    Ok((scratch, id, spec, beside))
}

fn bring_back(args: Args, global: &Global) -> Result<u8> {
    let store = Store::new(std::path::absolute(global.store().root()).on("find", "the store")?);
    let mut common = args.shared.common(global);
    let (scratch, id, spec, beside) = find(&args, &store, &mut common)?;
    let terminal = spec
        .config()
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    let given = connect_console(args.console_socket.as_deref())?;
    let kept = args.detach && beside.logs && given.is_none();
    match (terminal, &given, args.detach && !kept) {
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
    let bring = RestoreOptions {
        common,
        options: CreateOptions {
            systemd_cgroup: global.systemd_cgroup,
            no_pivot: args.no_pivot,
            pid_file: args.pid_file.clone(),
            ..CreateOptions::default()
        },
        lsm_profile: args.lsm_profile.clone(),
        lsm_mount_context: args.lsm_mount_context.clone(),
        copy: false,
        whole: scratch.is_some(),
    };
    if kept {
        let mut streams = Streams::make(terminal)?;
        let (container, _) = streams.while_redirected(|console| {
            checkpoint::restore::restore(&store, &id, &spec, &bring, console)
        })?;
        streams
            .hand_over(&container.directory(), None)
            .inspect_err(|_| drop(container.take_down()))?;
        return Ok(0);
    }
    if args.detach {
        checkpoint::restore::restore(&store, &id, &spec, &bring, given)?;
        return Ok(0);
    }
    let own = if terminal && given.is_none() {
        Some(console_pair()?)
    } else {
        None
    };
    let (ours, theirs) = own.map_or((None, given), |(ours, theirs)| (Some(ours), Some(theirs)));
    let signals = Signals::block()?;
    let (container, pidfd) = checkpoint::restore::restore(&store, &id, &spec, &bring, theirs)?;
    drop(scratch);
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
    let ended = ours
        .as_ref()
        .map(receive_terminal)
        .transpose()
        .and_then(attended);
    delete(&store, &container.record.id, true)?;
    Ok(ended?.status() as u8)
}
