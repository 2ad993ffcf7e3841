//! `hull create`.

use super::Global;
use crate::compile::CreateOptions;
use crate::container::create::create;
use crate::spec::Spec;
use crate::sys::fd::Fd;
use crate::{Context, Result};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Options of `create`.
#[derive(clap::Args)]
pub struct Args {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    make: Make,
}

/// Options that `create` and `run` share.
#[derive(clap::Args, Clone)]
pub struct Make {
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Write the program's process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Unix socket that takes the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that takes a pidfd of the program
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// How many more descriptors than 0, 1, 2 the program gets
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Move the root file system to / and do not pivot into it
    #[arg(long)]
    pub no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Do not become the reaper of the container's orphans (hull never does)
    #[arg(long)]
    pub no_subreaper: bool,
    /// Execute the plan's inside in a fresh process
    #[arg(long, hide = true)]
    pub fresh_init: bool,
    #[command(flatten)]
    network: super::network::Wiring,
    #[command(flatten)]
    machine: crate::cli::vm::Machine,
}

impl Make {
    /// The options for the library.
    pub fn options(&self, global: &Global) -> CreateOptions {
        CreateOptions {
            systemd_cgroup: global.systemd_cgroup,
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: self.preserve_fds,
            pid_file: self.pid_file.clone(),
            pidfd_socket: self.pidfd_socket.clone(),
            layers: None,
            fresh_init: self.fresh_init,
            notify: crate::stdio::notify::host_socket().is_some(),
            network: self.network.asked(),
            vm: self.machine.asked(),
        }
    }
}

/// Connects to the socket that takes the terminal.
pub fn connect_console(path: Option<&Path>) -> Result<Option<Fd>> {
    use std::os::fd::IntoRawFd;
    path.map(|path| {
        UnixStream::connect(path)
            .map(|socket| Fd(socket.into_raw_fd()))
            .on("connect to console socket", path.display())
    })
    .transpose()
}

/// Carries the command out.
pub fn run(args: Args, global: &Global) -> Result<u8> {
    let Args { id, make } = args;
    let failed = |error: crate::Error| error.within("hull create failed");
    let spec = Spec::load(&make.bundle).map_err(failed)?;
    let console = connect_console(make.console_socket.as_deref()).map_err(failed)?;
    create(&global.store(), &id, &spec, &make.options(global), console).map_err(failed)?;
    Ok(0)
}
