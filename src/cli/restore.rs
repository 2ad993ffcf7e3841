//! `hull restore`.

use super::Global;
use super::checkpoint::Shared;
use super::create::connect_console;
use crate::checkpoint::{self, Bring};
use crate::container::create::Options;
use crate::container::delete::delete;
use crate::container::foreground::{Carried, Signals, attend, console_pair, receive_terminal};
use crate::spec::Spec;
use crate::{Error, Result};
use std::path::PathBuf;

/// Options of `restore`.
#[derive(clap::Args)]
pub struct Args {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    shared: Shared,
    /// Folder of the bundle
    #[arg(short, long, value_name = "FOLDER", default_value = ".")]
    bundle: PathBuf,
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
    let id = args.id.clone();
    bring_back(args, global).map_err(|error| error.within(format!("restore {id}")))
}

fn bring_back(args: Args, global: &Global) -> Result<u8> {
    let spec = Spec::load(&args.bundle)?;
    let terminal = spec.config().process.as_ref().is_some_and(|process| process.terminal);
    let given = connect_console(args.console_socket.as_deref())?;
    match (terminal, &given, args.detach) {
        (true, None, true) => return Err(Error::new("cannot allocate tty if hull will detach without setting console socket")),
        (false, Some(_), _) => return Err(Error::new("cannot use console socket if the container has no terminal")),
        _ => {}
    }
    let bring = Bring {
        common: args.shared.common(global),
        options: Options { systemd_cgroup: global.systemd_cgroup, no_pivot: args.no_pivot, pid_file: args.pid_file.clone(), ..Options::default() },
        lsm_profile: args.lsm_profile.clone(),
        lsm_mount_context: args.lsm_mount_context.clone(),
    };
    let store = global.store();
    if args.detach {
        checkpoint::restore(&store, &args.id, &spec, &bring, given)?;
        return Ok(0);
    }
    let own = if terminal && given.is_none() { Some(console_pair()?) } else { None };
    let (ours, theirs) = own.map_or((None, given), |(ours, theirs)| (Some(ours), Some(theirs)));
    let signals = Signals::hold()?;
    let (container, pidfd) = checkpoint::restore(&store, &args.id, &spec, &bring, theirs)?;
    let ended = ours.as_ref().map(receive_terminal).transpose().and_then(|terminal| attend(&pidfd, &signals, Carried { terminal, ..Carried::default() }));
    delete(&store, &container.record.id, true)?;
    Ok(ended?.status() as u8)
}
