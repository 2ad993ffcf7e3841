//! The documents, field by field as runc writes them: zeros are left out where runc leaves them
//! out.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

fn zero(n: &u64) -> bool {
    *n == 0
}

/// Declares documents whose numbers are left out when zero if marked `?`, and lists when empty.
macro_rules! documents {
    ($( $(#[doc = $doc:literal])* $($case:literal)? $name:ident { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? } )*) => { $(
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default $(, rename_all = $case)?)]
        #[allow(missing_docs)] // the names are runc's
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty ),* }
    )* };
}

documents! {
    /// The whole. Network interfaces are the caller's to add.
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
    /// Nothing is measured by resctrl.
    IntelRdt {}
    /// Bytes and packets of one interface.
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
    /// Times in nanoseconds.
    Cpu {
        usage: CpuUsage,
        throttling: Throttling,
        #[serde(skip_serializing_if = "Option::is_none")] psi: Option<Pressure>,
    }
    /// Times in nanoseconds, by processor too on v1.
    CpuUsage {
        #[serde(skip_serializing_if = "zero")] total: u64,
        #[serde(skip_serializing_if = "Vec::is_empty")] percpu: Vec<u64>,
        #[serde(skip_serializing_if = "Vec::is_empty")] percpu_kernel: Vec<u64>,
        #[serde(skip_serializing_if = "Vec::is_empty")] percpu_user: Vec<u64>,
        kernel: u64,
        user: u64,
    }
    /// Periods of the quota; time in nanoseconds.
    Throttling {
        #[serde(skip_serializing_if = "zero")] periods: u64,
        #[serde(rename = "throttledPeriods", skip_serializing_if = "zero")] throttled_periods: u64,
        #[serde(rename = "throttledTime", skip_serializing_if = "zero")] throttled_time: u64,
    }
    /// Shares of time in percent, `total` in microseconds.
    PressurePart { avg10: f64, avg60: f64, avg300: f64, total: u64 }
    /// Time in which some, or all, waited.
    Pressure { some: PressurePart, full: PressurePart }
    /// v1's flags, and the sets.
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
    /// Bytes. `swap` counts memory and swap together, on v2 too.
    Memory {
        #[serde(skip_serializing_if = "zero")] cache: u64,
        usage: MemoryEntry,
        swap: MemoryEntry,
        kernel: MemoryEntry,
        #[serde(rename = "kernelTCP")] kernel_tcp: MemoryEntry,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")] raw: BTreeMap<String, u64>,
        #[serde(skip_serializing_if = "Option::is_none")] psi: Option<Pressure>,
    }
    /// Bytes; `failcnt` is how often the limit was hit.
    MemoryEntry {
        limit: u64,
        #[serde(skip_serializing_if = "zero")] usage: u64,
        #[serde(skip_serializing_if = "zero")] max: u64,
        failcnt: u64,
    }
    /// Tasks; a limit of 0 is none.
    Pids {
        #[serde(skip_serializing_if = "zero")] current: u64,
        #[serde(skip_serializing_if = "zero")] limit: u64,
    }
    /// By device.
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
    /// One device and operation.
    BlkioEntry {
        #[serde(skip_serializing_if = "zero")] major: u64,
        #[serde(skip_serializing_if = "zero")] minor: u64,
        #[serde(skip_serializing_if = "String::is_empty")] op: String,
        #[serde(skip_serializing_if = "zero")] value: u64,
    }
    /// Bytes.
    Hugetlb {
        #[serde(skip_serializing_if = "zero")] usage: u64,
        #[serde(skip_serializing_if = "zero")] max: u64,
        failcnt: u64,
    }
}
