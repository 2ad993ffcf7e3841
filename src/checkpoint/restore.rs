//! `hull restore`: the host steps of create, with CRIU in the place of clone.

use super::backend::CriuBackend;
use super::criu;
use super::external_mounts;
use super::images;
use super::layers;
use super::manifest::Manifest;
use super::plan;
use super::proto::rpc::CriuCgMode;
use super::request::{RestoreInput, RestoreOptions};
use super::targets;
use crate::backend::namespaces::Target;
use crate::backend::run;
use crate::compile::{self, Compiled, CreateOptions};
use crate::container::{Container, create};
use crate::net::saved::Identity;
use crate::net::setup::on_own_networks;
use crate::spec::Spec;
use crate::step::draft::{Placed, Plan};
use crate::step::host::HostStep;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The log's file name in the work directory, which is runc's.
const LOG: &str = "restore.log";

/// The mount point of the container's root for CRIU, in the container's directory.
const ROOT: &str = "criu-root";

/// The directory on which the root is mounted for CRIU. It is removed when this is dropped.
struct MountPoint(PathBuf);

impl MountPoint {
    fn make(path: PathBuf) -> Result<Self> {
        std::fs::create_dir(&path).on("make", path.display())?;
        Ok(Self(path))
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The config and plan of a restore, before anything is created.
struct Planned {
    compiled: Compiled,
    manifest: Manifest,
    /// The options that create would have.
    create: CreateOptions,
}

impl Planned {
    fn of(store: &Store, id: &str, spec: &Spec, options: &RestoreOptions) -> Result<Self> {
        let manifest = Manifest::read(&options.common.images)?;
        let identity = if options.copy {
            Identity::New
        } else {
            Identity::Same
        };
        let network = manifest.network.as_ref();
        let network = network
            .map(|saved| saved.setup(store, id, identity))
            .transpose()?;
        let spec = if network.is_some() {
            on_own_networks(store, id, spec)?
        } else {
            spec.clone()
        };
        let whole = options.copy || options.whole;
        let layers = manifest.layers.as_ref();
        let layers = layers
            .map(|layers| layers::relocate(layers, &store.directory(id), whole))
            .transpose()?;
        let create = CreateOptions {
            layers,
            ..options.options.clone()
        };
        let compiled = Compiled {
            network,
            ..compile::compile(store, &spec, id, &create)?
        };
        Ok(Self {
            compiled,
            manifest,
            create,
        })
    }

    /// The host name to set, where the images have another one.
    fn hostname(&self) -> Option<&str> {
        let former = self.manifest.spec.as_ref()?;
        let uts = former.namespace(LinuxNamespaceType::Uts)?;
        let former = former.config().hostname.as_ref();
        let name = self.compiled.spec.config().hostname.as_ref()?;
        (uts.path.is_none() && former.is_some_and(|former| former != name)).then_some(name)
    }

    /// The host steps, and the number of slots that they use.
    fn steps(&self) -> (Vec<Placed<HostStep>>, u32) {
        plan::restore(&plan::RestoreRequest {
            plan: &self.compiled.plan,
            facts: &self.compiled.facts,
            network: self.compiled.network.as_ref(),
            hostname: self.hostname(),
        })
    }
}

/// The host steps by which [`restore`] would restore a container, for `hull plan --restore`.
///
/// # Errors
/// The directory holds no images; the config cannot be compiled.
pub fn preview(
    store: &Store,
    id: &str,
    spec: &Spec,
    options: &RestoreOptions,
) -> Result<Vec<Placed<HostStep>>> {
    check_images(&options.common.images)?;
    Ok(Planned::of(store, id, spec, options)?.steps().0)
}

/// Restores a container from a directory of images, and lets its processes run. Returns the
/// container and a pidfd of its init, which is hull's child.
///
/// # Errors
/// hull does not run as root; the id is in use or not valid; the directory holds no images; CRIU is
/// not installed, or fails. Then nothing of the container is left.
pub fn restore(
    store: &Store,
    id: &str,
    spec: &Spec,
    options: &RestoreOptions,
    console: Option<Fd>,
) -> Result<(Container, Fd)> {
    criu::require_root("restore")?;
    crate::store::check_id(id)?;
    check_images(&options.common.images)?;
    let program = criu::find(options.common.criu.as_deref())?;
    let planned = Planned::of(store, id, spec, options)?;
    let lock = store.make(id)?;
    let restore = Restore {
        store,
        id,
        options,
        planned: &planned,
        program: &program,
    };
    let result = restore.run(console);
    if result.is_err() {
        let _ = store.remove(id);
    }
    drop(lock);
    result
}

fn check_images(directory: &Path) -> Result<()> {
    if !directory.is_dir() {
        return Err(Error::new(format!(
            "there are no images to restore from: {} is not a directory",
            directory.display()
        )));
    }
    if !directory.join(images::INVENTORY).exists() {
        return Err(Error::new(format!(
            "there are no images to restore from: {} holds no {}",
            directory.display(),
            images::INVENTORY
        )));
    }
    Ok(())
}

/// Makes the images readable for the container's root during the restore, until this is dropped:
/// CRIU reads some of them in the container's user namespace, first as root of the host and then as
/// root of the container. The images stay root's; their group becomes that of the container's root,
/// in which no process of the host is.
struct ReadableImages(Vec<PathBuf>);

impl ReadableImages {
    fn new(spec: &Spec, directory: &Path) -> Result<Self> {
        let maps = spec
            .config()
            .linux
            .as_ref()
            .map(|linux| &linux.gid_mappings[..])
            .unwrap_or_default();
        let Some(group) = maps
            .iter()
            .find(|map| map.container_id == 0)
            .map(|map| map.host_id)
        else {
            return Ok(Self(Vec::new()));
        };
        let mut readable = Self(Vec::new());
        for entry in std::fs::read_dir(directory).on("read", directory.display())? {
            let entry = entry.on("read", directory.display())?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                readable.add(entry.path(), group, 0o640)?;
            }
        }
        readable.add(directory.to_owned(), group, 0o710)?;
        Ok(readable)
    }

    fn add(&mut self, path: PathBuf, group: u32, mode: u32) -> Result<()> {
        chown(&path, None, Some(group)).on("change the group of", path.display())?;
        std::fs::set_permissions(&path, Permissions::from_mode(mode))
            .on("change the mode of", path.display())?;
        self.0.push(path);
        Ok(())
    }
}

impl Drop for ReadableImages {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::set_permissions(
                path,
                Permissions::from_mode(if path.is_dir() { 0o700 } else { 0o600 }),
            );
            let _ = chown(path, None, Some(0));
        }
    }
}

/// The arguments of [`restore`], and what they were resolved to.
struct Restore<'a> {
    store: &'a Store,
    id: &'a str,
    options: &'a RestoreOptions,
    planned: &'a Planned,
    program: &'a Path,
}

impl Restore<'_> {
    fn run(&self, console: Option<Fd>) -> Result<(Container, Fd)> {
        let Planned {
            compiled,
            manifest,
            create,
        } = self.planned;
        let Compiled {
            spec, facts, plan, ..
        } = compiled;
        let directory = self.store.directory(self.id);
        let facts = facts.clone();
        let mut record = create::blank_record(self.id, spec, facts, create, compile::stdio());
        record.outcomes.clone_from(&manifest.outcomes);
        let point = MountPoint::make(directory.join(ROOT))?;
        let directories = self.options.common.directories(LOG)?;
        let mut externals =
            external_mounts::of_plan(plan, &external_mounts::saved(&record.outcomes));
        let layers = create.layers.as_ref();
        let places = layers::Places {
            container: &directory,
            root: &point.0,
            images: &directories.images,
        };
        let mounts = layers::prepare(plan, spec, layers, &places, self.options.copy)?;
        layers::set_sources(&mut externals, plan, &directory);
        if layers.is_none() {
            targets::prepare(&spec.rootfs(), plan, &externals);
        }
        let _readable = ReadableImages::new(spec, &directories.images)?;
        if self.options.common.cgroups == Some(CriuCgMode::Strict) {
            refuse_existing_cgroups(plan)?;
        }
        write_config(spec, &directory)?;
        record.write(self.store)?;
        let target = Target {
            spec,
            id: self.id,
            directory: &directory,
        };
        let input = RestoreInput {
            options: self.options,
            manifest,
            directories: &directories,
            program: self.program,
            root: &point.0,
            mounts: &mounts,
            externals: &externals,
        };
        let mut backend = CriuBackend::new(target, self.store, compiled, input, record);
        backend.console = console;
        let (steps, slots) = self.planned.steps();
        run::run(&steps, slots, &directory, &mut backend)?;
        let CriuBackend { record, pidfd, .. } = backend;
        let unknown = || Error::new("criu did not say which process it restored");
        let pidfd = pidfd.ok_or_else(unknown)?;
        let container = Container::made(record, self.store);
        create::announce(&container, &pidfd, &self.options.options)
            .inspect_err(|_| drop(container.take_down()))?;
        Ok((container, pidfd))
    }
}

/// Writes the config of a container whose bundle is its own directory: an imported one, or a copy.
fn write_config(spec: &Spec, directory: &Path) -> Result<()> {
    if spec.bundle() != directory {
        return Ok(());
    }
    let path = directory.join("config.json");
    let text = serde_json::to_vec_pretty(spec.config())
        .map_err(|error| Error::new(format!("write {}: {error}", path.display())))?;
    std::fs::write(&path, text).on("write", path.display())
}

/// Fails if one of the container's cgroups exists, for `--manage-cgroups-mode strict`. CRIU itself
/// would find the cgroup that hull is about to create.
fn refuse_existing_cgroups(plan: &Plan) -> Result<()> {
    let places = plan.host.iter().filter_map(|placed| match &placed.step {
        HostStep::Cgroup { plan, .. } => Some(&plan.places),
        _ => None,
    });
    match places
        .flatten()
        .find(|place| Path::new(&place.dir).exists())
    {
        Some(place) => Err(Error::new(format!(
            "cgroup {} exists, which --manage-cgroups-mode strict forbids",
            place.dir
        ))),
        None => Ok(()),
    }
}
