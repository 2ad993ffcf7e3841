//! Scheduling, priorities, CPU affinity, personality and memory policy of the process: from the
//! config's names to the kernel's numbers (config.md, `process`; config-linux.md, `personality` and
//! `memoryPolicy`).
#![forbid(unsafe_code)]

use crate::spec::config::{CpuAffinity, IoPriority, MemoryPolicy, Personality, Scheduler};
use crate::{Error, Result};
use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType,
};

/// SCHED_FLAG_* of linux/sched.h by the spec's names.
const SCHEDULER_FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// Flags of linux/personality.h.
const PERSONALITY_FLAGS: [(&str, u32); 11] = [
    ("UNAME26", 0x002_0000),
    ("ADDR_NO_RANDOMIZE", 0x004_0000),
    ("FDPIC_FUNCPTRS", 0x008_0000),
    ("MMAP_PAGE_ZERO", 0x010_0000),
    ("ADDR_COMPAT_LAYOUT", 0x020_0000),
    ("READ_IMPLIES_EXEC", 0x040_0000),
    ("ADDR_LIMIT_32BIT", 0x080_0000),
    ("SHORT_INODE", 0x100_0000),
    ("WHOLE_SECONDS", 0x200_0000),
    ("STICKY_TIMEOUTS", 0x400_0000),
    ("ADDR_LIMIT_3GB", 0x800_0000),
];

/// The memory policies that `memoryPolicy.mode` may name, MPOL_* of linux/mempolicy.h.
pub const MEMORY_MODES: [(&str, u32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
    ("MPOL_PREFERRED", 1),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_LOCAL", 4),
];

/// The flags that `memoryPolicy.flags` may name, MPOL_F_* of the same file.
pub const MEMORY_FLAGS: [(&str, u32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

/// A set of CPUs or memory nodes: number n is bit n%64 of word n/64. There is room for 1024 numbers,
/// glibc's CPU_SETSIZE, or for more where one of them is larger.
pub type Bits = Vec<u64>;

/// The largest number of a CPU: the kernel's NR_CPUS is 8192 at the most.
const LAST_CPU: usize = 8191;

fn no_bits() -> Bits {
    vec![0; 16]
}

/// `struct sched_attr` of linux/sched/types.h, without the utilisation clamps, which the spec does
/// not have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // named as in sched_setattr(2); the times in nanoseconds
pub struct SchedAttr {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

impl SchedAttr {
    /// The structure's bytes for sched_setattr(2). Kernels before 5.3 accept the 8 bytes of the
    /// clamps as long as they are zero.
    pub fn bytes(&self) -> [u8; 56] {
        let mut bytes = [0; 56];
        let fields: [(usize, &[u8]); 8] = [
            (0, &56_u32.to_ne_bytes()),
            (4, &self.policy.to_ne_bytes()),
            (8, &self.flags.to_ne_bytes()),
            (16, &self.nice.to_ne_bytes()),
            (20, &self.priority.to_ne_bytes()),
            (24, &self.runtime.to_ne_bytes()),
            (32, &self.deadline.to_ne_bytes()),
            (40, &self.period.to_ne_bytes()),
        ];
        for (at, field) in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
        }
        bytes
    }
}

/// `process.scheduler` for sched_setattr(2).
///
/// # Errors
/// The policy is missing; nice is not within -20 to 19; there is a priority without a real-time
/// policy, or deadline parameters without SCHED_DEADLINE; a flag is not known. The kernel checks
/// the rest and answers EINVAL.
pub fn scheduler(scheduler: &Scheduler) -> Result<SchedAttr> {
    use LinuxSchedulerPolicy::{
        SchedBatch, SchedDeadline, SchedFifo, SchedIdle, SchedIso, SchedOther, SchedRr,
    };
    let Scheduler {
        policy,
        nice,
        priority,
        flags,
        runtime,
        deadline,
        period,
    } = scheduler;
    let policy = policy.ok_or_else(|| Error::new("scheduler policy is required"))?;
    let (nice, priority) = (nice.unwrap_or(0), priority.unwrap_or(0));
    let (runtime, deadline, period) = (
        runtime.unwrap_or(0),
        deadline.unwrap_or(0),
        period.unwrap_or(0),
    );
    if !(-20..=19).contains(&nice) {
        return Err(Error::new(format!("invalid scheduler.nice: {nice}")));
    }
    if priority != 0 && !matches!(policy, SchedFifo | SchedRr) {
        return Err(Error::new(
            "scheduler.priority can only be specified for SchedFIFO or SchedRR policy",
        ));
    }
    if policy != SchedDeadline && (runtime, deadline, period) != (0, 0, 0) {
        return Err(Error::new(
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy",
        ));
    }
    let number = match policy {
        SchedOther => 0,
        SchedFifo => 1,
        SchedRr => 2,
        SchedBatch => 3,
        SchedIso => 4, // a reserved number, for which every kernel answers EINVAL
        SchedIdle => 5,
        SchedDeadline => 6,
    };
    let priority = u32::try_from(priority)
        .map_err(|_| Error::new(format!("invalid scheduler.priority: {priority}")))?;
    let flags = combine(flags, &SCHEDULER_FLAGS, "invalid scheduler flag")?;
    Ok(SchedAttr {
        policy: number,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
    })
}

/// `process.ioPriority` as ioprio_set(2) takes it: the class from bit 13 on, the level below.
///
/// # Errors
/// The class is missing, or the level is not within 0 to 7.
pub fn io_priority(io: &IoPriority) -> Result<i32> {
    let IoPriority { class, priority } = io;
    let level = i32::try_from(*priority)
        .ok()
        .filter(|level| (0..=7).contains(level));
    let level =
        level.ok_or_else(|| Error::new(format!("invalid ioPriority.Priority: {priority}")))?;
    let class = match class {
        Some(IOPriorityClass::IoprioClassRt) => 1,
        Some(IOPriorityClass::IoprioClassBe) => 2,
        Some(IOPriorityClass::IoprioClassIdle) => 3,
        None => return Err(Error::new("invalid ioPriority.Class: \"\"")),
    };
    Ok(class << 13 | level)
}

/// `process.execCPUAffinity`: the CPUs for before, and those for after the process joins the
/// container's cgroup.
///
/// # Errors
/// As [`list`].
pub fn exec_cpu_affinity(affinity: &CpuAffinity) -> Result<(Option<Bits>, Option<Bits>)> {
    let CpuAffinity { initial, last } = affinity;
    let one = |list: &Option<String>, name: &str| match list.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => self::list(text)
            .map(Some)
            .map_err(|e| e.within(format_args!("bad CPUAffinity.{name}"))),
    };
    Ok((one(initial, "Initial")?, one(last, "Final")?))
}

/// Parses a list such as `0-3, 7`: numbers and ranges between commas; spaces around elements and
/// empty elements are allowed.
///
/// # Errors
/// An element is not a number or range, or is above 8191; a range is reversed; the list is empty.
pub fn list(text: &str) -> Result<Bits> {
    let mut bits = no_bits();
    for element in text
        .split(',')
        .map(str::trim)
        .filter(|element| !element.is_empty())
    {
        let (first, last) = element.split_once('-').unwrap_or((element, element));
        let (first, last) = (number(first, element)?, number(last, element)?);
        if first > last {
            return Err(Error::new(format!("invalid range: {element}")));
        }
        bits.resize(bits.len().max(last / 64 + 1), 0);
        for bit in first..=last {
            bits[bit / 64] |= 1 << (bit % 64);
        }
    }
    if bits.iter().all(|word| *word == 0) {
        return Err(Error::new(format!("no numbers found in {text:?}")));
    }
    Ok(bits)
}

/// Parses digits only; `str::parse` accepts a sign too.
fn number(digits: &str, element: &str) -> Result<usize> {
    let value = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse::<usize>().ok())
        .flatten();
    match value {
        Some(value) if value <= LAST_CPU => Ok(value),
        Some(value) => Err(Error::new(format!("{value} is above {LAST_CPU}"))),
        None => Err(Error::new(format!("invalid number or range: {element}"))),
    }
}

/// `linux.personality` for personality(2). The spec defines no flags: hull knows those of the
/// kernel, by the kernel's names.
///
/// # Errors
/// The domain is missing, or a flag is not known.
pub fn personality(personality: &Personality) -> Result<u32> {
    let Personality { domain, flags } = personality;
    let domain = match domain {
        Some(LinuxPersonalityDomain::PerLinux) => 0,
        Some(LinuxPersonalityDomain::PerLinux32) => 8,
        None => return Err(Error::new("personality: domain is missing")),
    };
    let flags: u32 = combine(flags, &PERSONALITY_FLAGS, "personality: unknown flag")?;
    Ok(domain | flags)
}

/// `linux.memoryPolicy` for set_mempolicy(2): the mode with its flags, and the nodes.
///
/// # Errors
/// The mode is missing; there are nodes where the mode takes none, or none where it needs some; the
/// flags for static and relative nodes come together.
pub fn memory_policy(policy: &MemoryPolicy) -> Result<(u32, Option<Bits>)> {
    use MemoryPolicyModeType::{
        MpolBind, MpolDefault, MpolInterleave, MpolLocal, MpolPreferred, MpolPreferredMany,
        MpolWeightedInterleave,
    };
    let MemoryPolicy { mode, nodes, flags } = policy;
    let mode = mode.ok_or_else(|| Error::new("invalid memory policy mode: \"\""))?;
    let nodes = match nodes.as_deref().map(str::trim) {
        None | Some("") => None,
        Some(text) => Some(list(text).map_err(|e| e.within("invalid memory policy nodes"))?),
    };
    match (mode, &nodes) {
        (MpolDefault | MpolLocal, Some(nodes)) => {
            let count: u32 = nodes.iter().map(|word| word.count_ones()).sum();
            return Err(Error::new(format!(
                "memory policy mode {mode} requires 0 nodes but got {count}"
            )));
        }
        (MpolBind | MpolInterleave | MpolPreferredMany | MpolWeightedInterleave, None) => {
            return Err(Error::new(format!(
                "memory policy mode {mode} requires at least one node but got 0"
            )));
        }
        (MpolDefault | MpolLocal | MpolPreferred, None) | (_, Some(_)) => {}
    }
    if flags.contains(&MemoryPolicyFlagType::MpolFStaticNodes)
        && flags.contains(&MemoryPolicyFlagType::MpolFRelativeNodes)
    {
        return Err(Error::new(
            "memory policy flags MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other",
        ));
    }
    let names: Vec<String> = flags.iter().map(ToString::to_string).collect();
    let flags: u32 = combine(&names, &MEMORY_FLAGS, "unknown memory policy flag")?;
    let mode: u32 = combine(
        &[mode.to_string()],
        &MEMORY_MODES,
        "unknown memory policy mode",
    )?;
    Ok((mode | flags, nodes))
}

/// The bitwise or of the numbers that the names have in a table.
fn combine<N: Copy + Default + std::ops::BitOr<Output = N>>(
    names: &[String],
    table: &[(&str, N)],
    unknown: &str,
) -> Result<N> {
    names.iter().try_fold(N::default(), |sum, name| {
        let entry = table.iter().find(|(known, _)| known == name);
        entry
            .map(|(_, number)| sum | *number)
            .ok_or_else(|| Error::new(format!("{unknown}: {name}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp::{Outcome, call_behind};
    use nix::errno::Errno;
    use serde_json::{Value, from_value, json};

    fn words<T>(result: Result<T>) -> String {
        result.err().unwrap().to_string()
    }

    fn bits(numbers: &[usize]) -> Bits {
        let mut bits = no_bits();
        for number in numbers {
            bits.resize(bits.len().max(number / 64 + 1), 0);
            bits[number / 64] |= 1 << (number % 64);
        }
        bits
    }

    #[test]
    fn policies_and_flags_are_the_kernels_numbers() {
        for (name, number) in [
            ("SCHED_OTHER", libc::SCHED_OTHER),
            ("SCHED_FIFO", libc::SCHED_FIFO),
            ("SCHED_RR", libc::SCHED_RR),
            ("SCHED_BATCH", libc::SCHED_BATCH),
            ("SCHED_ISO", 4),
            ("SCHED_IDLE", libc::SCHED_IDLE),
            ("SCHED_DEADLINE", libc::SCHED_DEADLINE),
        ] {
            let attr = scheduler(&from_value(json!({"policy": name})).unwrap()).unwrap();
            assert_eq!(
                attr,
                SchedAttr {
                    policy: number as u32,
                    ..SchedAttr::default()
                }
            );
        }
        for (name, number) in [
            ("SCHED_FLAG_RESET_ON_FORK", libc::SCHED_FLAG_RESET_ON_FORK),
            ("SCHED_FLAG_RECLAIM", libc::SCHED_FLAG_RECLAIM),
            ("SCHED_FLAG_DL_OVERRUN", libc::SCHED_FLAG_DL_OVERRUN),
            ("SCHED_FLAG_KEEP_POLICY", libc::SCHED_FLAG_KEEP_POLICY),
            ("SCHED_FLAG_KEEP_PARAMS", libc::SCHED_FLAG_KEEP_PARAMS),
            ("SCHED_FLAG_UTIL_CLAMP_MIN", libc::SCHED_FLAG_UTIL_CLAMP_MIN),
            ("SCHED_FLAG_UTIL_CLAMP_MAX", libc::SCHED_FLAG_UTIL_CLAMP_MAX),
        ] {
            let attr =
                scheduler(&from_value(json!({"policy": "SCHED_BATCH", "flags": [name]})).unwrap())
                    .unwrap();
            assert_eq!(attr.flags, number as u64);
        }
    }

    #[test]
    fn the_schedulers_rules() {
        let made = |value: Value| scheduler(&from_value(value).unwrap());
        let deadline =
            made(json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3}))
                .unwrap();
        assert_eq!(
            (deadline.runtime, deadline.deadline, deadline.period),
            (1, 2, 3)
        );
        assert_eq!(
            made(json!({"policy": "SCHED_RR", "priority": 99}))
                .unwrap()
                .priority,
            99
        );
        assert_eq!(
            made(json!({"policy": "SCHED_OTHER", "nice": -20}))
                .unwrap()
                .nice,
            -20
        );
        for (value, expected) in [
            (json!({}), "scheduler policy is required"),
            (
                json!({"policy": "SCHED_OTHER", "nice": 20}),
                "invalid scheduler.nice: 20",
            ),
            (
                json!({"policy": "SCHED_OTHER", "nice": -21}),
                "invalid scheduler.nice: -21",
            ),
            (
                json!({"policy": "SCHED_OTHER", "priority": 1}),
                "scheduler.priority can only be specified for",
            ),
            (
                json!({"policy": "SCHED_RR", "priority": -1}),
                "invalid scheduler.priority: -1",
            ),
            (
                json!({"policy": "SCHED_RR", "period": 1}),
                "can only be specified for SchedDeadline",
            ),
            (
                json!({"policy": "SCHED_RR", "flags": ["SCHED_FLAG_FOO"]}),
                "invalid scheduler flag: SCHED_FLAG_FOO",
            ),
        ] {
            let error = words(made(value));
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_kernel_reads_the_attributes_as_meant() {
        let attr = SchedAttr {
            policy: 3,
            flags: 1,
            nice: 5,
            priority: 7,
            runtime: 1,
            deadline: 2,
            period: 3,
        };
        let words: Vec<u32> = attr
            .bytes()
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words, [56, 3, 1, 0, 5, 7, 1, 0, 2, 0, 3, 0, 0, 0]);
        let allow_all = [[6, 0, 0, 0], libc::SECCOMP_RET_ALLOW.to_ne_bytes()].concat();
        let set = |policy, nice, priority| {
            let bytes = SchedAttr {
                policy,
                nice,
                priority,
                ..SchedAttr::default()
            }
            .bytes();
            call_behind(
                &allow_all,
                0,
                libc::SYS_sched_setattr,
                [0, bytes.as_ptr() as u64, 0, 0, 0, 0],
            )
        };
        assert_eq!(set(3, 5, 0), Outcome::Returned(0));
        // A priority without a real-time policy.
        assert_eq!(set(3, 5, 1), Outcome::Failed(Errno::EINVAL));
        assert_eq!(set(99, 0, 0), Outcome::Failed(Errno::EINVAL));
        assert_eq!(set(1, 0, 100), Outcome::Failed(Errno::EINVAL));
        assert!(matches!(
            set(1, 0, 7),
            Outcome::Returned(0) | Outcome::Failed(Errno::EPERM)
        ));
    }

    #[test]
    fn io_priorities() {
        let made = |value: Value| io_priority(&from_value(value).unwrap());
        assert_eq!(
            made(json!({"class": "IOPRIO_CLASS_RT", "priority": 0})).unwrap(),
            0x2000
        );
        assert_eq!(
            made(json!({"class": "IOPRIO_CLASS_BE", "priority": 7})).unwrap(),
            0x4007
        );
        assert_eq!(
            made(json!({"class": "IOPRIO_CLASS_IDLE", "priority": 4})).unwrap(),
            0x6004
        );
        assert!(
            words(made(json!({"class": "IOPRIO_CLASS_BE", "priority": 8})))
                .contains("invalid ioPriority.Priority: 8")
        );
        assert!(
            words(made(json!({"class": "IOPRIO_CLASS_BE", "priority": -1})))
                .contains("invalid ioPriority.Priority: -1")
        );
        assert!(words(made(json!({"priority": 1}))).contains("invalid ioPriority.Class"));
    }

    #[test]
    fn lists_of_numbers() {
        for (text, numbers) in [
            ("0", vec![0]),
            ("0-3", vec![0, 1, 2, 3]),
            ("0-1,3,1023", vec![0, 1, 3, 1023]),
            ("1024,8191", vec![1024, 8191]),
            (" 63 , 64 ,,", vec![63, 64]),
            ("5-5,5", vec![5]),
        ] {
            assert_eq!(list(text).unwrap(), bits(&numbers), "{text}");
        }
        for text in [
            "",
            ",",
            "-",
            "1-",
            "-1",
            "3-1",
            "a",
            "+1",
            "1 2",
            "0x1",
            "8192",
            "0-8192",
            "1--2",
            "99999999999999999999",
        ] {
            assert!(list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn affinities_are_named_in_errors() {
        let made = |value: Value| exec_cpu_affinity(&from_value(value).unwrap());
        assert_eq!(
            made(json!({"initial": "0", "final": "1"})).unwrap(),
            (Some(bits(&[0])), Some(bits(&[1])))
        );
        assert_eq!(made(json!({"initial": ""})).unwrap(), (None, None));
        assert_eq!(
            words(made(json!({"initial": "x"}))),
            "bad CPUAffinity.Initial: invalid number or range: x"
        );
        assert_eq!(
            words(made(json!({"final": "2-1"}))),
            "bad CPUAffinity.Final: invalid range: 2-1"
        );
    }

    #[test]
    fn personalities() {
        let made = |value: Value| personality(&from_value(value).unwrap());
        assert_eq!(made(json!({"domain": "LINUX"})).unwrap(), 0);
        assert_eq!(made(json!({"domain": "LINUX32"})).unwrap(), 8);
        let both =
            made(json!({"domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE", "UNAME26"]})).unwrap();
        assert_eq!(both, 8 | (libc::ADDR_NO_RANDOMIZE | libc::UNAME26) as u32);
        assert_eq!(
            words(made(json!({"domain": "LINUX", "flags": ["FOO"]}))),
            "personality: unknown flag: FOO"
        );
        assert!(made(json!({})).is_err());
    }

    #[test]
    fn memory_policies() {
        let made = |value: Value| memory_policy(&from_value(value).unwrap());
        for (mode, number) in [
            ("MPOL_PREFERRED", libc::MPOL_PREFERRED),
            ("MPOL_BIND", libc::MPOL_BIND),
            ("MPOL_INTERLEAVE", libc::MPOL_INTERLEAVE),
            ("MPOL_PREFERRED_MANY", 5),
            ("MPOL_WEIGHTED_INTERLEAVE", 6),
        ] {
            assert_eq!(
                made(json!({"mode": mode, "nodes": "0,2"})).unwrap(),
                (number as u32, Some(bits(&[0, 2]))),
                "{mode}"
            );
        }
        assert_eq!(made(json!({"mode": "MPOL_DEFAULT"})).unwrap(), (0, None));
        assert_eq!(
            made(json!({"mode": "MPOL_LOCAL", "nodes": ""})).unwrap(),
            (4, None)
        );
        assert_eq!(made(json!({"mode": "MPOL_PREFERRED"})).unwrap(), (1, None));
        let flagged = made(json!({"mode": "MPOL_BIND", "nodes": "0",
            "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_NUMA_BALANCING"]}))
        .unwrap();
        assert_eq!(flagged.0, 2 | 1 << 15 | 1 << 13);
        for (value, expected) in [
            (json!({}), "invalid memory policy mode"),
            (
                json!({"mode": "MPOL_LOCAL", "nodes": "0-2"}),
                "MPOL_LOCAL requires 0 nodes but got 3",
            ),
            (
                json!({"mode": "MPOL_BIND"}),
                "MPOL_BIND requires at least one node but got 0",
            ),
            (
                json!({"mode": "MPOL_BIND", "nodes": "x"}),
                "invalid memory policy nodes: invalid number or range: x",
            ),
            (
                json!({"mode": "MPOL_BIND", "nodes": "0",
                    "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
                "exclude each other",
            ),
        ] {
            let error = words(made(value));
            assert!(error.contains(expected), "{error}");
        }
    }
}
