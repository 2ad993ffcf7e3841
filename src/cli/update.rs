//! `hull update`.

use super::Global;
use crate::adhoc::values::size;
use crate::container::Container;
use crate::spec::config::{BlockIo, Cpu, Memory, Pids, Resources};
use crate::{Context, Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Options of `update`.
#[derive(clap::Args)]
pub struct Args {
    /// Read the limits as JSON from this file, or - for stdin, in the format of linux.resources;
    /// limits that are left out do not change
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with = "Limits",
        allow_hyphen_values = true
    )]
    resources: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// A flag for each limit. clap takes numbers as text, so that errors have runc's wording.
#[derive(clap::Args)]
struct Limits {
    /// Block IO weight relative to sibling cgroups, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<String>,
    /// Period of the CPU quota, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_period: Option<String>,
    /// CPU time in each period, in microseconds; -1 for no limit
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// Unused CPU time that can be used in a later period, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_burst: Option<String>,
    /// Period of the real-time CPU quota, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_rt_period: Option<String>,
    /// CPU time of real-time processes in each period, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<String>,
    /// CPU shares relative to sibling cgroups, 2 to 262144
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<String>,
    /// CPUs to run on, such as 0-2,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use, such as 0-1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory limit in bytes, or such as 512m; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Soft memory limit, which counts when memory is short; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Limit of memory and swap together; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Kernel memory limit; newer kernels have none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, hide = true)]
    kernel_memory: Option<String>,
    /// Kernel memory limit for TCP buffers
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, hide = true)]
    kernel_memory_tcp: Option<String>,
    /// Limit of the number of tasks; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// 1 schedules the container as SCHED_IDLE, 0 does not
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<String>,
    /// Intel RDT schema of the L3 cache; not supported
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Intel RDT schema of memory bandwidth; not supported
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

/// Executes the command.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let mut container = Container::open(&global.store(), &args.id)?;
    let change = match &args.resources {
        Some(path) => from_file(path)?,
        None => args.limits.resources()?,
    };
    container.update(&change)?;
    Ok(0)
}

fn from_file(path: &Path) -> Result<Resources> {
    let mut text = Vec::new();
    let (name, read) = if path == Path::new("-") {
        (
            "standard input".to_owned(),
            std::io::stdin().read_to_end(&mut text),
        )
    } else {
        let name = path.display().to_string();
        let mut file = File::open(path).on("open", &name)?;
        (name, file.read_to_end(&mut text))
    };
    read.on("read", &name)?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("read resources from {name}: {error}")))
}

impl Limits {
    fn resources(&self) -> Result<Resources> {
        let Limits {
            blkio_weight,
            cpu_period,
            cpu_quota,
            cpu_burst,
            cpu_rt_period,
            cpu_rt_runtime,
            cpu_share,
            cpuset_cpus,
            cpuset_mems,
            memory,
            memory_reservation,
            memory_swap,
            kernel_memory,
            kernel_memory_tcp,
            pids_limit,
            cpu_idle,
            l3_cache_schema,
            mem_bw_schema,
        } = self;
        // As in a config, hull does not support Intel RDT.
        match (l3_cache_schema, mem_bw_schema) {
            (Some(_), _) => {
                return Err(Error::new("Intel RDT/CAT: l3 cache schema is not enabled"));
            }
            (_, Some(_)) => {
                return Err(Error::new(
                    "Intel RDT/MBA: memory bandwidth schema is not enabled",
                ));
            }
            (None, None) => {}
        }
        let cpu = Cpu {
            shares: number("cpu-share", cpu_share)?,
            quota: number("cpu-quota", cpu_quota)?,
            burst: number("cpu-burst", cpu_burst)?,
            period: number("cpu-period", cpu_period)?,
            realtime_runtime: number("cpu-rt-runtime", cpu_rt_runtime)?,
            realtime_period: number("cpu-rt-period", cpu_rt_period)?,
            cpus: cpuset_cpus.clone(),
            mems: cpuset_mems.clone(),
            idle: number("cpu-idle", cpu_idle)?,
        };
        let memory = Memory {
            limit: bytes("memory", memory)?,
            reservation: bytes("memory-reservation", memory_reservation)?,
            swap: bytes("memory-swap", memory_swap)?,
            kernel: bytes("kernel-memory", kernel_memory)?,
            kernel_tcp: bytes("kernel-memory-tcp", kernel_memory_tcp)?,
            ..Memory::default()
        };
        let block_io = BlockIo {
            weight: number("blkio-weight", blkio_weight)?,
            ..BlockIo::default()
        };
        Ok(Resources {
            memory: some(memory),
            cpu: some(cpu),
            pids: some(Pids {
                limit: number("pids-limit", pids_limit)?,
            }),
            block_io: some(block_io),
            ..Resources::default()
        })
    }
}

/// `None` for a part without any limit.
fn some<T: Default + PartialEq>(part: T) -> Option<T> {
    (part != T::default()).then_some(part)
}

fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(
    name: &str,
    text: &Option<String>,
) -> Result<Option<T>> {
    let Some(text) = text else { return Ok(None) };
    text.parse()
        .map(Some)
        .map_err(|error| Error::new(format!("invalid value for {name}: {text:?}: {error}")))
}

/// Parses a size; -1 is no limit, 0 changes nothing.
fn bytes(name: &str, text: &Option<String>) -> Result<Option<i64>> {
    match text.as_deref() {
        None => Ok(None),
        Some("-1") => Ok(Some(-1)),
        Some("0") => Ok(Some(0)),
        Some(text) => size(&format!("--{name}"), text)
            .map(Some)
            .map_err(|error| error.within(format_args!("invalid value for {name}"))),
    }
}
