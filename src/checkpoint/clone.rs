//! `clone`: containers like a running one, which runs on: their own id, name, address, hardware
//! address and machine id.

use super::images::Beside;
use crate::adhoc::keeper::Streams;
use crate::checkpoint::dump::{Dump, checkpoint};
use crate::checkpoint::request::RestoreOptions;
use crate::checkpoint::restore::restore;
use crate::checkpoint::{Common, Scratch};
use crate::compile::CreateOptions;
use crate::container::Container;
use crate::error::Kind;
use crate::step::container::Step;
use crate::step::draft::Plan;
use crate::store::{Store, check_id};
use crate::sys::mount::ATTR_RDONLY;
use crate::{Error, Result};

/// What `clone` was asked.
pub struct Clones {
    /// criu, locks, and how sockets are treated; the directories are hull's own.
    pub common: Common,
    /// The new ids.
    pub names: Vec<String>,
    /// Volumes and a root that can be written may be shared.
    pub share: bool,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
}

/// Makes the copies; all of them, or none.
///
/// # Errors
/// A writable volume would be shared; an id in use; what checkpoint and restore say.
pub fn clone(store: &Store, id: &str, clones: &Clones) -> Result<()> {
    clones.names.iter().try_for_each(|name| check_id(name))?;
    if let Some(name) = clones
        .names
        .iter()
        .find(|name| store.directory(name).exists())
    {
        return Err(Error::of_kind(
            Kind::ContainerExists,
            format!("container with given ID already exists: {name}"),
        ));
    }
    let source = Container::open(store, id)?;
    if !clones.share {
        refuse_shared(&source, &super::plan_of(store, &source.record)?)?;
    }
    let scratch = Scratch::new(store, id)?;
    // The source keeps its connections, so they are saved; its copies cannot have them.
    let saved = Common {
        images: scratch.path().to_owned(),
        tcp_established: true,
        tcp_close: false,
        ..clones.common.clone()
    };
    checkpoint(
        store,
        id,
        &Dump {
            common: saved.clone(),
            leave_running: true,
            ..Dump::default()
        },
    )?;
    let beside = Beside::read(scratch.path())?;
    let mut made: Vec<Container> = Vec::new();
    for name in &clones.names {
        match copy(store, name, &beside, (&saved, clones.systemd_cgroup)) {
            Ok(container) => made.push(container),
            Err(error) => {
                made.iter()
                    .for_each(|container| drop(container.take_down()));
                return Err(error.within(name));
            }
        }
    }
    Ok(())
}

fn copy(
    store: &Store,
    name: &str,
    beside: &Beside,
    (saved, systemd_cgroup): (&Common, bool),
) -> Result<Container> {
    let spec = beside.spec_for(store, name)?;
    let bring = RestoreOptions {
        common: Common {
            tcp_established: false,
            tcp_close: true,
            ..saved.clone()
        },
        options: CreateOptions {
            systemd_cgroup,
            ..CreateOptions::default()
        },
        copy: true,
        whole: true,
        ..RestoreOptions::default()
    };
    let terminal = spec
        .config()
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    if !beside.logs {
        return match terminal {
            true => Err(Error::new(
                "a container with a terminal that nobody keeps cannot be copied: its copy's would \
                    be held by nobody",
            )),
            false => restore(store, name, &spec, &bring, None).map(|(container, _)| container),
        };
    }
    let mut streams = Streams::make(terminal)?;
    let (container, _) =
        streams.while_redirected(|console| restore(store, name, &spec, &bring, console))?;
    streams
        .hand_over(&container.directory(), None)
        .inspect_err(|_| drop(container.take_down()))?;
    Ok(container)
}

/// Two programs that do not know of each other would write the same files.
fn refuse_shared(source: &Container, plan: &Plan) -> Result<()> {
    let record = &source.record;
    let own = source.directory();
    for placed in &plan.container {
        let Step::Bind {
            target,
            source,
            set,
            rset,
            ..
        } = &placed.step
        else {
            continue;
        };
        let is_volume = placed.from.starts_with("mounts[")
            && !source.starts_with("/sys/fs/cgroup")
            && !std::path::Path::new(source).starts_with(&own);
        if is_volume && (set | rset) & ATTR_RDONLY == 0 {
            return Err(Error::new(format!(
                "the copy would share the writable volume {target} ({source}); --share-volumes \
                    allows it"
            )));
        }
    }
    let readonly = record
        .spec
        .config()
        .root
        .as_ref()
        .is_some_and(|root| root.readonly);
    if record.layers.is_none() && !readonly {
        let root = record.spec.rootfs();
        return Err(Error::new(format!(
            "the copy would share the writable root {}; --share-volumes allows it",
            root.display()
        )));
    }
    Ok(())
}
