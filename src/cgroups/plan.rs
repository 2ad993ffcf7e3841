//! The plan of a container's cgroups: a pure function of the request and the tree.

use super::place::{IfDenied, Place, clean, find};
use super::request::{CgroupRequest, Driver};
use super::systemd::properties;
use super::systemd::unit::Unit;
use super::tree::{Hierarchy, Tree, Version};
use super::values::Write;
use super::{devices, limits};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What hull does for a container's cgroups, as data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What makes the cgroups.
    pub driver: Driver,
    /// The cgroups, in the order in which hull makes them.
    pub places: Vec<Place>,
    /// The caller's own cgroups, in the hierarchies in which the container gets none: hull does not
    /// make, limit or remove them.
    pub stays: Vec<Place>,
    /// The values, in the order in which hull writes them.
    pub writes: Vec<Write>,
    /// The device rules; none where hull applies none.
    pub devices: Option<devices::Rules>,
    /// The unit, where systemd makes the cgroups.
    pub unit: Option<Unit>,
    /// What hull does not do and why, one sentence each.
    pub fallbacks: Vec<String>,
}

impl Plan {
    /// How many v1 cgroups a process joins by itself.
    pub fn v1_count(&self) -> u32 {
        let v1 = |place: &&Place| place.version == Version::V1;
        self.places.iter().filter(v1).count() as u32
    }

    /// The cgroup that has a controller's files.
    pub fn place(&self, controller: &str) -> Option<&Place> {
        find(&self.places, controller)
    }
}

/// Plans a container's cgroups.
///
/// # Errors
/// `cgroupsPath` is not valid, or is relative to a cgroup that the mount does not show; no cgroup
/// file system is mounted; a limit's controller does not exist in this tree; a value is not valid.
pub fn plan(request: &CgroupRequest, tree: &Tree) -> Result<Plan> {
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
        // In a pure v2 tree hull enables all controllers, as runc does, for the statistics. In a
        // hybrid tree it enables only those that a limit needs, so that the host's root cgroup
        // stays as it is.
        place.enable = if pure {
            place.controllers.clone()
        } else {
            place.required.clone()
        };
    }
    plan_devices(&mut plan, request)?;
    if let Some(unit) = &mut plan.unit {
        unit.properties
            .extend(plan.devices.iter().flat_map(properties::of_devices));
        unit.properties.extend(properties::of_writes(&plan.writes)?);
    }
    Ok(plan)
}

/// Plans the unit, and where systemd will make its cgroups.
fn plan_unit(plan: &mut Plan, request: &CgroupRequest, tree: &Tree) -> Result<()> {
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

/// Plans one cgroup in each hierarchy; in a hybrid tree the v2 one only where it has controllers.
/// Returns those that the caller may not make and need not have.
fn places(plan: &mut Plan, request: &CgroupRequest, tree: &Tree) -> Result<Vec<Place>> {
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

fn place(request: &CgroupRequest, hierarchy: &Hierarchy) -> Result<Place> {
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

/// The caller's own cgroup, where the mount shows it.
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

/// Plans the device rules: the config's, then the default devices, which no rule denies. For an
/// ordinary user, who may not apply rules, hull applies none: the user's access to devices stays
/// what it is on the host.
fn plan_devices(plan: &mut Plan, request: &CgroupRequest) -> Result<()> {
    if !request.device_rules {
        return Ok(());
    }
    let spec = request.resources.map_or(&[][..], |r| &r.devices);
    let rules = devices::Rules::new(spec)?;
    match plan.place("devices") {
        Some(_) if request.rootless => {
            // v1's files need CAP_SYS_ADMIN, bpf(2) needs CAP_BPF, both in the initial user
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
