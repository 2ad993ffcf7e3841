//! Creates and starts an ad hoc container, in the foreground or detached.

use crate::adhoc::config;
use crate::adhoc::config::Host;
use crate::adhoc::flags::AdhocFlags;
use crate::adhoc::options::AdhocOptions;
use crate::adhoc::users;
use crate::adhoc::users::UserIds;
use crate::adhoc::{keeper, layers};
use crate::compile::CreateOptions;
use crate::container::create::create;
use crate::container::start::{begin, executed};
use crate::container::{Container, delete};
use crate::facts;
use crate::namespaces::subid::{Layout, Maps};
use crate::security::caps;
use crate::spec::Spec;
use crate::stdio::foreground::{Console, Relays, Signals, attend_init, own_size};
use crate::stdio::streams::Pipes;
use crate::step::layers::Layers;
use crate::store::Store;
use crate::{Context, Error, Result};
use nix::unistd::{dup2_stdin, getegid, geteuid};
use std::fs::File;

/// The flags of `hull run` that count for bundles too.
pub struct Mode {
    /// Whether hull returns when the program has started.
    pub detach: bool,
    /// Whether the container is kept after its program has ended.
    pub keep: bool,
}

/// Executes `hull run --rootfs`; returns the exit status of the program, or 0 with `detach`.
///
/// # Errors
/// A flag is malformed; the container cannot be created or started. hull has removed what it made
/// then.
pub fn run(
    flags: &AdhocFlags,
    command: &[String],
    mode: &Mode,
    mut options: CreateOptions,
    store: &Store,
) -> Result<u8> {
    let store = Store::new(std::path::absolute(store.root()).on("find", store.root().display())?);
    let capabilities = caps::held()?;
    let privileged = capabilities & (1 << 21) != 0;
    let locked = !privileged || facts::in_user_namespace();
    let adhoc = AdhocOptions::new(
        flags,
        command,
        if privileged { capabilities } else { u64::MAX },
        mode.detach,
    )?;
    refuse_shared_changes(&store, &adhoc)?;
    let root = layers::root(&adhoc, locked)?;
    root.warnings
        .iter()
        .for_each(|warning| crate::log::warn(warning));
    let maps = maps(&adhoc, privileged)?;
    let host = Host {
        user: user_ids(&adhoc, maps.as_ref())?,
        maps,
        privileged: !locked,
        tmpfs: root.tmpfs,
        window: own_size(),
        term: std::env::var("TERM").ok(),
    };
    let spec = Spec::check(config::generate(&adhoc, &host)?, store.directory(&adhoc.id))?;
    options.layers = root.layers;
    let kept = options.layers.clone().unwrap_or_default();
    layers::make_directories(&kept).inspect_err(|_| drop(remove_work(&kept)))?;
    let run = Run {
        adhoc: &adhoc,
        spec: &spec,
        options: &options,
        store: &store,
    };
    let result = if mode.detach {
        run.detached()
    } else {
        run.foreground(mode.keep)
    };
    if result.is_err() && !store.directory(&adhoc.id).exists() {
        remove_work(&kept)?;
    }
    result
}

/// Refuses a directory of `--keep-changes` in which a container that runs keeps its changes.
fn refuse_shared_changes(store: &Store, adhoc: &AdhocOptions) -> Result<()> {
    for id in layers::others_with_the_changes_of(adhoc) {
        let ended = Container::open(store, &id)
            .is_ok_and(|other| other.status() == crate::container::Status::Stopped);
        if !ended {
            return Err(Error::new(format!(
                "--keep-changes: container {id} keeps its changes in this directory now, and two at \
                 once would destroy each other's; if it is gone, hull delete --force {id} in its \
                 store removes what it left"
            )));
        }
    }
    Ok(())
}

/// The id maps of an ordinary user's container; root's have no user namespace.
fn maps(adhoc: &AdhocOptions, privileged: bool) -> Result<Option<Maps>> {
    if privileged {
        return match adhoc.layout {
            Layout::Root => Ok(None),
            Layout::Keep { .. } | Layout::Unmapped => Err(Error::new(
                "--userns: this is root's container, which has no user namespace; an ordinary \
                 user's has one",
            )),
        };
    }
    let maps = Maps::of_user(geteuid().as_raw(), getegid().as_raw(), adhoc.layout);
    if adhoc.layout == Layout::Unmapped && maps.uid.is_empty() {
        return Err(Error::new(
            "--userns nomap: /etc/subuid and /etc/subgid give you no ids, or newuidmap is missing, \
             so that no id would be mapped",
        ));
    }
    Ok(Some(maps))
}

fn user_ids(adhoc: &AdhocOptions, maps: Option<&Maps>) -> Result<UserIds> {
    let mut ids = match (&adhoc.user, adhoc.layout) {
        (None, Layout::Keep { uid, gid }) => UserIds {
            uid,
            gid,
            groups: Vec::new(),
        },
        (None, _) => UserIds::default(),
        (Some(text), _) => mapped_user(adhoc, text, maps)?,
    };
    for name in &adhoc.groups {
        let gid = users::find_group(&adhoc.rootfs, name)?;
        if maps.is_some_and(|maps| !maps.has_group(gid)) {
            return Err(Error::new(format!(
                "--group-add {name:?}: group {gid} is not mapped"
            )));
        }
        ids.groups.push(gid);
    }
    Ok(ids)
}

fn mapped_user(adhoc: &AdhocOptions, text: &str, maps: Option<&Maps>) -> Result<UserIds> {
    let mut ids = users::find(&adhoc.rootfs, text)?;
    if let Some(maps) = maps {
        if !maps.has(ids.uid, ids.gid) {
            let why = if maps.is_single() {
                "an unprivileged user without a range in /etc/subuid and /etc/subgid has only the \
                 container's root"
            } else {
                "it is outside the range that /etc/subuid and /etc/subgid give you"
            };
            return Err(Error::new(format!(
                "-u {text:?}: user {} and group {} are not mapped: {why}",
                ids.uid, ids.gid
            )));
        }
        ids.groups
            .retain(|gid| !maps.is_single() && maps.has_group(*gid));
    }
    Ok(ids)
}

fn remove_work(layers: &Layers) -> Result<()> {
    layers
        .work_directories()
        .try_for_each(crate::rootfs::teardown::remove_work)
}

struct Run<'a> {
    adhoc: &'a AdhocOptions,
    spec: &'a Spec,
    options: &'a CreateOptions,
    store: &'a Store,
}

impl Run<'_> {
    fn foreground(&self, keep: bool) -> Result<u8> {
        if !self.adhoc.interactive {
            null_stdin()?;
        }
        let mut console = Console::new(self.adhoc.tty, None)?;
        let signals = Signals::block()?;
        let pipes = Pipes::replace_nonblocking()?;
        let (container, made) = create(
            self.store,
            &self.adhoc.id,
            self.spec,
            self.options,
            console.sender.take(),
        )?;
        let pipes = pipes.map_or(Ok(Vec::new()), Pipes::into_streams);
        let terminal = console.receive();
        let started = self
            .write_bundle(&container)
            .and_then(|()| begin(&container, &made));
        let ended = match (started, terminal) {
            (Ok(notify), Ok(terminal)) => pipes.and_then(|pipes| {
                let relays = Relays {
                    terminal,
                    pipes,
                    notify,
                };
                let has_default_action = |signal| container.leaves_to_default(signal);
                attend_init(&made.child.pidfd, &has_default_action, &signals, relays)
            }),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        if !keep || ended.is_err() {
            delete::delete(self.store, &self.adhoc.id, true)?;
        }
        let status = ended?.status() as u8;
        Ok(crate::backend::errors::refused_program(&made.child).unwrap_or(status))
    }

    /// All output of the container goes to its log: the log keeper reads it until no process can
    /// write any more.
    fn detached(&self) -> Result<u8> {
        let mut output = keeper::LoggedOutput::new(self.adhoc.tty)?;
        if !self.adhoc.interactive {
            null_stdin()?;
        }
        let created = output.while_redirected(|console| {
            create(self.store, &self.adhoc.id, self.spec, self.options, console)
        });
        let (container, made) = created?;
        let begun = self
            .write_bundle(&container)
            .and_then(|()| {
                output.start_keeper(
                    &container.directory(),
                    self.adhoc
                        .remove
                        .then_some((self.store, self.adhoc.id.as_str())),
                )
            })
            .and_then(|()| begin(&container, &made))
            .and_then(|notify| executed(&container, &made).map(|()| notify));
        let notify = begun.inspect_err(|_| drop(container.take_down()))?;
        notify.map_or(Ok(()), |notify| notify.wait(&made.child.pidfd))?;
        crate::stdio::output::print_line(&self.adhoc.id).map(|()| 0)
    }

    /// Writes the config to the container's directory, which is a bundle then: `hull plan` on it
    /// shows how the container was created.
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
                "{refused} of {of} directories are read-only: the kernel refused an overlay on them"
            ));
        }
    }
}

fn null_stdin() -> Result<()> {
    let null = File::open("/dev/null").on("open", "/dev/null")?;
    dup2_stdin(&null).on("redirect", "stdin")
}
