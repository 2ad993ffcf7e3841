//! `restore`: `outside` as for create, and CRIU in place of `inside`.

use super::criu::{self, Session, World};
use super::images::{self, Beside};
use super::inventory::{self, External};
use super::life::{self, Life};
use super::rpc::{self, CgroupMode, Kind};
use super::tmpfs::StandIn;
use crate::backend::undo::Unfinished;
use crate::cgroups::group::Group;
use crate::checkpoint::{
    Common, Directories, NETWORK, cgroups, has_own_network, joined, network_lock, root, targets,
};
use crate::compile::{Compiled, Options};
use crate::container::Container;
use crate::container::create;
use crate::net::names;
use crate::net::saved::{self, Identity};
use crate::spec::Spec;
use crate::spec::config::{Mount, Namespace};
use crate::state::Record;
use crate::step::draft::Plan;
use crate::step::host::HostStep;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::sys::{file, process};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::ffi::CString;
use std::fs::Permissions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The log's name in the work path.
const LOG: &str = "restore.log";

/// The mount point of the container's root for criu, in the container's directory.
const ROOT: &str = "criu-root";

/// What `restore` was asked.
#[derive(Default)]
pub struct Bring {
    /// What checkpoint is asked as well.
    pub common: Common,
    /// What create is asked: pid file, systemd, and the like.
    pub options: Options,
    /// `--lsm-profile`: kind and name.
    pub lsm_profile: Option<String>,
    /// `--lsm-mount-context`.
    pub lsm_mount_context: Option<String>,
    /// Another container beside the saved one.
    pub copy: bool,
    /// The root's changes come from the images too, wherever they were kept.
    pub whole: bool,
}

/// Where the root is mounted for criu; gone with it.
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

/// Brings a container back from a directory of images; its processes run. Answers it and a descriptor
/// of its init, which is hull's child.
///
/// # Errors
/// No images, a foreign kernel, what criu says: nothing of the container is left then.
pub fn restore(
    store: &Store,
    id: &str,
    spec: &Spec,
    bring: &Bring,
    console: Option<Fd>,
) -> Result<(Container, Fd)> {
    super::needs_root("restore")?;
    crate::store::check_id(id)?;
    check_images(&bring.common.images)?;
    let program = criu::find(bring.common.criu.as_deref())?;
    let beside = Beside::read(&bring.common.images)?;
    let identity = if bring.copy {
        Identity::New
    } else {
        Identity::Same
    };
    let setup = beside
        .network
        .as_ref()
        .map(|saved| saved.setup(store, id, identity))
        .transpose()?;
    let spec = if setup.is_some() {
        wired(store, id, spec)?
    } else {
        spec.clone()
    };
    let layers = beside
        .layers
        .as_ref()
        .map(|layers| root::placed(layers, &store.directory(id), bring.copy || bring.whole))
        .transpose()?;
    let options = Options {
        layers,
        ..bring.options.clone()
    };
    let compiled = Compiled {
        network: setup,
        ..crate::compile::compile(store, &spec, id, &options)?
    };
    let former = beside.spec.as_ref().filter(|spec| {
        spec.namespace(LinuxNamespaceType::Uts)
            .is_some_and(|uts| uts.path.is_none())
    });
    let former = former.and_then(|spec| spec.config().hostname.as_ref());
    let lock = store.make(id)?;
    let result = bring_back(
        store,
        id,
        &compiled,
        (bring, &beside),
        (&program, console, &options, former),
    );
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

/// The images, shown to the container's root for the time of the restore: criu reads some of them
/// from within its user namespace, first as root of the machine and then as that user. They stay
/// root's, and their group is one that nobody but that container is in.
struct Shown(Vec<PathBuf>);

impl Shown {
    fn to(spec: &Spec, directory: &Path) -> Result<Self> {
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
        let mut shown = Self(Vec::new());
        for entry in std::fs::read_dir(directory).on("read", directory.display())? {
            let entry = entry.on("read", directory.display())?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                shown.show(entry.path(), group, 0o640)?;
            }
        }
        shown.show(directory.to_owned(), group, 0o710)?;
        Ok(shown)
    }

    fn show(&mut self, path: PathBuf, group: u32, mode: u32) -> Result<()> {
        chown(&path, None, Some(group)).on("change the group of", path.display())?;
        std::fs::set_permissions(&path, Permissions::from_mode(mode))
            .on("change the mode of", path.display())?;
        self.0.push(path);
        Ok(())
    }
}

impl Drop for Shown {
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

/// The container's network namespace is hull's to make, and its hosts and resolv.conf are hull's
/// files.
fn wired(store: &Store, id: &str, spec: &Spec) -> Result<Spec> {
    let mut config = spec.config().clone();
    let linux = config.linux.get_or_insert_default();
    linux
        .namespaces
        .retain(|namespace| namespace.typ != Some(LinuxNamespaceType::Network));
    linux.namespaces.push(Namespace {
        typ: Some(LinuxNamespaceType::Network),
        path: None,
    });
    let directory = std::path::absolute(store.directory(id)).on("find", store.root().display())?;
    for (destination, source) in [
        ("/etc/hosts", names::hosts_path(&directory)),
        ("/etc/resolv.conf", names::resolv_path(&directory)),
    ] {
        if !config
            .mounts
            .iter()
            .any(|mount| mount.destination == destination)
        {
            let options = ["bind", "rprivate", "nosuid", "noexec", "nodev"]
                .map(str::to_owned)
                .to_vec();
            let (typ, source) = (
                Some("bind".to_owned()),
                Some(source.to_string_lossy().into_owned()),
            );
            config.mounts.push(Mount {
                destination: destination.to_owned(),
                typ,
                source,
                options,
                ..Mount::default()
            });
        }
    }
    Spec::check(config, spec.bundle().to_owned())
}

/// A new network namespace with the container's links and addresses; hull holds them until the
/// container's first process does.
fn network(
    id: &str,
    compiled: &Compiled,
    directory: &Path,
) -> Result<Option<crate::net::netlink::Namespace>> {
    let Some(setup) = &compiled.network else {
        return Ok(None);
    };
    names::prepare(directory, setup)?;
    let namespace = crate::net::netlink::Namespace::new()?;
    network_lock::packets(&namespace)?;
    crate::net::attach::attach(setup, id, &namespace, process::getpid(), directory)?;
    Ok(Some(namespace))
}

/// criu, the console, the root's layers, and the host name in the images.
type Given<'a> = (&'a Path, Option<Fd>, &'a Options, Option<&'a String>);

fn bring_back(
    store: &Store,
    id: &str,
    compiled: &Compiled,
    (bring, beside): (&Bring, &Beside),
    (program, console, asked, former): Given,
) -> Result<(Container, Fd)> {
    let Compiled {
        spec, facts, plan, ..
    } = compiled;
    let (directory, layers) = (store.directory(id), asked.layers.as_ref());
    let mut record =
        create::blank_record(id, spec, facts.clone(), (asked, crate::compile::stdio()));
    let mut work = Unfinished::new(directory.clone());
    let point = MountPoint::make(directory.join(ROOT))?;
    let root = &point.0;
    let directories = bring.common.directories(LOG)?;
    record.outcomes.clone_from(&beside.outcomes);
    let mut externals = inventory::externals(plan, &inventory::saved(&record.outcomes));
    let mounts = root::prepare(
        plan,
        spec,
        layers,
        (&directory, root),
        (&directories.images, bring.copy),
    )?;
    root::point_at(&mut externals, plan, &directory);
    if layers.is_none() {
        targets::prepare(&spec.rootfs(), plan, &externals);
    }
    let namespaces = joined(facts)
        .into_iter()
        .map(|joined| Ok((joined.key, open(&joined.path)?)))
        .collect::<Result<Vec<_>>>()?;
    let network = network(id, compiled, &directory)?;
    let keys: Vec<(&str, i32)> = namespaces
        .iter()
        .map(|(key, held)| (*key, held.0))
        .chain(network.iter().map(|own| (NETWORK, own.0.0)))
        .collect();
    let inherit: Vec<i32> = keys.iter().map(|(_, raw)| *raw).collect();
    let Directories {
        images,
        work: scratch,
        log,
    } = &directories;
    let _shown = Shown::to(spec, images)?;
    if bring.common.cgroups == Some(CgroupMode::Strict) {
        refuse_existing_cgroups(plan)?;
    }
    let stand_in = StandIn::of(&directory)?;
    let tls = bring.common.may_use_tls(&spec.config().annotations);
    let mut session = start_in_cgroup(store, &mut record, plan, &mut work, |cgroup, tasks| {
        Session::start(
            program,
            &World {
                images,
                work: scratch,
                inherit: &inherit,
                stdio: true,
                mounts: &mounts,
                cgroup,
                tasks,
                stand_in: &stand_in,
                tls,
            },
        )
    })?;
    stand_in.make()?;
    // criu loads while hull reads the images; it is asked for nothing before they are found whole.
    if !bring.common.auto_dedup {
        beside.verify(images)?;
    }
    let mut options = options((bring, beside), &directories, compiled, root, &externals)?;
    options.cg_root = cgroup_roots(session.pid)?;
    options
        .inherit_fd
        .extend(
            (criu::FIRST..)
                .zip(&keys)
                .map(|(descriptor, (key, _))| rpc::InheritFd {
                    key: (*key).to_owned(),
                    descriptor,
                }),
        );
    let empty_network = network.is_none() && has_own_network(spec) && !images::hold_network(images);
    if empty_network {
        options.empty_ns = options
            .empty_ns
            .map(|kinds| kinds | libc::CLONE_NEWNET as u32);
    }
    session.greet()?;
    leave_out(
        &mut options,
        &bring.common,
        spec,
        images,
        (
            session.version >= criu::SKIPS_LOCK && empty_network,
            record.cgroup.is_some(),
        ),
    );
    crate::log::debug(|| format!("criu: {options:?}"));
    let mut life = Life {
        store,
        record,
        spec,
        plan,
        console,
        empty_network,
        pid: 0,
        pidfd: None,
    };
    let answer = session.execute(Kind::Restore, options, log, None, &mut |event, _| {
        life.on(event)
    })?;
    let pid = answer
        .restore
        .map_or(life.record.pid, |restored| restored.pid);
    drop(stand_in);
    session.end(log).inspect_err(|_| kill(pid))?;
    life.compare_privileges();
    let Life { record, pidfd, .. } = life;
    let pidfd = pidfd.ok_or_else(|| Error::new("criu did not say which process it restored"))?;
    work.done();
    drop(point);
    let container = Container::made(record, store);
    let settled = settle(&container, compiled, network.as_ref(), (&pidfd, former))
        .and_then(|()| create::announce(&container, &pidfd, &bring.options));
    settled.inspect_err(|_| drop(container.take_down()))?;
    Ok((container, pidfd))
}

/// What is done once the processes run: the addresses are theirs, the neighbours learn of them, and
/// a copy has a name of its own.
fn settle(
    container: &Container,
    compiled: &Compiled,
    network: Option<&crate::net::netlink::Namespace>,
    (pidfd, former): (&Fd, Option<&String>),
) -> Result<()> {
    let Container { record, .. } = container;
    let (directory, spec) = (container.directory(), &record.spec);
    if let (Some(setup), Some(namespace)) = (&compiled.network, network) {
        saved::adopt(&directory, &record.id, record.pid)?;
        network_lock::release(namespace)?;
        saved::announce(setup, &record.id, namespace)?;
    }
    if spec.bundle() == directory {
        let path = directory.join("config.json");
        let text = serde_json::to_vec_pretty(spec.config())
            .map_err(|error| Error::new(format!("write {}: {error}", path.display())))?;
        std::fs::write(&path, text).on("write", path.display())?;
    }
    match &spec.config().hostname {
        Some(name) if former.is_some_and(|former| former != name) => life::rename(pidfd, name),
        _ => Ok(()),
    }
}

/// What criu need not do, unless it was asked for: hold packets back where there is no link that
/// could bring one, and move processes into the cgroup that they are born in.
fn leave_out(
    options: &mut rpc::Options,
    common: &Common,
    spec: &Spec,
    images: &Path,
    (lonely, in_cgroup): (bool, bool),
) {
    if lonely && !super::hooks_may_wire(spec) && super::may_skip_lock(common, options) {
        options.network_lock = Some(rpc::NetworkLock::Skip as i32);
    }
    let own_namespace = spec.namespace(LinuxNamespaceType::Cgroup).is_some();
    if in_cgroup
        && !own_namespace
        && common.cgroups.is_none()
        && options.config_file.is_none()
        && cgroups::is_flat(images)
    {
        options.manage_cgroups_mode = Some(CgroupMode::Ignore as i32);
    }
}

fn kill(pid: i32) {
    if let Ok(pidfd) = process::pidfd_open(pid).map(Fd) {
        let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
    }
}

fn open(path: &str) -> Result<Fd> {
    let name =
        CString::new(path).map_err(|_| Error::new(format!("{path:?} contains a NUL byte")))?;
    file::openat(libc::AT_FDCWD, &name, libc::O_RDONLY, 0)
        .map(Fd)
        .on("open namespace", path)
}

/// With `--manage-cgroups-mode strict` nothing may be there already. criu would find the cgroup
/// that hull is about to make.
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
            "cgroup {} is there already, which --manage-cgroups-mode strict forbids",
            place.dir
        ))),
        None => Ok(()),
    }
}

/// Makes the cgroup and starts criu in it: what criu makes is born there. systemd makes it around
/// criu.
fn start_in_cgroup(
    store: &Store,
    record: &mut Record,
    plan: &Plan,
    work: &mut Unfinished,
    start: impl FnOnce(Option<i32>, &[i32]) -> Result<Session>,
) -> Result<Session> {
    let (mut cgroup, mut unit) = (None, None);
    for placed in &plan.host {
        match &placed.step {
            HostStep::Cgroup { plan, .. } => cgroup = Some(plan),
            HostStep::Unit { plan } => unit = Some(plan),
            _ => {}
        }
    }
    record.cgroup = cgroup.or(unit).map(|plan| plan.record());
    record.write(store)?;
    let Some(cgroup) = cgroup else {
        let session = start(None, &[])?;
        if let Some(plan) = unit {
            let mut group = Group::start(plan, nix::unistd::Pid::from_raw(session.pid))?;
            group.apply(plan)?;
            record.cgroup = Some(group.record());
            work.group = Some(group);
        }
        return Ok(session);
    };
    let mut group = Group::create(cgroup)?;
    let applied = group.apply(cgroup);
    record.cgroup = Some(group.record());
    let tasks = group.join_fds();
    let into = group.clone_fd().map(|fd| fd.as_raw_fd());
    let session = applied.and(tasks).and_then(|tasks| {
        let raw: Vec<i32> = tasks.iter().map(AsRawFd::as_raw_fd).collect();
        start(into, &raw)
    });
    work.group = Some(group);
    session
}

/// Every controller's cgroup of criu is the container's.
fn cgroup_roots(pid: i32) -> Result<Vec<rpc::CgroupRoot>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).on("read", &path)?;
    let mut roots = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        for controller in controllers.split(',') {
            roots.push(rpc::CgroupRoot {
                controller: Some(controller.to_owned()),
                path: path.to_owned(),
            });
        }
    }
    Ok(roots)
}

fn options(
    (bring, beside): (&Bring, &Beside),
    directories: &Directories,
    compiled: &Compiled,
    root: &Path,
    externals: &[External],
) -> Result<rpc::Options> {
    let spec = &compiled.spec;
    let root = root.canonicalize().on("open", root.display())?;
    let mut options = rpc::Options {
        root: Some(root.to_string_lossy().into_owned()),
        evasive_devices: Some(true),
        rst_sibling: Some(true),
        lsm_profile: bring.lsm_profile.clone(),
        lsm_mount_context: bring.lsm_mount_context.clone(),
        ..bring
            .common
            .options(directories, &spec.config().annotations)
    };
    if bring.common.cgroups == Some(CgroupMode::Strict) {
        // All values, as with strict; that the cgroup is new is seen to.
        options.manage_cgroups_mode = Some(CgroupMode::Full as i32);
    }
    let rootfs = spec.rootfs();
    for external in externals {
        let key = if external.key == inventory::NULL {
            external.key.clone()
        } else {
            targets::resolved(&rootfs, &external.target)
        };
        let source = external.source.to_str().ok_or_else(|| {
            Error::new(format!("path {} is not UTF-8", external.source.display()))
        })?;
        if !options.ext_mnt.iter().any(|known| known.key == key) {
            options.ext_mnt.push(rpc::ExternalMount {
                key,
                value: source.to_owned(),
            });
        }
    }
    for known in &compiled.facts.joined {
        let kind = match known.kind as i32 {
            libc::CLONE_NEWIPC => "ipc",
            libc::CLONE_NEWUTS => "uts",
            libc::CLONE_NEWNS => "mnt",
            libc::CLONE_NEWUSER => "user",
            _ => continue,
        };
        if known.owner != crate::facts::Owner::Own {
            options.join_ns.push(rpc::JoinNamespace {
                kind: kind.to_owned(),
                file: known.path.clone(),
            });
        }
    }
    // Pipes are the caller's new ones; all else that the container had is in the images or the
    // container.
    for (number, name) in (0..).zip(images::descriptors(&bring.common.images)?) {
        if name.starts_with("pipe:") && !options.inherit_fd.iter().any(|known| known.key == name) {
            options.inherit_fd.push(rpc::InheritFd {
                key: name,
                descriptor: number,
            });
        }
    }
    for (stream, position) in &beside.read_at {
        // What is no file here has no place to go on at.
        let _ = file::seek_to(*stream, *position);
    }
    options
        .inherit_fd
        .extend(beside.files.iter().map(|(key, descriptor)| rpc::InheritFd {
            key: key.clone(),
            descriptor: *descriptor,
        }));
    Ok(options)
}
