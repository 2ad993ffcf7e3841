//! `hull run`.

use super::Global;
use super::create::{Make, connect_console};
use crate::adhoc;
use crate::adhoc::flags::Flags;
use crate::adhoc::run::Mode;
use crate::container::create::create;
use crate::container::start::{begin, executed};
use crate::container::{Container, delete};
use crate::spec::Spec;
use crate::stdio::foreground::{Relays, Signals, attend, console_pair, receive_terminal};
use crate::stdio::streams::Pipes;
use crate::store::Store;
use crate::{Error, Result};

/// Options of `run`.
#[derive(clap::Args)]
pub struct Args {
    /// Do not wait for the program; with --rootfs its output is kept for hull logs
    #[arg(short, long)]
    detach: bool,
    /// Keep the container after its end
    #[arg(long)]
    keep: bool,
    /// With --rootfs the program and its arguments, else the container's id
    #[arg(value_name = "ID | -- COMMAND", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    people: Flags,
    #[command(flatten)]
    make: Make,
}

impl Args {
    /// Whether this is the form for people.
    pub fn is_for_people(&self) -> bool {
        self.people.rootfs.is_some()
    }
}

/// Carries the command out; the status is the program's.
pub fn run(args: Args, global: &Global) -> Result<u8> {
    if args.is_for_people() {
        return run_directory(&args, global);
    }
    run_bundle(&args, &global.store(), global).map_err(|error| error.within("hull run failed"))
}

/// The form for people.
fn run_directory(args: &Args, global: &Global) -> Result<u8> {
    let Args {
        detach,
        keep,
        words,
        people: flags,
        make,
    } = args;
    if make.bundle.as_os_str() != "." || make.console_socket.is_some() {
        return Err(Error::new(
            "--bundle and --console-socket are for bundles; with --rootfs there is none",
        ));
    }
    let mode = Mode {
        detach: *detach,
        keep: *keep,
    };
    adhoc::run::run(flags, words, &mode, make.options(global), &global.store())
}

fn run_bundle(args: &Args, store: &Store, global: &Global) -> Result<u8> {
    let Args {
        detach,
        keep,
        words,
        people: _,
        make,
    } = args;
    let [id] = &words[..] else {
        let words = words.join(" ");
        return Err(Error::new(format!(
            "one container id is wanted, not {words:?}; to run a program on a directory: hull run \
                --rootfs DIR -- COMMAND"
        )));
    };
    let spec = Spec::load(&make.bundle)?;
    if spec.config().process.is_none() {
        return Err(Error::new("process property must not be empty"));
    }
    let options = make.options(global);
    let terminal = spec
        .config()
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    let given = connect_console(make.console_socket.as_deref())?;
    if *detach {
        let (container, made) = create(store, id, &spec, &options, given)?;
        let begun = begin(&container, &made)
            .and_then(|notify| executed(&container, &made).map(|()| notify));
        let notify = begun.inspect_err(|_| drop(container.take_down()))?;
        notify.map_or(Ok(()), |notify| notify.wait(&made.child.pidfd))?;
        return Ok(0);
    }
    let own = if terminal && given.is_none() {
        Some(console_pair()?)
    } else {
        None
    };
    let (ours, theirs) = own.map_or((None, given), |(ours, theirs)| (Some(ours), Some(theirs)));
    let signals = Signals::block()?;
    let pipes = Pipes::replace_nonblocking()?;
    let (container, made) = create(store, id, &spec, &options, theirs)?;
    let pipes = pipes.map_or(Ok(Vec::new()), Pipes::into_streams);
    let ended = match (
        begin(&container, &made),
        ours.as_ref().map(receive_terminal).transpose(),
    ) {
        (Ok(notify), Ok(terminal)) => pipes.and_then(|pipes| {
            attend(
                &made.child.pidfd,
                &signals,
                Relays {
                    terminal,
                    pipes,
                    notify,
                },
            )
        }),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    finish(store, &container, *keep)?;
    // The end of this process, which comes now, closes all by itself.
    std::mem::forget((made, signals));
    Ok(ended?.status() as u8)
}

/// The container goes with its program, unless it is kept.
fn finish(store: &Store, container: &Container, keep: bool) -> Result<()> {
    if keep {
        return Ok(());
    }
    delete::delete(store, &container.record.id, true)
}
