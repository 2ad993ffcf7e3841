//! `hull run`.

use super::Global;
use super::create::{CreateArgs, connect_console};
use crate::adhoc;
use crate::adhoc::flags::AdhocFlags;
use crate::adhoc::run::Mode;
use crate::compile::CreateOptions;
use crate::container::create::create;
use crate::container::delete;
use crate::container::start::{begin, executed};
use crate::spec::Spec;
use crate::stdio::foreground::{Console, Relays, Signals, attend};
use crate::stdio::streams::Pipes;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::{Error, Result};

/// Options of `run`.
#[derive(clap::Args)]
pub struct Args {
    /// Return when the program has started; with --rootfs its output is for hull logs then
    #[arg(short, long)]
    detach: bool,
    /// Keep the container after its program has ended
    #[arg(long)]
    keep: bool,
    /// The container's id, or with --rootfs the program and its arguments
    #[arg(value_name = "ID | -- COMMAND", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    adhoc: AdhocFlags,
    #[command(flatten)]
    create: CreateArgs,
}

impl Args {
    /// Whether the command creates an ad hoc container (`--rootfs`).
    pub fn is_adhoc(&self) -> bool {
        self.adhoc.rootfs.is_some()
    }
}

/// Executes the command; returns the exit status of the program.
pub fn run(args: Args, global: &Global) -> Result<u8> {
    if args.is_adhoc() {
        return run_adhoc(&args, global);
    }
    run_bundle(&args, &global.store(), global).map_err(|error| error.within("hull run failed"))
}

fn run_adhoc(args: &Args, global: &Global) -> Result<u8> {
    let Args {
        detach,
        keep,
        words,
        adhoc: flags,
        create,
    } = args;
    if create.bundle.as_os_str() != "." || create.console_socket.is_some() {
        return Err(Error::new(
            "--bundle and --console-socket are for bundles; with --rootfs there is none",
        ));
    }
    let mode = Mode {
        detach: *detach,
        keep: *keep,
    };
    adhoc::run::run(flags, words, &mode, create.options(global), &global.store())
}

fn run_bundle(args: &Args, store: &Store, global: &Global) -> Result<u8> {
    let Args {
        detach,
        keep,
        words,
        adhoc: _,
        create: flags,
    } = args;
    let [id] = &words[..] else {
        let words = words.join(" ");
        return Err(Error::new(format!(
            "one container id is needed, not {words:?}; to run a program without a bundle: hull \
             run --rootfs DIR -- COMMAND"
        )));
    };
    let spec = Spec::load(&flags.bundle)?;
    let Some(process) = &spec.config().process else {
        return Err(Error::new("process property must not be empty"));
    };
    let options = flags.options(global);
    let given = connect_console(flags.console_socket.as_deref())?;
    if *detach {
        return run_detached(store, id, &spec, &options, given);
    }
    let mut console = Console::new(process.terminal, given)?;
    let signals = Signals::block()?;
    let pipes = Pipes::replace_nonblocking()?;
    let (container, made) = create(store, id, &spec, &options, console.sender.take())?;
    let pipes = pipes.map_or(Ok(Vec::new()), Pipes::into_streams);
    let terminal = console.receive();
    let ended = match (begin(&container, &made), terminal) {
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
    if !*keep {
        delete::delete(store, &container.record.id, true)?;
    }
    // hull exits now, which closes all descriptors.
    std::mem::forget((made, signals));
    Ok(ended?.status() as u8)
}

fn run_detached(
    store: &Store,
    id: &str,
    spec: &Spec,
    options: &CreateOptions,
    console: Option<Fd>,
) -> Result<u8> {
    let (container, made) = create(store, id, spec, options, console)?;
    let begun =
        begin(&container, &made).and_then(|notify| executed(&container, &made).map(|()| notify));
    let notify = begun.inspect_err(|_| drop(container.take_down()))?;
    notify.map_or(Ok(()), |notify| notify.wait(&made.child.pidfd))?;
    Ok(0)
}
