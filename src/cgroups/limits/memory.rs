//! `linux.resources.memory`.

use super::sink::{Sink, or_max};
use crate::cgroups::tree::Version;
use crate::cgroups::values::Policy;
use crate::spec::config::Memory;
use crate::{Error, Result};

impl Sink<'_> {
    /// Adds the memory limits. Zero is "not set", as in runc; -1 is unlimited.
    pub(super) fn memory(&mut self, memory: &Memory) -> Result<()> {
        let Memory {
            limit,
            reservation,
            swap,
            kernel,
            kernel_tcp,
            swappiness,
            disable_oom_killer,
            use_hierarchy,
            check_before_update,
        } = memory;
        let set = |value: &Option<i64>| value.filter(|v| *v != 0);
        let (limit, reservation, swap) = (set(limit), set(reservation), set(swap));
        let (kernel, kernel_tcp) = (set(kernel), set(kernel_tcp));
        if let Some(s @ 101..) = *swappiness {
            return Err(Error::new(format!(
                "invalid memory swappiness value: {s}. Valid range is 0-100 \
                    (linux.resources.memory.swappiness)"
            )));
        }
        for (value, from) in [
            (limit, "limit"),
            (reservation, "reservation"),
            (swap, "swap"),
            (kernel, "kernel"),
            (kernel_tcp, "kernelTCP"),
        ] {
            if let Some(value) = value.filter(|v| *v < -1) {
                return Err(Error::new(format!(
                    "invalid memory value {value} (linux.resources.memory.{from})"
                )));
            }
        }
        if limit.or(reservation).or(swap).is_some() {
            match self.need("memory", Some("memory"), "memory")? {
                Version::V1 => self.memory_v1(limit, reservation, swap),
                Version::V2 => self.memory_v2(
                    limit,
                    reservation,
                    swap,
                    check_before_update.unwrap_or(false),
                )?,
            }
        }
        self.kernel_memory(kernel, kernel_tcp)?;
        if let Some(swappiness) = swappiness {
            self.need_v1(
                "memory",
                "memory",
                "memory.swappiness",
                "cgroup v2 has no swappiness of its own",
            )?;
            self.put(
                "memory",
                "memory.swappiness",
                swappiness,
                "memory.swappiness",
            );
        }
        if disable_oom_killer == &Some(true) {
            self.need_v1(
                "memory",
                "memory",
                "memory.disableOOMKiller",
                "the OOM killer cannot be disabled in cgroup v2",
            )?;
            self.put("memory", "memory.oom_control", 1, "memory.disableOOMKiller");
        }
        // Since Linux 5.11 every v1 memory cgroup is hierarchical, as on v2: `false` is refused by
        // the kernel or here.
        match (
            use_hierarchy,
            use_hierarchy
                .map(|_| self.need("memory", Some("memory"), "memory.useHierarchy"))
                .transpose()?,
        ) {
            (Some(value), Some(Version::V1)) => {
                let policy = if *value {
                    Policy::IfPresent
                } else {
                    Policy::Must
                };
                self.put_with(
                    "memory",
                    "memory.use_hierarchy",
                    u8::from(*value),
                    "memory.useHierarchy",
                    policy,
                );
            }
            (Some(false), Some(Version::V2)) => self.need_v1(
                "memory",
                "memory",
                "memory.useHierarchy",
                "cgroup v2 is always hierarchical",
            )?,
            _ => {}
        }
        Ok(())
    }

    /// `memory.limit_in_bytes` may not be above `memory.memsw.limit_in_bytes`, which counts memory
    /// and swap.
    fn memory_v1(&mut self, limit: Option<i64>, reservation: Option<i64>, swap: Option<i64>) {
        const SWAP: &str = "memory.memsw.limit_in_bytes";
        if let Some(limit) = limit {
            // With a limit of memory and swap together, memory is not unlimited: that limit is
            // removed too, where the kernel counts swap.
            let policy = if swap.is_some() || limit == -1 {
                Policy::OrAfterNext
            } else {
                Policy::Must
            };
            self.put_with(
                "memory",
                "memory.limit_in_bytes",
                limit,
                "memory.limit",
                policy,
            );
            if limit == -1 && swap.is_none() {
                self.put_with("memory", SWAP, -1, "memory.limit", Policy::IfPresent);
            }
        }
        if let Some(swap) = swap {
            self.put("memory", SWAP, swap, "memory.swap");
        }
        if let Some(reservation) = reservation {
            self.put(
                "memory",
                "memory.soft_limit_in_bytes",
                reservation,
                "memory.reservation",
            );
        }
    }

    /// v2 limits swap alone: the difference of both is written.
    fn memory_v2(
        &mut self,
        limit: Option<i64>,
        reservation: Option<i64>,
        swap: Option<i64>,
        check: bool,
    ) -> Result<()> {
        if let Some((value, from)) = swap_v2(limit, swap)? {
            // In a kernel without swap, no swap and unlimited swap are the same.
            let policy = if value == "max" || value == "0" {
                Policy::IfPresent
            } else {
                Policy::Must
            };
            self.put_with("memory", "memory.swap.max", value, from, policy);
        }
        if let Some(limit) = limit {
            self.put("memory", "memory.max", or_max(limit), "memory.limit");
            if check
                && let (Some(write), Ok(limit)) = (self.writes.last_mut(), u64::try_from(limit))
            {
                write.unless_used = Some(limit);
            }
        }
        if let Some(reservation) = reservation {
            self.put(
                "memory",
                "memory.low",
                or_max(reservation),
                "memory.reservation",
            );
        }
        Ok(())
    }

    fn kernel_memory(&mut self, kernel: Option<i64>, kernel_tcp: Option<i64>) -> Result<()> {
        let files = [
            (kernel, "memory.kmem.limit_in_bytes", "memory.kernel"),
            (
                kernel_tcp,
                "memory.kmem.tcp.limit_in_bytes",
                "memory.kernelTCP",
            ),
        ];
        for (value, file, from) in files {
            let Some(value) = value else { continue };
            if value == -1 && self.need("memory", Some("memory"), from)? == Version::V2 {
                continue; // v2 has no such limit, so there is nothing to remove
            }
            self.need_v1(
                "memory",
                "memory",
                from,
                "cgroup v2 counts kernel memory as memory and has no limit of its own for it",
            )?;
            self.put("memory", file, value, from);
        }
        Ok(())
    }
}

/// The value of `memory.swap.max`, and the field that it comes from (runc's conversion).
fn swap_v2(limit: Option<i64>, swap: Option<i64>) -> Result<Option<(String, &'static str)>> {
    let error = |why: &str| Err(Error::new(format!("{why} (linux.resources.memory.swap)")));
    match (limit, swap) {
        (Some(-1), None) => Ok(Some(("max".to_owned(), "memory.limit"))),
        (_, None) => Ok(None),
        (_, Some(-1)) => Ok(Some(("max".to_owned(), "memory.swap"))),
        (Some(-1), Some(swap)) => Ok(Some((swap.to_string(), "memory.swap"))),
        (None, Some(_)) => error("unable to set swap limit without memory limit"),
        (Some(limit), Some(swap)) if swap < limit => {
            error("memory+swap limit should be >= memory limit")
        }
        (Some(limit), Some(swap)) => Ok(Some(((swap - limit).to_string(), "memory.swap"))),
    }
}
