//! The options that checkpoint and restore share, and what CRIU is told of them.

use super::criu;
use super::images;
use super::proto::rpc::{CriuCgMode, CriuNetworkLockMethod, CriuOpts};
use super::session;
use crate::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The options that `hull checkpoint` and `hull restore` share. Those without a further word are
/// CRIU's own of the same name (criu(8)).
#[derive(Clone, Debug, Default)]
pub struct CommonOptions {
    /// `--image-path`: the directory of images.
    pub images: PathBuf,
    /// `--work-path`: the directory of CRIU's log and statistics; none means `images`.
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
    /// `--manage-cgroups-mode`; none means CRIU's default.
    pub cgroups: Option<CriuCgMode>,
    /// `--empty-ns`: the `CLONE_NEW*` flags of namespaces that CRIU creates and leaves empty.
    pub empty_ns: u32,
    /// `--network-lock`; none means CRIU's default.
    pub network_lock: Option<CriuNetworkLockMethod>,
    /// `--criu`: the CRIU program; none means that hull looks for it ([`criu::find`]).
    pub criu: Option<PathBuf>,
}

/// The directories of one checkpoint or restore, absolute and free of symbolic links.
pub(super) struct Directories {
    /// The directory of images.
    pub images: PathBuf,
    /// The directory of the log.
    pub work: PathBuf,
    /// The path of the log.
    pub log: PathBuf,
}

impl CommonOptions {
    /// Resolves the directories, and creates the work directory if it is missing. `log` is the
    /// log's file name.
    ///
    /// # Errors
    /// mkdir(2) fails for the work directory; the directory of images does not exist.
    pub(super) fn directories(&self, log: &str) -> Result<Directories> {
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

    /// Whether CRIU may use TLS. It does so for memory pages that it sends over a network, which
    /// one of its configuration files may request as well.
    pub(super) fn may_use_tls(&self, annotations: &BTreeMap<String, String>) -> bool {
        self.lazy_pages || config_file(annotations).is_some() || criu::has_config_file()
    }

    /// The part of CRIU's options that dump and restore share.
    pub(super) fn criu_opts(
        &self,
        directories: &Directories,
        annotations: &BTreeMap<String, String>,
    ) -> CriuOpts {
        CriuOpts {
            images_dir_fd: session::IMAGES_FD,
            work_dir_fd: Some(session::WORK_FD),
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
            // The terminal of a shell job stays the caller's: CRIU has no master end to send.
            orphan_pts_master: Some(!self.shell_job),
            manage_cgroups: Some(true),
            manage_cgroups_mode: Some(self.cgroups.unwrap_or(CriuCgMode::Default) as i32),
            empty_ns: Some(self.empty_ns),
            network_lock: self.network_lock.map(|lock| lock as i32),
            config_file: config_file(annotations),
            ..CriuOpts::default()
        }
    }

    /// Whether hull may tell CRIU to lock no network where no packet can arrive: the caller
    /// requested no lock, and CRIU neither keeps nor closes open connections.
    pub(super) fn may_skip_network_lock(&self, opts: &CriuOpts) -> bool {
        opts.network_lock.is_none()
            && opts.config_file.is_none()
            && !self.tcp_established
            && !self.tcp_close
    }
}

/// The configuration file that hull names to CRIU: that of the annotation `org.criu.config` (none
/// where it is empty) if the administrator allows it, since such a file may name programs that
/// CRIU runs as root; else hull's, else the one that engines write for runc.
fn config_file(annotations: &BTreeMap<String, String>) -> Option<String> {
    const ANNOTATION: &str = "org.criu.config";
    let named = annotations.get(ANNOTATION).filter(|path| {
        let allowed = path.is_empty() || crate::settings::allows(ANNOTATION).unwrap_or(false);
        if !allowed {
            crate::log::warn(&format!(
                "annotation {ANNOTATION} has no effect: the annotations in hull's config do not \
                 name it"
            ));
        }
        allowed
    });
    match named {
        Some(path) => Some(path.clone()).filter(|path| !path.is_empty()),
        None => ["/etc/criu/hull.conf", "/etc/criu/runc.conf"]
            .iter()
            .find(|path| Path::new(path).exists())
            .map(ToString::to_string),
    }
}
