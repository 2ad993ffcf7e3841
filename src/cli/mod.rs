//! The command line: one file a verb, each parses, makes one call, and prints.

#![forbid(unsafe_code)]

mod checkpoint;
mod clone;
mod complain;
mod create;
mod delete;
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
pub mod table;
mod update;
mod version;
mod vm;

use complain::complain;

use crate::Result;
use crate::error::Kind;
use crate::log::{self, Format};
use crate::store::Store;
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Run programs in containers: one bundle, behind the backend of your choice.
#[derive(Parser)]
#[command(
    name = "hull",
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
// Podman gives `--leave-running` twice, and for runc the last of a repeated option counts.
#[command(args_override_self = true)]
#[command(
    after_help = "A bundle is a directory with a config.json and a root file system (OCI runtime \
        spec 1.x)."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(clap::Args, Clone)]
pub struct Global {
    /// Directory of the containers' records [default: /run/hull, or $XDG_RUNTIME_DIR/hull for an
    /// ordinary user]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Write the log to this file and not to stderr
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Format of the log
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Log what hull does
    #[arg(long, global = true)]
    debug: bool,
    /// Let systemd make the cgroups; cgroupsPath is then slice:prefix:name
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Whether to run as an ordinary user: true, false or auto; hull finds out by itself
    #[arg(id = "when_rootless", long = "rootless", value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rootless: Option<Rootless>,
    /// Path of the criu program, for checkpoint and restore
    #[arg(long, global = true, value_name = "PATH")]
    criu: Option<PathBuf>,
    /// The administrator's defaults, in place of /etc/hull/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::SetTrue)]
    version: bool,
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
    /// The containers' store.
    fn store(&self) -> Store {
        let default = || match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(directory) if !is_machines_root() => PathBuf::from(directory).join("hull"),
            _ if nix::unistd::geteuid().is_root() => PathBuf::from("/run/hull"),
            _ => PathBuf::from(format!("/tmp/hull-{}", nix::unistd::geteuid())),
        };
        Store::new(self.root.clone().unwrap_or_else(default))
    }
}

/// Whether the caller is root, and not an ordinary user who is root of a user namespace: rootless
/// Podman and buildah call from there, with the user's own XDG_RUNTIME_DIR. Someone who became root
/// inside a container has USER=root (runc's rule).
fn is_machines_root() -> bool {
    let named = std::env::var_os("USER").is_some_and(|user| user == "root");
    nix::unistd::geteuid().is_root() && (named || !crate::facts::in_user_namespace())
}

// There is one of it in a process.
#[allow(clippy::large_enum_variant)]
#[derive(Subcommand)]
enum Command {
    /// Make a container whose program waits for start
    Create(create::Args),
    /// Let a created container's program begin
    Start(start::Args),
    /// Print a container's state as JSON
    State(state::Args),
    /// Send a signal to a container
    Kill(kill::Args),
    /// Remove a container and all that belongs to it
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
    /// Make a container, run its program and remove it
    Run(run::Args),
    /// Run another program in a container
    Exec(exec::Args),
    /// Show what a detached container printed
    Logs(logs::Args),
    /// Make, list and remove networks, and watch what passes
    Network(network::Args),
    /// List containers
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// List the processes of a container
    Ps(ps::Args),
    /// Freeze all processes of a container
    Pause(pause::Args),
    /// Thaw a paused container
    Resume(pause::Args),
    /// Save a running container to a directory of images
    Checkpoint(Box<checkpoint::Args>),
    /// Bring a container back from a directory of images
    Restore(Box<restore::Args>),
    /// Make copies of a running container, which runs on
    Clone(Box<clone::Args>),
    /// Change the limits of a container
    Update(update::Args),
    /// Print a container's counters again and again, and its OOM kills, as lines of JSON
    Events(events::Args),
    /// Show what containers use
    Stats(stats::Args),
    /// Write a config.json to begin with
    Spec(spec::Args),
    /// Print what this runtime can do, as the runtime spec's features document
    Features(features::Args),
    /// Print the steps by which a bundle becomes a container
    Plan(plan::Args),
    /// Print a shell's completions
    Completions(generate::CompletionsArgs),
    /// Write the manual's pages
    Man(generate::ManArgs),
    /// Execute a plan's inside in this process (hull's own use)
    #[command(hide = true)]
    Init(init::Args),
    /// Keep the output of a detached container (hull's own use)
    #[command(hide = true)]
    LogKeeper(logs::KeeperArgs),
}

impl Command {
    /// What a reload of the firewall took from running containers comes back with the next command
    /// about containers, whichever it is. That command does its work even where this fails.
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
            Command::LogKeeper(args) => logs::keep(args, global),
        }
    }
}

/// hull's entry; answers with the exit status.
pub fn main() -> u8 {
    if crate::guest::is_first() {
        crate::guest::main();
    }
    if crate::checkpoint::tmpfs::is_stand_in() {
        crate::sys::entry::prepare();
        return crate::checkpoint::tmpfs::stand_in();
    }
    command()
}

fn command() -> u8 {
    crate::sys::entry::spare_the_heap();
    // containerd's restore says it with one dash.
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
    // Before the arguments are parsed, so that they are parsed once. A container named `run` costs
    // one copy more, and nothing else.
    let enters = |arg: &OsString| {
        matches!(
            arg.to_str(),
            Some("create" | "run" | "exec" | "restore" | "clone")
        )
    };
    let protected = if args.iter().skip(1).any(enters) {
        own_binary::protect()
    } else {
        Ok(())
    };
    crate::sys::entry::prepare();
    let for_people = args.iter().any(|arg| arg == "run")
        && args
            .iter()
            .any(|arg| arg.as_encoded_bytes().starts_with(b"--rootfs"));
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            if lacks_value(&error) {
                // By these words engines find out whether a runtime knows an option.
                complain::say("flag needs an argument");
            }
            let status = if for_people && error.exit_code() != 0 {
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
        complain(&error);
        return 1;
    }
    if let Some(file) = &cli.global.config {
        crate::settings::name(file.clone());
    }
    // The command's status where hull itself fails. runc's exec: 1 may be the program's own.
    // `docker run`: 125.
    let common = match &cli.command {
        Command::Exec(_) => 255,
        Command::Run(args) if args.is_for_people() => 125,
        _ => 1,
    };
    status(
        protected.and_then(|()| cli.command.execute(&cli.global)),
        common,
    )
}

/// Whether an option that needs a value was given none: clap reports the empty text as the value.
fn lacks_value(error: &clap::Error) -> bool {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    error.kind() == ErrorKind::InvalidValue
        && matches!(
            error.get(ContextKind::InvalidValue),
            Some(ContextValue::String(value)) if value.is_empty()
        )
}

/// The exit status of a command; `common` is the one for an error that has none of its own.
fn status(result: Result<u8>, common: u8) -> u8 {
    const SIGPIPE: i32 = libc::SIGPIPE;
    match result {
        Ok(status) => status,
        // As every program that does not ignore SIGPIPE.
        Err(error) if error.kind() == Kind::OutputClosed => {
            crate::sys::event::end_by(SIGPIPE);
            128 + SIGPIPE as u8
        }
        Err(error) => {
            complain(&error);
            // Where a program cannot be executed, `run --rootfs` answers as a shell does.
            error.status().filter(|_| common == 125).unwrap_or(common)
        }
    }
}
