//! `hull checkpoint`.

use super::Global;
use crate::checkpoint;
use crate::checkpoint::dump::Dump;
use crate::checkpoint::rpc::{CgroupMode, NetworkLock};
use crate::checkpoint::{Common, Scratch};
use crate::{Error, Result};
use clap::ValueEnum;
use std::path::PathBuf;

/// Options of `checkpoint`.
#[derive(clap::Args)]
pub struct Args {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    shared: Shared,
    /// Directory of the former images, relative to --image-path; with --export to the current directory
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let the container run on
    #[arg(long)]
    leave_running: bool,
    /// Leave out TCP connections that are being set up
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Give removed files that are held open a name again
    #[arg(long)]
    link_remap: bool,
    /// Gets a NUL byte when lazy pages can be asked for
    #[arg(long, value_name = "FD", allow_negative_numbers = true, default_value_t = -1)]
    status_fd: i32,
    /// Send the pages to this page server
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Save memory only and let the container run on; a later checkpoint takes the rest
    #[arg(long, conflicts_with = "export")]
    pre_dump: bool,
    /// Save all into this one file, compressed, for hull restore --import
    #[arg(long, value_name = "FILE", conflicts_with = "image_path")]
    export: Option<PathBuf>,
}

/// Options that `checkpoint` and `restore` share.
#[derive(clap::Args, Clone)]
pub struct Shared {
    /// Directory of the images
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    pub image_path: PathBuf,
    /// Directory of the log and of criu's work [default: that of the images]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Keep open TCP connections
    #[arg(long, conflicts_with = "tcp_close")]
    tcp_established: bool,
    /// Close open TCP connections
    #[arg(long)]
    tcp_close: bool,
    /// Allow Unix sockets that somebody outside holds the other end of
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a program on the caller's own terminal
    #[arg(long)]
    shell_job: bool,
    /// Keep held file locks
    #[arg(long)]
    file_locks: bool,
    /// What is done with cgroups
    #[arg(long, value_name = "MODE")]
    manage_cgroups_mode: Option<Mode>,
    /// Make this namespace, and leave it empty
    #[arg(long, value_name = "KIND")]
    empty_ns: Vec<EmptyNamespace>,
    /// Keep each page once only
    #[arg(long)]
    auto_dedup: bool,
    /// Bring memory back when it is used
    #[arg(long)]
    lazy_pages: bool,
    /// How packets are held back meanwhile
    #[arg(long, value_name = "METHOD")]
    network_lock: Option<Lock>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Soft,
    Full,
    Strict,
    Ignore,
}

#[derive(Clone, Copy, ValueEnum)]
enum EmptyNamespace {
    Network,
}

#[derive(Clone, Copy, ValueEnum)]
enum Lock {
    Iptables,
    Nftables,
    Skip,
}

impl Shared {
    /// The options for the library.
    pub fn common(&self, global: &Global) -> Common {
        Common {
            images: self.image_path.clone(),
            work: self.work_path.clone(),
            tcp_established: self.tcp_established,
            tcp_close: self.tcp_close,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            cgroups: self.manage_cgroups_mode.map(|mode| match mode {
                Mode::Soft => CgroupMode::Soft,
                Mode::Full => CgroupMode::Full,
                Mode::Strict => CgroupMode::Strict,
                Mode::Ignore => CgroupMode::Ignore,
            }),
            empty_ns: if self.empty_ns.is_empty() {
                0
            } else {
                libc::CLONE_NEWNET as u32
            },
            network_lock: self.network_lock.map(|lock| match lock {
                Lock::Iptables => NetworkLock::Iptables,
                Lock::Nftables => NetworkLock::Nftables,
                Lock::Skip => NetworkLock::Skip,
            }),
            criu: global.criu.clone(),
        }
    }
}

/// Address and port, the last colon between them.
fn page_server(text: &str) -> Result<(String, u16)> {
    let parsed = text.rsplit_once(':').and_then(|(address, port)| {
        Some((
            address.trim_matches(['[', ']']).to_owned(),
            port.parse().ok()?,
        ))
    });
    parsed
        .filter(|(address, _)| !address.is_empty())
        .ok_or_else(|| Error::new(format!("--page-server wants ADDRESS:PORT, not {text:?}")))
}

/// Carries the command out.
pub fn run(args: Args, global: &Global) -> Result<u8> {
    let store = global.store();
    let scratch = args
        .export
        .as_ref()
        .map(|_| Scratch::new(&store, &args.id))
        .transpose()?;
    let common = args.shared.common(global);
    let images = scratch.as_ref().map_or_else(
        || common.images.clone(),
        |scratch| scratch.path().to_owned(),
    );
    let parent = match (&scratch, &args.parent_path) {
        (Some(scratch), Some(parent)) => Some(scratch.way_to(parent)?),
        (_, parent) => parent.clone(),
    };
    let dump = Dump {
        common: Common { images, ..common },
        export: args.export.clone(),
        leave_running: args.leave_running,
        pre_dump: args.pre_dump,
        parent,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        page_server: args.page_server.as_deref().map(page_server).transpose()?,
        status_fd: Some(args.status_fd).filter(|fd| *fd >= 0),
    };
    checkpoint::dump::checkpoint(&store, &args.id, &dump)
        .map_err(|error| error.within(format!("checkpoint {}", args.id)))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::page_server;

    #[test]
    fn a_page_server_is_an_address_and_a_port() {
        assert_eq!(
            page_server("10.0.0.1:99").unwrap(),
            ("10.0.0.1".to_owned(), 99)
        );
        assert_eq!(page_server("[::1]:99").unwrap(), ("::1".to_owned(), 99));
        for bad in ["", "host", ":9", "a:b", "a:70000"] {
            assert!(page_server(bad).is_err(), "{bad}");
        }
    }
}
