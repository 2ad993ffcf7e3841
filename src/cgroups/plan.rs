//! From what is asked and what there is to what will be done: pure.

use super::systemd::{self, Unit};
use super::tree::{Hierarchy, Tree, Version};
use super::{devices, limits};
use crate::spec::config::Resources;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who makes the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// hull, in the mounted file system.
    Cgroupfs,
    /// systemd, asked over D-Bus: the system's, or the user's own.
    Systemd {
        /// The user's instance.
        user: bool,
    },
    /// Nobody: the container stays in the caller's cgroup.
    Disabled,
}

/// What the container asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The container's id, the name of its cgroup when no path is given.
    pub id: &'a str,
    /// `linux.cgroupsPath`.
    pub path: Option<&'a str>,
    /// Who makes it.
    pub driver: Driver,
    /// `linux.resources`.
    pub resources: Option<&'a Resources>,
    /// Whether device rules are to be applied: those of the resources, then the default devices.
    pub device_rules: bool,
    /// The config's annotations, for `org.systemd.property.*`.
    pub annotations: &'a BTreeMap<String, String>,
    /// Whether the caller is an ordinary user, or root of a user namespace, who may have no rights
    /// in the tree.
    pub rootless: bool,
}

/// What happens when the kernel refuses to make a cgroup (EACCES, EPERM, EROFS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IfDenied {
    /// An error.
    Fail,
    /// The container stays in the caller's cgroup of that hierarchy. (runc's way for rootless
    /// without a path.)
    Skip,
}

/// One cgroup to make: the container's in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which interface the hierarchy speaks.
    pub version: Version,
    /// The controllers that can be had there. v2 has `freezer` and `devices` always, and they are
    /// not listed.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount_point: String,
    /// Which cgroup the mount's root is, as /proc/PID/cgroup names it.
    pub root: String,
    /// The cgroup's directory; missing parents are made too.
    pub dir: String,
    /// v2: controllers to be turned on in each cgroup above that has them off. Those that a limit
    /// needs must come on.
    pub enable: Vec<String>,
    /// v2: the ones of `enable` whose failure is an error.
    pub required: Vec<String>,
    /// What a refusal means.
    pub if_denied: IfDenied,
}

/// What an unsuccessful write means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// An error.
    #[default]
    Must,
    /// Where the kernel refuses the value against the present value of the next file (EINVAL),
    /// again after it has been written: a limit that is raised must follow the swap limit, one that
    /// is lowered must come before.
    OrAfterNext,
    /// A file that the kernel does not have is passed over, since it would change nothing.
    IfPresent,
    /// Where the file is missing, this value goes to that file.
    Else {
        /// The other file.
        file: String,
        /// Its value.
        value: String,
    },
}

/// One value for one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The controller that the file belongs to (`cgroup` for the core of v2).
    pub controller: String,
    /// The file's name in the cgroup.
    pub file: String,
    /// What is written.
    pub value: String,
    /// The part of the config that asks for it.
    pub from: String,
    /// What a failure means.
    #[serde(default)]
    pub policy: Policy,
    /// v2, `memory.checkBeforeUpdate`: refused when this many bytes are in use already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless_used: Option<u64>,
}

/// Everything that will be done, as data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Who makes the cgroups.
    pub driver: Driver,
    /// The cgroups, in the order in which they are made.
    pub places: Vec<Place>,
    /// The caller's own cgroups in which the container stays, where it gets none: not made, limited
    /// or removed.
    pub stays: Vec<Place>,
    /// The values, in order.
    pub writes: Vec<Write>,
    /// The device rules, none when they are left alone.
    pub devices: Option<devices::Rules>,
    /// What systemd is asked for, when it is the one who makes the cgroups.
    pub unit: Option<Unit>,
    /// What is not done, and why.
    pub fallbacks: Vec<String>,
}

impl Plan {
    /// How many v1 cgroups a process joins by itself.
    pub fn v1_count(&self) -> u32 {
        let v1 = |place: &&Place| place.version == Version::V1;
        self.places.iter().filter(v1).count() as u32
    }

    /// The record of what will be made, for whoever must clear up after a runtime that was killed.
    pub fn record(&self) -> crate::cgroups::group::Record {
        crate::cgroups::group::Record {
            driver: self.driver,
            places: self.places.clone(),
            devices: self.devices.clone(),
            unit: self.unit.as_ref().map(|unit| unit.name.clone()),
        }
    }

    /// Where a controller's files are.
    pub fn place(&self, controller: &str) -> Option<&Place> {
        find(&self.places, controller)
    }
}

/// The place that has a controller. What v2 has without a controller goes there: its own files, and
/// device rules when v1 has none.
pub(super) fn find<'a>(places: &'a [Place], controller: &str) -> Option<&'a Place> {
    places
        .iter()
        .find(|p| p.controllers.iter().any(|c| c == controller))
        .or_else(|| {
            let of_v2 = matches!(controller, "cgroup" | "devices" | "freezer");
            places.iter().find(|p| of_v2 && p.version == Version::V2)
        })
}

/// Compiles the request.
///
/// # Errors
/// A path that leads nowhere, a limit whose controller does not exist in this tree, a value that no
/// kernel takes.
pub fn plan(request: &Request, tree: &Tree) -> Result<Plan> {
    let mut plan = Plan {
        driver: request.driver,
        places: Vec::new(),
        stays: Vec::new(),
        writes: Vec::new(),
        devices: None,
        unit: None,
        fallbacks: Vec::new(),
    };
    let mut denied = Vec::new();
    match request.driver {
        Driver::Disabled => {
            plan.stays = tree.hierarchies.iter().filter_map(own_place).collect();
            plan.fallbacks
                .push("cgroups are disabled: the container stays in the caller's".to_owned());
        }
        Driver::Cgroupfs => denied = places(&mut plan, request, tree)?,
        Driver::Systemd { .. } => plan_unit(&mut plan, request, tree)?,
    }
    if let Some(resources) = request.resources {
        plan.writes = limits::writes(resources, &plan.places, &denied)?;
    }
    let pure = tree.is_pure_v2();
    for place in plan.places.iter_mut().filter(|p| p.version == Version::V2) {
        let needed = |c: &&String| plan.writes.iter().any(|w| w.controller == **c);
        place.required = place.controllers.iter().filter(needed).cloned().collect();
        // A pure v2 tree gives the container all controllers, as runc does, for the statistics. In
        // a hybrid one only those that a limit needs are turned on, so that the machine's own root
        // stays as it is.
        place.enable = if pure {
            place.controllers.clone()
        } else {
            place.required.clone()
        };
    }
    plan_devices(&mut plan, request)?;
    if let Some(unit) = &mut plan.unit {
        unit.properties.extend(
            plan.devices
                .iter()
                .flat_map(systemd::properties::of_devices),
        );
        unit.properties
            .extend(systemd::properties::of_writes(&plan.writes)?);
    }
    Ok(plan)
}

/// The unit, and the places where its cgroups will be.
fn plan_unit(plan: &mut Plan, request: &Request, tree: &Tree) -> Result<()> {
    let unit = Unit::new(request, tree)?;
    let path = unit.path(tree)?;
    let pure = tree.is_pure_v2();
    for hierarchy in tree
        .hierarchies
        .iter()
        .filter(|h| pure || h.version == Version::V1 || !h.controllers.is_empty())
    {
        plan.places.push(Place {
            version: hierarchy.version,
            controllers: hierarchy.controllers.clone(),
            mount_point: hierarchy.mount_point.clone(),
            root: hierarchy.root.clone(),
            dir: format!("{}/{path}", hierarchy.mount_point),
            enable: Vec::new(),
            required: Vec::new(),
            if_denied: IfDenied::Fail,
        });
    }
    if plan.places.is_empty() {
        return Err(Error::new(
            "no cgroup file system is mounted (see /proc/self/mountinfo)",
        ));
    }
    plan.unit = Some(unit);
    Ok(())
}

/// One place in every hierarchy; in a hybrid tree the v2 one only when it has controllers. Returns
/// the places where the caller has no rights and need not have any.
fn places(plan: &mut Plan, request: &Request, tree: &Tree) -> Result<Vec<Place>> {
    let pure = tree.is_pure_v2();
    let mut denied = Vec::new();
    for hierarchy in &tree.hierarchies {
        if hierarchy.version == Version::V2 && !pure && hierarchy.controllers.is_empty() {
            continue;
        }
        let place = place(request, hierarchy)?;
        if place.if_denied == IfDenied::Skip && !hierarchy.writable {
            let why = format!(
                "{}: not writable: the container stays in the caller's cgroup {}",
                place.mount_point, hierarchy.own
            );
            plan.fallbacks.push(why);
            plan.stays.extend(own_place(hierarchy));
            denied.push(place);
        } else {
            plan.places.push(place);
        }
    }
    if tree.hierarchies.is_empty() {
        if !request.rootless {
            return Err(Error::new(
                "no cgroup file system is mounted (see /proc/self/mountinfo)",
            ));
        }
        plan.fallbacks.push(
            "no cgroup file system is mounted: the container stays in the caller's cgroup"
                .to_owned(),
        );
    }
    Ok(denied)
}

fn place(request: &Request, hierarchy: &Hierarchy) -> Result<Place> {
    let path = request.path.filter(|p| !p.is_empty());
    let wanted = clean(path.unwrap_or(request.id));
    if wanted.is_empty() {
        return Err(Error::new(format!(
            "cgroupsPath {}: names the root cgroup",
            path.unwrap_or_default()
        )));
    }
    let absolute = path.is_some_and(|p| p.starts_with('/'));
    let above = if absolute {
        hierarchy.mount_point.clone()
    } else {
        hierarchy.relative_dir().ok_or_else(|| {
            Error::new(format!(
                "cgroup {wanted}: the caller's own cgroup {} is not within the mount on {} (root \
                    {}): name an absolute cgroupsPath",
                hierarchy.own, hierarchy.mount_point, hierarchy.root
            ))
        })?
    };
    let near = !absolute && hierarchy.version == Version::V2;
    Ok(Place {
        version: hierarchy.version,
        controllers: if near {
            hierarchy.near_controllers.clone()
        } else {
            hierarchy.controllers.clone()
        },
        mount_point: hierarchy.mount_point.clone(),
        root: hierarchy.root.clone(),
        dir: format!("{}/{wanted}", above.trim_end_matches('/')),
        enable: Vec::new(),
        required: Vec::new(),
        if_denied: if request.rootless && path.is_none() {
            IfDenied::Skip
        } else {
            IfDenied::Fail
        },
    })
}

/// The caller's own cgroup, where it can be seen.
fn own_place(hierarchy: &Hierarchy) -> Option<Place> {
    Some(Place {
        version: hierarchy.version,
        controllers: hierarchy.controllers.clone(),
        mount_point: hierarchy.mount_point.clone(),
        root: hierarchy.root.clone(),
        dir: hierarchy.own_dir()?,
        enable: Vec::new(),
        required: Vec::new(),
        if_denied: IfDenied::Skip,
    })
}

/// The rules of the spec and then runc's defaults, which no rule can take away. Where an ordinary
/// user has no rights, rules are not applied: its file access is what it always was.
fn plan_devices(plan: &mut Plan, request: &Request) -> Result<()> {
    if !request.device_rules {
        return Ok(());
    }
    let spec = request.resources.map_or(&[][..], |r| &r.devices);
    let rules = devices::Rules::new(spec)?;
    match plan.place("devices") {
        Some(_) if request.rootless => {
            // v1's files ask for CAP_SYS_ADMIN, bpf(2) for CAP_BPF, both in the first user
            // namespace.
            plan.fallbacks
                .push("device rules are not applied: an ordinary user may not set any".to_owned());
            Ok(())
        }
        Some(place) => {
            if place.version == Version::V1 {
                rules.table()?;
            }
            plan.devices = Some(rules);
            Ok(())
        }
        None if request.driver == Driver::Disabled || request.rootless => {
            plan.fallbacks.push(
                "device rules are not applied: the container has no cgroup of its own for them"
                    .to_owned(),
            );
            Ok(())
        }
        None => Err(Error::new(
            "device rules (linux.resources.devices): there is neither a v1 devices hierarchy nor \
                cgroup v2",
        )),
    }
}

/// The path without `.`, `..` and doubled slashes, resolved against `/` so that it cannot lead
/// above.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}
