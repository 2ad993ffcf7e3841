//! The counters of cgroup v1.

use super::reader::{Reader, has};
use super::types::{BlkioEntry, Hugetlb, MemoryEntry, Stats};
use crate::Result;
use crate::cgroups::place::Place;

/// Adds the counters of one hierarchy.
///
/// # Errors
/// A file cannot be read, or does not have the form that the kernel documents.
pub(super) fn add(place: &Place, stats: &mut Stats) -> Result<()> {
    let reader = Reader { dir: &place.dir };
    if has(place, "cpuacct") {
        reader.cpu_usage(stats)?;
    }
    if has(place, "cpu") {
        let table = reader.table("cpu.stat")?;
        let count = |key: &str| table.get(key).copied().unwrap_or(0);
        let throttling = &mut stats.cpu.throttling;
        (throttling.periods, throttling.throttled_periods) =
            (count("nr_periods"), count("nr_throttled"));
        throttling.throttled_time = count("throttled_time");
    }
    if has(place, "cpuset") {
        reader.cpuset(stats)?;
    }
    if has(place, "memory") {
        reader.memory(stats)?;
    }
    if has(place, "pids") {
        stats.pids.current = reader.number_or_zero("pids.current")?;
        stats.pids.limit = reader
            .number("pids.max")?
            .filter(|n| *n != u64::MAX)
            .unwrap_or(0);
    }
    if has(place, "blkio") {
        reader.blkio(stats)?;
    }
    if has(place, "hugetlb") {
        reader.hugetlb(stats)?;
    }
    Ok(())
}

impl Reader<'_> {
    fn cpu_usage(&self, stats: &mut Stats) -> Result<()> {
        /// Nanoseconds of a tick: cpuacct.stat counts in USER_HZ, which is 100 per second on every
        /// architecture that hull supports.
        const TICK: u64 = 10_000_000;
        let usage = &mut stats.cpu.usage;
        usage.total = self.number_or_zero("cpuacct.usage")?;
        usage.percpu = self.numbers("cpuacct.usage_percpu")?;
        let table = self.table("cpuacct.stat")?;
        usage.user = table.get("user").copied().unwrap_or(0) * TICK;
        usage.kernel = table.get("system").copied().unwrap_or(0) * TICK;
        let all = self.text("cpuacct.usage_all")?.unwrap_or_default();
        for line in all.lines().skip(1) {
            let mut numbers = line.split(' ').skip(1).filter_map(|n| n.parse().ok());
            if let (Some(user), Some(kernel)) = (numbers.next(), numbers.next()) {
                usage.percpu_user.push(user);
                usage.percpu_kernel.push(kernel);
            }
        }
        Ok(())
    }

    fn cpuset(&self, stats: &mut Stats) -> Result<()> {
        let set = &mut stats.cpuset;
        set.cpus = self.list("cpuset.cpus")?;
        set.mems = self.list("cpuset.mems")?;
        set.cpu_exclusive = self.number_or_zero("cpuset.cpu_exclusive")?;
        set.mem_hardwall = self.number_or_zero("cpuset.mem_hardwall")?;
        set.mem_exclusive = self.number_or_zero("cpuset.mem_exclusive")?;
        set.memory_migrate = self.number_or_zero("cpuset.memory_migrate")?;
        set.memory_spread_page = self.number_or_zero("cpuset.memory_spread_page")?;
        set.memory_spread_slab = self.number_or_zero("cpuset.memory_spread_slab")?;
        set.memory_pressure = self.number_or_zero("cpuset.memory_pressure")?;
        set.sched_load_balance = self.number_or_zero("cpuset.sched_load_balance")?;
        let level = self
            .text("cpuset.sched_relax_domain_level")?
            .unwrap_or_default();
        set.sched_relax_domain_level = level.trim_end().parse().unwrap_or(0);
        Ok(())
    }

    fn memory(&self, stats: &mut Stats) -> Result<()> {
        let memory = &mut stats.memory;
        memory.raw = self.table("memory.stat")?;
        memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
        memory.usage = self.memory_entry("memory")?;
        memory.swap = self.memory_entry("memory.memsw")?;
        memory.kernel = self.memory_entry("memory.kmem")?;
        memory.kernel_tcp = self.memory_entry("memory.kmem.tcp")?;
        Ok(())
    }

    fn memory_entry(&self, module: &str) -> Result<MemoryEntry> {
        let of = |name: &str| self.number_or_zero(&format!("{module}.{name}"));
        Ok(MemoryEntry {
            limit: of("limit_in_bytes")?,
            usage: of("usage_in_bytes")?,
            max: of("max_usage_in_bytes")?,
            failcnt: of("failcnt")?,
        })
    }

    /// The scheduler BFQ counts most where the kernel has `CONFIG_BFQ_CGROUP_DEBUG`, else two
    /// numbers; without BFQ the numbers of the throttle are taken.
    fn blkio(&self, stats: &mut Stats) -> Result<()> {
        let blkio = &mut stats.blkio;
        let bfq = self.devices("blkio.bfq.sectors_recursive")?;
        if !bfq.is_empty() {
            blkio.sectors_recursive = bfq;
            blkio.io_service_time_recursive =
                self.devices("blkio.bfq.io_service_time_recursive")?;
            blkio.io_wait_time_recursive = self.devices("blkio.bfq.io_wait_time_recursive")?;
            blkio.io_merged_recursive = self.devices("blkio.bfq.io_merged_recursive")?;
            blkio.io_queue_recursive = self.devices("blkio.bfq.io_queued_recursive")?;
            blkio.io_time_recursive = self.devices("blkio.bfq.time_recursive")?;
        }
        for prefix in ["blkio.bfq.io_serv", "blkio.throttle.io_serv"] {
            let serviced = self.devices(&format!("{prefix}iced_recursive"))?;
            if !serviced.is_empty() {
                blkio.io_serviced_recursive = serviced;
                blkio.io_service_bytes_recursive =
                    self.devices(&format!("{prefix}ice_bytes_recursive"))?;
                break;
            }
        }
        Ok(())
    }

    /// A file with lines such as `8:0 Read 5` or `8:0 5`; the sum at its end is left out.
    fn devices(&self, name: &str) -> Result<Vec<BlkioEntry>> {
        let text = self.text(name)?.unwrap_or_default();
        let mut entries = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with("Total")) {
            let fields: Vec<&str> = line.split([' ', ':']).collect();
            let number = |at: usize| {
                fields
                    .get(at)
                    .and_then(|n| n.parse().ok())
                    .ok_or_else(|| self.bad(name, line))
            };
            let named = fields.len() == 4;
            entries.push(BlkioEntry {
                major: number(0)?,
                minor: number(1)?,
                op: if named {
                    fields[2].to_owned()
                } else {
                    String::new()
                },
                value: number(if named { 3 } else { 2 })?,
            });
        }
        Ok(entries)
    }

    fn hugetlb(&self, stats: &mut Stats) -> Result<()> {
        for size in self.page_sizes(".usage_in_bytes") {
            let of = |name: &str| self.number_or_zero(&format!("hugetlb.{size}.{name}"));
            let entry = Hugetlb {
                usage: of("usage_in_bytes")?,
                max: of("max_usage_in_bytes")?,
                failcnt: of("failcnt")?,
            };
            stats.hugetlb.insert(size, entry);
        }
        Ok(())
    }
}
