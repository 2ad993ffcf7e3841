//! Plans the process: its terminal, attributes, identity and program.

use crate::facts::Facts;
use crate::security::caps::{self, LeftOut, Masks};
use crate::security::{lsm, process as tables, rlimits};
use crate::spec::config::{Capabilities, IntelRdt, Linux, Process, User};
use crate::step::container::{Attribute, Barrier, Cwd, Step, slot};
use crate::step::draft::Draft;
use crate::step::draft::{Namespaces, set};
use crate::step::host::{HostStep, Open};
use crate::{Error, Result};

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Adds the host step that opens the console's socket. It comes before the clone, because the child
/// has only the descriptors that are open then.
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

/// Adds the step that opens the terminal in the container's devpts, or the step that changes the
/// owner of stdio.
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

/// Adds the step that replaces the host's null device in stdio by the container's, if the container
/// has a mount namespace of its own.
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

/// Adds the steps that set attributes after the change of the root: execution domain, memory
/// policy, scheduling.
///
/// # Errors
/// An attribute has an unknown or wrong value; `linux.intelRdt` is given.
pub fn attributes(draft: &mut Draft) -> Result<()> {
    let spec = draft.spec;
    let none = Linux::default();
    let linux = spec.config().linux.as_ref().unwrap_or(&none);
    // The container has its cgroup's CPUs and not those of hull's caller, as in runc.
    draft.container(set(Attribute::Affinity, 0), "[affinity of the cgroup]");
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

/// Whether the child itself can set a resource limit. It may lower every limit; it may raise one
/// only if hull may, and not in a user namespace, where it has no privilege over the host.
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
        // runtime.md, Start: only `start` needs a process. Without one the container is created,
        // and it stops when it is started. The child still closes the descriptors that it has from
        // hull, one of which holds the container's lock.
        let first = 3 + u64::from(draft.request.preserve_fds);
        draft.container(set(Attribute::Descriptors, first), "[descriptors]");
        for kind in [Barrier::Ready, Barrier::Recorded] {
            draft.container(Step::Barrier { kind }, "[barrier]");
        }
        return Ok(());
    };
    let context = IdentityContext {
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
    let IdentitySteps { steps, left_out } = identity_steps(process, draft.facts, &context)?;
    for (step, from) in steps {
        draft.container(step, from);
    }
    draft.plan.warnings.extend(left_out.warnings);
    draft.plan.remarks.extend(left_out.remarks);
    Ok(())
}

/// The properties of the child, its namespaces and the request on which the steps of its identity
/// depend.
pub struct IdentityContext {
    /// The child is in a user namespace of the container's own.
    pub in_user_namespace: bool,
    /// The capabilities that the child holds before these steps.
    pub held: u64,
    /// The child's bounding set before these steps.
    pub bounding: u64,
    /// setgroups(2) is permitted.
    pub may_set_groups: bool,
    /// The annotation `run.oci.keep_original_groups` is 1.
    pub keep_groups: bool,
    /// The seccomp filter that the child loads.
    pub filter: Option<crate::security::seccomp::Filter>,
    /// The number of descriptors from 3 on that the program inherits.
    pub preserve_fds: u32,
    /// The kernel kills the program when its parent exits.
    pub dies_with_parent: bool,
}

/// The steps of a process's identity.
pub struct IdentitySteps {
    /// The steps in order, each with the field that it comes from.
    pub steps: Vec<(Step, &'static str)>,
    /// Warnings and remarks about capabilities that are left out.
    pub left_out: LeftOut,
}

/// The steps from the labels to the loaded seccomp filter, for create and for exec.
///
/// Without `noNewPrivileges` seccomp(2) needs CAP_SYS_ADMIN. The child keeps it in the permitted
/// set over the change of ids, and drops it right after it has loaded the filter. So all other
/// steps, and the search for the program under the final ids, come before the filter.
///
/// # Errors
/// A label that this host does not support; capabilities that contradict each other; a resource
/// limit with a wrong value; supplementary groups in a rootless container.
pub fn identity_steps(
    process: &Process,
    facts: &Facts,
    context: &IdentityContext,
) -> Result<IdentitySteps> {
    let mut steps = Vec::new();
    let all = caps::all(facts.last_capability);
    let none = Capabilities::default();
    // A missing section means five empty sets, as in runc and crun.
    let (mut masks, mut left_out) = caps::masks(
        process.capabilities.as_ref().unwrap_or(&none),
        facts.last_capability,
    );
    left_out
        .warnings
        .extend(restrict(&mut masks, context, all)?);
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
        set(Attribute::Descriptors, 3 + u64::from(context.preserve_fds)),
        "[descriptors]",
    ));
    for limit in rlimits::parse(&process.rlimits)? {
        if sets_itself(&limit, facts, context.in_user_namespace) {
            steps.push((rlimit_step(limit), "process.rlimits"));
        }
    }
    if process.no_new_privileges {
        steps.push((
            set(Attribute::NoNewPrivileges, 0),
            "process.noNewPrivileges",
        ));
    }
    let dropped = context.bounding & all & !masks.bounding;
    if dropped != 0 {
        steps.push((
            Step::Bounding { drop: dropped },
            "process.capabilities.bounding",
        ));
    }
    if process.cwd != "/" {
        let path = process.cwd.clone();
        let how = Cwd::Try;
        steps.push((Step::WorkingDirectory { path, how }, "process.cwd"));
    }
    steps.push((ids_step(&process.user, context)?, "process.user"));
    let needs_admin = context.filter.is_some() && !process.no_new_privileges;
    let extra = if needs_admin {
        CAP_SYS_ADMIN & context.held & !masks.permitted
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
    if context.dies_with_parent {
        steps.push((set(Attribute::ParentDeath, 0), "[parent's death]"));
    }
    steps.push((
        Step::WorkingDirectory {
            path: process.cwd.clone(),
            how: Cwd::Enter,
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
    if let Some(filter) = &context.filter {
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
    Ok(IdentitySteps { steps, left_out })
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

/// A mask of CPUs or memory nodes, in the kernel's form.
pub fn mask_bytes(mask: Option<tables::Bits>) -> Vec<u8> {
    mask.into_iter()
        .flatten()
        .flat_map(u64::to_ne_bytes)
        .collect()
}

/// The error of `linux.intelRdt`, which hull does not implement (docs/limitations.md).
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

/// Removes the capabilities that hull cannot grant, and returns warnings about them (config.md,
/// `capabilities`: "Runtimes SHOULD NOT fail").
fn restrict(masks: &mut Masks, context: &IdentityContext, all: u64) -> Result<Vec<String>> {
    let Masks {
        bounding,
        effective,
        inheritable,
        permitted,
        ambient: _,
    } = masks;
    let missing =
        (*permitted | *effective) & !context.held & all | *bounding & !context.bounding & all;
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
    // The kernel accepts an ambient capability only if it is permitted and inheritable
    // (capabilities(7)). The default config of runc asks for three that are not, and runc and crun
    // drop them without a warning.
    let lonely = masks.ambient & !(masks.permitted & masks.inheritable);
    masks.ambient &= !lonely;
    Ok(warnings)
}

fn ids_step(user: &User, context: &IdentityContext) -> Result<Step> {
    // `username` is for Windows; the umask has its own step.
    let User {
        uid,
        gid,
        umask: _,
        additional_gids,
        username: _,
    } = user;
    if !context.may_set_groups && !additional_gids.is_empty() {
        return Err(Error::new(
            "process.user.additionalGids: cannot set any additional groups in a rootless container",
        ));
    }
    let set_groups = context.may_set_groups && !context.keep_groups;
    Ok(Step::Ids {
        uid: *uid,
        gid: *gid,
        groups: additional_gids.clone(),
        set_groups,
        keep: *uid != 0,
    })
}

/// Adds the host steps from [`Barrier::Ready`] on, the wait for `start`, and execve(2).
///
/// # Errors
/// A resource limit has a wrong value.
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

/// Whether hull sets HOME, because the config does not (as in runc): of repeated variables the last
/// one counts.
fn needs_home(env: &[String]) -> bool {
    let last = env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("HOME="));
    last.is_none_or(str::is_empty)
}

/// Removes repeated variables: the last value of each stays, in its place.
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

/// The step of execve(2) with this environment.
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
