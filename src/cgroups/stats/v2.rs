//! The counters of cgroup v2, under v1's names.

use super::reader::{Reader, has};
use super::types::{BlkioEntry, Hugetlb, MemoryEntry, Stats};
use crate::Result;
use crate::cgroups::place::Place;

/// Adds the counters of the unified hierarchy. It always counts CPU time, which in a hybrid tree v1
/// has counted already.
///
/// # Errors
/// As for v1.
pub(super) fn add(place: &Place, v1_counts_time: bool, stats: &mut Stats) -> Result<()> {
    let reader = Reader { dir: &place.dir };
    if !v1_counts_time {
        reader.cpu(stats)?;
    }
    if has(place, "cpuset") {
        stats.cpuset.cpus = reader.list("cpuset.cpus.effective")?;
        stats.cpuset.mems = reader.list("cpuset.mems.effective")?;
    }
    if has(place, "memory") {
        reader.memory_v2(stats)?;
    }
    if has(place, "pids") {
        stats.pids.current = match reader.number("pids.current")? {
            Some(n) => n,
            // The controller is not enabled: the processes are counted.
            None => reader
                .text("cgroup.procs")?
                .unwrap_or_default()
                .lines()
                .count() as u64,
        };
        stats.pids.limit = reader
            .number("pids.max")?
            .filter(|n| *n != u64::MAX)
            .unwrap_or(0);
    }
    if has(place, "io") {
        reader.io(stats)?;
    }
    if has(place, "hugetlb") {
        reader.hugetlb_v2(stats)?;
    }
    Ok(())
}

impl Reader<'_> {
    fn cpu(&self, stats: &mut Stats) -> Result<()> {
        let table = self.table("cpu.stat")?;
        let nanoseconds = |key: &str| table.get(key).copied().unwrap_or(0) * 1000;
        let count = |key: &str| table.get(key).copied().unwrap_or(0);
        let cpu = &mut stats.cpu;
        (cpu.usage.total, cpu.usage.user, cpu.usage.kernel) = (
            nanoseconds("usage_usec"),
            nanoseconds("user_usec"),
            nanoseconds("system_usec"),
        );
        if table.contains_key("nr_periods") {
            (cpu.throttling.periods, cpu.throttling.throttled_periods) =
                (count("nr_periods"), count("nr_throttled"));
            cpu.throttling.throttled_time = nanoseconds("throttled_usec");
        }
        cpu.psi = self.pressure("cpu.pressure")?;
        Ok(())
    }

    fn memory_v2(&self, stats: &mut Stats) -> Result<()> {
        let memory = &mut stats.memory;
        memory.raw = self.table("memory.stat")?;
        memory.cache = memory.raw.get("file").copied().unwrap_or(0);
        let failed = |events: &str| -> Result<u64> {
            Ok(self.table(events)?.get("max").copied().unwrap_or(0))
        };
        memory.usage = MemoryEntry {
            limit: self.number_or_zero("memory.max")?,
            usage: self.number_or_zero("memory.current")?,
            max: self.number_or_zero("memory.peak")?,
            failcnt: failed("memory.events")?,
        };
        // v1 counts memory and swap together, and so does the document.
        if let (Some(limit), Some(usage)) = (
            self.number("memory.swap.max")?,
            self.number("memory.swap.current")?,
        ) {
            memory.swap = MemoryEntry {
                limit: limit.saturating_add(memory.usage.limit),
                usage: usage + memory.usage.usage,
                max: 0,
                failcnt: failed("memory.swap.events")?,
            };
        }
        memory.psi = self.pressure("memory.pressure")?;
        Ok(())
    }

    fn io(&self, stats: &mut Stats) -> Result<()> {
        const FILE: &str = "io.stat";
        let text = self.text(FILE)?.unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let device = words.next().and_then(|d| d.split_once(':'));
            let Some((major, minor)) =
                device.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
            else {
                return Err(self.bad(FILE, line));
            };
            for (key, value) in words.filter_map(|w| w.split_once('=')) {
                let (list, op) = match key {
                    "rbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Read"),
                    "wbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Write"),
                    "rios" => (&mut stats.blkio.io_serviced_recursive, "Read"),
                    "wios" => (&mut stats.blkio.io_serviced_recursive, "Write"),
                    _ => continue,
                };
                let value = value.parse().map_err(|_| self.bad(FILE, line))?;
                list.push(BlkioEntry {
                    major,
                    minor,
                    op: op.to_owned(),
                    value,
                });
            }
        }
        stats.blkio.psi = self.pressure("io.pressure")?;
        Ok(())
    }

    fn hugetlb_v2(&self, stats: &mut Stats) -> Result<()> {
        for size in self.page_sizes(".current") {
            let usage = self.number_or_zero(&format!("hugetlb.{size}.current"))?;
            let failcnt = self
                .table(&format!("hugetlb.{size}.events"))?
                .get("max")
                .copied()
                .unwrap_or(0);
            stats.hugetlb.insert(
                size,
                Hugetlb {
                    usage,
                    max: 0,
                    failcnt,
                },
            );
        }
        Ok(())
    }
}
