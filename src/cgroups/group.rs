//! A container's cgroups on the host: hull makes them, writes their values, lets processes join,
//! and records them to find them again.

use super::devices::{Rules, Table};
use super::directory::{dir_of, join, open_dir, pids_below, remove_dir};
use super::file;
use super::freezer::is_frozen;
use super::place::{IfDenied, Place, clean, find};
use super::plan::Plan;
use super::request::Driver;
use super::systemd::client::Client;
use super::tree::Version;
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkdir};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a later command of hull needs to find the cgroups again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Who made the cgroups.
    pub driver: Driver,
    /// The cgroups that were made.
    pub places: Vec<Place>,
    /// The device rules that are applied; none where hull applies none.
    pub devices: Option<Rules>,
    /// The name of systemd's unit, where systemd made them.
    #[serde(default)]
    pub unit: Option<String>,
}

impl Plan {
    /// The record of the cgroups that will be made: hull writes it before it makes them, so that
    /// what a killed hull leaves can be removed.
    pub fn record(&self) -> Record {
        Record {
            driver: self.driver,
            places: self.places.clone(),
            devices: self.devices.clone(),
            unit: self.unit.as_ref().map(|unit| unit.name.clone()),
        }
    }
}

/// A handle on the container's cgroups. Dropped before [`Group::commit`], it removes the
/// directories that it made and stops the unit that it started.
#[derive(Debug)]
pub struct Group {
    pub(super) driver: Driver,
    pub(super) places: Vec<Place>,
    pub(super) devices: Option<Rules>,
    pub(super) unit: Option<String>,
    /// The v2 cgroup's directory, for CLONE_INTO_CGROUP.
    unified: Option<OwnedFd>,
    /// The directories that this handle made, in their order.
    made: Vec<String>,
    /// Whether this handle started the unit.
    started: bool,
}

impl Group {
    /// Makes the directories of a plan and enables v2's controllers.
    ///
    /// # Errors
    /// mkdir(2) or enabling a required controller fails; the cgroup exists already and has
    /// processes, or is frozen; the plan is for systemd.
    pub fn create(plan: &Plan) -> Result<Self> {
        if plan.unit.is_some() {
            return Err(Error::new("systemd makes a cgroup only around a process"));
        }
        let mut group = Self::new(plan);
        for place in &plan.places {
            match group.make(place, true) {
                Ok(()) => group.places.push(place.clone()),
                Err(error) if place.if_denied == IfDenied::Skip && denied(&error) => {}
                Err(error) => return Err(error.within("unable to apply cgroup configuration")),
            }
        }
        group.refuse_frozen()?;
        Ok(group)
    }

    fn new(plan: &Plan) -> Self {
        Self {
            driver: plan.driver,
            places: Vec::new(),
            devices: None,
            unit: plan.unit.as_ref().map(|unit| unit.name.clone()),
            unified: None,
            made: Vec::new(),
            started: false,
        }
    }

    /// Lets systemd start the unit with a process in it, and makes what systemd does not: on v1 the
    /// cgroups of hierarchies that systemd does not manage, on v2 the controllers for which it has
    /// no property.
    ///
    /// # Errors
    /// systemd cannot be reached, or refuses the unit; the kernel refuses the rest; the plan has no
    /// unit.
    pub fn start(plan: &Plan, pid: Pid) -> Result<Self> {
        let unit = plan
            .unit
            .as_ref()
            .ok_or_else(|| Error::new("the plan has no unit for systemd"))?;
        let context = "unable to apply cgroup configuration";
        let mut group = Self::new(plan);
        Client::connect(unit.user)?
            .start(unit, &[], pid)
            .map_err(|e| e.within(context))?;
        group.started = true;
        for planned in &plan.places {
            let mut place = planned.clone();
            let now = dir_of(&place, pid)?;
            if place.version == Version::V2 {
                // Where systemd did put the process: the user's instance may be in another cgroup
                // than its name says.
                place.dir.clone_from(&now);
            }
            group.make(&place, false).map_err(|e| e.within(context))?;
            if now != place.dir {
                join(&place.dir, pid).map_err(|e| e.within(context))?;
            }
            group.places.push(place);
        }
        Ok(group)
    }

    /// Lets systemd move a process into the unit's cgroup, or one below: an ordinary user may not
    /// write to the common ancestor of the two cgroups, which the kernel demands.
    ///
    /// # Errors
    /// systemd does not manage the container, cannot be reached, or refuses.
    pub fn attach(&self, pid: Pid, below: &str) -> Result<()> {
        let name = self
            .unit
            .as_ref()
            .ok_or_else(|| Error::new("the container has no unit of systemd"))?;
        let below = format!("/{}", clean(below));
        Client::connect(self.by_user())?.attach(name, &below, pid)
    }

    /// Whether the user's instance of systemd manages the container.
    pub(super) fn by_user(&self) -> bool {
        self.driver == Driver::Systemd { user: true }
    }

    /// Lets systemd stop the unit with the processes that are left in it.
    pub(super) fn stop_unit(&self) -> Result<()> {
        self.unit
            .as_ref()
            .map_or(Ok(()), |name| Client::connect(self.by_user())?.stop(name))
    }

    /// Makes one cgroup. With `fresh` it must have no process.
    fn make(&mut self, place: &Place, fresh: bool) -> Result<()> {
        let made_before = self.made.len();
        if place.version == Version::V2 {
            self.enable(place)?;
        }
        // The end of another container may remove the cgroups above at any time: then hull starts
        // again.
        for _ in 0..8 {
            match mkdir(place.dir.as_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) => {
                    self.made.push(place.dir.clone());
                    break;
                }
                Err(Errno::EEXIST) => {
                    if fresh {
                        self.refuse_full(place)?;
                    }
                    break;
                }
                Err(Errno::ENOENT) => self.make_above(place)?,
                Err(errno) => return Err(Error::sys("mkdir", &place.dir, errno)),
            }
        }
        match place.version {
            Version::V2 => self.open_unified(place),
            Version::V1 if place.controllers.iter().any(|c| c == "cpuset") => {
                for dir in &self.made[made_before..] {
                    inherit_cpuset(dir, &place.mount_point, true)?;
                }
                if self.made.len() == made_before {
                    inherit_cpuset(&place.dir, &place.mount_point, false)
                } else {
                    Ok(())
                }
            }
            Version::V1 => Ok(()),
        }
    }

    fn make_above(&mut self, place: &Place) -> Result<()> {
        let below = place
            .dir
            .strip_prefix(place.mount_point.as_str())
            .unwrap_or(&place.dir);
        let slashes: Vec<usize> = below
            .char_indices()
            .skip(1)
            .filter(|(_, c)| *c == '/')
            .map(|(at, _)| at)
            .collect();
        for at in slashes {
            let dir = format!("{}{}", place.mount_point, &below[..at]);
            match mkdir(dir.as_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) => self.made.push(dir),
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(Error::sys("mkdir", dir, errno)),
            }
        }
        if place.version == Version::V2 {
            self.enable(place)
        } else {
            Ok(())
        }
    }

    /// Enables controllers from the root down to the parent. The parent's state is read first:
    /// mostly all are enabled, and a write without effect may still wait for cgroups that are being
    /// removed (`cgroup_lock_and_drain_offline`).
    pub(super) fn enable(&self, place: &Place) -> Result<()> {
        const FILE: &str = "cgroup.subtree_control";
        let Some((parent, _)) = place.dir.rsplit_once('/') else {
            return Ok(());
        };
        if place.enable.is_empty() || is_on(parent, &place.enable) {
            return Ok(());
        }
        let mut at = place.mount_point.len();
        loop {
            let dir = &place.dir[..at];
            let all: Vec<String> = place.enable.iter().map(|c| format!("+{c}")).collect();
            match file::write(dir, FILE, &all.join(" ")) {
                Ok(()) => {}
                Err(Errno::ENOENT) => return Ok(()), // not made yet: `make` calls this again
                Err(why) => {
                    for controller in one_by_one(place, why)
                        .into_iter()
                        .filter(|c| !is_on(dir, std::slice::from_ref(c)))
                    {
                        let one = file::write(dir, FILE, &format!("+{controller}"));
                        if let (Err(errno), true) = (one, place.required.contains(controller)) {
                            return Err(refused_controller(controller, dir, errno));
                        }
                    }
                }
            }
            match place.dir[at + 1..].find('/') {
                Some(next) => at += 1 + next,
                None => return Ok(()),
            }
        }
    }

    /// Opens v2's directory, after checking its type: below a threaded cgroup there is no domain
    /// cgroup, which controllers such as memory need (cgroup-v2.rst, Threads).
    fn open_unified(&mut self, place: &Place) -> Result<()> {
        let parent = place.dir.rsplit_once('/').map_or("", |(parent, _)| parent);
        // A child of the real root, which alone has no `cgroup.type`, is a domain. In a cgroup
        // namespace the mount's root is another cgroup.
        if parent != place.mount_point || file::exists(parent, "cgroup.type") {
            let kind = file::read(&place.dir, "cgroup.type").unwrap_or_default();
            let domain = place
                .required
                .iter()
                .any(|c| matches!(c.as_str(), "memory" | "io" | "hugetlb" | "rdma"));
            match kind.trim_end() {
                "domain invalid" if !domain => {
                    file::write(&place.dir, "cgroup.type", "threaded").on(
                        "write threaded to",
                        format_args!("{}/cgroup.type", place.dir),
                    )?;
                }
                "domain invalid" => {
                    return Err(Error::new(format!(
                        "cannot enter cgroupv2 \"{}\" with domain controllers -- it is in an \
                            invalid state",
                        place.dir
                    )));
                }
                kind @ ("threaded" | "domain threaded") if domain => {
                    return Err(Error::new(format!(
                        "cannot enter cgroupv2 \"{}\" with domain controllers -- it is in {kind} \
                            mode",
                        place.dir
                    )));
                }
                _ => {}
            }
        }
        self.unified = Some(open_dir(&place.dir)?);
        Ok(())
    }

    /// Refuses a cgroup with processes: the container's limits would apply to them.
    fn refuse_full(&self, place: &Place) -> Result<()> {
        match pids_below(&place.dir)?.len() {
            0 => Ok(()),
            n => Err(Error::new(format!(
                "container's cgroup is not empty: {n} process(es) found ({})",
                place.dir
            ))),
        }
    }

    /// Refuses a frozen cgroup: the container's process would stop when it joins, and hull would
    /// wait for it for ever.
    fn refuse_frozen(&self) -> Result<()> {
        let Some(place) = find(&self.places, "freezer") else {
            return Ok(());
        };
        // The root cannot be frozen, and so a new child of it is not.
        let parent = place.dir.rsplit_once('/').map_or("", |(parent, _)| parent);
        if parent == place.mount_point && self.made.contains(&place.dir) {
            return Ok(());
        }
        if is_frozen(place)? {
            return Err(Error::new(format!(
                "container's cgroup unexpectedly frozen ({})",
                place.dir
            )));
        }
        Ok(())
    }

    /// Writes all values and applies the device rules.
    ///
    /// # Errors
    /// The kernel refuses a value or a rule: the error names the file, the value and the field of
    /// the config.
    pub fn apply(&mut self, plan: &Plan) -> Result<()> {
        self.apply_limits(plan)?;
        self.apply_devices(plan)
    }

    /// Writes the values, without the device rules. This comes before the process joins: a process
    /// cannot join a cpuset without CPUs, nor, with a real-time policy, a cgroup without real-time
    /// bandwidth.
    ///
    /// # Errors
    /// As [`Group::apply`].
    pub fn apply_limits(&self, plan: &Plan) -> Result<()> {
        super::values::write_all(&self.places, &plan.writes)
            .map_err(|e| e.within("unable to apply cgroup configuration"))
    }

    /// Applies the device rules.
    ///
    /// # Errors
    /// The kernel refuses a rule or the program; the container has no cgroup for device rules.
    pub fn apply_devices(&mut self, plan: &Plan) -> Result<()> {
        let Some(rules) = &plan.devices else {
            return Ok(());
        };
        let Some(place) = find(&self.places, "devices") else {
            return if plan.places.iter().any(|p| p.if_denied == IfDenied::Skip) {
                Ok(())
            } else {
                Err(Error::new(
                    "device rules: the container has no cgroup for them",
                ))
            };
        };
        match place.version {
            Version::V1 => write_devices(place, &rules.writes()?)?,
            Version::V2 => super::bpf::apply(open_dir(&place.dir)?.as_fd(), &place.dir, rules)?,
        }
        self.devices = Some(rules.clone());
        Ok(())
    }

    /// The v2 cgroup, for CLONE_INTO_CGROUP. A child that is created in it has only the cgroups of
    /// [`Group::join_fds`] left to join.
    pub fn clone_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// The open `tasks` files of the v1 cgroups, to each of which the child, which has one thread,
    /// writes `0`: see [`crate::cgroups`] for the reason.
    ///
    /// # Errors
    /// open(2) of one of them fails.
    pub fn join_fds(&self) -> Result<Vec<OwnedFd>> {
        let v1 = self.places.iter().filter(|p| p.version == Version::V1);
        v1.map(|p| {
            file::open_in(&p.dir, "tasks", OFlag::O_WRONLY)
                .on("open", format_args!("{}/tasks", p.dir))
        })
        .collect()
    }

    /// Moves a process with all its threads into every cgroup of the container.
    ///
    /// # Errors
    /// Writing to `cgroup.procs` fails: ESRCH, the process has exited; EACCES, hull may not move
    /// it.
    pub fn add(&self, pid: Pid) -> Result<()> {
        for place in &self.places {
            join(&place.dir, pid)?;
        }
        Ok(())
    }

    /// Keeps the directories and the unit when the handle is dropped.
    pub fn commit(&mut self) {
        self.made.clear();
        self.started = false;
    }

    /// What the container's record holds of its cgroups.
    pub fn record(&self) -> Record {
        Record {
            driver: self.driver,
            places: self.places.clone(),
            devices: self.devices.clone(),
            unit: self.unit.clone(),
        }
    }

    /// A handle on cgroups that were made before.
    pub fn open(record: &Record) -> Self {
        Self {
            driver: record.driver,
            places: record.places.clone(),
            devices: record.devices.clone(),
            unit: record.unit.clone(),
            unified: None,
            made: Vec::new(),
            started: false,
        }
    }

    /// The container's directory in the hierarchy of a controller.
    pub fn dir(&self, controller: &str) -> Option<&str> {
        find(&self.places, controller).map(|p| p.dir.as_str())
    }

    /// The directories of all the container's cgroups.
    pub fn dirs(&self) -> impl Iterator<Item = &str> {
        self.places.iter().map(|p| p.dir.as_str())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.started {
            let _ = self.stop_unit();
        }
        for dir in self.made.iter().rev() {
            // The caller reports its own error; `delete --force` removes what cannot be removed
            // now.
            let _ = remove_dir(dir);
        }
    }
}

/// Writes device rules; consecutive writes to one file share an open file.
pub(super) fn write_devices(place: &Place, writes: &[(&str, String)]) -> Result<()> {
    for same in writes.chunk_by(|a, b| a.0 == b.0) {
        let name = same[0].0;
        let open = file::open_in(&place.dir, name, OFlag::O_WRONLY)
            .on("open", format_args!("{}/{name}", place.dir))?;
        for (_, value) in same {
            file::put(&open, value).map_err(|errno| {
                let error = Error::sys(
                    &format!("write \"{value}\" to"),
                    format_args!("{}/{name}", place.dir),
                    errno,
                );
                error.within("device rules (linux.resources.devices)")
            })?;
        }
    }
    Ok(())
}

/// The device rules that a v1 cgroup has now.
pub(super) fn read_devices(place: &Place) -> Result<Table> {
    Table::parse(
        &file::read(&place.dir, "devices.list")
            .on("read", format_args!("{}/devices.list", place.dir))?,
    )
}

fn denied(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS)
    )
}

/// The controllers to enable one by one, in their order, where the kernel refuses all together. A
/// cgroup with processes of its own (EBUSY) may still give cpu, cpuset and pids to its children,
/// but becomes the root of a threaded subtree by that. So only the controllers that a limit needs
/// are tried, and those that such a cgroup cannot give come first, so that nothing has changed
/// where the limit is refused. (The caller skips controllers that are enabled: above the part of
/// the tree that belongs to an ordinary user the kernel would refuse the write.)
fn one_by_one(place: &Place, why: Errno) -> Vec<&String> {
    let is_threaded = |c: &str| matches!(c, "cpu" | "cpuset" | "pids" | "perf_event");
    let only_needed = matches!(why, Errno::EBUSY | Errno::EOPNOTSUPP);
    let mut all: Vec<&String> = place
        .enable
        .iter()
        .filter(|c| !only_needed || place.required.contains(c))
        .collect();
    all.sort_by_key(|c| (!place.required.contains(c), is_threaded(c)));
    all
}

fn is_on(dir: &str, wanted: &[String]) -> bool {
    let on = file::read(dir, "cgroup.subtree_control").unwrap_or_default();
    wanted.iter().all(|c| on.split_whitespace().any(|o| o == c))
}

fn refused_controller(controller: &str, dir: &str, errno: Errno) -> Error {
    let why = match errno {
        Errno::EBUSY => "this cgroup has processes of its own, and on v2 an inner cgroup may not",
        Errno::EOPNOTSUPP => "this cgroup is threaded",
        Errno::ENOENT => "the cgroup above does not give it",
        _ => "",
    };
    let error = Error::sys(
        &format!("enable controller {controller} in"),
        format_args!("{dir}/cgroup.subtree_control"),
        errno,
    );
    let limit = format!("cannot set {controller} limit");
    if why.is_empty() {
        error.within(limit)
    } else {
        error.within(format_args!("{limit}: {why}"))
    }
}

/// A new v1 cpuset has no CPUs and no memory nodes, and no process can join it: it gets those of
/// its parent.
fn inherit_cpuset(dir: &str, mount_point: &str, is_new: bool) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        inherited(dir, mount_point, name, is_new)?;
    }
    Ok(())
}

/// Gives a cpuset its parent's value where it has none, and returns its value. `is_new` tells that
/// it has none. (With `cgroup.clone_children` the kernel has copied the same value already.)
fn inherited(dir: &str, mount_point: &str, name: &str, is_new: bool) -> Result<String> {
    let path = format!("{dir}/{name}");
    let own = if is_new {
        String::new()
    } else {
        file::read(dir, name).on("read", &path)?
    };
    let Some((parent, _)) = dir
        .rsplit_once('/')
        .filter(|_| own.trim().is_empty() && dir != mount_point)
    else {
        return Ok(own);
    };
    let value = inherited(parent, mount_point, name, false)?;
    file::write(dir, name, value.trim_end())
        .on(&format!("write {} to", value.trim_end()), &path)?;
    Ok(value)
}
