//! From `linux.resources` to values for files. Every struct of the config is destructured without
//! `..`, so that a field without code does not compile.

pub(crate) mod cpu;
pub(crate) mod io;
pub(crate) mod memory;
pub(crate) mod other;
pub(crate) mod sink;

use super::place::Place;
use super::values::Write;
use crate::Result;
use crate::spec::config::Resources;
use sink::Sink;

/// The writes for all limits but the device rules, in the order in which they must be made.
/// `denied` are the cgroups that the caller may not make.
///
/// # Errors
/// A value is not valid; a limit's controller does not exist, or has no cgroup for the container.
pub(super) fn writes(
    resources: &Resources,
    places: &[Place],
    denied: &[Place],
) -> Result<Vec<Write>> {
    let Resources {
        devices: _,
        memory,
        cpu,
        pids,
        block_io,
        hugepage_limits,
        network,
        rdma,
        unified,
    } = resources;
    let mut sink = Sink {
        places,
        denied,
        writes: Vec::new(),
    };
    if let Some(cpu) = cpu {
        sink.cpu(cpu)?;
    }
    if let Some(memory) = memory {
        sink.memory(memory)?;
    }
    if let Some(pids) = pids {
        sink.pids(pids)?;
    }
    if let Some(block_io) = block_io {
        sink.block_io(block_io)?;
    }
    sink.hugepages(hugepage_limits)?;
    if let Some(network) = network {
        sink.network(network)?;
    }
    sink.rdma(rdma)?;
    sink.unified(unified)?;
    Ok(sink.writes)
}
