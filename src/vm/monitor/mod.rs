//! The monitor: the process on the host that represents a VM's container. It is the process that
//! the pid file names. It starts QEMU and the share server, serves the channel to the guest and the
//! control socket of hull's commands, and ends as the container's program ends.

pub(crate) mod boot;
pub(crate) mod commands;
pub(crate) mod config;
pub(crate) mod forward;
pub(crate) mod guest;
pub(crate) mod serve;
pub(crate) mod state;

use self::config::MonitorConfig;
use self::state::{Monitor, PAUSED};
use super::host_process::exit_as;
use crate::Error;
use crate::sys::fd::Fd;
use crate::sys::page::Page;
use crate::vm::channel::client::{self, ToParent};

/// The main function of the monitor's process. `parent` is the socket to the process that creates
/// the container; `page` is shared with it.
pub(super) fn run(config: MonitorConfig, parent: Fd, page: Page) -> ! {
    let status = match Monitor::boot(config, parent, page) {
        Ok(mut monitor) => match monitor.serve() {
            Ok(ended) => {
                monitor.end_vm();
                let _ = std::fs::remove_file(monitor.config.directory.join(PAUSED));
                exit_as(ended)
            }
            Err(error) => {
                fail(monitor, &error);
                255
            }
        },
        Err((error, parent)) => {
            let report = ToParent::Failed(error.to_string(), error.status());
            let _ = client::send(&parent, &report, &[]);
            1
        }
    };
    crate::sys::process::exit(status)
}

/// Ends the VM after an error. Before the container is created, the parent gets the error; later it
/// goes to the log. The text includes what QEMU and the guest's console said last.
fn fail(mut monitor: Monitor, error: &Error) {
    let output = monitor.end_vm();
    monitor.read_console();
    let console = last_lines(&monitor.console_tail.iter().copied().collect::<Vec<u8>>());
    let mut text = error.to_string();
    for (name, part) in [("QEMU", output), ("the guest's console", console)] {
        if !part.is_empty() && error.status().is_none() {
            text.push_str(&format!("; {name}: {part}"));
        }
    }
    match monitor.parent.take().filter(|_| !monitor.recorded) {
        Some(parent) => {
            let report = ToParent::Failed(text, error.status());
            drop(client::send(&parent, &report, &[]));
        }
        None => crate::log::warn(&format!("container {}: {text}", monitor.config.id)),
    }
}

/// The console's lines from a kernel panic on, or its last lines.
fn last_lines(console: &[u8]) -> String {
    let text = String::from_utf8_lossy(console);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let from = lines
        .iter()
        .position(|line| line.contains("Kernel panic"))
        .unwrap_or(lines.len().saturating_sub(12));
    lines[from..]
        .iter()
        .take(24)
        .copied()
        .collect::<Vec<_>>()
        .join(" | ")
}
