//! `hull checkpoint`.

use super::Global;
use crate::checkpoint;
use crate::checkpoint::dump::{DumpOptions, PageServer};
use crate::checkpoint::images::TemporaryImages;
use crate::checkpoint::options::CommonOptions;
use crate::checkpoint::proto::rpc::{CriuCgMode, CriuNetworkLockMethod};
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
    criu: CriuArgs,
    /// Directory of the parent images of an incremental checkpoint, relative to --image-path; with
    /// --export relative to the current directory
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let the container run on after the checkpoint
    #[arg(long)]
    leave_running: bool,
    /// Skip TCP connections that are being established
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Link removed files that are still open under a new name
    #[arg(long)]
    link_remap: bool,
    /// Descriptor that gets a NUL byte when criu can serve lazy pages
    #[arg(long, value_name = "FD", allow_negative_numbers = true, default_value_t = -1)]
    status_fd: i32,
    /// Send memory pages to this page server
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Save memory only and let the container run on; a later checkpoint saves the rest
    #[arg(long, conflicts_with = "export")]
    pre_dump: bool,
    /// Write one compressed archive, for hull restore --import
    #[arg(long, value_name = "FILE", conflicts_with = "image_path")]
    export: Option<PathBuf>,
}

/// Flags that `checkpoint`, `restore` and `clone` share.
#[derive(clap::Args, Clone)]
pub struct CriuArgs {
    /// Directory of the images
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    pub image_path: PathBuf,
    /// Directory of criu's log and work files [default: that of the images]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Allow open TCP connections and keep them
    #[arg(long, conflicts_with = "tcp_close")]
    tcp_established: bool,
    /// Close open TCP connections
    #[arg(long)]
    tcp_close: bool,
    /// Allow Unix sockets that are connected to a process outside the container
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a program on the caller's terminal
    #[arg(long)]
    shell_job: bool,
    /// Allow file locks and keep them
    #[arg(long)]
    file_locks: bool,
    /// How criu manages cgroups
    #[arg(long, value_name = "MODE")]
    manage_cgroups_mode: Option<Mode>,
    /// Create this namespace without restoring its contents
    #[arg(long, value_name = "KIND")]
    empty_ns: Vec<EmptyNamespace>,
    /// Deduplicate memory images: store each page once
    #[arg(long)]
    auto_dedup: bool,
    /// Restore memory pages on demand, through userfaultfd
    #[arg(long)]
    lazy_pages: bool,
    /// How network packets are blocked meanwhile
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

impl CriuArgs {
    /// The options as the library takes them.
    pub fn common(&self, global: &Global) -> CommonOptions {
        CommonOptions {
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
                Mode::Soft => CriuCgMode::Soft,
                Mode::Full => CriuCgMode::Full,
                Mode::Strict => CriuCgMode::Strict,
                Mode::Ignore => CriuCgMode::Ignore,
            }),
            empty_ns: if self.empty_ns.is_empty() {
                0
            } else {
                libc::CLONE_NEWNET as u32
            },
            network_lock: self.network_lock.map(|lock| match lock {
                Lock::Iptables => CriuNetworkLockMethod::Iptables,
                Lock::Nftables => CriuNetworkLockMethod::Nftables,
                Lock::Skip => CriuNetworkLockMethod::Skip,
            }),
            criu: global.criu.clone(),
        }
    }
}

/// Parses `ADDRESS:PORT`; an IPv6 address may be in brackets.
fn page_server(text: &str) -> Result<PageServer> {
    let parsed = text.rsplit_once(':').and_then(|(address, port)| {
        Some(PageServer {
            address: address.trim_matches(['[', ']']).to_owned(),
            port: port.parse().ok()?,
        })
    });
    parsed
        .filter(|server| !server.address.is_empty())
        .ok_or_else(|| Error::new(format!("--page-server {text:?}: the form is ADDRESS:PORT")))
}

/// Executes the command.
pub fn run(args: Args, global: &Global) -> Result<u8> {
    let store = global.store();
    let scratch = args
        .export
        .as_ref()
        .map(|_| TemporaryImages::new(&store, &args.id))
        .transpose()?;
    let common = args.criu.common(global);
    let images = scratch.as_ref().map_or_else(
        || common.images.clone(),
        |scratch| scratch.path().to_owned(),
    );
    let parent = match (&scratch, &args.parent_path) {
        (Some(scratch), Some(parent)) => Some(scratch.relative(parent)?),
        (_, parent) => parent.clone(),
    };
    let options = DumpOptions {
        common: CommonOptions { images, ..common },
        export: args.export.clone(),
        leave_running: args.leave_running,
        pre_dump: args.pre_dump,
        parent,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        page_server: args.page_server.as_deref().map(page_server).transpose()?,
        status_fd: Some(args.status_fd).filter(|fd| *fd >= 0),
    };
    checkpoint::dump::checkpoint(&store, &args.id, &options)
        .map_err(|error| error.within(format!("checkpoint {}", args.id)))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::{PageServer, page_server};

    #[test]
    fn a_page_server_is_an_address_and_a_port() {
        let server = |address: &str| PageServer {
            address: address.to_owned(),
            port: 99,
        };
        assert_eq!(page_server("10.0.0.1:99").unwrap(), server("10.0.0.1"));
        assert_eq!(page_server("[::1]:99").unwrap(), server("::1"));
        for bad in ["", "host", ":9", "a:b", "a:70000"] {
            assert!(page_server(bad).is_err(), "{bad}");
        }
    }
}
