//! `hull ps`.

use super::Global;
use crate::container::Container;
use crate::error::Escaped;
use crate::stdio::output::print_line;
use crate::{Context, Error, Result};
use clap::ValueEnum;
use std::process::{Command, Stdio};

/// Options of `ps`.
#[derive(clap::Args)]
pub struct Args {
    /// Format of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: PsFormat,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// Options of ps(1)
    #[arg(
        value_name = "PS OPTIONS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    options: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum PsFormat {
    Table,
    Json,
}

/// Executes the command.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let container = Container::open(&global.store(), &args.id)?;
    if container.record.vm.is_some() && matches!(args.format, PsFormat::Table) {
        return of_guest(&container, &args.options);
    }
    let pids = container.pids()?;
    if matches!(args.format, PsFormat::Json) {
        let text = serde_json::to_string(&pids)
            .map_err(|error| Error::new(format!("print JSON: {error}")))?;
        print_line(text)?;
        return Ok(0);
    }
    let options: Vec<&str> = if args.options.is_empty() {
        vec!["-ef"]
    } else {
        args.options.iter().map(String::as_str).collect()
    };
    let output = Command::new("ps")
        .args(&options)
        .stderr(Stdio::inherit())
        .output()
        .on("run", "ps")?;
    if !output.status.success() {
        return Err(Error::new("ps failed"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Error::new("couldn't find PID field in ps output"))?;
    print_line(heading)?;
    for line in lines {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|text| text.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            print_line(line)?;
        }
    }
    Ok(0)
}

/// Prints the processes of a guest, which the host's ps(1) does not see.
fn of_guest(container: &Container, options: &[String]) -> Result<u8> {
    if !options.is_empty() {
        return Err(Error::new("options of ps(1) are not supported in VM mode"));
    }
    print_line(format_args!(
        "{:<8} {:>7} {:>7} {:>8} CMD",
        "UID", "PID", "PPID", "TIME"
    ))?;
    for process in container.vm().processes()? {
        let seconds = process.ticks / 100;
        let time = format!(
            "{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        );
        print_line(format_args!(
            "{:<8} {:>7} {:>7} {time:>8} {}",
            process.uid,
            process.pid,
            process.parent,
            Escaped(&process.command)
        ))?;
    }
    Ok(0)
}
