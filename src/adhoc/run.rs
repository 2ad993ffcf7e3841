//! From what was asked to a running container, in the foreground or not.

use crate::adhoc::config;
use crate::adhoc::config::Host;
use crate::adhoc::flags::{Ask, Flags};
use crate::adhoc::users;
use crate::adhoc::users::Who;
use crate::adhoc::{keeper, layers};
use crate::compile::CreateOptions;
use crate::container::create::create;
use crate::container::start::{begin, executed};
use crate::container::{Container, delete};
use crate::facts;
use crate::namespaces::subid::Maps;
use crate::security::caps;
use crate::spec::Spec;
use crate::stdio::foreground::{Relays, Signals, attend_init, console_pair, receive_terminal};
use crate::stdio::streams::Pipes;
use crate::step::layers::Layers;
use crate::store::Store;
use crate::{Context, Error, Result};
use nix::unistd::{dup2_stdin, getegid, geteuid};
use std::fs::File;

/// What the container goes by, besides what was asked.
pub struct Mode {
    /// Do not wait.
    pub detach: bool,
    /// Keep the container's record after its end.
    pub keep: bool,
}

/// Executes `hull run --rootfs`; the status is the program's.
///
/// # Errors
/// What was asked is malformed; the host refuses. Nothing is left then.
pub fn run(
    flags: &Flags,
    command: &[String],
    mode: &Mode,
    mut options: CreateOptions,
    store: &Store,
) -> Result<u8> {
    let store = Store::new(std::path::absolute(store.root()).on("find", store.root().display())?);
    let held = caps::held()?;
    let privileged = held & (1 << 21) != 0;
    let locked = !privileged || facts::in_user_namespace();
    let ask = Ask::new(
        flags,
        command,
        if privileged { held } else { u64::MAX },
        mode.detach,
    )?;
    let root = layers::root(&ask, locked)?;
    root.warnings
        .iter()
        .for_each(|warning| crate::log::warn(warning));
    let maps = (!privileged).then(|| Maps::of_user(geteuid().as_raw(), getegid().as_raw()));
    let host = Host {
        who: who(&ask, maps.as_ref())?,
        maps,
        privileged: !locked,
        fresh: root.fresh,
        window: crate::sys::socket::terminal_size(0)
            .or_else(|| crate::sys::socket::terminal_size(1)),
        term: std::env::var("TERM").ok(),
    };
    let spec = Spec::check(config::generate(&ask, &host)?, store.directory(&ask.id))?;
    options.layers = root.layers;
    let kept = options.layers.clone().unwrap_or_default();
    layers::make_kept(&kept).inspect_err(|_| drop(remove_work(&kept)))?;
    let job = Job {
        ask: &ask,
        spec: &spec,
        options: &options,
        store: &store,
    };
    let result = if mode.detach {
        job.detached()
    } else {
        job.foreground(mode.keep)
    };
    if result.is_err() && !store.directory(&ask.id).exists() {
        remove_work(&kept)?;
    }
    result
}

fn who(ask: &Ask, maps: Option<&Maps>) -> Result<Who> {
    let Some(said) = &ask.user else {
        return Ok(Who::default());
    };
    let mut who = users::find(&ask.rootfs, said)?;
    if let Some(maps) = maps {
        if !maps.has(who.uid, who.gid) {
            let why = if maps.is_single() {
                "an ordinary user without a range in /etc/subuid and /etc/subgid has only the \
                    container's root"
            } else {
                "it is outside the range that /etc/subuid and /etc/subgid give you"
            };
            return Err(Error::new(format!(
                "-u {said:?}: user {} and group {} cannot be had: {why}",
                who.uid, who.gid
            )));
        }
        who.groups
            .retain(|gid| !maps.is_single() && maps.has_group(*gid));
    }
    Ok(who)
}

fn remove_work(layers: &Layers) -> Result<()> {
    layers
        .work_directories()
        .try_for_each(crate::rootfs::teardown::remove_work)
}

struct Job<'a> {
    ask: &'a Ask,
    spec: &'a Spec,
    options: &'a CreateOptions,
    store: &'a Store,
}

impl Job<'_> {
    fn foreground(&self, keep: bool) -> Result<u8> {
        if !self.ask.interactive {
            null_stdin()?;
        }
        let own = if self.ask.tty {
            Some(console_pair()?)
        } else {
            None
        };
        let (ours, theirs) = own.unzip();
        let signals = Signals::block()?;
        let pipes = Pipes::replace_nonblocking()?;
        let (container, made) = create(self.store, &self.ask.id, self.spec, self.options, theirs)?;
        let pipes = pipes.map_or(Ok(Vec::new()), Pipes::into_streams);
        let started = self
            .write_bundle(&container)
            .and_then(|()| begin(&container, &made));
        let ended = match (started, ours.as_ref().map(receive_terminal).transpose()) {
            (Ok(notify), Ok(terminal)) => pipes.and_then(|pipes| {
                let carried = Relays {
                    terminal,
                    pipes,
                    notify,
                };
                {
                    let leaves_to_default = |signal| container.leaves_to_default(signal);
                    attend_init(&made.child.pidfd, &leaves_to_default, &signals, carried)
                }
            }),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        if !keep || ended.is_err() {
            delete::delete(self.store, &self.ask.id, true)?;
        }
        let status = ended?.status() as u8;
        Ok(crate::backend::errors::refused_program(&made.child).unwrap_or(status))
    }

    /// The container's output goes to its log from the first byte: its keeper reads it, and lives
    /// as long as somebody can write.
    fn detached(&self) -> Result<u8> {
        let mut streams = keeper::Streams::make(self.ask.tty)?;
        null_stdin()?;
        let created = streams.while_redirected(|console| {
            create(self.store, &self.ask.id, self.spec, self.options, console)
        });
        let (container, made) = created?;
        let begun = self
            .write_bundle(&container)
            .and_then(|()| {
                streams.hand_over(
                    &container.directory(),
                    self.ask
                        .remove
                        .then_some((self.store, self.ask.id.as_str())),
                )
            })
            .and_then(|()| begin(&container, &made))
            .and_then(|notify| executed(&container, &made).map(|()| notify));
        let notify = begun.inspect_err(|_| drop(container.take_down()))?;
        notify.map_or(Ok(()), |notify| notify.wait(&made.child.pidfd))?;
        crate::stdio::output::print_line(&self.ask.id).map(|()| 0)
    }

    /// The container's directory is a bundle too: `hull plan` shows how the container was made.
    fn write_bundle(&self, container: &Container) -> Result<()> {
        self.warn_of_refused_overlays(container);
        let path = container.directory().join("config.json");
        let text = serde_json::to_vec_pretty(self.spec.config())
            .map_err(|error| Error::new(format!("write {}: {error}", path.display())))?;
        let written = std::fs::write(&path, text).on("write", path.display());
        written.inspect_err(|_| drop(container.take_down()))
    }

    fn warn_of_refused_overlays(&self, container: &Container) {
        let Some(layers) = &self.options.layers else {
            return;
        };
        let refused = container
            .record
            .outcomes
            .iter()
            .filter(|decided| {
                decided.from == crate::rootfs::layers::FROM && decided.outcome == "bound-from-host"
            })
            .count();
        if refused > 0 {
            let of = layers.overlays().count();
            crate::log::warn(&format!(
                "{refused} of {of} directories are read-only: the kernel takes no overlay on them"
            ));
        }
    }
}

fn null_stdin() -> Result<()> {
    let null = File::open("/dev/null").on("open", "/dev/null")?;
    dup2_stdin(&null).on("redirect", "stdin")
}
