//! `hull clone`: copies of a running container, which continues to run. Each copy has its own id,
//! host name, IP address, MAC address and machine-id(5).

use super::dump::{DumpOptions, checkpoint, plan_of};
use super::images::TemporaryImages;
use super::manifest::Manifest;
use super::options::CommonOptions;
use super::request::RestoreOptions;
use super::restore::restore;
use crate::adhoc::keeper::LoggedOutput;
use crate::compile::{CgroupManager, CreateOptions};
use crate::container::Container;
use crate::error::Kind;
use crate::step::container::Step;
use crate::step::draft::Plan;
use crate::store::{Store, check_id};
use crate::sys::mount::ATTR_RDONLY;
use crate::{Error, Result};

/// The options of `hull clone`.
pub struct CloneOptions {
    /// Options of checkpoint and restore. hull sets the directories itself.
    pub common: CommonOptions,
    /// The ids of the copies.
    pub names: Vec<String>,
    /// `--share-volumes`: copies may share writable volumes and a writable root with the source.
    pub share_volumes: bool,
    /// `--cgroup-manager`.
    pub cgroup_manager: CgroupManager,
}

/// Creates all of the copies, or none.
///
/// # Errors
/// An id is in use or not valid; a copy would share a writable volume or root; checkpoint or
/// restore fails.
pub fn clone(store: &Store, id: &str, options: &CloneOptions) -> Result<()> {
    options.names.iter().try_for_each(|name| check_id(name))?;
    if let Some(name) = options
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
    if !options.share_volumes {
        refuse_shared(&source, &plan_of(store, &source.record)?)?;
    }
    let images = TemporaryImages::new(store, id)?;
    // The source keeps its connections, so that CRIU must dump them; the copies close them.
    let common = CommonOptions {
        images: images.path().to_owned(),
        tcp_established: true,
        tcp_close: false,
        ..options.common.clone()
    };
    checkpoint(
        store,
        id,
        &DumpOptions {
            common: common.clone(),
            leave_running: true,
            ..DumpOptions::default()
        },
    )?;
    let manifest = Manifest::read(images.path())?;
    let restore_options = RestoreOptions {
        common: CommonOptions {
            tcp_established: false,
            tcp_close: true,
            ..common
        },
        options: CreateOptions {
            cgroup_manager: options.cgroup_manager,
            ..CreateOptions::default()
        },
        copy: true,
        whole: true,
        ..RestoreOptions::default()
    };
    let mut made: Vec<Container> = Vec::new();
    for name in &options.names {
        match restore_copy(store, name, &manifest, &restore_options) {
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

fn restore_copy(
    store: &Store,
    name: &str,
    manifest: &Manifest,
    options: &RestoreOptions,
) -> Result<Container> {
    let spec = manifest.spec_for(store, name)?;
    let terminal = spec
        .config()
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    if !manifest.logs {
        return match terminal {
            true => Err(Error::new(
                "a container with a terminal can be cloned only if hull keeps its output: no \
                    process would hold the terminal of the copy",
            )),
            false => restore(store, name, &spec, options, None).map(|(container, _)| container),
        };
    }
    let mut output = LoggedOutput::new(terminal)?;
    let (container, _) =
        output.while_redirected(|console| restore(store, name, &spec, options, console))?;
    output
        .start_keeper(&container.directory(), None)
        .inspect_err(|_| drop(container.take_down()))?;
    Ok(container)
}

/// Refuses a copy that would share a writable volume or a writable root with the source: two
/// programs that do not know of each other would write the same files.
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
