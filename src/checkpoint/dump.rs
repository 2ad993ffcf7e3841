//! `checkpoint`: a running container is written to a directory of images, and ends or runs on.

use super::criu::{self, Session, World};
use super::images::{self, Beside};
use super::inventory::{self, Mounts};
use super::lock::Locks;
use super::rpc::{self, Features, Kind};
use super::tmpfs::StandIn;
use crate::checkpoint::writeback::Following;
use crate::checkpoint::{Common, Directories, archive, cgroups, root};
use crate::container::{Container, Status};
use crate::net::netlink::Namespace;
use crate::store::Store;
use crate::{Context, Error, Result};
use std::path::PathBuf;

/// The log's name in the work path.
const LOG: &str = "dump.log";

/// What `checkpoint` was asked.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// What restore is asked as well.
    pub common: Common,
    /// `--leave-running`.
    pub leave_running: bool,
    /// `--pre-dump`: memory only, for a later dump with this one as its parent.
    pub pre_dump: bool,
    /// `--parent-path`: the former images, relative to the images' directory.
    pub parent: Option<PathBuf>,
    /// `--tcp-skip-in-flight`.
    pub tcp_skip_in_flight: bool,
    /// `--link-remap`.
    pub link_remap: bool,
    /// `--page-server`: address and port.
    pub page_server: Option<(String, u16)>,
    /// `--export`: the one file that all goes into.
    pub export: Option<PathBuf>,
    /// `--status-fd`: gets a NUL byte when lazy pages can be asked for.
    pub status_fd: Option<i32>,
}

impl Dump {
    /// Images that are to share pages with others change by that, and have no sums.
    fn is_summed(&self) -> bool {
        !self.common.auto_dedup && !self.common.lazy_pages
    }
}

/// Saves a container.
///
/// # Errors
/// It does not run; criu is not there, too old, or fails: then the container is as it was.
pub fn checkpoint(store: &Store, id: &str, dump: &Dump) -> Result<()> {
    super::needs_root("checkpoint")?;
    let lock = store.lock(id)?;
    let container = Container::open(store, id)?;
    if container.record.vm.is_some() {
        return Err(Error::new(
            "a container in a virtual machine cannot be checkpointed yet",
        ));
    }
    match container.status() {
        Status::Running | Status::Paused => {}
        status => {
            return Err(Error::new(format!(
                "container cannot be checkpointed in {} state",
                status.word()
            )));
        }
    }
    let frozen = container.status() == Status::Paused;
    let before = may_lock(&container, dump).map(|shared| {
        if shared {
            locks(&container).map_or_else(Locks::default, |(_, locks)| locks)
        } else {
            Locks::default()
        }
    });
    let ends = !dump.pre_dump && !dump.leave_running;
    // A namespace that ends loses criu's lock before its links, and meanwhile answers the other
    // ends of what was saved with a reset (seen).
    let namespace = if ends && super::has_own_network(&container.record.spec) {
        Namespace::of_process(container.record.pid).ok()
    } else {
        None
    };
    save(store, &container, dump)
        .inspect_err(|_| leave_as_it_was(&container, frozen, before.as_ref()))?;
    if !ends {
        return Ok(());
    }
    let unplugged = crate::net::release::unplug(&container.directory());
    drop(namespace);
    let ended = container.take_down();
    drop(lock);
    unplugged.and(ended)
}

/// Whether criu may lock something in the container's network namespace, and then whether others
/// share that. In one that is shared, where others may have connections of theirs saved, it locks
/// open connections alone.
fn may_lock(container: &Container, dump: &Dump) -> Option<bool> {
    let connections = dump.common.tcp_established || dump.common.tcp_close;
    let own = super::has_own_network(&container.record.spec);
    (connections || own).then_some(!own)
}

/// The container's network namespace, and the locks in it.
fn locks(container: &Container) -> Option<(Namespace, Locks)> {
    let namespace = Namespace::of_process(container.record.pid).ok()?;
    let locks = Locks::of(&namespace);
    Some((namespace, locks))
}

/// criu lets the processes go on by itself; one that was killed over it may have left the freezer
/// closed, and the network locked.
fn leave_as_it_was(container: &Container, frozen: bool, before: Option<&Locks>) {
    if let Some((before, (namespace, locks))) = before.zip(before.and_then(|_| locks(container)))
        && let Err(error) = locks.remove(&namespace, before)
    {
        crate::log::warn(&format!(
            "container {}: criu's network lock is still there: {error}",
            container.record.id
        ));
    }
    if let Ok(Some(group)) = container.group()
        && !frozen
        && group.frozen().unwrap_or(false)
    {
        let _ = group.thaw();
    }
}

fn save(store: &Store, container: &Container, dump: &Dump) -> Result<()> {
    let common = &dump.common;
    let program = criu::find(common.criu.as_deref())?;
    images::make_directory(&common.images)?;
    let directories = common.directories(LOG)?;
    let inherit: Vec<i32> = dump.status_fd.into_iter().collect();
    let Directories { images, work, .. } = &directories;
    let stand_in = StandIn::of(&container.directory())?;
    let tls = dump.page_server.is_some()
        || common.may_use_tls(&container.record.spec.config().annotations);
    let world = World {
        images,
        work,
        inherit: &inherit,
        stdio: false,
        mounts: &[],
        cgroup: None,
        tasks: &[],
        stand_in: &stand_in,
        tls,
    };
    // criu loads while hull looks at the container.
    let mut session = Session::start(&program, &world)?;
    stand_in.make()?;
    let mut options = options(store, container, dump, &directories)?;
    let mut beside = if dump.pre_dump {
        None
    } else {
        Some(Beside::of(container, host_files(container)?)?)
    };
    session.greet()?;
    check_features(&mut session, dump)?;
    if let Some(beside) = &beside {
        describe(container, dump, beside, &mut options)?;
    }
    // Since 3.15 criu tells when lazy pages are ready; before it takes the descriptor itself.
    if session.version < 31_500 {
        options.status_fd = dump.status_fd.map(|_| criu::FIRST);
    }
    if session.version >= criu::SKIPS_LOCK && nothing_to_lock(container, dump, &options) {
        options.network_lock = Some(rpc::NetworkLock::Skip as i32);
    }
    crate::log::debug(|| format!("criu: {options:?}"));
    let mut status = dump.status_fd.map(crate::sys::fd::Fd);
    let kind = if dump.pre_dump {
        Kind::PreDump
    } else {
        Kind::Dump
    };
    let mut following = Following::begin(images, dump.is_summed());
    session.execute(
        kind,
        options,
        &directories.log,
        Some(&mut following),
        &mut |event, following| match event.script.as_str() {
            // With the answer the source ends: what is saved must be on the disk.
            "post-dump" => finish(container, dump, (beside.take(), following))
                .map_err(|error| error.within("the images cannot be saved")),
            "status-ready" => status.take().map_or(Ok(()), |held| {
                crate::sys::file::write(held.0, &[0])
                    .map(drop)
                    .on("write to", "--status-fd")
            }),
            _ => Ok(()),
        },
    )?;
    if dump.pre_dump {
        // criu waits for the next one, and takes the end of the conversation for a failure.
        drop(session);
        images::begin_writeback(&common.images)?;
        return images::settle(&common.images);
    }
    drop(stand_in);
    session.end(&directories.log)?;
    match &dump.export {
        Some(file) if dump.leave_running => archive::pack(&common.images, file),
        _ => Ok(()),
    }
}

/// What criu is told by what hull keeps beside the images; and what it was given as stdin, stdout
/// and stderr.
fn describe(
    container: &Container,
    dump: &Dump,
    beside: &Beside,
    options: &mut rpc::Options,
) -> Result<()> {
    options
        .external
        .extend(beside.files.iter().map(|(key, _)| key.clone()));
    if super::network_is_as_made(&container.record.spec, beside.network.is_some()) {
        options.empty_ns = options
            .empty_ns
            .map(|kinds| kinds | libc::CLONE_NEWNET as u32);
    }
    if beside.network.is_some() {
        // hull's own: made anew for the restored container, with the same addresses.
        options.external.push(format!(
            "net[{}]:{}",
            namespace(container.record.pid, "net")?,
            super::NETWORK
        ));
    }
    let names = serde_json::to_vec(&container.record.stdio)
        .map_err(|error| Error::new(format!("write {}: {error}", images::DESCRIPTORS)))?;
    images::write_private(&dump.common.images.join(images::DESCRIPTORS), &names)
}

/// No packet comes from outside into a network namespace that has a loopback alone, and what goes
/// through that is of the processes that stand still: only open connections could still be changed
/// by it, and those are saved or closed on request alone.
fn nothing_to_lock(container: &Container, dump: &Dump, options: &rpc::Options) -> bool {
    let lonely = || {
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
    super::may_skip_lock(&dump.common, options)
        && !dump.tcp_skip_in_flight
        && super::has_own_network(&container.record.spec)
        && lonely()
}

/// The processes stand still: what they changed in their root is saved, and all is brought to the
/// disk. With the answer to criu the source may end.
fn finish(
    container: &Container,
    dump: &Dump,
    (beside, following): (Option<Beside>, Option<&Following>),
) -> Result<()> {
    let directory = &dump.common.images;
    root::save(container, directory)?;
    let mut beside = beside.unwrap_or_default();
    beside.loosen(directory)?;
    // The disk works while the sums are made.
    images::begin_writeback(directory)?;
    if dump.is_summed() {
        beside.sum_up(directory, &|path| {
            following.and_then(|following| following.sum(path))
        })?;
    }
    beside.write(directory)?;
    images::settle(directory)?;
    match &dump.export {
        Some(file) if !dump.leave_running => archive::pack(directory, file),
        _ => Ok(()),
    }
}

fn namespace(pid: i32, kind: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/ns/{kind}");
    let stat = std::fs::metadata(&path).on("stat", &path)?;
    Ok(std::os::unix::fs::MetadataExt::ino(&stat))
}

/// What kernel and criu must be able to do is asked before anything stops.
fn check_features(session: &mut Session, dump: &Dump) -> Result<()> {
    let common = &dump.common;
    let memory = dump.pre_dump || dump.parent.is_some();
    if memory || common.lazy_pages {
        let wanted = Features {
            mem_track: memory.then_some(true),
            lazy_pages: common.lazy_pages.then_some(true),
        };
        let can = session.features(wanted)?;
        if memory && can.mem_track != Some(true) {
            return Err(Error::new(
                "--pre-dump and --parent-path need a kernel that tracks written pages: this one \
                    is built without CONFIG_MEM_SOFT_DIRTY",
            ));
        }
        if common.lazy_pages && can.lazy_pages != Some(true) {
            return Err(Error::new(
                "--lazy-pages needs a kernel with CONFIG_USERFAULTFD, its events for forks and \
                    mappings included, and a criu built for it",
            ));
        }
    }
    Ok(())
}

fn options(
    store: &Store,
    container: &Container,
    dump: &Dump,
    directories: &Directories,
) -> Result<rpc::Options> {
    let record = &container.record;
    let spec = &record.spec;
    let mut options = rpc::Options {
        pid: Some(record.pid),
        root: Some(spec.rootfs().to_string_lossy().into_owned()),
        leave_running: Some(dump.leave_running),
        tcp_skip_in_flight: dump.tcp_skip_in_flight.then_some(true),
        link_remap: Some(dump.link_remap),
        parent_img: dump
            .parent
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned()),
        track_mem: (dump.parent.is_some() || dump.pre_dump).then_some(true),
        page_server: dump
            .page_server
            .as_ref()
            .map(|(address, port)| rpc::PageServer {
                address: Some(address.clone()),
                port: Some(i32::from(*port)),
            }),
        freeze_cgroup: freezer(container),
        cgroup_yard: cgroups::of_machine(),
        ..dump.common.options(directories, &spec.config().annotations)
    };
    for joined in super::joined(&record.facts) {
        options.external.push(format!(
            "{}[{}]:{}",
            joined.kind,
            namespace(record.pid, joined.kind)?,
            joined.key
        ));
    }
    if !dump.pre_dump {
        let plan = super::plan_of(store, record)?;
        let externals = inventory::externals(&plan, &inventory::recorded(&record.outcomes));
        for (point, key, _) in inventory::present(&externals, &Mounts::of(record.pid)?)? {
            options.ext_mnt.push(rpc::ExternalMount {
                key: point,
                value: key,
            });
        }
    }
    Ok(options)
}

/// The directory by which criu stops everything at once.
fn freezer(container: &Container) -> Option<String> {
    let places = &container.record.cgroup.as_ref()?.places;
    let has = |place: &&crate::cgroups::place::Place| {
        place
            .controllers
            .iter()
            .any(|controller| controller == "freezer")
    };
    let v2 =
        |place: &&crate::cgroups::place::Place| place.version == crate::cgroups::tree::Version::V2;
    places
        .iter()
        .find(has)
        .or_else(|| places.iter().find(v2))
        .map(|place| place.dir.clone())
}

/// Which of init's stdin, stdout and stderr are files of the host: criu knows them by mount and
/// inode, and the restored ones are the new caller's.
fn host_files(container: &Container) -> Result<Vec<(String, i32)>> {
    let pid = container.record.pid;
    let mounts = Mounts::of(pid)?;
    let mut files = Vec::new();
    for number in 0..3 {
        let path = format!("/proc/{pid}/fd/{number}");
        let Ok(stat) = std::fs::metadata(&path) else {
            continue;
        };
        let info =
            std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).on("read", &path)?;
        let mount = info
            .lines()
            .find_map(|line| line.strip_prefix("mnt_id:"))
            .and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(mount) = mount
            .filter(|mount| stat.is_file() && mounts.all.iter().all(|known| known.id != *mount))
        {
            let key = format!(
                "file[{mount:x}:{:x}]",
                std::os::unix::fs::MetadataExt::ino(&stat)
            );
            files.push((key, number));
        }
    }
    Ok(files)
}
