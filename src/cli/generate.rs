//! `hull completions` and `hull man`: both are made from the parser, when they are asked for.

use super::Cli;
use crate::stdio::output::print;
use crate::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use std::path::{Path, PathBuf};

/// Options of `completions`.
#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Options of `man`.
#[derive(clap::Args)]
pub struct ManArgs {
    /// Directory of the pages, made if missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints the shell's completions.
pub fn completions(args: &CompletionsArgs) -> Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hull", &mut text);
    print(String::from_utf8_lossy(&text)).map(|()| 0)
}

/// Writes a page for hull and one for each command.
pub fn man(args: &ManArgs) -> Result<u8> {
    std::fs::create_dir_all(&args.directory).on("make", args.directory.display())?;
    let mut command = Cli::command();
    command.build();
    page(&args.directory, &command, "hull")?;
    for sub in command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
    {
        page(&args.directory, sub, &format!("hull-{}", sub.get_name()))?;
    }
    Ok(0)
}

fn page(directory: &Path, command: &Command, name: &str) -> Result<()> {
    let path = directory.join(format!("{name}.1"));
    let mut text = Vec::new();
    Man::new(command.clone())
        .manual("hull")
        .source(concat!("hull ", env!("CARGO_PKG_VERSION")))
        .render(&mut text)
        .on("write", path.display())?;
    std::fs::write(&path, text).on("write", path.display())
}
