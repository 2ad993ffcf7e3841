//! Namespaces: which are made, which are joined and by whom, and the id maps.

use crate::cgroups;
use crate::facts::{Facts, Owner};
use crate::spec::config::{IdMapping, Linux};
use crate::spec::names::kind_name;
use crate::step::container::{Attribute, Barrier, Step};
use crate::step::draft::Draft;
use crate::step::draft::Namespaces;
use crate::step::draft::set;
use crate::step::host::{HostStep, MapWriter, Open, Stage};
use crate::{Error, Result};
use oci_spec::runtime::LinuxNamespaceType as Kind;

const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
const NEWTIME: u64 = 0x80;

/// Works out the new namespaces.
pub fn namespaces(draft: &Draft) -> Result<Namespaces> {
    let none = Linux::default();
    let linux = draft.spec.config().linux.as_ref().unwrap_or(&none);
    let mut made = 0;
    for namespace in &linux.namespaces {
        if namespace.path.as_deref().unwrap_or_default().is_empty() {
            made |= namespace.typ.map_or(0, |kind| kind as u64);
        }
    }
    let joined: Vec<_> = draft
        .facts
        .joined
        .iter()
        .filter(|j| j.owner != Owner::Own)
        .map(|j| (j.kind, j.path.clone(), j.owner))
        .collect();
    let has = |kind: Kind| {
        made & kind as u64 != 0 || joined.iter().any(|(joined, ..)| *joined == kind as u32)
    };
    let user = has(Kind::User);
    if draft.spec.lacks_mappings() {
        return Err(Error::new(
            "User namespaces enabled, but no uid and gid mappings found in linux.uidMappings and \
                linux.gidMappings",
        ));
    }
    if !user && !draft.facts.privileged {
        return Err(Error::new("rootless container requires user namespaces"));
    }
    let by_systemd = draft
        .request
        .cgroup
        .as_ref()
        .is_some_and(|plan| matches!(plan.driver, cgroups::request::Driver::Systemd { .. }));
    let v1_cgroups = if by_systemd {
        0
    } else {
        draft
            .request
            .cgroup
            .as_ref()
            .map_or(0, cgroups::plan::Plan::v1_count)
    };
    let late =
        v1_cgroups > 0 || by_systemd || joined.iter().any(|(kind, ..)| *kind == Kind::User as u32);
    let alone = draft
        .facts
        .can_map_alone(&linux.gid_mappings, draft.facts.egid);
    let made_user = made & NEWUSER != 0;
    let has_root = !made_user || (maps_zero(&linux.uid_mappings) && maps_zero(&linux.gid_mappings));
    Ok(Namespaces {
        made,
        mount: has(Kind::Mount),
        user,
        network: made & Kind::Network as u64 != 0,
        cgroup: has(Kind::Cgroup),
        has_root,
        may_set_groups: !made_user
            || draft.facts.privileged
            || (!alone && draft.facts.id_helpers.is_some()),
        unshare_cgroup: made & NEWCGROUP != 0 && late,
        late_ipc: made & NEWUSER != 0 && made & NEWIPC != 0 && has_root,
        by_systemd,
        v1_cgroups,
        joined,
    })
}

fn maps_zero(mappings: &[IdMapping]) -> bool {
    mappings.iter().any(|mapping| mapping.container_id == 0)
}

impl Namespaces {
    /// Whether somebody must stand between parent and child: where a user or process namespace is
    /// joined, where one that hull's user namespace owns is joined by a container with another, and
    /// for a new time namespace.
    fn needs_stage(&self) -> bool {
        let kinds = [Kind::User as u32, Kind::Pid as u32, Kind::Time as u32];
        self.joined.iter().any(|(kind, ..)| kinds.contains(kind))
            || (self.user && !self.joined.is_empty())
            || self.made & NEWTIME != 0
    }
}

/// How the namespaces that are given by path are joined.
pub struct Joins {
    /// By a stage process, where the child could not itself.
    stage: Option<Stage>,
    /// By the child: slots and kinds.
    own: Vec<(u32, u32)>,
    /// The slot of a network namespace.
    network: Option<u32>,
}

/// Opens the namespaces that are given by path.
pub fn join(draft: &mut Draft, namespaces: &Namespaces) -> Joins {
    let mut joins = Joins {
        stage: namespaces.needs_stage().then(Stage::default),
        own: Vec::new(),
        network: None,
    };
    for (kind, path, owner) in &namespaces.joined {
        let slot = draft.open(
            Open::Namespace { path: path.clone() },
            format!("linux.namespaces[{}]", kind_name(*kind)),
        );
        if *kind == Kind::Network as u32 {
            joins.network.get_or_insert(slot);
        }
        match (&mut joins.stage, owner) {
            (Some(stage), _) if *kind == Kind::User as u32 => stage.user = Some(slot),
            (Some(stage), Owner::Joined) => stage.after.push((slot, *kind)),
            (Some(stage), _) => stage.before.push((slot, *kind)),
            (None, _) => joins.own.push((slot, *kind)),
        }
    }
    joins
}

/// The clone, and what hull does to the child before it goes on.
pub fn make(draft: &mut Draft, namespaces: &Namespaces, joins: Joins) -> Result<()> {
    let linux = draft.spec.config().linux.clone().unwrap_or_default();
    let Joins {
        mut stage,
        own: own_joins,
        network,
    } = joins;
    let mut flags = namespaces.made & !NEWTIME;
    if namespaces.unshare_cgroup {
        flags &= !NEWCGROUP;
    }
    if namespaces.late_ipc {
        flags &= !NEWIPC;
    }
    if let (Some(stage), true) = (&mut stage, namespaces.made & NEWTIME != 0) {
        stage.time = Some(linux.time_offsets.clone());
    }
    // In a joined user namespace the child has no right to be born in the host's cgroup.
    let has_cgroup = draft
        .request
        .cgroup
        .as_ref()
        .is_some_and(|plan| !plan.places.is_empty());
    let joins_user = stage.as_ref().is_some_and(|stage| stage.user.is_some());
    let into_cgroup = has_cgroup && !namespaces.by_systemd && !joins_user;
    draft.host(
        HostStep::Clone {
            flags,
            stage,
            into_cgroup,
        },
        "linux.namespaces",
    );
    if let Some(value) = draft
        .spec
        .config()
        .process
        .as_ref()
        .and_then(|process| process.oom_score_adj)
    {
        let lenient = !draft.facts.privileged || draft.facts.in_user_namespace;
        draft.host(HostStep::OomScore { value, lenient }, "process.oomScoreAdj");
    }
    id_maps(draft, namespaces, &linux)?;
    let joins_cgroup = has_cgroup && (namespaces.by_systemd || joins_user);
    match draft.request.cgroup.clone() {
        Some(plan) if has_cgroup && namespaces.by_systemd => {
            draft.host(
                HostStep::Unit {
                    plan: Box::new(plan),
                },
                "linux.cgroupsPath, linux.resources",
            );
        }
        _ if joins_cgroup => draft.host(HostStep::JoinCgroup, "linux.cgroupsPath"),
        _ => {}
    }
    networks(draft, namespaces, &linux, network)?;
    draft.container(set(Attribute::Session, 0), "[session]");
    draft.container(set(Attribute::Umask, 0), "[umask]");
    if !namespaces.user || namespaces.made & NEWUSER == 0 {
        draft.container(set(Attribute::Dumpable, 0), "[CVE-2016-9962]");
    }
    if joins_cgroup
        || namespaces.made & NEWUSER != 0
        || !linux.net_devices.is_empty()
        || draft.request.network.is_some()
    {
        draft.barrier(Barrier::Placed);
    }
    for (slot, kind) in own_joins {
        draft.container(
            Step::Join { slot, kind },
            format!("linux.namespaces[{}]", kind_name(kind)),
        );
    }
    Ok(())
}

/// Devices of the host that move into the container's network namespace (in the slot, where it is
/// joined), and what `--network` asks for.
fn networks(
    draft: &mut Draft,
    namespaces: &Namespaces,
    linux: &Linux,
    network: Option<u32>,
) -> Result<()> {
    if !linux.net_devices.is_empty() && !namespaces.network && network.is_none() {
        return Err(Error::new(
            "linux.netDevices: the container has no network namespace of its own to move devices \
                into",
        ));
    }
    for (host, device) in &linux.net_devices {
        let name = device
            .name
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| host.clone());
        draft.host(
            HostStep::NetDevice {
                host: host.clone(),
                name,
                namespace: network,
            },
            format!("linux.netDevices.{host}"),
        );
    }
    if let Some(setup) = draft.request.network.clone() {
        draft.host(HostStep::Network(Box::new(setup)), "[--network]");
    }
    Ok(())
}

fn id_maps(draft: &mut Draft, namespaces: &Namespaces, linux: &Linux) -> Result<()> {
    if namespaces.made & NEWUSER == 0 {
        return Ok(());
    }
    let maps = [
        (true, &linux.uid_mappings, "linux.uidMappings"),
        (false, &linux.gid_mappings, "linux.gidMappings"),
    ];
    for (uid, mappings, from) in maps {
        let (writer, deny_setgroups) =
            map_writer(draft.facts, uid, mappings).map_err(|error| error.within(from))?;
        draft.host(
            HostStep::IdMap {
                uid,
                mappings: mappings.clone(),
                writer,
                deny_setgroups,
            },
            from,
        );
    }
    Ok(())
}

/// Who writes a map of users (else of groups), and whether setgroups(2) must be denied first.
///
/// # Errors
/// This user may not map these ids.
pub fn map_writer(facts: &Facts, uid: bool, mappings: &[IdMapping]) -> Result<(MapWriter, bool)> {
    let own = if uid { facts.euid } else { facts.egid };
    if facts.privileged {
        return Ok((MapWriter::Direct, false));
    }
    match &facts.id_helpers {
        _ if facts.can_map_alone(mappings, own) => Ok((MapWriter::Direct, !uid)),
        Some(helpers) => Ok((
            MapWriter::Helper(if uid {
                helpers.uid.clone()
            } else {
                helpers.gid.clone()
            }),
            false,
        )),
        None => Err(Error::new(format!(
            "an ordinary user may map only its own id ({own}) without newuidmap and newgidmap, \
                which are not installed"
        ))),
    }
}

/// What the child does first in its namespaces.
pub fn enter(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    if namespaces.user && namespaces.has_root {
        let ids = Step::Ids {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            set_groups: false,
            keep: false,
        };
        draft.container(ids, "linux.namespaces[user]");
        draft.container(set(Attribute::Dumpable, 0), "[CVE-2016-9962]");
    }
    if namespaces.late_ipc {
        draft.container(
            Step::Unshare {
                flags: NEWIPC as u32,
            },
            "linux.namespaces[ipc]",
        );
    }
    if namespaces.unshare_cgroup {
        draft.container(
            Step::Unshare {
                flags: NEWCGROUP as u32,
            },
            "linux.namespaces[cgroup]",
        );
    }
    if !draft.request.no_new_keyring {
        draft.container(
            Step::Keyring {
                name: format!("_ses.{}", draft.request.id),
            },
            "[session keyring]",
        );
    }
    let config = draft.spec.config();
    for (what, value, from) in [
        (Attribute::Hostname, &config.hostname, "hostname"),
        (Attribute::Domainname, &config.domainname, "domainname"),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            draft.container(
                Step::Set {
                    what,
                    number: 0,
                    bytes: value.as_bytes().to_vec(),
                },
                from,
            );
        }
    }
    if namespaces.network {
        draft.container(set(Attribute::Loopback, 0), "linux.namespaces[network]");
    }
    Ok(())
}

/// The cgroup is made before the child, which is born in it (v2) and enrols itself (v1). systemd
/// makes a scope only around a process.
pub fn cgroup(draft: &mut Draft, namespaces: &Namespaces) {
    let Some(plan) = draft.request.cgroup.clone() else {
        return;
    };
    if !namespaces.by_systemd {
        let first = draft.plan.slots;
        draft.plan.slots += namespaces.v1_cgroups;
        draft.host(
            HostStep::Cgroup {
                plan: Box::new(plan),
                first,
            },
            "linux.cgroupsPath, linux.resources",
        );
        if namespaces.v1_cgroups > 0 {
            draft.container(
                Step::Enroll {
                    first,
                    count: namespaces.v1_cgroups,
                },
                "linux.cgroupsPath",
            );
        }
    }
}
