//! `linux.resources.cpu`.

use super::sink::Sink;
use crate::cgroups::tree::Version;
use crate::cgroups::values::Policy;
use crate::spec::config::Cpu;
use crate::{Error, Result};
use cgroups_rs::{CPU_SHARES_V1_MAX, CPU_WEIGHT_V2_MAX};

/// The kernel's default period, in microseconds.
const PERIOD: u64 = 100_000;

impl Sink<'_> {
    /// Adds the CPU limits. Zero is "not set" except for `burst` and `idle`, as in runc.
    pub(super) fn cpu(&mut self, cpu: &Cpu) -> Result<()> {
        let Cpu {
            shares,
            quota,
            burst,
            period,
            realtime_runtime,
            realtime_period,
            cpus,
            mems,
            idle,
        } = cpu;
        self.cpuset(cpus.as_deref(), "cpuset.cpus", "cpu.cpus")?;
        self.cpuset(mems.as_deref(), "cpuset.mems", "cpu.mems")?;
        // A process with a real-time policy cannot join a cgroup without real-time bandwidth, so
        // this is written before the process joins.
        self.realtime(
            realtime_period.filter(|v| *v != 0),
            realtime_runtime.filter(|v| *v != 0),
        )?;
        if let Some(shares) = shares.filter(|v| *v != 0) {
            self.shares(shares, idle == &Some(1))?;
        }
        if let Some(idle) = idle {
            self.need("cpu", Some("cpu"), "cpu.idle")?;
            self.put("cpu", "cpu.idle", idle, "cpu.idle");
        }
        let (quota, period) = (quota.filter(|v| *v != 0), period.filter(|v| *v != 0));
        let from = if quota.is_some() {
            "cpu.quota"
        } else {
            "cpu.period"
        };
        if quota.is_none() && period.is_none() && burst.is_none() {
            return Ok(());
        }
        match self.need("cpu", Some("cpu"), from)? {
            Version::V1 => self.bandwidth_v1(quota, period, *burst),
            Version::V2 => self.bandwidth_v2(quota, period, *burst),
        }
        Ok(())
    }

    fn cpuset(&mut self, value: Option<&str>, file: &str, from: &str) -> Result<()> {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            self.need("cpuset", Some("cpuset"), from)?;
            self.put("cpuset", file, value, from);
        }
        Ok(())
    }

    fn realtime(&mut self, period: Option<u64>, runtime: Option<i64>) -> Result<()> {
        let why = "cgroup v2 does not control the bandwidth of real-time processes";
        if let Some(period) = period {
            self.need_v1("cpu", "cpu", "cpu.realtimePeriod", why)?;
            self.put_with(
                "cpu",
                "cpu.rt_period_us",
                period,
                "cpu.realtimePeriod",
                Policy::OrAfterNext,
            );
        }
        if let Some(runtime) = runtime {
            self.need_v1("cpu", "cpu", "cpu.realtimeRuntime", why)?;
            self.put("cpu", "cpu.rt_runtime_us", runtime, "cpu.realtimeRuntime");
        }
        Ok(())
    }

    /// The range on v1 is the kernel's (`MIN_SHARES`, `MAX_SHARES`), which would change another
    /// value to the nearest one without an error. v2 refuses a weight for an idle cgroup, so none
    /// is written.
    fn shares(&mut self, shares: u64, idle: bool) -> Result<()> {
        match self.need("cpu", Some("cpu"), "cpu.shares")? {
            Version::V1 if shares < 2 => Err(Error::new(
                "the minimum allowed cpu-shares is 2 (linux.resources.cpu.shares)",
            )),
            Version::V1 if shares > CPU_SHARES_V1_MAX => Err(Error::new(format!(
                "the maximum allowed cpu-shares is {CPU_SHARES_V1_MAX} \
                    (linux.resources.cpu.shares)"
            ))),
            Version::V1 => {
                self.put("cpu", "cpu.shares", shares, "cpu.shares");
                Ok(())
            }
            Version::V2 if idle => Ok(()),
            Version::V2 => {
                self.put("cpu", "cpu.weight", weight(shares), "cpu.shares");
                Ok(())
            }
        }
    }

    /// The kernel compares each value with the others: burst with quota, and the ratio of quota and
    /// period with the parent's.
    fn bandwidth_v1(&mut self, quota: Option<i64>, period: Option<u64>, burst: Option<u64>) {
        let policy = || {
            if quota.is_some() {
                Policy::OrAfterNext
            } else {
                Policy::Must
            }
        };
        if let Some(burst) = burst {
            self.put_with("cpu", "cpu.cfs_burst_us", burst, "cpu.burst", policy());
        }
        if let Some(period) = period {
            self.put_with("cpu", "cpu.cfs_period_us", period, "cpu.period", policy());
        }
        if let Some(quota) = quota {
            self.put("cpu", "cpu.cfs_quota_us", quota, "cpu.quota");
        }
    }

    fn bandwidth_v2(&mut self, quota: Option<i64>, period: Option<u64>, burst: Option<u64>) {
        if let Some(burst) = burst {
            let policy = if quota.or(period.map(|_| 0)).is_some() {
                Policy::OrAfterNext
            } else {
                Policy::Must
            };
            self.put_with("cpu", "cpu.max.burst", burst, "cpu.burst", policy);
        }
        if quota.is_some() || period.is_some() {
            let from = if quota.is_some() {
                "cpu.quota"
            } else {
                "cpu.period"
            };
            let quota = quota
                .filter(|q| *q > 0)
                .map_or_else(|| "max".to_owned(), |q| q.to_string());
            self.put(
                "cpu",
                "cpu.max",
                format!("{quota} {}", period.unwrap_or(PERIOD)),
                from,
            );
        }
    }
}

/// Converts shares (2 to 262144, default 1024) to a weight (1 to 10000, default 100) by the curve
/// through these three points that runc has since 1.3.2 (its issue 4896 gives a value) and crun
/// since 1.23 (pull request 1767). The straight line before it made 39 of 1024.
pub(in crate::cgroups) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        CPU_SHARES_V1_MAX.. => CPU_WEIGHT_V2_MAX,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            // The last bits of a power differ between mathematics libraries: 100 must not become
            // 101.
            (10f64.powf(exponent) - 1e-9).ceil() as u64
        }
    }
}
