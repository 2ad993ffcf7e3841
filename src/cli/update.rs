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
    /// Take the limits from this file, or - for standard input: JSON, as linux.resources of a
    /// config; what is left out stays
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

/// One flag a limit. Numbers are text here and parsed in runc's words.
#[derive(clap::Args)]
struct Limits {
    /// Weight of block IO among the neighbours, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<String>,
    /// Period of the CPU quota, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_period: Option<String>,
    /// CPU time in each period, in microseconds; -1 for no limit
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// Unused CPU time that may be added to a period, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_burst: Option<String>,
    /// Period of real-time processes' CPU time, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_rt_period: Option<String>,
    /// CPU time of real-time processes in each such period, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<String>,
    /// CPU time in proportion to the neighbours', 2 to 262144
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<String>,
    /// CPUs to run on, as 0-2,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use, as 0-1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory, in bytes or as 512m, 2g; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory that is left to the container while others need some; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory of the kernel for the container; newer kernels have no such limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, hide = true)]
    kernel_memory: Option<String>,
    /// Memory of the kernel for the container's TCP buffers
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, hide = true)]
    kernel_memory_tcp: Option<String>,
    /// Number of tasks; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// 1 to run only when nobody else wants a CPU, 0 for the usual
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<String>,
    /// Intel RDT's schema of the L3 cache
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Intel RDT's schema of memory bandwidth
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

/// Carries the command out.
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
        // As in a config: hull does not set Intel RDT up.
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

/// A part that says nothing is left out.
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

/// A size as people write it; -1 is no limit, 0 changes nothing.
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
