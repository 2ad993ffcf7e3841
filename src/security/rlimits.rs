//! Resource limits (config.md, `rlimits`): from names to the kernel's numbers.
#![forbid(unsafe_code)]

use crate::spec::config::Rlimit;
use crate::{Error, Result};

/// The limits of getrlimit(2) by the names of the spec.
const NAMES: [(&str, libc::__rlimit_resource_t); 16] = [
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
];

/// One limit as prlimit(2) takes it; `u64::MAX` is RLIM_INFINITY. Both values are in the resource's
/// own unit, such as bytes or seconds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Limit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit, never below the soft one.
    pub hard: u64,
}

/// The limits, in the order of the config.
///
/// # Errors
/// A name is not known, or comes twice (config.md: "the runtime MUST generate an error"); a soft
/// limit is above the hard one.
pub fn parse(rlimits: &[Rlimit]) -> Result<Vec<Limit>> {
    let mut limits: Vec<Limit> = Vec::with_capacity(rlimits.len());
    for Rlimit { typ, soft, hard } in rlimits {
        let known = NAMES.iter().find(|(name, _)| name == typ);
        let Some(&(_, resource)) = known else {
            return Err(Error::new(format!(
                "process.rlimits: wrong rlimit value: {typ}"
            )));
        };
        if limits.iter().any(|limit| limit.resource == resource) {
            return Err(Error::new(format!(
                "process.rlimits: duplicate rlimit {typ}"
            )));
        }
        if soft > hard {
            return Err(Error::new(format!(
                "process.rlimits: {typ}: soft limit {soft} is above hard limit {hard}"
            )));
        }
        limits.push(Limit {
            resource,
            soft: *soft,
            hard: *hard,
        });
    }
    Ok(limits)
}

/// The spec's name of `RLIMIT_*`.
pub fn name(resource: u32) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(_, number)| *number == resource)
        .map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(typ: &str, soft: u64, hard: u64) -> Rlimit {
        Rlimit {
            typ: typ.into(),
            soft,
            hard,
        }
    }

    #[test]
    fn each_name_is_the_kernels() {
        // The kernel's own list, in the order of the numbers.
        let text = std::fs::read_to_string("/proc/self/limits").unwrap();
        for (title, name) in [
            ("Max cpu time", "RLIMIT_CPU"),
            ("Max file size", "RLIMIT_FSIZE"),
            ("Max data size", "RLIMIT_DATA"),
            ("Max stack size", "RLIMIT_STACK"),
            ("Max core file size", "RLIMIT_CORE"),
            ("Max resident set", "RLIMIT_RSS"),
            ("Max processes", "RLIMIT_NPROC"),
            ("Max open files", "RLIMIT_NOFILE"),
            ("Max locked memory", "RLIMIT_MEMLOCK"),
            ("Max address space", "RLIMIT_AS"),
            ("Max file locks", "RLIMIT_LOCKS"),
            ("Max pending signals", "RLIMIT_SIGPENDING"),
            ("Max msgqueue size", "RLIMIT_MSGQUEUE"),
            ("Max nice priority", "RLIMIT_NICE"),
            ("Max realtime priority", "RLIMIT_RTPRIO"),
            ("Max realtime timeout", "RLIMIT_RTTIME"),
        ] {
            let line = text
                .lines()
                .skip(1)
                .position(|line| line.starts_with(title))
                .unwrap();
            let parsed = parse(&[limit(name, 1, u64::MAX)]).unwrap();
            assert_eq!(
                parsed,
                [Limit {
                    resource: line as u32,
                    soft: 1,
                    hard: u64::MAX
                }]
            );
            assert_eq!(super::name(line as u32), Some(name));
        }
    }

    #[test]
    fn unknown_twice_and_upside_down_are_errors() {
        for (limits, words) in [
            (
                vec![limit("RLIMIT_FOO", 1, 1)],
                "wrong rlimit value: RLIMIT_FOO",
            ),
            (
                vec![limit("rlimit_core", 1, 1)],
                "wrong rlimit value: rlimit_core",
            ),
            (
                vec![
                    limit("RLIMIT_CORE", 1, 1),
                    limit("RLIMIT_CPU", 1, 1),
                    limit("RLIMIT_CORE", 1, 1),
                ],
                "duplicate rlimit RLIMIT_CORE",
            ),
            (
                vec![limit("RLIMIT_CORE", 2, 1)],
                "soft limit 2 is above hard limit 1",
            ),
        ] {
            let error = parse(&limits).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
