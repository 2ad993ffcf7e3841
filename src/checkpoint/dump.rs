//! `hull checkpoint`: CRIU dumps a running container to a directory of images. The container then
//! ends, or continues to run.

use super::criu;
use super::criu_network_lock::CriuLocks;
use super::external_mounts;
use super::images;
use super::manifest::Manifest;
use super::mounts::{Mounts, mount_id};
use super::namespaces::{self, NETWORK_LABEL};
use super::options::{CommonOptions, Directories};
use super::proto::rpc::{
    CriuFeatures, CriuNetworkLockMethod, CriuOpts, CriuPageServerInfo, CriuReqType, ExtMountMap,
};
use super::session::{FIRST_INHERITED_FD, Notification, Session, SessionConfig};
use super::stdio_files::HostFile;
use super::tmpfs::TarShim;
use super::writeback::Writeback;
use super::{archive, cgroups, layers};
use crate::cgroups::place::Place;
use crate::cgroups::request::Driver;
use crate::cgroups::tree::Version;
use crate::compile::CgroupManager;
use crate::container::{Container, Status};
use crate::net::netlink::Namespace;
use crate::state::Record;
use crate::step::draft::Plan;
use crate::store::Store;
use crate::{Context, Error, Result};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The log's file name in the work directory, which is runc's.
const LOG: &str = "dump.log";

/// The options of `hull checkpoint`.
#[derive(Clone, Debug, Default)]
pub struct DumpOptions {
    /// The options that restore has as well.
    pub common: CommonOptions,
    /// `--leave-running`.
    pub leave_running: bool,
    /// `--pre-dump`: dump memory only, as the parent of a later dump.
    pub pre_dump: bool,
    /// `--parent-path`: the directory of the parent images, relative to the directory of images.
    pub parent: Option<PathBuf>,
    /// `--tcp-skip-in-flight`.
    pub tcp_skip_in_flight: bool,
    /// `--link-remap`.
    pub link_remap: bool,
    /// `--page-server`: where CRIU sends memory pages.
    pub page_server: Option<PageServer>,
    /// `--export`: the file to which hull packs the images.
    pub export: Option<PathBuf>,
    /// `--status-fd`: the file descriptor that gets a NUL byte when CRIU serves lazy pages.
    pub status_fd: Option<i32>,
}

/// The address of CRIU's page server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageServer {
    /// Host name or IP address.
    pub address: String,
    /// TCP port.
    pub port: u16,
}

impl DumpOptions {
    /// Whether the images get checksums. With lazy pages or deduplication CRIU changes them later.
    fn has_checksums(&self) -> bool {
        !self.common.auto_dedup && !self.common.lazy_pages
    }

    fn ends_container(&self) -> bool {
        !self.pre_dump && !self.leave_running
    }
}

/// Checkpoints a container.
///
/// # Errors
/// hull does not run as root; the container does not run, or runs in a VM; CRIU is not installed,
/// is too old, or fails. The container then continues to run as before.
pub fn checkpoint(store: &Store, id: &str, options: &DumpOptions) -> Result<()> {
    criu::require_root("checkpoint")?;
    let lock = store.lock(id)?;
    let container = Container::open(store, id)?;
    if container.record.vm.is_some() {
        return Err(Error::new(
            "a container in a virtual machine cannot be checkpointed yet",
        ));
    }
    let status = container.status();
    if !matches!(status, Status::Running | Status::Paused) {
        return Err(Error::new(format!(
            "container cannot be checkpointed in {} state",
            status.word()
        )));
    }
    let before = Before {
        paused: status == Status::Paused,
        locks: existing_locks(&container, options),
    };
    // The kernel removes the netfilter rules of a network namespace that has no user any more
    // before its links. With CRIU's lock gone, it would send RST to the peers of dumped connections
    // (seen).
    let own_network = namespaces::has_own_network(&container.record.spec);
    let namespace = if options.ends_container() && own_network {
        Namespace::of_process(container.record.pid).ok()
    } else {
        None
    };
    dump(store, &container, options).inspect_err(|_| before.restore(&container))?;
    if !options.ends_container() {
        return Ok(());
    }
    let unplugged = crate::net::release::unplug(&container.directory());
    drop(namespace);
    let ended = container.take_down();
    drop(lock);
    unplugged.and(ended)
}

/// What a failed dump may leave changed. CRIU resumes the processes itself; if it was killed, the
/// freezer may still be closed and the network locked.
struct Before {
    /// The container was paused before the dump.
    paused: bool,
    /// CRIU's network locks before the dump; none where CRIU locks nothing.
    locks: Option<CriuLocks>,
}

impl Before {
    /// Removes CRIU's network lock, and thaws the container unless it was paused before.
    fn restore(&self, container: &Container) {
        if let Some(before) = &self.locks
            && let Some((namespace, locks)) = find_locks(container)
            && let Err(error) = locks.remove(&namespace, before)
        {
            crate::log::warn(&format!(
                "container {}: criu's network lock is still there: {error}",
                container.record.id
            ));
        }
        if let Ok(Some(group)) = container.group()
            && !self.paused
            && group.frozen().unwrap_or(false)
        {
            let _ = group.thaw();
        }
    }
}

/// The network locks that existed before the dump; `None` where CRIU will lock nothing. In a
/// network namespace that the container shares with others, CRIU locks open connections only, and
/// there may be locks of other checkpoints.
fn existing_locks(container: &Container, options: &DumpOptions) -> Option<CriuLocks> {
    let connections = options.common.tcp_established || options.common.tcp_close;
    if namespaces::has_own_network(&container.record.spec) {
        Some(CriuLocks::default())
    } else if connections {
        Some(find_locks(container).map_or_else(CriuLocks::default, |(_, locks)| locks))
    } else {
        None
    }
}

/// The container's network namespace, and the locks in it.
fn find_locks(container: &Container) -> Option<(Namespace, CriuLocks)> {
    let namespace = Namespace::of_process(container.record.pid).ok()?;
    let locks = CriuLocks::of(&namespace);
    Some((namespace, locks))
}

fn dump(store: &Store, container: &Container, options: &DumpOptions) -> Result<()> {
    let common = &options.common;
    let program = criu::find(common.criu.as_deref())?;
    images::make_directory(&common.images)?;
    let directories = common.directories(LOG)?;
    let inherit: Vec<i32> = options.status_fd.into_iter().collect();
    let tar_shim = TarShim::of(&container.directory())?;
    let config = SessionConfig {
        images: &directories.images,
        work: &directories.work,
        inherit: &inherit,
        keep_stdio: false,
        mounts: &[],
        cgroup: None,
        tasks: &[],
        tar_shim: &tar_shim,
        tls: options.page_server.is_some()
            || common.may_use_tls(&container.record.spec.config().annotations),
    };
    // CRIU loads while hull reads the container's state.
    let mut session = Session::start(&program, &config)?;
    tar_shim.make()?;
    let mut opts = criu_opts(store, container, options, &directories)?;
    let mut manifest = if options.pre_dump {
        None
    } else {
        Some(Manifest::of(container, host_files(container)?)?)
    };
    session.check_version()?;
    check_features(&mut session, options)?;
    if let Some(manifest) = &manifest {
        add_external_resources(container, manifest, &mut opts)?;
        write_descriptors(container, options)?;
    }
    // An older CRIU writes to the file descriptor itself.
    if session.version < criu::STATUS_READY_VERSION {
        opts.status_fd = options.status_fd.map(|_| FIRST_INHERITED_FD);
    }
    if session.version >= criu::SKIP_LOCK_VERSION && is_without_packets(container, options, &opts) {
        opts.network_lock = Some(CriuNetworkLockMethod::Skip as i32);
    }
    crate::log::debug(|| format!("criu: {opts:?}"));
    let mut status = options.status_fd.map(crate::sys::fd::Fd);
    let kind = if options.pre_dump {
        CriuReqType::PreDump
    } else {
        CriuReqType::Dump
    };
    let mut writeback = Writeback::new(&directories.images, options.has_checksums());
    let mut on_notify = |notification: Notification, writeback: Option<&Writeback>| {
        match notification.script.as_str() {
            // CRIU ends the container when hull acknowledges this: the images must be on the disk.
            "post-dump" => {
                let manifest = manifest.take().unwrap_or_default();
                finish(container, options, manifest, writeback)
                    .map_err(|error| error.within("the images cannot be saved"))
            }
            "status-ready" => status.take().map_or(Ok(()), |fd| {
                crate::sys::file::write(fd.0, &[0])
                    .map(drop)
                    .on("write to", "--status-fd")
            }),
            _ => Ok(()),
        }
    };
    let log = &directories.log;
    session.execute(kind, opts, log, Some(&mut writeback), &mut on_notify)?;
    if options.pre_dump {
        // CRIU waits for the next pre-dump, and reports the end of the session as a failure.
        drop(session);
        images::begin_writeback(&common.images)?;
        return images::sync(&common.images);
    }
    drop(tar_shim);
    session.wait(log)?;
    match &options.export {
        Some(file) if options.leave_running => archive::pack(&common.images, file),
        _ => Ok(()),
    }
}

/// Names to CRIU the files and the network namespace that it must not dump.
fn add_external_resources(
    container: &Container,
    manifest: &Manifest,
    opts: &mut CriuOpts,
) -> Result<()> {
    opts.external
        .extend(manifest.files.iter().map(|file| file.key.clone()));
    let hulls_network = manifest.network.is_some();
    if namespaces::is_network_as_created(&container.record.spec, hulls_network) {
        opts.empty_ns = opts.empty_ns.map(|kinds| kinds | libc::CLONE_NEWNET as u32);
    }
    if hulls_network {
        // At restore hull attaches the container to its networks again, with the same addresses.
        opts.external
            .push(external_namespace(container, "net", NETWORK_LABEL)?);
    }
    Ok(())
}

/// Writes `descriptors.json`.
fn write_descriptors(container: &Container, options: &DumpOptions) -> Result<()> {
    let names = serde_json::to_vec(&container.record.stdio)
        .map_err(|error| Error::new(format!("write {}: {error}", images::DESCRIPTORS)))?;
    images::write_private(&options.common.images.join(images::DESCRIPTORS), &names)
}

/// Whether no packet can arrive in the container's network namespace, so that there is nothing to
/// lock: its only device is the loopback, over which only processes of the container send, and
/// those are frozen. A packet under way could still change an open connection; CRIU dumps or closes
/// those only where the caller requests it.
fn is_without_packets(container: &Container, options: &DumpOptions, opts: &CriuOpts) -> bool {
    let has_only_loopback = || {
        let devices = std::fs::read_to_string(format!("/proc/{}/net/dev", container.record.pid))
            .unwrap_or_default();
        let mut names = devices
            .lines()
            .skip(2)
            .filter_map(|line| line.split(':').next())
            .map(str::trim)
            .peekable();
        names.peek().is_some() && names.all(|name| name == "lo")
    };
    options.common.may_skip_network_lock(opts)
        && !options.tcp_skip_in_flight
        && namespaces::has_own_network(&container.record.spec)
        && has_only_loopback()
}

/// Completes the images while the container is frozen, and writes all of them to the disk. After
/// CRIU has the acknowledgement, the container may end.
fn finish(
    container: &Container,
    options: &DumpOptions,
    mut manifest: Manifest,
    writeback: Option<&Writeback>,
) -> Result<()> {
    let directory = &options.common.images;
    layers::save_changes(container, directory)?;
    manifest.remove_file_state(directory)?;
    // The disk works while hull computes the checksums.
    images::begin_writeback(directory)?;
    if options.has_checksums() {
        manifest.add_checksums(directory, &|path| {
            writeback.and_then(|writeback| writeback.checksum(path))
        })?;
    }
    manifest.write(directory)?;
    images::sync(directory)?;
    match &options.export {
        Some(file) if !options.leave_running => archive::pack(directory, file),
        _ => Ok(()),
    }
}

/// CRIU's option for a namespace of the container's that it must not dump.
fn external_namespace(container: &Container, kind: &str, label: &str) -> Result<String> {
    let path = format!("/proc/{}/ns/{kind}", container.record.pid);
    let inode = std::fs::metadata(&path).on("stat", &path)?.ino();
    Ok(format!("{kind}[{inode}]:{label}"))
}

/// Checks that kernel and CRIU have the features that the options need, before CRIU freezes
/// anything.
fn check_features(session: &mut Session, options: &DumpOptions) -> Result<()> {
    let lazy_pages = options.common.lazy_pages;
    let track = options.pre_dump || options.parent.is_some();
    if track || lazy_pages {
        let wanted = CriuFeatures {
            mem_track: track.then_some(true),
            lazy_pages: lazy_pages.then_some(true),
        };
        let found = session.features(wanted)?;
        if track && found.mem_track != Some(true) {
            return Err(Error::new(
                "--pre-dump and --parent-path need a kernel that tracks written pages: this one \
                    is built without CONFIG_MEM_SOFT_DIRTY",
            ));
        }
        if lazy_pages && found.lazy_pages != Some(true) {
            return Err(Error::new(
                "--lazy-pages needs a kernel with CONFIG_USERFAULTFD, its events for forks and \
                    mappings included, and a criu built for it",
            ));
        }
    }
    Ok(())
}

/// CRIU's options for a dump, without what depends on its version and on the manifest.
fn criu_opts(
    store: &Store,
    container: &Container,
    options: &DumpOptions,
    directories: &Directories,
) -> Result<CriuOpts> {
    let record = &container.record;
    let spec = &record.spec;
    let mut opts = CriuOpts {
        pid: Some(record.pid),
        root: Some(spec.rootfs().to_string_lossy().into_owned()),
        leave_running: Some(options.leave_running),
        tcp_skip_in_flight: options.tcp_skip_in_flight.then_some(true),
        link_remap: Some(options.link_remap),
        parent_img: options
            .parent
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned()),
        track_mem: (options.parent.is_some() || options.pre_dump).then_some(true),
        ps: options
            .page_server
            .as_ref()
            .map(|server| CriuPageServerInfo {
                address: Some(server.address.clone()),
                port: Some(i32::from(server.port)),
            }),
        freeze_cgroup: freezer(record),
        cgroup_yard: cgroups::host_cgroup_yard(),
        ..options
            .common
            .criu_opts(directories, &spec.config().annotations)
    };
    for joined in namespaces::joined(&record.facts) {
        opts.external
            .push(external_namespace(container, joined.kind, joined.label)?);
    }
    if !options.pre_dump {
        let plan = plan_of(store, record)?;
        let outcomes = external_mounts::recorded(&record.outcomes);
        let externals = external_mounts::of_plan(&plan, &outcomes);
        for mount in external_mounts::present(&externals, &Mounts::of(record.pid)?)? {
            opts.ext_mnt.push(ExtMountMap {
                key: mount.point,
                val: mount.key,
            });
        }
    }
    Ok(opts)
}

/// The plan by which a container was created, compiled from its record again.
pub(super) fn plan_of(store: &Store, record: &Record) -> Result<Plan> {
    let cgroup_manager = match record.cgroup.as_ref().map(|cgroup| &cgroup.driver) {
        None | Some(Driver::Cgroupfs) => CgroupManager::Cgroupfs,
        Some(Driver::Systemd { .. }) => CgroupManager::Systemd,
        Some(Driver::Disabled) => CgroupManager::Disabled,
    };
    let options = crate::compile::CreateOptions {
        cgroup_manager,
        no_new_keyring: record.no_new_keyring,
        layers: record.layers.clone(),
        ..crate::compile::CreateOptions::default()
    };
    let request =
        crate::compile::request(store, &record.spec, &record.facts, &record.id, &options)?;
    crate::plan::plan(&record.spec, &record.facts, &request)
        .map_err(|error| error.within(format!("plan of container {}", record.id)))
}

/// The cgroup directory by which CRIU freezes all processes at once: that of the v1 freezer, else
/// that of cgroup v2.
fn freezer(record: &Record) -> Option<String> {
    let places = &record.cgroup.as_ref()?.places;
    let has_freezer = |place: &&Place| {
        place
            .controllers
            .iter()
            .any(|controller| controller == "freezer")
    };
    places
        .iter()
        .find(has_freezer)
        .or_else(|| places.iter().find(|place| place.version == Version::V2))
        .map(|place| place.dir.clone())
}

/// Those of init's stdin, stdout and stderr that are files of the host. CRIU names them by mount
/// and inode; at restore the caller's own replace them.
fn host_files(container: &Container) -> Result<Vec<HostFile>> {
    let pid = container.record.pid;
    let mounts = Mounts::of(pid)?;
    let mut files = Vec::new();
    for stream in 0..3 {
        let path = format!("/proc/{pid}/fd/{stream}");
        let Ok(stat) = std::fs::metadata(&path) else {
            continue;
        };
        let info =
            std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{stream}")).on("read", &path)?;
        let is_hosts = |mount: &u64| mounts.all.iter().all(|known| known.id != *mount);
        if let Some(mount) = mount_id(&info).filter(|mount| stat.is_file() && is_hosts(mount)) {
            files.push(HostFile {
                key: format!("file[{mount:x}:{:x}]", stat.ino()),
                stream,
            });
        }
    }
    Ok(files)
}
