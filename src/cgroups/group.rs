//! A container's cgroups as they are: made, filled with values, joined, recorded, found again,
//! removed.

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

/// What another run of hull needs to find the cgroups again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Who made them.
    pub driver: Driver,
    /// Those that were made.
    pub places: Vec<Place>,
    /// The device rules in force, none when they were left alone.
    pub devices: Option<Rules>,
    /// systemd's name for them.
    #[serde(default)]
    pub unit: Option<String>,
}

impl Plan {
    /// The record of what will be made, for whoever must clear up after a runtime that was killed.
    pub fn record(&self) -> Record {
        Record {
            driver: self.driver,
            places: self.places.clone(),
            devices: self.devices.clone(),
            unit: self.unit.as_ref().map(|unit| unit.name.clone()),
        }
    }
}

/// The live handle. Dropped before [`Group::commit`], it removes the directories that it made and
/// stops the unit.
#[derive(Debug)]
pub struct Group {
    pub(super) driver: Driver,
    pub(super) places: Vec<Place>,
    pub(super) devices: Option<Rules>,
    pub(super) unit: Option<String>,
    /// The v2 cgroup's directory, for CLONE_INTO_CGROUP.
    unified: Option<OwnedFd>,
    /// Directories made, in order.
    made: Vec<String>,
    /// Whether the unit is this handle's to stop.
    started: bool,
}

impl Group {
    /// Makes the directories of a plan and turns v2's controllers on.
    ///
    /// # Errors
    /// The kernel refuses a directory or a needed controller; the cgroup is there already and has
    /// processes, or is frozen.
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

    /// Asks systemd for the unit around a process, waits until it is there, and makes what systemd
    /// does not: on v1 the hierarchies that it leaves alone, on v2 the controllers that it has no
    /// property for.
    ///
    /// # Errors
    /// systemd cannot be reached or refuses; the kernel refuses the rest.
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
                // Where systemd has in fact put it: the user's instance may be elsewhere than its
                // name says.
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

    /// Moves a process into the unit, by systemd: for an ordinary user, who may not write where two
    /// units meet.
    ///
    /// # Errors
    /// There is no unit; systemd refuses.
    pub fn attach(&self, pid: Pid, below: &str) -> Result<()> {
        let name = self
            .unit
            .as_ref()
            .ok_or_else(|| Error::new("the container has no unit of systemd"))?;
        let below = format!("/{}", clean(below));
        Client::connect(self.by_user())?.attach(name, &below, pid)
    }

    pub(super) fn by_user(&self) -> bool {
        self.driver == Driver::Systemd { user: true }
    }

    /// Stops the unit with what is left in it.
    pub(super) fn stop_unit(&self) -> Result<()> {
        self.unit
            .as_ref()
            .map_or(Ok(()), |name| Client::connect(self.by_user())?.stop(name))
    }

    /// `fresh`: nobody may be in it.
    fn make(&mut self, place: &Place, fresh: bool) -> Result<()> {
        let made_before = self.made.len();
        if place.version == Version::V2 {
            self.enable(place)?;
        }
        // The cgroups above may be removed by another's end at any time: then all begins anew.
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

    /// Turns controllers on from the root down to the parent. The parent is asked first: mostly all
    /// is on, and a write that changes nothing may still wait for cgroups that are dying
    /// (`cgroup_lock_and_drain_offline`).
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
                Err(Errno::ENOENT) => return Ok(()), // not made yet: asked again after that
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

    /// v2's directory as an fd, and the rule of threads: below a cgroup that has processes or
    /// threads no domain can be.
    fn open_unified(&mut self, place: &Place) -> Result<()> {
        let parent = place.dir.rsplit_once('/').map_or("", |(parent, _)| parent);
        // Below the real root, which alone has no type, all begins as a domain. In a cgroup
        // namespace the mount's root is another.
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

    /// A cgroup with processes is somebody's: its limits would fall on them.
    fn refuse_full(&self, place: &Place) -> Result<()> {
        match pids_below(&place.dir)?.len() {
            0 => Ok(()),
            n => Err(Error::new(format!(
                "container's cgroup is not empty: {n} process(es) found ({})",
                place.dir
            ))),
        }
    }

    /// A process that joins a frozen cgroup stops there, and whoever waits for it waits for ever.
    fn refuse_frozen(&self) -> Result<()> {
        let Some(place) = find(&self.places, "freezer") else {
            return Ok(());
        };
        // Neither can a new child of the root be frozen, nor the root itself.
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
    /// The kernel refuses one: the error names the file, the value and the part of the config.
    pub fn apply(&mut self, plan: &Plan) -> Result<()> {
        self.apply_limits(plan)?;
        self.apply_devices(plan)
    }

    /// Writes the values, without device rules. They hold for processes that join later, and for
    /// `cpuset` and real-time shares must be there before.
    ///
    /// # Errors
    /// As for [`Group::apply`].
    pub fn apply_limits(&self, plan: &Plan) -> Result<()> {
        super::values::write_all(&self.places, &plan.writes)
            .map_err(|e| e.within("unable to apply cgroup configuration"))
    }

    /// Applies the device rules, for a caller that mounts block devices of the spec before.
    ///
    /// # Errors
    /// The kernel refuses a rule.
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

    /// The v2 cgroup, for CLONE_INTO_CGROUP. A child born into it needs only [`Group::join_fds`]
    /// besides.
    pub fn clone_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// The `tasks` files of the v1 cgroups. A child with one thread writes `0` to each: see the top
    /// of this room.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub fn join_fds(&self) -> Result<Vec<OwnedFd>> {
        let v1 = self.places.iter().filter(|p| p.version == Version::V1);
        v1.map(|p| {
            file::open_in(&p.dir, "tasks", OFlag::O_WRONLY)
                .on("open", format_args!("{}/tasks", p.dir))
        })
        .collect()
    }

    /// Moves a process with all its threads into every cgroup.
    ///
    /// # Errors
    /// The kernel refuses: the process is gone, or may not be moved.
    pub fn add(&self, pid: Pid) -> Result<()> {
        for place in &self.places {
            join(&place.dir, pid)?;
        }
        Ok(())
    }

    /// Keeps the directories.
    pub fn commit(&mut self) {
        self.made.clear();
        self.started = false;
    }

    /// What to write into the container's state.
    pub fn record(&self) -> Record {
        Record {
            driver: self.driver,
            places: self.places.clone(),
            devices: self.devices.clone(),
            unit: self.unit.clone(),
        }
    }

    /// The handle for cgroups that are there.
    ///
    /// # Errors
    /// None now; a driver may have to be asked.
    pub fn open(record: &Record) -> Result<Self> {
        Ok(Self {
            driver: record.driver,
            places: record.places.clone(),
            devices: record.devices.clone(),
            unit: record.unit.clone(),
            unified: None,
            made: Vec::new(),
            started: false,
        })
    }

    /// The container's directory in the hierarchy of a controller.
    pub fn dir(&self, controller: &str) -> Option<&str> {
        find(&self.places, controller).map(|p| p.dir.as_str())
    }

    /// All directories.
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
            // The caller's own error is on its way; what cannot be removed here, `delete --force`
            // removes.
            let _ = remove_dir(dir);
        }
    }
}

/// Writes device rules, opening each file once for neighbours.
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

/// What the kernel has of the rules now.
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

/// The controllers to be tried each for itself where all together are refused. A cgroup with
/// processes of its own (EBUSY) may still give cpu, cpuset and pids, and becomes the root of a
/// threaded part by that: so only what a limit needs is asked for, and first what such a cgroup
/// cannot give, so that nothing is changed where the limit is refused. (What is on already is not
/// asked for: above the part that is an ordinary user's it would be refused.)
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
        Errno::ENOENT => "the cgroup above has it off",
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

/// A new v1 cpuset has no processors and no memory and takes no process until it has: it gets its
/// parent's.
fn inherit_cpuset(dir: &str, mount_point: &str, is_new: bool) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        inherited(dir, mount_point, name, is_new)?;
    }
    Ok(())
}

/// `is_new`: it is known to have none. (A parent's `cgroup.clone_children` gives it the same values
/// earlier.)
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
