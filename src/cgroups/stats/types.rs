//! The document of the counters, with runc's fields: zeros are left out where runc leaves them out.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

fn zero(n: &u64) -> bool {
    *n == 0
}

/// Declares the structs of the document: public fields, and in JSON the default for absent ones.
macro_rules! documents {
    ($(
        $(#[doc = $doc:literal])* $($case:literal)?
        $name:ident { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? }
    )*) => { $(
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default $(, rename_all = $case)?)]
        #[allow(missing_docs)] // the names are runc's
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty ),* }
    )* };
}

documents! {
    /// The whole document. The caller adds the network interfaces.
    Stats {
        cpu: Cpu,
        cpuset: CpuSet,
        memory: Memory,
        pids: Pids,
        blkio: Blkio,
        hugetlb: BTreeMap<String, Hugetlb>,
        intel_rdt: IntelRdt,
        network_interfaces: Option<Vec<NetworkInterface>>,
    }
    /// Empty: hull does not use resctrl.
    IntelRdt {}
    /// What one network interface has received and sent: bytes and packets.
    NetworkInterface {
        #[serde(rename = "Name")] name: String,
        #[serde(rename = "RxBytes")] rx_bytes: u64,
        #[serde(rename = "RxPackets")] rx_packets: u64,
        #[serde(rename = "RxErrors")] rx_errors: u64,
        #[serde(rename = "RxDropped")] rx_dropped: u64,
        #[serde(rename = "TxBytes")] tx_bytes: u64,
        #[serde(rename = "TxPackets")] tx_packets: u64,
        #[serde(rename = "TxErrors")] tx_errors: u64,
        #[serde(rename = "TxDropped")] tx_dropped: u64,
    }
    /// CPU time and pressure.
    Cpu {
        usage: CpuUsage,
        throttling: Throttling,
        #[serde(skip_serializing_if = "Option::is_none")] psi: Option<Pressure>,
    }
    /// CPU time in nanoseconds; on v1 also for each CPU.
    CpuUsage {
        #[serde(skip_serializing_if = "zero")] total: u64,
        #[serde(skip_serializing_if = "Vec::is_empty")] percpu: Vec<u64>,
        #[serde(skip_serializing_if = "Vec::is_empty")] percpu_kernel: Vec<u64>,
        #[serde(skip_serializing_if = "Vec::is_empty")] percpu_user: Vec<u64>,
        kernel: u64,
        user: u64,
    }
    /// How often and how long the quota stopped the container: periods, and time in nanoseconds.
    Throttling {
        #[serde(skip_serializing_if = "zero")] periods: u64,
        #[serde(rename = "throttledPeriods", skip_serializing_if = "zero")] throttled_periods: u64,
        #[serde(rename = "throttledTime", skip_serializing_if = "zero")] throttled_time: u64,
    }
    /// The share of time in percent over 10, 60 and 300 seconds; `total` is in microseconds.
    PressurePart { avg10: f64, avg60: f64, avg300: f64, total: u64 }
    /// Pressure: time in which some, or all, tasks waited for the resource.
    Pressure { some: PressurePart, full: PressurePart }
    /// The CPUs and memory nodes, and v1's flags.
    CpuSet {
        #[serde(skip_serializing_if = "Vec::is_empty")] cpus: Vec<u16>,
        cpu_exclusive: u64,
        #[serde(skip_serializing_if = "Vec::is_empty")] mems: Vec<u16>,
        mem_hardwall: u64,
        mem_exclusive: u64,
        memory_migrate: u64,
        memory_spread_page: u64,
        memory_spread_slab: u64,
        memory_pressure: u64,
        sched_load_balance: u64,
        sched_relax_domain_level: i64,
    }
    /// Memory in bytes. `swap` counts memory and swap together, also on v2.
    Memory {
        #[serde(skip_serializing_if = "zero")] cache: u64,
        usage: MemoryEntry,
        swap: MemoryEntry,
        kernel: MemoryEntry,
        #[serde(rename = "kernelTCP")] kernel_tcp: MemoryEntry,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")] raw: BTreeMap<String, u64>,
        #[serde(skip_serializing_if = "Option::is_none")] psi: Option<Pressure>,
    }
    /// One kind of memory in bytes; `max` is the highest usage, `failcnt` how often the limit was
    /// hit.
    MemoryEntry {
        limit: u64,
        #[serde(skip_serializing_if = "zero")] usage: u64,
        #[serde(skip_serializing_if = "zero")] max: u64,
        failcnt: u64,
    }
    /// Numbers of tasks; a limit of 0 is unlimited.
    Pids {
        #[serde(skip_serializing_if = "zero")] current: u64,
        #[serde(skip_serializing_if = "zero")] limit: u64,
    }
    /// Block IO, by device and operation.
    "camelCase" Blkio {
        #[serde(skip_serializing_if = "Vec::is_empty")] io_service_bytes_recursive: Vec<BlkioEntry>,
        #[serde(skip_serializing_if = "Vec::is_empty")] io_serviced_recursive: Vec<BlkioEntry>,
        #[serde(skip_serializing_if = "Vec::is_empty")] io_queue_recursive: Vec<BlkioEntry>,
        #[serde(skip_serializing_if = "Vec::is_empty")] io_service_time_recursive: Vec<BlkioEntry>,
        #[serde(skip_serializing_if = "Vec::is_empty")] io_wait_time_recursive: Vec<BlkioEntry>,
        #[serde(skip_serializing_if = "Vec::is_empty")] io_merged_recursive: Vec<BlkioEntry>,
        #[serde(skip_serializing_if = "Vec::is_empty")] io_time_recursive: Vec<BlkioEntry>,
        #[serde(skip_serializing_if = "Vec::is_empty")] sectors_recursive: Vec<BlkioEntry>,
        #[serde(skip_serializing_if = "Option::is_none")] psi: Option<Pressure>,
    }
    /// The number for one device and operation.
    BlkioEntry {
        #[serde(skip_serializing_if = "zero")] major: u64,
        #[serde(skip_serializing_if = "zero")] minor: u64,
        #[serde(skip_serializing_if = "String::is_empty")] op: String,
        #[serde(skip_serializing_if = "zero")] value: u64,
    }
    /// Huge pages of one size, in bytes.
    Hugetlb {
        #[serde(skip_serializing_if = "zero")] usage: u64,
        #[serde(skip_serializing_if = "zero")] max: u64,
        failcnt: u64,
    }
}
