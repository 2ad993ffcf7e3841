//! `hull run`.

use super::Global;
use super::create::{Make, connect_console};
use crate::Result;
use crate::container::create::create;
use crate::container::foreground::{Signals, attend, console_pair, receive_terminal};
use crate::container::{Container, delete};
use crate::spec::Spec;
use crate::state::Store;

/// Options of `run`.
#[derive(clap::Args)]
pub struct Args {
    /// Do not wait for the program
    #[arg(short, long)]
    detach: bool,
    /// Keep the container after its end
    #[arg(long)]
    keep: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    make: Make,
}

/// Carries the command out; the status is the program's.
pub fn run(args: Args, global: &Global) -> Result<u8> {
    run_bundle(&args, &global.store(), global).map_err(|error| error.within("hull run failed"))
}

fn run_bundle(args: &Args, store: &Store, global: &Global) -> Result<u8> {
    let Args { detach, keep, id, make } = args;
    let spec = Spec::load(&make.bundle)?;
    let options = make.options(global);
    let terminal = spec.config().process.as_ref().is_some_and(|process| process.terminal);
    let given = connect_console(make.console_socket.as_deref())?;
    if *detach {
        let (container, made) = create(store, id, &spec, &options, given)?;
        container.start_made(&made.start).inspect_err(|_| drop(container.take_down()))?;
        return Ok(0);
    }
    let own = if terminal && given.is_none() { Some(console_pair()?) } else { None };
    let (ours, theirs) = own.map_or((None, given), |(ours, theirs)| (Some(ours), Some(theirs)));
    let signals = Signals::hold()?;
    let (container, made) = create(store, id, &spec, &options, theirs)?;
    let started = container.start_made(&made.start);
    let ended = match (started, ours.as_ref().map(receive_terminal).transpose()) {
        (Ok(()), Ok(terminal)) => attend(&made.child.pidfd, &signals, terminal),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    finish(store, &container, *keep)?;
    Ok(ended?.status() as u8)
}

/// The container goes with its program, unless it is kept.
fn finish(store: &Store, container: &Container, keep: bool) -> Result<()> {
    if keep {
        return Ok(());
    }
    delete::delete(store, &container.record.id, true)
}

