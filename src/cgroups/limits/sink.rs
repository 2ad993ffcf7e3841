//! Where the limits of one config become values for files.

use crate::cgroups::place::{Place, find};
use crate::cgroups::tree::Version;
use crate::cgroups::values::{Policy, Write};
use crate::{Error, Result};

/// Collects writes, and knows which controllers the container has.
pub(super) struct Sink<'a> {
    /// The container's cgroups.
    pub(super) places: &'a [Place],
    /// Those that the caller has no rights to make.
    pub(super) denied: &'a [Place],
    /// The values so far, in the order in which they must be written.
    pub(super) writes: Vec<Write>,
}

impl Sink<'_> {
    /// Which interface a limit is for; `v1` and `v2` are the controller's names, `from` is the
    /// field below `linux.resources`.
    ///
    /// # Errors
    /// The tree does not have the controller, or the caller may not make a cgroup there.
    pub(super) fn need(&self, v1: &str, v2: Option<&str>, from: &str) -> Result<Version> {
        let has = |places: &[Place], name: &str, version| {
            find(places, name).is_some_and(|p| p.version == version)
        };
        if has(self.places, v1, Version::V1) {
            return Ok(Version::V1);
        }
        if v2.is_some_and(|name| has(self.places, name, Version::V2)) {
            return Ok(Version::V2);
        }
        if has(self.denied, v1, Version::V1) {
            return Err(Error::new(format!(
                "cannot set {v1} limit: container could not join or create cgroup \
                    (linux.resources.{from})"
            )));
        }
        if let Some(name) = v2.filter(|name| has(self.denied, name, Version::V2)) {
            return Err(Error::new(format!(
                "cannot set {name} limit: rootless needs no limits + no cgrouppath when no \
                    permission is granted for cgroups \
                 (linux.resources.{from})"
            )));
        }
        let only_v1 = v2.is_none() && self.places.iter().any(|p| p.version == Version::V2);
        let why = match (self.places.is_empty(), only_v1) {
            (true, _) => "the container has no cgroup of its own",
            (false, true) => {
                "cgroup v2 has no such controller and no v1 hierarchy of it is mounted"
            }
            (false, false) => "no mounted hierarchy has this controller",
        };
        Err(Error::new(format!(
            "cannot set {v1} limit (linux.resources.{from}): {why}"
        )))
    }

    /// Demands v1 for a limit that v2's controller does not have; `why` says that.
    ///
    /// # Errors
    /// As [`Sink::need`]; the controller is in v2.
    pub(super) fn need_v1(&self, v1: &str, v2: &str, from: &str, why: &str) -> Result<()> {
        match self.need(v1, Some(v2), from)? {
            Version::V1 => Ok(()),
            Version::V2 => Err(Error::new(format!(
                "cannot set {v2} limit (linux.resources.{from}): {why}"
            ))),
        }
    }

    /// Adds a value; where the kernel refuses it, hull fails.
    pub(super) fn put(&mut self, controller: &str, file: &str, value: impl ToString, from: &str) {
        self.put_with(controller, file, value, from, Policy::Must);
    }

    /// Adds a value with a policy.
    pub(super) fn put_with(
        &mut self,
        controller: &str,
        file: &str,
        value: impl ToString,
        from: &str,
        policy: Policy,
    ) {
        self.writes.push(Write {
            controller: controller.to_owned(),
            file: file.to_owned(),
            value: value.to_string(),
            from: format!("linux.resources.{from}"),
            policy,
            unless_used: None,
        });
    }
}

/// The value as v2 has it: `max` for -1.
pub(super) fn or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}
