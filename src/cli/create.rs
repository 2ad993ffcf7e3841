//! `hull create`.

use super::Global;
use crate::compile::CreateOptions;
use crate::container::create::create;
use crate::spec::Spec;
use crate::sys::fd::Fd;
use crate::{Context, Result};
use std::path::{Path, PathBuf};

/// Options of `create`.
#[derive(clap::Args)]
pub struct Args {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    create: CreateArgs,
}

/// Flags that `create` and `run` share.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = None::<&'static str>)]
pub struct CreateArgs {
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Write the process id of the program to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Unix socket that receives the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the program
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Number of descriptors besides stdio that the program inherits
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(crate::compile::MOST_PRESERVED)))]
    pub preserve_fds: u32,
    /// Use MS_MOVE and chroot(2) instead of pivot_root(2)
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// No effect, for callers of runc: hull is never a subreaper
    #[arg(long)]
    pub no_subreaper: bool,
    /// Execute the container steps in a fresh process
    #[arg(long, hide = true)]
    pub fresh_init: bool,
    #[command(flatten)]
    network: super::network::NetworkArgs,
    #[command(flatten)]
    vm: crate::cli::vm::VmArgs,
}

impl CreateArgs {
    /// The options as the library takes them.
    pub fn options(&self, global: &Global) -> CreateOptions {
        CreateOptions {
            cgroup_manager: global.cgroup_manager(),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: self.preserve_fds,
            pid_file: self.pid_file.clone(),
            pidfd_socket: self.pidfd_socket.clone(),
            layers: None,
            fresh_init: self.fresh_init,
            notify: crate::stdio::notify::host_socket().is_some(),
            network: self.network.options(),
            vm: self.vm.options(),
        }
    }
}

/// Connects to the socket that receives the terminal.
pub fn connect_console(path: Option<&Path>) -> Result<Option<Fd>> {
    use std::os::fd::IntoRawFd;
    path.map(|path| {
        crate::sys::socket::connect(path)
            .map(|socket| Fd(socket.into_raw_fd()))
            .on("connect to console socket", path.display())
    })
    .transpose()
}

/// Executes the command.
pub fn run(args: Args, global: &Global) -> Result<u8> {
    let Args { id, create: flags } = args;
    let failed = |error: crate::Error| error.within("hull create failed");
    let spec = Spec::load(&flags.bundle).map_err(failed)?;
    let console = connect_console(flags.console_socket.as_deref()).map_err(failed)?;
    create(&global.store(), &id, &spec, &flags.options(global), console).map_err(failed)?;
    Ok(0)
}
