//! The process: its terminal, attributes, identity and program.

use crate::facts::Facts;
use crate::security::caps::{self, LeftOut, Masks};
use crate::security::{lsm, process as tables, rlimits};
use crate::spec::config::{Capabilities, IntelRdt, Linux, Process, User};
use crate::step::container::{Attribute, Barrier, Step, slot};
use crate::step::draft::Draft;
use crate::step::draft::{Namespaces, set};
use crate::step::host::{HostStep, Open};
use crate::{Error, Result};

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// The socket that takes the terminal: the child has a copy of the descriptors of its birth and
/// gets none later.
pub fn console_socket(draft: &mut Draft) -> Result<()> {
    if draft
        .spec
        .config()
        .process
        .as_ref()
        .is_some_and(|process| process.terminal)
    {
        draft.host(
            HostStep::Open {
                slot: slot::CONSOLE,
                what: Open::ConsoleSocket,
            },
            "process.terminal",
        );
    }
    Ok(())
}

/// The terminal, in the container's own devpts.
pub fn console(draft: &mut Draft) -> Result<()> {
    let Some(process) = &draft.spec.config().process else {
        return Ok(());
    };
    if !process.terminal {
        if process.user.uid != 0 {
            draft.container(
                set(Attribute::Stdio, u64::from(process.user.uid)),
                "process.user.uid",
            );
        }
        return Ok(());
    }
    draft.container(console_step(process, true), "process.terminal");
    Ok(())
}

/// Where the container has mounts of its own, its null device is one of them.
pub fn null_device(draft: &mut Draft, namespaces: &Namespaces) {
    let terminal = draft
        .spec
        .config()
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    if draft.request.null_stdio != 0 && namespaces.mount && !terminal {
        draft.container(
            set(Attribute::NullDevice, draft.request.null_stdio),
            "[stdio]",
        );
    }
}

/// The step that opens a process's terminal.
pub fn console_step(process: &Process, mount: bool) -> Step {
    let size = process.console_size.clone().unwrap_or_default();
    let clamp = |value: u64| value.min(u64::from(u16::MAX)) as u32;
    Step::Console {
        rows: clamp(size.height),
        columns: clamp(size.width),
        mount,
        uid: process.user.uid,
    }
}

/// What is set once the old root is left: execution domain, memory policy, scheduling.
pub fn attributes(draft: &mut Draft) -> Result<()> {
    let spec = draft.spec;
    let none = Linux::default();
    let linux = spec.config().linux.as_ref().unwrap_or(&none);
    if let Some(personality) = &linux.personality {
        draft.container(
            set(
                Attribute::Personality,
                u64::from(tables::personality(personality)?),
            ),
            "linux.personality",
        );
    }
    if let Some(policy) = &linux.memory_policy {
        let (mode, mask) = tables::memory_policy(policy)?;
        draft.container(
            Step::Set {
                what: Attribute::MemoryPolicy,
                number: u64::from(mode),
                bytes: mask_bytes(mask),
            },
            "linux.memoryPolicy",
        );
    }
    if let Some(rdt) = &linux.intel_rdt {
        return Err(intel_rdt_refusal(rdt));
    }
    match &spec.config().process {
        Some(process) => scheduling(draft, process),
        None => Ok(()),
    }
}

fn scheduling(draft: &mut Draft, process: &Process) -> Result<()> {
    if let Some(scheduler) = &process.scheduler {
        draft.container(
            Step::Set {
                what: Attribute::Scheduler,
                number: 0,
                bytes: tables::scheduler(scheduler)?.bytes().to_vec(),
            },
            "process.scheduler",
        );
    }
    if let Some(priority) = &process.io_priority {
        draft.container(
            set(Attribute::IoPriority, tables::io_priority(priority)? as u64),
            "process.ioPriority",
        );
    }
    Ok(())
}

/// Whether the child itself can set a limit: it may lower all, and raise what hull may, unless a
/// user namespace took that from it.
pub fn sets_itself(limit: &rlimits::Limit, facts: &Facts, in_user_namespace: bool) -> bool {
    let held = facts
        .hard_limits
        .get(&limit.resource)
        .copied()
        .unwrap_or(u64::MAX);
    !in_user_namespace || !facts.privileged || limit.hard <= held
}

/// The step by which a process sets its own limit.
pub fn rlimit_step(limit: rlimits::Limit) -> Step {
    let bytes = [limit.soft.to_le_bytes(), limit.hard.to_le_bytes()].concat();
    Step::Set {
        what: Attribute::Rlimit,
        number: u64::from(limit.resource),
        bytes,
    }
}

/// Labels, privileges, ids and capabilities.
pub fn identity(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    let Some(process) = &draft.spec.config().process else {
        // runtime.md, Start: only start needs a process. Without one the container is made, and its
        // start is its end. What its maker has open, the lock on the container among it, it must
        // not hold all the same.
        let first = 3 + u64::from(draft.request.preserve_fds);
        draft.container(set(Attribute::Descriptors, first), "[descriptors]");
        for kind in [Barrier::Ready, Barrier::Recorded] {
            draft.container(Step::Barrier { kind }, "[barrier]");
        }
        return Ok(());
    };
    let place = Place {
        in_user_namespace: namespaces.user,
        held: if namespaces.user {
            u64::MAX
        } else {
            draft.facts.permitted
        },
        bounding: if namespaces.user {
            u64::MAX
        } else {
            draft.facts.bounding
        },
        may_set_groups: namespaces.may_set_groups,
        keep_groups: draft
            .spec
            .config()
            .annotations
            .get("run.oci.keep_original_groups")
            .is_some_and(|value| value == "1"),
        filter: draft.request.filter.clone(),
        preserve_fds: draft.request.preserve_fds,
        dies_with_parent: draft.request.dies_with_parent,
    };
    let (steps, left_out) = identity_steps(process, draft.facts, &place)?;
    for (step, from) in steps {
        draft.container(step, from);
    }
    draft.plan.warnings.extend(left_out.warnings);
    draft.plan.remarks.extend(left_out.remarks);
    Ok(())
}

/// Where a process comes to be, as far as its identity depends on it.
pub struct Place {
    /// It has a user namespace of its own.
    pub in_user_namespace: bool,
    /// The capabilities held there.
    pub held: u64,
    /// The bounding set there.
    pub bounding: u64,
    /// setgroups(2) may be called.
    pub may_set_groups: bool,
    /// The annotation `run.oci.keep_original_groups` is 1.
    pub keep_groups: bool,
    /// The filter that will be loaded.
    pub filter: Option<crate::security::seccomp::Filter>,
    /// How many descriptors from 3 on the program gets.
    pub preserve_fds: u32,
    /// It ends with the process that makes it.
    pub dies_with_parent: bool,
}

type Steps = Vec<(Step, &'static str)>;

/// From the label to the loaded filter; used by create and by exec.
///
/// Without `noNewPrivileges` a filter needs CAP_SYS_ADMIN, which is kept in the permitted set over
/// the change of ids and given up right after the load. So everything else, and the look-up of the
/// program under the final ids, happens before the filter does.
pub fn identity_steps(process: &Process, facts: &Facts, place: &Place) -> Result<(Steps, LeftOut)> {
    let mut steps: Steps = Vec::new();
    let all = caps::all(facts.last_capability);
    let none = Capabilities::default();
    // No section is five empty sets, as its peers have it.
    let (mut masks, mut left_out) = caps::masks(
        process.capabilities.as_ref().unwrap_or(&none),
        facts.last_capability,
    );
    left_out.warnings.extend(restrict(&mut masks, place, all)?);
    for (label, from) in labels(process, facts)? {
        steps.push((
            Step::Label {
                file: format!("thread-self/{}", label.file),
                value: label.text,
            },
            from,
        ));
    }
    steps.push((
        set(Attribute::Descriptors, 3 + u64::from(place.preserve_fds)),
        "[descriptors]",
    ));
    for limit in rlimits::parse(&process.rlimits)? {
        if sets_itself(&limit, facts, place.in_user_namespace) {
            steps.push((rlimit_step(limit), "process.rlimits"));
        }
    }
    if process.no_new_privileges {
        steps.push((
            set(Attribute::NoNewPrivileges, 0),
            "process.noNewPrivileges",
        ));
    }
    let dropped = place.bounding & all & !masks.bounding;
    if dropped != 0 {
        steps.push((
            Step::Bounding { drop: dropped },
            "process.capabilities.bounding",
        ));
    }
    steps.push((ids_step(&process.user, place)?, "process.user"));
    let needs_admin = place.filter.is_some() && !process.no_new_privileges;
    let extra = if needs_admin {
        CAP_SYS_ADMIN & place.held & !masks.permitted
    } else {
        0
    };
    let capabilities = |effective: u64, permitted: u64| Step::Capabilities {
        effective,
        permitted,
        inheritable: masks.inheritable,
        ambient: masks.ambient,
    };
    steps.push((
        capabilities(masks.effective, masks.permitted | extra),
        "process.capabilities",
    ));
    if place.dies_with_parent {
        steps.push((set(Attribute::ParentDeath, 0), "[parent's death]"));
    }
    steps.push((
        Step::WorkingDirectory {
            path: process.cwd.clone(),
            create: false,
        },
        "process.cwd",
    ));
    let path = process.variable("PATH").unwrap_or_default();
    steps.push((
        Step::Program {
            name: process.args[0].clone(),
            path: path.to_owned(),
            home: needs_home(&process.env),
            uid: process.user.uid,
        },
        "process.args[0]",
    ));
    steps.push((
        set(
            Attribute::Umask,
            u64::from(process.user.umask.unwrap_or(0o022)),
        ),
        "process.user.umask",
    ));
    steps.push((set(Attribute::Signals, facts.ignored_signals), "[signals]"));
    let raise = needs_admin && masks.effective & CAP_SYS_ADMIN == 0;
    if raise {
        steps.push((
            capabilities(masks.effective | CAP_SYS_ADMIN, masks.permitted | extra),
            "[seccomp(2) needs CAP_SYS_ADMIN]",
        ));
    }
    steps.push((
        Step::Barrier {
            kind: Barrier::Ready,
        },
        "[barrier]",
    ));
    steps.push((
        Step::Barrier {
            kind: Barrier::Recorded,
        },
        "[barrier]",
    ));
    if let Some(filter) = &place.filter {
        let step = Step::Filter {
            program: filter.program.clone(),
            flags: filter.flags & !8,
            notify: filter.notify,
        };
        steps.push((step, "linux.seccomp"));
        if raise {
            steps.push((
                capabilities(masks.effective, masks.permitted),
                "process.capabilities",
            ));
        }
    }
    Ok((steps, left_out))
}

fn labels(process: &Process, facts: &Facts) -> Result<Vec<(lsm::Attr, &'static str)>> {
    let on = facts.lsm.unwrap_or_default();
    let profile = lsm::apparmor_exec(process.apparmor_profile.as_deref(), &on)?
        .map(|label| (label, "process.apparmorProfile"));
    let selinux = lsm::selinux_exec(process.selinux_label.as_deref(), &on)?;
    Ok(profile
        .into_iter()
        .chain(
            selinux
                .into_iter()
                .map(|label| (label, "process.selinuxLabel")),
        )
        .collect())
}

/// A mask of CPUs or nodes as the kernel takes it.
pub fn mask_bytes(mask: Option<tables::Bits>) -> Vec<u8> {
    mask.into_iter()
        .flatten()
        .flat_map(u64::to_ne_bytes)
        .collect()
}

/// resctrl is not executed: said in docs/limitations.md.
fn intel_rdt_refusal(rdt: &IntelRdt) -> Error {
    let IntelRdt {
        clos_id,
        schemata,
        l3_cache_schema,
        mem_bw_schema,
        enable_cmt,
        enable_mbm,
        enable_monitoring,
    } = rdt;
    let schema = !schemata.is_empty() || l3_cache_schema.is_some() || mem_bw_schema.is_some();
    let monitor = [enable_cmt, enable_mbm, enable_monitoring]
        .into_iter()
        .any(|flag| *flag == Some(true));
    let what = match (clos_id, schema, monitor) {
        (_, true, _) => "a schema",
        (Some(_), ..) => "closID",
        (_, _, true) => "monitoring",
        _ => "a class of service",
    };
    Error::new(format!(
        "linux.intelRdt: {what} is asked for, but hull does not execute resctrl \
            (docs/limitations.md)"
    ))
}

/// A capability that cannot be granted is warned of and left out (config.md, `capabilities`:
/// "Runtimes SHOULD NOT fail").
fn restrict(masks: &mut Masks, place: &Place, all: u64) -> Result<Vec<String>> {
    let Masks {
        bounding,
        effective,
        inheritable,
        permitted,
        ambient: _,
    } = masks;
    let missing = (*permitted | *effective) & !place.held & all | *bounding & !place.bounding & all;
    let mut warnings = Vec::new();
    if missing != 0 {
        warnings.push(format!(
            "process.capabilities: {} cannot be granted, since hull itself does not hold them",
            caps::names(missing).join(" ")
        ));
        [bounding, effective, inheritable, permitted]
            .into_iter()
            .for_each(|set| *set &= !missing);
    }
    let (beyond, unbounded) = (
        masks.effective & !masks.permitted,
        masks.inheritable & !masks.bounding,
    );
    if beyond | unbounded != 0 {
        let names = caps::names(beyond | unbounded).join(" ");
        return Err(Error::new(format!(
            "unable to apply caps: operation not permitted: {names}: effective needs permitted, \
                inheritable needs bounding"
        )));
    }
    // The kernel takes an ambient capability only where it is permitted and inheritable
    // (capabilities(7)); the default config of runc asks for three that are not, and its peers drop
    // them without a word.
    let lonely = masks.ambient & !(masks.permitted & masks.inheritable);
    masks.ambient &= !lonely;
    Ok(warnings)
}

fn ids_step(user: &User, place: &Place) -> Result<Step> {
    // A username is for Windows; the umask is a step of its own.
    let User {
        uid,
        gid,
        umask: _,
        additional_gids,
        username: _,
    } = user;
    if !place.may_set_groups && !additional_gids.is_empty() {
        return Err(Error::new(
            "process.user.additionalGids: cannot set any additional groups in a rootless container",
        ));
    }
    let set_groups = place.may_set_groups && !place.keep_groups;
    Ok(Step::Ids {
        uid: *uid,
        gid: *gid,
        groups: additional_gids.clone(),
        set_groups,
        keep: *uid != 0,
    })
}

/// Ready, the wait for start, and the program.
pub fn program(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    let spec = draft.spec;
    draft.host(HostStep::Barrier(Barrier::Ready), "[barrier]");
    if let Some(process) = &spec.config().process {
        for limit in rlimits::parse(&process.rlimits)? {
            if !sets_itself(&limit, draft.facts, namespaces.user) {
                draft.host(HostStep::Rlimit(limit), "process.rlimits");
            }
        }
    }
    draft.host(HostStep::Record, "[record]");
    draft.host(HostStep::Barrier(Barrier::Recorded), "[barrier]");
    if draft
        .request
        .filter
        .as_ref()
        .is_some_and(|filter| filter.notify)
    {
        let seccomp = spec
            .config()
            .linux
            .as_ref()
            .and_then(|linux| linux.seccomp.clone())
            .unwrap_or_default();
        let path = seccomp.listener_path.unwrap_or_default();
        draft.host(
            HostStep::Listener {
                path,
                metadata: seccomp.listener_metadata.unwrap_or_default(),
            },
            "linux.seccomp.listenerPath",
        );
    }
    if draft.request.filter.is_some() && spec.config().process.is_some() {
        draft.host(HostStep::Filtered, "[seccomp]");
    }
    draft.container(Step::WaitStart {}, "[start]");
    crate::hooks::plan::start(draft);
    let Some(process) = &spec.config().process else {
        return Ok(());
    };
    let env = last_of_each(process.env.iter().chain(&draft.request.extra_env));
    draft.container(exec_step(process, env), "process.args, process.env");
    Ok(())
}

/// HOME is set where the config does not (as runc has it).
fn needs_home(env: &[String]) -> bool {
    !env.iter().any(|variable| {
        variable
            .strip_prefix("HOME=")
            .is_some_and(|home| !home.is_empty())
    })
}

/// Of several values for one variable the last counts; the order is that of the last ones.
pub fn last_of_each<'a>(env: impl DoubleEndedIterator<Item = &'a String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let mut kept: Vec<String> = env
        .rev()
        .filter(|variable| seen.insert(variable.split('=').next().unwrap_or_default()))
        .cloned()
        .collect();
    kept.reverse();
    kept
}

/// execve with the environment given.
pub fn exec_step(process: &Process, env: Vec<String>) -> Step {
    let home = needs_home(&env);
    let env = if home {
        env.into_iter()
            .filter(|variable| !variable.starts_with("HOME="))
            .collect()
    } else {
        env
    };
    Step::Exec {
        args: process.args.clone(),
        env,
        home,
    }
}
