//! `restore`: `outside` as for create, and CRIU in place of `inside`.

use super::criu::{self, Event, Session, World};
use super::inventory::{self, External, Mounts};
use super::rpc::{self, Kind};
use super::images::{self, Beside};
use super::{Common, Folders, NETWORK, hold, joined, root};
use crate::cgroups::Group;
use crate::container::Container;
use crate::container::create::{self, Compiled, Options};
use crate::init::{Held, make_folder};
use crate::net::saved::{self, Identity};
use crate::net::names;
use crate::plan::outside::OutStep;
use crate::plan::step::{Refused, Step};
use crate::plan::{Layers, Plan, state_document};
use crate::spec::Spec;
use crate::spec::config::{Mount, Namespace};
use crate::state::{self, Decided, Phase, Record, Store, VERSION};
use crate::sys::{file, process, socket};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::ffi::CString;
use std::fs::Permissions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The log's name in the work path.
const LOG: &str = "restore.log";

/// The mount point of the container's root for criu, in the container's folder.
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

/// What is undone unless the container has come to life.
struct Work {
    group: Option<Group>,
    folder: PathBuf,
    done: bool,
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(self.folder.join(ROOT));
        if self.done {
            return;
        }
        let _ = crate::net::release(&self.folder);
        if let Some(group) = &mut self.group {
            let _ = group.kill(nix::sys::signal::Signal::SIGKILL);
            let _ = group.remove();
        }
    }
}

/// Brings a container back from a folder of images; its processes run. Answers it and a descriptor of its init, which is hull's child.
///
/// # Errors
/// No images, a foreign kernel, what criu says: nothing of the container is left then.
pub fn restore(store: &Store, id: &str, spec: &Spec, bring: &Bring, console: Option<Held>) -> Result<(Container, Held)> {
    super::needs_root("restore")?;
    state::check_id(id)?;
    check_images(&bring.common.images)?;
    let program = criu::find(bring.common.criu.as_deref())?;
    let beside = Beside::read(&bring.common.images)?;
    if !bring.common.auto_dedup {
        beside.verify(&bring.common.images)?;
    }
    let identity = if bring.copy { Identity::New } else { Identity::Same };
    let setup = beside.network.as_ref().map(|saved| saved.setup(store, id, identity)).transpose()?;
    let spec = if setup.is_some() { wired(store, id, spec)? } else { spec.clone() };
    let layers = beside.layers.as_ref().map(|layers| root::placed(layers, &store.folder(id), bring.copy || bring.whole)).transpose()?;
    let options = Options { layers, ..bring.options.clone() };
    let compiled = Compiled { network: setup, ..create::compile(store, &spec, id, &options)? };
    let former = beside.spec.as_ref().filter(|spec| spec.namespace(LinuxNamespaceType::Uts).is_some_and(|uts| uts.path.is_none()));
    let former = former.and_then(|spec| spec.config().hostname.as_ref());
    let lock = store.make(id)?;
    let result = bring_back(store, id, &compiled, bring, (&program, console, options.layers.as_ref(), former));
    if result.is_err() {
        let _ = store.remove(id);
    }
    drop(lock);
    result
}

fn check_images(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Err(Error::new(format!("there are no images to restore from: {} is no folder", folder.display())));
    }
    if !folder.join(images::INVENTORY).exists() {
        return Err(Error::new(format!("there are no images to restore from: {} holds no {}", folder.display(), images::INVENTORY)));
    }
    Ok(())
}

/// The images, shown to the container's root for the time of the restore: criu reads some of them from within its user namespace, first
/// as root of the machine and then as that user. They stay root's, and their group is one that nobody but that container is in.
struct Shown(Vec<PathBuf>);

impl Shown {
    fn to(spec: &Spec, folder: &Path) -> Result<Self> {
        let maps = spec.config().linux.as_ref().map(|linux| &linux.gid_mappings[..]).unwrap_or_default();
        let Some(group) = maps.iter().find(|map| map.container_id == 0).map(|map| map.host_id) else { return Ok(Self(Vec::new())) };
        let mut shown = Self(Vec::new());
        for entry in std::fs::read_dir(folder).on("read", folder.display())? {
            let entry = entry.on("read", folder.display())?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                shown.show(entry.path(), group, 0o640)?;
            }
        }
        shown.show(folder.to_owned(), group, 0o710)?;
        Ok(shown)
    }

    fn show(&mut self, path: PathBuf, group: u32, mode: u32) -> Result<()> {
        chown(&path, None, Some(group)).on("change the group of", path.display())?;
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).on("change the mode of", path.display())?;
        self.0.push(path);
        Ok(())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::set_permissions(path, Permissions::from_mode(if path.is_dir() { 0o700 } else { 0o600 }));
            let _ = chown(path, None, Some(0));
        }
    }
}

/// The container's network namespace is hull's to make, and its hosts and resolv.conf are hull's files.
fn wired(store: &Store, id: &str, spec: &Spec) -> Result<Spec> {
    let mut config = spec.config().clone();
    let linux = config.linux.get_or_insert_default();
    linux.namespaces.retain(|namespace| namespace.typ != Some(LinuxNamespaceType::Network));
    linux.namespaces.push(Namespace { typ: Some(LinuxNamespaceType::Network), path: None });
    let folder = std::path::absolute(store.folder(id)).on("find", store.root().display())?;
    for (destination, source) in [("/etc/hosts", names::hosts_path(&folder)), ("/etc/resolv.conf", names::resolv_path(&folder))] {
        if !config.mounts.iter().any(|mount| mount.destination == destination) {
            let options = ["bind", "rprivate", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec();
            let (typ, source) = (Some("bind".to_owned()), Some(source.to_string_lossy().into_owned()));
            config.mounts.push(Mount { destination: destination.to_owned(), typ, source, options, ..Mount::default() });
        }
    }
    Spec::check(config, spec.bundle().to_owned())
}

/// A new network namespace with the container's links and addresses; hull holds them until the container's first process does.
fn network(id: &str, compiled: &Compiled, folder: &Path) -> Result<Option<crate::net::Namespace>> {
    let Some(setup) = &compiled.network else { return Ok(None) };
    names::prepare(folder, setup)?;
    let namespace = crate::net::Namespace::new()?;
    hold::packets(&namespace)?;
    crate::net::attach(setup, id, &namespace, process::getpid(), folder)?;
    Ok(Some(namespace))
}

fn first_record(id: &str, compiled: &Compiled, layers: Option<&Layers>, options: &Options) -> Record {
    Record {
        version: VERSION,
        boot_id: state::boot_id(),
        id: id.to_owned(),
        phase: Phase::Creating,
        pid: 0,
        start_time: 0,
        created: state::now(),
        owner: compiled.facts.euid,
        spec: compiled.spec.clone(),
        facts: compiled.facts.clone(),
        cgroup: None,
        layers: layers.cloned(),
        outcomes: Vec::new(),
        stdio: create::stdio(),
        no_new_keyring: options.no_new_keyring,
        vm: None,
    }
}

/// criu, the console, the root's layers, and the host name in the images.
type Given<'a> = (&'a Path, Option<Held>, Option<&'a Layers>, Option<&'a String>);

fn bring_back(store: &Store, id: &str, compiled: &Compiled, bring: &Bring, (program, console, layers, former): Given) -> Result<(Container, Held)> {
    let Compiled { spec, facts, plan, .. } = compiled;
    let mut record = first_record(id, compiled, layers, &bring.options);
    let mut work = Work { group: None, folder: store.folder(id), done: false };
    let root = work.folder.join(ROOT);
    std::fs::create_dir(&root).on("make", root.display())?;
    let folders = bring.common.folders(LOG)?;
    let mut externals = inventory::externals(plan, &|_, _| None);
    let mounts = root::prepare(plan, spec, layers, (&work.folder, &root), (&folders.images, bring.copy))?;
    root::point_at(&mut externals, plan, &work.folder);
    if layers.is_none() {
        prepare_targets(&spec.rootfs(), plan, &externals);
    }
    let namespaces = joined(facts).into_iter().map(|joined| Ok((joined.key, open(&joined.path)?))).collect::<Result<Vec<_>>>()?;
    let network = network(id, compiled, &work.folder)?;
    let keys: Vec<(&str, i32)> = namespaces.iter().map(|(key, held)| (*key, held.0)).chain(network.iter().map(|own| (NETWORK, own.0.0))).collect();
    let inherit: Vec<i32> = keys.iter().map(|(_, raw)| *raw).collect();
    let Folders { images, work: scratch, log } = &folders;
    let _shown = Shown::to(spec, images)?;
    let mut session = start_in_cgroup(store, &mut record, plan, &mut work, |cgroup, tasks| {
        Session::start(program, &World { images, work: scratch, inherit: &inherit, stdio: true, mounts: &mounts, cgroup, tasks })
    })?;
    let mut options = options(bring, &folders, compiled, &root, &externals)?;
    options.cg_root = cgroup_roots(session.pid)?;
    for (descriptor, (key, _)) in (criu::FIRST..).zip(&keys) {
        options.inherit_fd.push(rpc::InheritFd { key: (*key).to_owned(), descriptor });
    }
    crate::log::debug(|| format!("criu: {options:?}"));
    let mut life = Life { store, record, spec, plan, console, pidfd: None };
    let answer = session.carry_out(Kind::Restore, options, log, &mut |event| life.on(event))?;
    let pid = answer.restore.map_or(life.record.pid, |restored| restored.pid);
    session.end(log).inspect_err(|_| kill(pid))?;
    let Life { record, pidfd, .. } = life;
    let pidfd = pidfd.ok_or_else(|| Error::new("criu did not say which process it restored"))?;
    if let Some(group) = &mut work.group {
        group.commit();
    }
    work.done = true;
    drop(work);
    let container = Container::made(record, store);
    let settled = settle(&container, compiled, network.as_ref(), (&pidfd, former)).and_then(|()| create::announce(&container, &pidfd, &bring.options));
    settled.inspect_err(|_| drop(container.take_down()))?;
    Ok((container, pidfd))
}

/// What is done once the processes run: the addresses are theirs, the neighbours learn of them, and a copy has a name of its own.
fn settle(container: &Container, compiled: &Compiled, network: Option<&crate::net::Namespace>, (pidfd, former): (&Held, Option<&String>)) -> Result<()> {
    let Container { record, .. } = container;
    let (folder, spec) = (container.folder(), &record.spec);
    if let (Some(setup), Some(namespace)) = (&compiled.network, network) {
        saved::adopt(&folder, &record.id, record.pid)?;
        hold::release(namespace)?;
        saved::announce(setup, &record.id, namespace)?;
    }
    if spec.bundle() == folder {
        let path = folder.join("config.json");
        let text = serde_json::to_vec_pretty(spec.config()).map_err(|error| Error::new(format!("write {}: {error}", path.display())))?;
        std::fs::write(&path, text).on("write", path.display())?;
    }
    match &spec.config().hostname {
        Some(name) if former.is_some_and(|former| former != name) => rename(pidfd, name),
        _ => Ok(()),
    }
}

/// Sets the host name in the container, whose images may have another container's.
fn rename(pidfd: &Held, name: &str) -> Result<()> {
    match process::clone(0, None).on("make", "a process for the host name")? {
        process::Cloned::Child => {
            let done = process::setns(pidfd.0, libc::CLONE_NEWUTS as u64).and_then(|()| crate::sys::ids::sethostname(name.as_bytes()));
            process::exit(done.map_or_else(|errno| errno as i32, |()| 0))
        }
        process::Cloned::Parent { pidfd, .. } => match process::wait(Held(pidfd).0, false).on("wait for", "the host name")? {
            // It may have come to its end already.
            Some(process::Ended::Exited(0 | libc::ESRCH)) => Ok(()),
            Some(process::Ended::Exited(number)) => Err(Error::sys("set the host name to", name, nix::errno::Errno::from_raw(number))),
            _ => Err(Error::new(format!("set the host name to {name}: the process was ended"))),
        },
    }
}

fn kill(pid: i32) {
    if let Ok(pidfd) = process::pidfd_open(pid).map(Held) {
        let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
    }
}

fn open(path: &str) -> Result<Held> {
    let name = CString::new(path).map_err(|_| Error::new(format!("{path:?} contains a NUL byte")))?;
    file::openat(libc::AT_FDCWD, &name, libc::O_RDONLY, 0).map(Held).on("open namespace", path)
}

/// Makes the cgroup and starts criu in it: what criu makes is born there. systemd makes it around criu.
fn start_in_cgroup(
    store: &Store,
    record: &mut Record,
    plan: &Plan,
    work: &mut Work,
    start: impl FnOnce(Option<i32>, &[i32]) -> Result<Session>,
) -> Result<Session> {
    let (mut cgroup, mut unit) = (None, None);
    for placed in &plan.outside {
        match &placed.step {
            OutStep::Cgroup { plan, .. } => cgroup = Some(plan),
            OutStep::Unit { plan } => unit = Some(plan),
            _ => {}
        }
    }
    record.cgroup = cgroup.or(unit).map(|plan| plan.record());
    store.write(record)?;
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
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        for controller in controllers.split(',') {
            roots.push(rpc::CgroupRoot { controller: Some(controller.to_owned()), path: path.to_owned() });
        }
    }
    Ok(roots)
}

fn options(bring: &Bring, folders: &Folders, compiled: &Compiled, root: &Path, externals: &[External]) -> Result<rpc::Options> {
    let spec = &compiled.spec;
    let root = root.canonicalize().on("open", root.display())?;
    let mut options = rpc::Options {
        root: Some(root.to_string_lossy().into_owned()),
        evasive_devices: Some(true),
        rst_sibling: Some(true),
        lsm_profile: bring.lsm_profile.clone(),
        lsm_mount_context: bring.lsm_mount_context.clone(),
        ..bring.common.options(folders, &spec.config().annotations)
    };
    let rootfs = spec.rootfs();
    for external in externals {
        let key = if external.key == inventory::NULL { external.key.clone() } else { resolved(&rootfs, &external.target) };
        let source = external.source.to_str().ok_or_else(|| Error::new(format!("path {} is not UTF-8", external.source.display())))?;
        if !options.ext_mnt.iter().any(|known| known.key == key) {
            options.ext_mnt.push(rpc::ExternalMount { key, value: source.to_owned() });
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
            options.join_ns.push(rpc::JoinNamespace { kind: kind.to_owned(), file: known.path.clone() });
        }
    }
    // Pipes are the caller's new ones; all else that the container had is in the images or the container.
    for (number, name) in (0..).zip(images::descriptors(&bring.common.images)?) {
        if name.starts_with("pipe:") && !options.inherit_fd.iter().any(|known| known.key == name) {
            options.inherit_fd.push(rpc::InheritFd { key: name, descriptor: number });
        }
    }
    let beside = images::Beside::read(&bring.common.images)?;
    options.inherit_fd.extend(beside.files.into_iter().map(|(key, descriptor)| rpc::InheritFd { key, descriptor }));
    Ok(options)
}

/// A path of the container as the kernel lists it: symbolic links of the root followed, as far as the path is there.
fn resolved(rootfs: &Path, target: &str) -> String {
    let Ok(root) = c_path(rootfs).and_then(|name| file::openat(libc::AT_FDCWD, &name, libc::O_PATH | libc::O_DIRECTORY, 0).map(Held).on("open", "")) else {
        return target.to_owned();
    };
    let Ok(base) = std::fs::read_link(format!("/proc/self/fd/{}", root.0)) else { return target.to_owned() };
    let (mut head, mut tail) = (target.to_owned(), String::new());
    loop {
        let name = CString::new(head.as_str()).unwrap_or_default();
        if let Ok(held) = crate::init::lookup(root.0, &name, 0, true).map(Held) {
            let real = std::fs::read_link(format!("/proc/self/fd/{}", held.0)).unwrap_or_default();
            return match real.strip_prefix(&base) {
                Ok(inside) if inside.as_os_str().is_empty() => if tail.is_empty() { "/".to_owned() } else { tail },
                Ok(inside) => format!("/{}{tail}", inside.display()),
                Err(_) => target.to_owned(),
            };
        }
        match head.rsplit_once('/') {
            Some((parent, last)) if !parent.is_empty() => {
                tail = format!("/{last}{tail}");
                head = parent.to_owned();
            }
            _ => return target.to_owned(),
        }
    }
}

fn c_path(path: &Path) -> Result<CString> {
    crate::rootfs::c_path(path)
}

/// Makes the mount points that a fresh root lacks, as create does; on file systems that criu fills itself it makes them too. Where the
/// root cannot be written they must be there, and criu says so.
fn prepare_targets(rootfs: &Path, plan: &Plan, externals: &[External]) {
    let Some(root) = c_path(rootfs).ok().and_then(|name| file::openat(libc::AT_FDCWD, &name, libc::O_PATH | libc::O_DIRECTORY, 0).map(Held).ok()) else { return };
    let mut covered: Vec<&str> = Vec::new();
    for placed in &plan.inside {
        let (target, folder) = match &placed.step {
            Step::Mount { target, .. } => (target, true),
            Step::Bind { target, .. } => (target, externals.iter().find(|external| external.target == *target).is_none_or(|external| external.source.is_dir())),
            _ => continue,
        };
        let below = |point: &&str| target.strip_prefix(*point).is_some_and(|rest| rest.starts_with('/'));
        if !covered.iter().any(below) {
            make_target(root.0, target, folder);
        }
        covered.push(target);
    }
}

fn make_target(root: i32, target: &str, folder: bool) {
    let (parent, name) = target.rsplit_once('/').unwrap_or(("", target));
    let whole = if folder { target } else { parent };
    let Ok(path) = CString::new(if whole.is_empty() { "/" } else { whole }) else { return };
    let Ok(held) = make_folder(root, &path, true).map(Held) else { return };
    if !folder && let Ok(name) = CString::new(name) {
        let _ = file::mknodat(held.0, &name, libc::S_IFREG | 0o644, 0);
    }
}

/// What happens while criu works.
struct Life<'a> {
    store: &'a Store,
    record: Record,
    spec: &'a Spec,
    plan: &'a Plan,
    console: Option<Held>,
    pidfd: Option<Held>,
}

impl Life<'_> {
    fn on(&mut self, event: Event) -> Result<()> {
        match event.script.as_str() {
            "setup-namespaces" => self.hooks(event.pid),
            "orphan-pts-master" => self.terminal(event),
            "post-restore" => self.lives(event.pid),
            _ => Ok(()),
        }
    }

    fn hooks(&self, pid: i32) -> Result<()> {
        for placed in &self.plan.outside {
            if let OutStep::Hook { list, index, hook } = &placed.step {
                let status = if *list == "prestart" { "created" } else { "creating" };
                let state = state_document(self.spec, &self.record.id, status, Some(pid));
                crate::wall::run_hook(list, *index, hook, &state, self.spec.bundle())?;
            }
        }
        Ok(())
    }

    /// The terminal's other end, for whoever holds the console.
    fn terminal(&self, event: Event) -> Result<()> {
        let master = event.descriptor.ok_or_else(|| Error::new("criu sent no terminal"))?;
        let Some(console) = &self.console else {
            return Err(Error::new("the images have a terminal, and the config has none: process.terminal is not set"));
        };
        socket::send_fd(console.0, b"/dev/ptmx", master.as_raw_fd()).on("send the terminal to", "the console socket")
    }

    /// From here on the record knows it: whatever becomes of hull, `delete` finds it.
    fn lives(&mut self, pid: i32) -> Result<()> {
        self.pidfd = Some(process::pidfd_open(pid).map(Held).on("open", "the restored process")?);
        self.record.pid = pid;
        self.record.phase = Phase::Made;
        self.record.start_time = state::process_stat(pid).map(|(_, started)| started).ok_or_else(|| Error::new("the restored process is gone"))?;
        self.record.outcomes = observed(self.plan, &Mounts::of(pid)?);
        self.store.write(&self.record)
    }
}

/// What the steps' policies have come to in a restored container, which the images decided: seen in its mounts.
fn observed(plan: &Plan, mounts: &Mounts) -> Vec<Decided> {
    let host = Mounts::of(process::getpid()).ok();
    let is_hosts = |target: &str, source: &str| {
        let of_host = host.as_ref().and_then(|host| host.at(if source.starts_with('/') { source } else { target }));
        mounts.at(target).zip(of_host).is_some_and(|(ours, theirs)| ours.device == theirs.device)
    };
    let mut outcomes = Vec::new();
    for (index, placed) in plan.inside.iter().enumerate() {
        let bound = match &placed.step {
            Step::Mount { target, source, refused: Refused::BindHost, .. } => is_hosts(target, source),
            Step::Node { path, bind: true, .. } => mounts.at(path).is_some(),
            _ => false,
        };
        if bound {
            outcomes.push(Decided { step: index as u32, from: placed.from.to_string(), outcome: "bound-from-host".to_owned() });
        }
    }
    outcomes
}
