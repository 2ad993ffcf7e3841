//! `hull events`: prints statistics at an interval and every OOM kill, each as a line of JSON in
//! runc's format.

use super::Global;
use crate::cgroups::oom::Oom;
use crate::container::{Container, Status};
use crate::error::Kind;
use crate::stdio::output::print_line;
use crate::sys::process::poll2;
use crate::{Context, Error, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Options of `events`.
#[derive(clap::Args)]
pub struct Args {
    /// Print the statistics once and exit
    #[arg(long)]
    stats: bool,
    /// Interval between statistics, such as 5s, 500ms or 1m30s
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    interval: Duration,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Executes the command; returns when the container ends.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let container = Container::open(&global.store(), &args.id)?;
    if args.interval.is_zero() {
        return Err(Error::new("duration interval must be greater than 0"));
    }
    if container.status() == Status::Stopped {
        return Err(Error::new(format!(
            "container with id {} is not running",
            args.id
        )));
    }
    if args.stats {
        sample(&container)?;
        return Ok(0);
    }
    watch(&container, args.interval)?;
    Ok(0)
}

/// Prints OOM kills when they happen, also the one that ended the container: its end is checked
/// after the OOM events.
fn watch(container: &Container, interval: Duration) -> Result<()> {
    let pidfd = container.pidfd()?;
    let mut oom = container.oom_kills()?;
    let mut next = Instant::now() + interval;
    loop {
        // Rounded up, so that poll does not return before the time of the sample.
        let wait = next
            .saturating_duration_since(Instant::now())
            .as_micros()
            .div_ceil(1000);
        let (_, ended) = poll2(oom.descriptor(), pidfd.0, Some(wait as u64))
            .on("wait for events of", &container.record.id)?;
        let goes_on = match oom.read()? {
            Oom::Nothing => true,
            Oom::Gone => false,
            Oom::Kills(count) => (0..count).try_fold(true, |open, _| {
                if open {
                    print(&json!({ "type": "oom", "id": container.record.id }))
                } else {
                    Ok(false)
                }
            })?,
        };
        // A VM's monitor closes its socket when it ends, after its last event.
        if (ended && !oom.is_vm()) || !goes_on {
            return Ok(());
        }
        if Instant::now() >= next {
            if !sample(container)? {
                return Ok(());
            }
            // If hull was stopped for a while, it does not make up for missed samples.
            next = (next + interval).max(Instant::now());
        }
    }
}

fn sample(container: &Container) -> Result<bool> {
    let mut data = serde_json::to_value(container.stats()?)
        .map_err(|error| Error::new(format!("print JSON: {error}")))?;
    // In VM mode also what the VM uses on the host: its monitor and its memory.
    if let Some(vm) = container.monitor_stats()? {
        data["vm"] = json!({ "cpu": vm.cpu, "memory": vm.memory, "pids": vm.pids });
    }
    print(&json!({ "type": "stats", "id": container.record.id, "data": data }))
}

/// Prints a line; returns false if the reader has closed the output.
fn print(event: &Value) -> Result<bool> {
    match print_line(event) {
        Err(error) if error.kind() == Kind::OutputClosed => Ok(false),
        other => other.map(|()| true),
    }
}

/// Parses a duration in Go's format (`1h2m`, `1.5s`, `200ms`); a number alone means seconds, as in
/// Podman.
///
/// # Errors
/// The text is malformed, or the duration too long.
pub fn duration(text: &str) -> std::result::Result<Duration, String> {
    let refuse = || format!("invalid duration {text:?}: the form is 5s, 500ms or 1m30s");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let (mut rest, mut total) = (text, 0.0_f64);
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(refuse)?;
        let (number, after) = rest.split_at(end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(refuse()),
        };
        total += number.parse::<f64>().map_err(|_| refuse())? * seconds;
        rest = after;
    }
    if text.is_empty() {
        Err(refuse())
    } else {
        Duration::try_from_secs_f64(total).map_err(|_| refuse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_the_format_of_go() {
        for (text, millis) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("2", 2000),
            ("0s", 0),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "5x",
            "5.s.s",
            "-5s",
            "ten",
            "5s5",
            "1..5s",
            "99999999999999999999h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
