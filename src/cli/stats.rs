//! `hull stats`: prints the resource usage of containers, on a terminal as a table that it
//! refreshes.

use crate::cgroups::stats::types::Stats;
use crate::cli::Global;
use crate::cli::events::duration;
use crate::cli::table::Table;
use crate::container::{Container, Status};
use crate::error::Kind;
use crate::stdio::output::print_raw;
use crate::store::Store;
use crate::sys::socket::{is_terminal, terminal_size};
use crate::{Context, Error, Result};
use clap::ValueEnum;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The interval before the first table. CPU % is an average over an interval.
const FIRST: Duration = Duration::from_millis(500);

/// Options of `stats`.
#[derive(clap::Args)]
pub struct Args {
    /// Print one table and exit; CPU % is the average of half a second
    #[arg(long)]
    no_stream: bool,
    /// Format of the output; JSON is one array per line, with bytes and percent as numbers
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: StatsFormat,
    /// Interval between tables, such as 5s, 500ms or 1m30s
    #[arg(short, long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    interval: Duration,
    /// Ids of containers [default: all that run]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum StatsFormat {
    Table,
    Json,
}

/// One reading of the counters.
struct Sample {
    at: Instant,
    stats: Option<Stats>,
    /// What its VM uses on the host, in VM mode.
    vm: Option<Stats>,
}

/// What is printed for one container; `None` is not known.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    id: String,
    /// In percent of one CPU: two busy CPUs are 200.
    cpu_percent: Option<f64>,
    mem_usage: Option<u64>,
    /// The container's limit, or the memory of the host where that is less, in bytes.
    mem_limit: Option<u64>,
    mem_percent: Option<f64>,
    net_input: Option<u64>,
    net_output: Option<u64>,
    block_input: Option<u64>,
    block_output: Option<u64>,
    pids: Option<u64>,
    /// In VM mode: what the VM and its monitor use of the host's memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    vm_mem_usage: Option<u64>,
}

/// Executes the command. If it was given ids, it returns when the last of these containers ends.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    if args.interval.is_zero() {
        return Err(Error::new("duration interval must be greater than 0"));
    }
    let store = global.store();
    for id in &args.ids {
        let container = Container::open(&store, id)?;
        if container.status() == Status::Stopped {
            return Err(Error::new(format!("container with id {id} is not running")));
        }
        // In VM mode the statistics are the guest's, whose kernel always has a cgroup.
        if container.record.vm.is_none() {
            container.needed_group()?;
        }
    }
    let memory = host_memory()?;
    let mut screen = Screen {
        refreshes: !args.no_stream && is_terminal(1),
        lines: 0,
    };
    let mut before = samples(&store, &args.ids)?;
    let mut pause = FIRST.min(args.interval);
    loop {
        std::thread::sleep(pause);
        let now = samples(&store, &args.ids)?;
        let rows: Vec<Row> = now
            .iter()
            .map(|(id, sample)| row(id, before.get(id), sample, memory))
            .collect();
        let text = match args.format {
            StatsFormat::Table => table(&rows).to_string(),
            StatsFormat::Json => {
                serde_json::to_string(&rows)
                    .map_err(|error| Error::new(format!("print JSON: {error}")))?
                    + "\n"
            }
        };
        if !screen.show(&text)? || args.no_stream || (now.is_empty() && !args.ids.is_empty()) {
            return Ok(0);
        }
        (before, pause) = (now, args.interval);
    }
}

/// Reads the statistics of the containers that run now.
fn samples(store: &Store, ids: &[String]) -> Result<BTreeMap<String, Sample>> {
    let ids = if ids.is_empty() {
        store.ids()?
    } else {
        ids.to_vec()
    };
    let mut samples = BTreeMap::new();
    for id in ids {
        let Ok(container) = Container::open(store, &id) else {
            continue;
        };
        let stats = match container.status() {
            Status::Stopped | Status::Creating => continue,
            _ if container.group()?.is_some() => Some(container.stats()?),
            // An unprivileged user's container may have no cgroup.
            _ => None,
        };
        // Statistics that were read while the container ended and its cgroup was removed do not
        // count.
        if container.status() != Status::Stopped {
            let vm = container.monitor_stats()?;
            samples.insert(
                id,
                Sample {
                    at: Instant::now(),
                    stats,
                    vm,
                },
            );
        }
    }
    Ok(samples)
}

fn row(id: &str, before: Option<&Sample>, now: &Sample, host_memory: u64) -> Row {
    let stats = now.stats.as_ref();
    let earlier = before.and_then(|sample| Some((sample.at, sample.stats.as_ref()?)));
    let cpu_percent = stats.zip(earlier).map(|(stats, (at, old))| {
        let used = stats.cpu.usage.total.saturating_sub(old.cpu.usage.total);
        let span = now.at.saturating_duration_since(at).as_nanos().max(1);
        used as f64 / span as f64 * 100.0
    });
    // A limit of 0 means that there is no memory controller.
    let memory = stats
        .map(|stats| &stats.memory.usage)
        .filter(|memory| memory.limit != 0);
    let limit = memory.map(|memory| memory.limit.min(host_memory));
    let network = |count: fn(&crate::cgroups::stats::types::NetworkInterface) -> u64| {
        stats.and_then(|stats| Some(stats.network_interfaces.as_ref()?.iter().map(count).sum()))
    };
    let block = |op: &str| {
        stats.map(|stats| {
            stats
                .blkio
                .io_service_bytes_recursive
                .iter()
                .filter(|entry| entry.op == op)
                .map(|entry| entry.value)
                .sum()
        })
    };
    Row {
        id: id.to_owned(),
        cpu_percent,
        mem_usage: memory.map(|memory| memory.usage),
        mem_limit: limit,
        mem_percent: memory
            .zip(limit)
            .map(|(memory, limit)| memory.usage as f64 / limit.max(1) as f64 * 100.0),
        net_input: network(|interface| interface.rx_bytes),
        net_output: network(|interface| interface.tx_bytes),
        block_input: block("Read"),
        block_output: block("Write"),
        pids: stats.map(|stats| stats.pids.current),
        vm_mem_usage: now.vm.as_ref().map(|vm| vm.memory.usage.usage),
    }
}

/// The memory of the host, in bytes.
fn host_memory() -> Result<u64> {
    const PATH: &str = "/proc/meminfo";
    let text = std::fs::read_to_string(PATH).on("read", PATH)?;
    let kilobytes = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    kilobytes
        .map(|number| number * 1024)
        .ok_or_else(|| Error::new(format!("parse {PATH}: no MemTotal")))
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET IO",
        "BLOCK IO",
        "PIDS",
    ]);
    for row in rows {
        let Row {
            id,
            cpu_percent,
            mem_usage,
            mem_limit,
            mem_percent,
            net_input,
            net_output,
            block_input,
            block_output,
            pids,
            vm_mem_usage: _,
        } = row;
        let percent = |share: &Option<f64>| {
            share.map_or_else(|| "--".to_owned(), |share| format!("{share:.2}%"))
        };
        let pair = |a: &Option<u64>, b: &Option<u64>| {
            a.zip(*b).map_or_else(
                || "--".to_owned(),
                |(a, b)| format!("{} / {}", human(a), human(b)),
            )
        };
        table.row([
            id.clone(),
            percent(cpu_percent),
            pair(mem_usage, mem_limit),
            percent(mem_percent),
            pair(net_input, net_output),
            pair(block_input, block_output),
            pids.map_or_else(|| "--".to_owned(), |pids| pids.to_string()),
        ]);
    }
    table
}

/// Bytes in decimal units with four digits, as Podman and Docker print them: `16.78MB`.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut number, mut unit) = (bytes as f64, 0);
    while number >= 1000.0 && unit + 1 < UNITS.len() {
        (number, unit) = (number / 1000.0, unit + 1);
    }
    let digits = if number >= 100.0 {
        1
    } else {
        2 + usize::from(number < 10.0)
    };
    let text = format!("{number:.digits$}");
    let text = if unit == 0 {
        format!("{bytes}")
    } else {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    format!("{text}{}", UNITS[unit])
}

/// Prints tables: on a terminal each over the previous one, and otherwise one after the other.
struct Screen {
    refreshes: bool,
    /// Lines of the table on the terminal.
    lines: usize,
}

impl Screen {
    /// Prints a table; returns false if the reader has closed the output.
    fn show(&mut self, text: &str) -> Result<bool> {
        let mut out = String::new();
        if self.refreshes {
            let (rows, columns) = terminal_size(1).unwrap_or((24, 80));
            if self.lines > 0 {
                out.push_str(&format!("\x1b[{}A", self.lines));
            }
            // Lines that do not fit would scroll or wrap, and the cursor would move up too little.
            let fitting = text.lines().take(usize::from(rows.max(2)) - 1);
            out.push_str("\r\x1b[J");
            self.lines = 0;
            for line in fitting {
                out.extend(line.chars().take(usize::from(columns.max(1)) - 1));
                out.push('\n');
                self.lines += 1;
            }
        } else {
            out.push_str(text);
        }
        match print_raw(out) {
            Err(error) if error.kind() == Kind::OutputClosed => Ok(false),
            other => other.map(|()| true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::stats::types::{BlkioEntry, NetworkInterface};

    #[test]
    fn bytes_are_decimal_with_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.234kB"),
            (16_777_216, "16.78MB"),
            (134_217_728, "134.2MB"),
            (25_000_000_000, "25GB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    fn sample(at: Instant, time: u64) -> Sample {
        let mut stats = Stats::default();
        stats.cpu.usage.total = time;
        stats.memory.usage.usage = 50_000;
        stats.memory.usage.limit = 200_000;
        stats.pids.current = 3;
        let entry = |op: &str, value| BlkioEntry {
            major: 8,
            minor: 0,
            op: op.to_owned(),
            value,
        };
        stats.blkio.io_service_bytes_recursive = vec![
            entry("Read", 1000),
            entry("Write", 7),
            entry("Read", 500),
            entry("Sync", 9),
        ];
        let interface = |rx_bytes, tx_bytes| NetworkInterface {
            rx_bytes,
            tx_bytes,
            ..NetworkInterface::default()
        };
        stats.network_interfaces = Some(vec![interface(10, 1), interface(20, 2)]);
        Sample {
            at,
            stats: Some(stats),
            vm: None,
        }
    }

    #[test]
    fn a_row_is_the_difference_of_two_samples() {
        let start = Instant::now();
        let row = row(
            "box",
            Some(&sample(start, 1_000_000_000)),
            &sample(start + Duration::from_secs(2), 4_000_000_000),
            1_000_000,
        );
        let cells = table(&[row]).to_string();
        let cells: Vec<&str> = cells
            .lines()
            .nth(1)
            .unwrap()
            .split("   ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect();
        assert_eq!(
            cells,
            [
                "box",
                "150.00%",
                "50kB / 200kB",
                "25.00%",
                "30B / 3B",
                "1.5kB / 7B",
                "3"
            ]
        );
    }

    #[test]
    fn unknown_values_are_printed_as_dashes() {
        let now = Instant::now();
        let alone = row("box", None, &sample(now, 5), 100_000);
        assert_eq!(
            (alone.cpu_percent, alone.mem_limit, alone.mem_percent),
            (None, Some(100_000), Some(50.0))
        );
        let none = table(&[row(
            "box",
            None,
            &Sample {
                at: now,
                stats: None,
                vm: None,
            },
            100_000,
        )])
        .to_string();
        assert_eq!(
            none.lines()
                .nth(1)
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>(),
            ["box", "--", "--", "--", "--", "--", "--"]
        );
    }
}
