//! Containers saved to disk and brought back, by CRIU.
//!
//! hull does `outside` and has CRIU do `inside`: the plan is the inventory of what is not CRIU's
//! (mounts of the host, joined namespaces, the cgroup, the console). The directories of images are
//! plain CRIU images with `descriptors.json`, as runc writes and reads them.

#![forbid(unsafe_code)]

pub mod archive;
pub mod backend;
pub mod cgroups;
pub mod changes;
pub mod clone;
pub mod criu;
pub mod dump;
pub mod files;
pub mod images;
pub mod inventory;
pub mod lock;
pub mod log;
pub mod network_lock;
pub mod plan;
pub mod request;
pub mod restore;
pub mod root;
pub mod rpc;
pub mod targets;
pub mod tmpfs;
pub mod writeback;

use crate::checkpoint::rpc::CgroupMode;
use crate::checkpoint::rpc::NetworkLock;
use crate::facts::Owner;
use crate::spec::Spec;
use crate::state::Record;
use crate::step::draft::Plan;
use crate::store::Store;
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::path::{Path, PathBuf};

/// What checkpoint and restore are asked alike.
#[derive(Clone, Debug, Default)]
pub struct Common {
    /// `--image-path`.
    pub images: PathBuf,
    /// `--work-path`: the log and what else criu needs; the images' directory if nothing is given.
    pub work: Option<PathBuf>,
    /// `--tcp-established`.
    pub tcp_established: bool,
    /// `--tcp-close`.
    pub tcp_close: bool,
    /// `--ext-unix-sk`.
    pub ext_unix_sk: bool,
    /// `--shell-job`.
    pub shell_job: bool,
    /// `--file-locks`.
    pub file_locks: bool,
    /// `--auto-dedup`.
    pub auto_dedup: bool,
    /// `--lazy-pages`.
    pub lazy_pages: bool,
    /// `--manage-cgroups-mode`.
    pub cgroups: Option<CgroupMode>,
    /// `--empty-ns`: `CLONE_NEW*`.
    pub empty_ns: u32,
    /// `--network-lock`.
    pub network_lock: Option<NetworkLock>,
    /// `--criu`.
    pub criu: Option<PathBuf>,
}

/// The directories, absolute, and the log's path.
struct Directories {
    images: PathBuf,
    work: PathBuf,
    log: PathBuf,
}

impl Common {
    fn directories(&self, log: &str) -> Result<Directories> {
        if let Some(path) = &self.work {
            images::make_directory(path)?;
        }
        let absolute = |path: &Path| path.canonicalize().on("open", path.display());
        let images = absolute(&self.images)?;
        let work = self
            .work
            .as_deref()
            .map_or_else(|| Ok(images.clone()), absolute)?;
        Ok(Directories {
            images,
            log: work.join(log),
            work,
        })
    }

    /// Whether criu may use TLS: for pages that go over a network, which a configuration file may
    /// ask for as well.
    fn may_use_tls(&self, annotations: &std::collections::BTreeMap<String, String>) -> bool {
        self.lazy_pages || config_file(annotations).is_some() || criu::is_configured()
    }

    /// What dump and restore tell criu alike.
    fn options(
        &self,
        directories: &Directories,
        annotations: &std::collections::BTreeMap<String, String>,
    ) -> rpc::Options {
        rpc::Options {
            images_dir_fd: criu::IMAGES,
            work_dir_fd: Some(criu::WORK),
            log_level: Some(4),
            log_file: directories
                .log
                .file_name()
                .map(|name| name.to_string_lossy().into_owned()),
            notify_scripts: Some(true),
            tcp_established: Some(self.tcp_established),
            tcp_close: self.tcp_close.then_some(true),
            ext_unix_sk: Some(self.ext_unix_sk),
            shell_job: Some(self.shell_job),
            file_locks: Some(self.file_locks),
            auto_dedup: Some(self.auto_dedup),
            lazy_pages: Some(self.lazy_pages),
            // The terminal of a shell's job is the caller's, and nobody is sent it.
            orphan_pts_master: Some(!self.shell_job),
            manage_cgroups: Some(true),
            manage_cgroups_mode: Some(self.cgroups.unwrap_or(CgroupMode::Default) as i32),
            empty_ns: Some(self.empty_ns),
            network_lock: self.network_lock.map(|lock| lock as i32),
            config_file: config_file(annotations),
            ..rpc::Options::default()
        }
    }
}

/// Whether criu's network lock is hull's to leave out where there is nothing to hold back: nobody
/// asked for one, and there are no open connections to be kept or closed.
fn may_skip_lock(common: &Common, options: &rpc::Options) -> bool {
    options.network_lock.is_none()
        && options.config_file.is_none()
        && !common.tcp_established
        && !common.tcp_close
}

/// criu's own configuration file: the annotation's (none at all where it is empty), hull's, or the
/// one that engines write for runc.
fn config_file(annotations: &std::collections::BTreeMap<String, String>) -> Option<String> {
    match annotations.get("org.criu.config") {
        Some(path) => Some(path.clone()).filter(|path| !path.is_empty()),
        None => ["/etc/criu/hull.conf", "/etc/criu/runc.conf"]
            .iter()
            .find(|path| Path::new(path).exists())
            .map(ToString::to_string),
    }
}

/// A namespace of the container's that was there before it, and stays: criu must not make it.
struct Joined {
    /// criu's name of the kind.
    kind: &'static str,
    /// By what name it stands in the images, as runc has it.
    key: &'static str,
    path: String,
}

/// The key of a network namespace that criu does not make, as runc has it.
const NETWORK: &str = "extRootNetNS";

/// Network and process namespaces that are joined by path. (criu joins the other kinds at restore
/// by their files.)
fn joined(facts: &crate::facts::Facts) -> Vec<Joined> {
    let kinds = [
        (libc::CLONE_NEWNET, "net", NETWORK),
        (libc::CLONE_NEWPID, "pid", "extRootPidNS"),
    ];
    let known = facts
        .joined
        .iter()
        .filter(|joined| joined.owner != Owner::Own);
    known
        .filter_map(|joined| {
            let (_, kind, key) = kinds
                .iter()
                .find(|(flag, ..)| *flag as u32 == joined.kind)?;
            Some(Joined {
                kind,
                key,
                path: joined.path.clone(),
            })
        })
        .collect()
}

fn has_own_network(spec: &Spec) -> bool {
    spec.namespace(LinuxNamespaceType::Network)
        .is_some_and(|namespace| namespace.path.is_none())
}

/// Whether a container's own network namespace is what hull and the hooks made of it. Then criu
/// leaves it empty, as runc always has it, and at restore hull and the hooks do the same again. So
/// it is where hooks may have put links there, whose other ends criu cannot make; and where no
/// process of the container can have changed anything (capabilities(7)). Otherwise criu saves and
/// restores it whole.
fn network_is_as_made(spec: &Spec, on_hulls: bool) -> bool {
    let config = spec.config();
    let bounding = config
        .process
        .as_ref()
        .and_then(|process| process.capabilities.as_ref())
        .map(|all| &all.bounding);
    let may_change = bounding.is_some_and(|bounding| {
        bounding
            .iter()
            .any(|name| matches!(name.as_str(), "CAP_NET_ADMIN" | "CAP_SYS_ADMIN"))
    });
    has_own_network(spec) && !on_hulls && (hooks_may_wire(spec) || !may_change)
}

/// Whether there are hooks that may put links into the container's network namespace.
fn hooks_may_wire(spec: &Spec) -> bool {
    let hooks = spec.config().hooks.as_ref();
    hooks.is_some_and(|hooks| {
        !hooks.prestart.is_empty()
            || !hooks.create_runtime.is_empty()
            || !hooks.create_container.is_empty()
    })
}

/// The plan by which a container was made, made anew from its record.
fn plan_of(store: &Store, record: &Record) -> Result<Plan> {
    let systemd_cgroup = record.cgroup.as_ref().is_some_and(|cgroup| {
        matches!(
            cgroup.driver,
            crate::cgroups::request::Driver::Systemd { .. }
        )
    });
    let options = crate::compile::CreateOptions {
        systemd_cgroup,
        no_new_keyring: record.no_new_keyring,
        layers: record.layers.clone(),
        ..crate::compile::CreateOptions::default()
    };
    let request =
        crate::compile::request(store, &record.spec, &record.facts, &record.id, &options)?;
    crate::plan::plan(&record.spec, &record.facts, &request)
        .map_err(|error| error.within(format!("plan of container {}", record.id)))
}

/// Only root of the machine may: criu traces, and writes what the kernel lets nobody else write.
fn needs_root(operation: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() || crate::facts::in_user_namespace() {
        return Err(Error::new(format!(
            "{operation} needs root: criu cannot do it for an ordinary user"
        )));
    }
    Ok(())
}

/// A directory for images that is gone when it is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it, in the store.
    ///
    /// # Errors
    /// The disk's.
    pub fn new(store: &Store, name: &str) -> Result<Self> {
        let path = store
            .cache("images")?
            .join(format!("{name}-{}", std::process::id()));
        images::make_directory(&path)?;
        Ok(Self(path.canonicalize().on("open", path.display())?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The way from here to a directory, as criu wants it of the images that others rest on.
    ///
    /// # Errors
    /// It is not there.
    pub fn way_to(&self, directory: &Path) -> Result<PathBuf> {
        let directory = directory
            .canonicalize()
            .on("find the former images", directory.display())?;
        let up = self.0.components().skip(1).map(|_| "..");
        Ok(up
            .collect::<PathBuf>()
            .join(directory.strip_prefix("/").unwrap_or(&directory)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
