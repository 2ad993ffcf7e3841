//! `hull exec`.

use super::Global;
use super::create::connect_console;
use super::process_args::ProcessArgs;
use crate::Result;
use crate::container::Container;
use crate::container::create::write_pid_file;
use crate::container::exec::ExecOptions;
use crate::spec::config::ConsoleSize;
use crate::stdio::foreground::{Console, Relays, Signals, attend, own_size};
use crate::stdio::streams::Pipes;
use crate::{Context, Error};
use std::path::PathBuf;

/// Options of `exec`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    process: ProcessArgs,
    /// Return when the program has started
    #[arg(short, long)]
    detach: bool,
    /// Write the process id of the program to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Unix socket that receives the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the program
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Number of descriptors besides stdio that the program inherits
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(crate::compile::MOST_PRESERVED)))]
    preserve_fds: u32,
    /// Existing cgroup below the container's; on cgroup v1 also for single controllers
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    cgroup: Vec<String>,
    /// Allow exec in a paused container: the program starts when the container is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// No effect, for callers of runc: hull is never a subreaper
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<String>,
}

/// Executes the command; returns the exit status of the program.
pub fn run(args: Args, global: &Global) -> Result<u8> {
    exec(&args, global).map_err(|error| error.within("exec failed"))
}

fn exec(args: &Args, global: &Global) -> Result<u8> {
    let container = Container::open(&global.store(), &args.id)?;
    let mut process = args
        .process
        .process(container.record.spec.config(), &args.command)?;
    if args.process.tty {
        process.terminal = true;
    }
    if process.terminal && !args.detach && process.console_size.is_none() {
        // The program may look at its window before hull has the terminal.
        process.console_size = own_size().map(|(rows, columns)| ConsoleSize {
            height: rows.into(),
            width: columns.into(),
        });
    }
    let given = connect_console(args.console_socket.as_deref())?;
    match (process.terminal, args.detach, &given) {
        (true, true, None) => {
            return Err(Error::new(
                "cannot allocate tty if hull will detach without setting console socket",
            ));
        }
        (false, _, Some(_)) => {
            return Err(Error::new(
                "cannot use console socket if hull will not detach or allocate tty",
            ));
        }
        _ => {}
    }
    let options = ExecOptions {
        preserve_fds: args.preserve_fds,
        ignore_paused: args.ignore_paused,
        cgroup: args.cgroup.clone(),
    };
    let mut console = Console::new(process.terminal, given)?;
    let signals = if args.detach {
        None
    } else {
        Some(Signals::block()?)
    };
    let pipes = if args.detach {
        None
    } else {
        Pipes::replace_nonblocking()?
    };
    let child = container.exec(&process, &options, console.sender.take())?;
    let pipes = pipes.map_or(Ok(Vec::new()), Pipes::into_streams)?;
    if let Some(path) = &args.pidfd_socket {
        let socket =
            crate::sys::socket::connect(path).on("connect to pidfd socket", path.display())?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
        crate::sys::socket::send_fd(raw, b"pidfd", child.pidfd.0)
            .on("send the pidfd to", path.display())?;
    }
    if let Some(path) = &args.pid_file {
        write_pid_file(path, child.pid)?;
    }
    let Some(signals) = signals else { return Ok(0) };
    let terminal = console.receive()?;
    Ok(attend(
        &child.pidfd,
        &signals,
        Relays {
            terminal,
            pipes,
            notify: None,
        },
    )?
    .status() as u8)
}
