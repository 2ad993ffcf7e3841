//! The command line. Each command has a file: it parses the arguments, makes one call and prints.

#![forbid(unsafe_code)]

mod checkpoint;
mod clone;
mod create;
mod delete;
mod errors;
mod events;
mod exec;
mod features;
mod generate;
mod init;
mod kill;
mod list;
mod logs;
mod network;
mod own_binary;
mod pause;
mod plan;
mod process_args;
mod ps;
mod restore;
mod run;
mod spec;
mod start;
mod state;
mod stats;
mod table;
mod update;
mod version;
mod vm;

use crate::Result;
use crate::compile::CgroupManager;
use crate::error::Kind;
use crate::log::{self, Format};
use crate::store::Store;
use crate::sys::ids::own_euid;
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// An OCI container runtime: runs the program of a bundle in namespaces or in a virtual machine.
#[derive(Parser)]
#[command(
    name = "hull",
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
// Podman gives `--leave-running` twice, and runc uses the last value of a repeated flag.
#[command(args_override_self = true)]
#[command(
    after_help = "A bundle is a directory with a config.json and a root filesystem, as defined by \
                  the OCI runtime specification."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Directory of the containers' state [default: /run/hull, or $XDG_RUNTIME_DIR/hull for an
    /// unprivileged user]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Write the log to this file instead of stderr
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Format of the log
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Log debug messages
    #[arg(long, global = true)]
    debug: bool,
    /// Let systemd create the cgroups; cgroupsPath is slice:prefix:name then
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Who makes the cgroups: hull, systemd, or nobody; crun's option
    #[arg(long, global = true, value_name = "NAME")]
    cgroup_manager: Option<ManagerName>,
    /// No effect, for callers of runc: hull finds out by itself whether it is rootless
    #[arg(
        id = "when_rootless",
        long = "rootless",
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    rootless: Option<Rootless>,
    /// Path of the criu binary, for checkpoint, restore and clone
    #[arg(long, global = true, value_name = "PATH")]
    criu: Option<PathBuf>,
    /// Configuration file, instead of /etc/hull/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::SetTrue)]
    version: bool,
}

/// A value of `--cgroup-manager`.
#[derive(Clone, Copy, ValueEnum)]
enum ManagerName {
    Cgroupfs,
    Systemd,
    Disabled,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rootless {
    True,
    False,
    Auto,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Global {
    /// Who makes the containers' cgroups.
    fn cgroup_manager(&self) -> CgroupManager {
        match self.cgroup_manager {
            _ if self.systemd_cgroup => CgroupManager::Systemd,
            None | Some(ManagerName::Cgroupfs) => CgroupManager::Cgroupfs,
            Some(ManagerName::Systemd) => CgroupManager::Systemd,
            Some(ManagerName::Disabled) => CgroupManager::Disabled,
        }
    }

    /// The store of containers.
    fn store(&self) -> Store {
        // An empty or relative one counts as not set (XDG Base Directory Specification).
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let default = || match runtime.filter(|directory| directory.is_absolute()) {
            Some(directory) if !is_host_root() => directory.join("hull"),
            _ if own_euid() == 0 => PathBuf::from("/run/hull"),
            _ => PathBuf::from(format!("/tmp/hull-{}", own_euid())),
        };
        Store::new(self.root.clone().unwrap_or_else(default))
    }
}

/// Whether the caller is root of the host, and not an unprivileged user who is root of a user
/// namespace: rootless Podman and buildah call hull from there, with the user's XDG_RUNTIME_DIR. In
/// a user namespace USER=root means root of a container, which has the host's default (runc's
/// rule).
fn is_host_root() -> bool {
    let named = std::env::var_os("USER").is_some_and(|user| user == "root");
    own_euid() == 0 && (named || !crate::facts::in_user_namespace())
}

// A process has one value of it.
#[allow(clippy::large_enum_variant)]
#[derive(Subcommand)]
enum Command {
    /// Create a container, whose program waits for start
    Create(create::Args),
    /// Start the program of a created container
    Start(start::Args),
    /// Print a container's state as JSON
    State(state::Args),
    /// Send a signal to a container
    Kill(kill::Args),
    /// Delete a container and everything that hull made for it
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
    /// Create a container, run its program and delete it
    Run(run::Args),
    /// Run another program in a running container
    Exec(exec::Args),
    /// Print the output of a detached container
    Logs(logs::Args),
    /// Create, list and remove networks, and capture packets
    Network(network::Args),
    /// List containers
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// List the processes of a container
    Ps(ps::Args),
    /// Suspend all processes of a container
    Pause(pause::Args),
    /// Resume all processes of a paused container
    Resume(pause::Args),
    /// Save a running container to a directory of images, with criu
    Checkpoint(Box<checkpoint::Args>),
    /// Restore a container from a directory of images, with criu
    Restore(Box<restore::Args>),
    /// Copy a running container; the original runs on
    Clone(Box<clone::Args>),
    /// Change a container's resource limits
    Update(update::Args),
    /// Print a container's statistics and OOM kills, as lines of JSON
    Events(events::Args),
    /// Print the resource usage of containers
    Stats(stats::Args),
    /// Write a default config.json
    Spec(spec::Args),
    /// Print hull's features, as the document that the runtime specification defines
    Features(features::Args),
    /// Print the steps that hull would execute for a bundle
    Plan(plan::Args),
    /// Print a completion script for a shell
    Completions(generate::CompletionsArgs),
    /// Write the manual pages
    Man(generate::ManArgs),
    /// Execute the container steps of a plan in this process (internal)
    #[command(hide = true)]
    Init(init::Args),
    /// Write the log of a detached container (internal)
    #[command(hide = true)]
    LogKeeper(logs::KeeperArgs),
}

impl Command {
    /// Restores firewall rules that somebody removed, for instance by a reload of the firewall: any
    /// of these commands does it. The command itself is executed even if this fails.
    fn recover_networks(&self, global: &Global) {
        use Command::{Create, Exec, List, Ps, Run, Start, Stats};
        if matches!(
            self,
            Create(_) | Exec(_) | List(_) | Ps(_) | Run(_) | Start(_) | Stats(_)
        ) && let Err(error) = crate::net::enforce::recover_if_touched(
            &crate::net::store::NetworkStore::of(&global.store()),
        ) {
            log::warn(&format!("networks: {error}"));
        }
    }

    fn execute(self, global: &Global) -> Result<u8> {
        self.recover_networks(global);
        match self {
            Command::Create(args) => create::run(args, global),
            Command::Start(args) => start::run(&args, global),
            Command::State(args) => state::run(&args, global),
            Command::Kill(args) => kill::run(&args, global),
            Command::Delete(args) => delete::run(&args, global),
            Command::Run(args) => run::run(args, global),
            Command::Exec(args) => exec::run(args, global),
            Command::Logs(args) => logs::run(&args, global),
            Command::Network(args) => network::run(&args, global),
            Command::List(args) => list::run(&args, global),
            Command::Ps(args) => ps::run(&args, global),
            Command::Pause(args) => pause::pause(&args, global),
            Command::Resume(args) => pause::resume(&args, global),
            Command::Checkpoint(args) => checkpoint::run(*args, global),
            Command::Restore(args) => restore::run(*args, global),
            Command::Clone(args) => clone::run(&args, global),
            Command::Update(args) => update::run(&args, global),
            Command::Events(args) => events::run(&args, global),
            Command::Stats(args) => stats::run(&args, global),
            Command::Spec(args) => spec::run(&args),
            Command::Features(args) => features::run(&args),
            Command::Plan(args) => plan::run(&args, global),
            Command::Completions(args) => generate::completions(&args),
            Command::Man(args) => generate::man(&args),
            Command::Init(args) => init::run(&args),
            Command::LogKeeper(args) => logs::run_keeper(args, global),
        }
    }
}

/// The entry point; returns the exit status.
pub fn main() -> u8 {
    if crate::guest::is_pid1() {
        crate::guest::main();
    }
    if crate::checkpoint::tmpfs::is_tar() {
        crate::sys::entry::prepare();
        return crate::checkpoint::tmpfs::run_tar();
    }
    command()
}

fn command() -> u8 {
    crate::sys::entry::spare_the_heap();
    // containerd gives this flag of restore with one dash.
    let args: Vec<OsString> = std::env::args_os()
        .map(|arg| {
            if arg == "-no-subreaper" {
                "--no-subreaper".into()
            } else {
                arg
            }
        })
        .collect();
    if matches!(
        args.get(1).and_then(|arg| arg.to_str()),
        Some("--version" | "-v")
    ) {
        return status(version::print(), 1);
    }
    // hull protects its binary before it parses the arguments, since it executes itself anew then.
    // A container with the id `run` costs only that.
    let runs_program = |arg: &OsString| {
        matches!(
            arg.to_str(),
            Some("create" | "run" | "exec" | "restore" | "clone")
        )
    };
    let protected = if args.iter().skip(1).any(runs_program) {
        own_binary::protect()
    } else {
        Ok(())
    };
    crate::sys::entry::prepare();
    let is_adhoc_run = args.iter().any(|arg| arg == "run")
        && args
            .iter()
            .any(|arg| arg.as_encoded_bytes().starts_with(b"--rootfs"));
    let asks_version = args.iter().any(|arg| arg == "--version" || arg == "-v");
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        // Other global options may come before it, as in `hull --root DIR --version`.
        Err(error) if asks_version && lacks_command(&error) => {
            return status(version::print(), 1);
        }
        Err(error) => {
            let _ = error.print();
            if lacks_value(&error) {
                // Podman matches these words to find out whether a runtime knows a flag.
                errors::write_line("flag needs an argument");
            }
            let status = if is_adhoc_run && error.exit_code() != 0 {
                125
            } else {
                error.exit_code()
            };
            return u8::try_from(status).unwrap_or(1);
        }
    };
    if cli.global.version {
        return status(version::print(), 1);
    }
    let format = match cli.global.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    if let Err(error) = log::open(log::Target {
        file: cli.global.log.clone(),
        format,
        debug: cli.global.debug,
    }) {
        errors::report(&error);
        return 1;
    }
    if let Some(file) = &cli.global.config {
        crate::settings::name(file.clone());
    }
    // The exit status for an error of hull's own: as in runc for exec, where 1 may be the program's
    // status; as in `docker run` for an ad hoc container.
    let common = match &cli.command {
        Command::Exec(_) => 255,
        Command::Run(args) if args.is_adhoc() => 125,
        _ => 1,
    };
    status(
        protected.and_then(|()| cli.command.execute(&cli.global)),
        common,
    )
}

/// Whether no command was given.
fn lacks_command(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        clap::error::ErrorKind::MissingSubcommand
            | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// Whether a flag lacks its value: clap then reports an empty value.
fn lacks_value(error: &clap::Error) -> bool {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    error.kind() == ErrorKind::InvalidValue
        && matches!(
            error.get(ContextKind::InvalidValue),
            Some(ContextValue::String(value)) if value.is_empty()
        )
}

/// The exit status of a command; `common` is the status for errors without one of their own.
fn status(result: Result<u8>, common: u8) -> u8 {
    const SIGPIPE: i32 = libc::SIGPIPE;
    match result {
        Ok(status) => status,
        // Like any program that does not ignore SIGPIPE.
        Err(error) if error.kind() == Kind::OutputClosed => {
            crate::sys::event::end_by(SIGPIPE);
            128 + SIGPIPE as u8
        }
        Err(error) => {
            errors::report(&error);
            // If the program cannot be executed, `run --rootfs` exits with the status of a shell.
            error.status().filter(|_| common == 125).unwrap_or(common)
        }
    }
}
