//! Plans the namespaces: which are made, which are joined and by which process, and the id maps.

use crate::cgroups;
use crate::facts::{Facts, Owner};
use crate::spec::config::{IdMapping, Linux};
use crate::spec::names::kind_name;
use crate::step::container::{Attribute, Barrier, Step};
use crate::step::draft::Draft;
use crate::step::draft::become_root;
use crate::step::draft::set;
use crate::step::draft::{JoinedNamespace, Namespaces};
use crate::step::host::{HostStep, MapWriter, Open, Stage};
use crate::{Error, Result};
use oci_spec::runtime::LinuxNamespaceType as Kind;

const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
const NEWTIME: u64 = 0x80;

/// Determines the container's namespaces from the config and the Facts.
///
/// # Errors
/// A user namespace without mappings; an unprivileged hull without a user namespace.
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
        .map(|j| JoinedNamespace {
            kind: j.kind,
            path: j.path.clone(),
            owner: j.owner,
        })
        .collect();
    let has = |kind: Kind| {
        made & kind as u64 != 0 || joined.iter().any(|joined| joined.kind == kind as u32)
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
    let late = v1_cgroups > 0
        || by_systemd
        || joined.iter().any(|joined| joined.kind == Kind::User as u32);
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
    /// Whether the clone needs a stage: to join a user, PID or time namespace, to join a namespace
    /// of hull's user namespace if the container has another user namespace, and for a new time
    /// namespace.
    fn needs_stage(&self) -> bool {
        let kinds = [Kind::User as u32, Kind::Pid as u32, Kind::Time as u32];
        self.joined
            .iter()
            .any(|joined| kinds.contains(&joined.kind))
            || (self.user && !self.joined.is_empty())
            || self.made & NEWTIME != 0
    }
}

/// How the namespaces that the config gives by path are joined.
pub struct Joins {
    /// The stage, which joins those that the child could not join itself.
    stage: Option<Stage>,
    /// Slot and kind (`CLONE_NEW*`) of those that the child joins itself.
    own: Vec<(u32, u32)>,
    /// The slot of the network namespace.
    network: Option<u32>,
}

/// Adds the host steps that open the namespaces given by path.
pub fn join(draft: &mut Draft, namespaces: &Namespaces) -> Joins {
    let mut joins = Joins {
        stage: namespaces.needs_stage().then(Stage::default),
        own: Vec::new(),
        network: None,
    };
    for JoinedNamespace { kind, path, owner } in &namespaces.joined {
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

/// Adds the clone, and what hull does to the child before [`Barrier::Placed`].
///
/// # Errors
/// An id map that this user may not write; `linux.netDevices` without a network namespace.
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
    // In a joined user namespace the child has no permission to be cloned into the host's cgroup.
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

/// Adds the steps that move devices of the host into the container's network namespace (the one in
/// the slot `network`, if it is joined), and the step of `--network`.
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
        let MapMethod {
            writer,
            deny_setgroups,
        } = map_writer(draft.facts, uid, mappings).map_err(|error| error.within(from))?;
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

/// How an id map is written.
pub struct MapMethod {
    /// The process that writes the map.
    pub writer: MapWriter,
    /// setgroups(2) must be denied first.
    pub deny_setgroups: bool,
}

impl MapMethod {
    fn by(writer: MapWriter) -> Self {
        Self {
            writer,
            deny_setgroups: false,
        }
    }
}

/// Chooses how a map of user ids (`uid`) or of group ids is written.
///
/// # Errors
/// An unprivileged user without newuidmap(1) and newgidmap(1) maps more than its own id.
pub fn map_writer(facts: &Facts, uid: bool, mappings: &[IdMapping]) -> Result<MapMethod> {
    let own = if uid { facts.euid } else { facts.egid };
    if facts.privileged {
        return Ok(MapMethod::by(MapWriter::Direct));
    }
    match &facts.id_helpers {
        _ if facts.can_map_alone(mappings, own) => Ok(MapMethod {
            writer: MapWriter::Direct,
            deny_setgroups: !uid,
        }),
        Some(helpers) => {
            let helper = if uid { &helpers.uid } else { &helpers.gid };
            Ok(MapMethod::by(MapWriter::Helper(helper.clone())))
        }
        None => Err(Error::new(format!(
            "an ordinary user may map only its own id ({own}) without newuidmap and newgidmap, \
                which are not installed"
        ))),
    }
}

/// Adds the child's first steps in its namespaces: ids, late namespaces, keyring, host name and
/// loopback.
pub fn enter(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    if namespaces.user && namespaces.has_root {
        draft.container(become_root(), "linux.namespaces[user]");
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

/// Adds the step that makes the cgroup. hull makes it before the child, which is cloned into it
/// (v2) or joins it by itself (v1). systemd makes a scope only around a process, so that comes
/// later.
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
