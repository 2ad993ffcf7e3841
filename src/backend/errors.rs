//! The errors of failed container steps, worded as users of runc and its engines know them.

use crate::Error;
use crate::namespaces::spawn::Child;
use crate::security::rlimits;
use crate::spec::Spec;
use crate::state::PolicyOutcome;
use crate::step::container::{Attribute, Protection, Step};
use crate::step::draft::Plan;
use crate::step::report::{Detail, FAULT_SIZE, Outcome, StartFault, cause};
use crate::sys::process::{self, Ended};
use nix::errno::Errno;
use std::sync::atomic::Ordering;

/// The error of a child that exited: from its report page, or else from its wait status.
pub fn child_error(plan: &Plan, child: &Child) -> Error {
    let ended = process::wait(child.pidfd.0, false);
    let report = child.page.report();
    let errno = report.errno.load(Ordering::Acquire);
    let (index, detail) = (
        report.step.load(Ordering::Relaxed),
        report.detail.load(Ordering::Relaxed),
    );
    let failure = Failure {
        step: index,
        errno,
        detail,
        ended: ended.ok().flatten(),
        said: report.said(),
    };
    failed_step(plan, &failure)
}

/// How a child failed: its report page and its wait status.
pub struct Failure {
    /// The index of the container step.
    pub step: u32,
    /// The error number; 0 if the child reported nothing.
    pub errno: i32,
    /// A [`Detail`] in the lowest byte, and its value in the upper 24 bits.
    pub detail: u32,
    /// How the process ended, if it was waited for.
    pub ended: Option<Ended>,
    /// What a failed hook said.
    pub said: Vec<u8>,
}

/// The error of a failed child, with the exit status of `hull` if the program could not be
/// executed.
pub fn failed_step(plan: &Plan, failure: &Failure) -> Error {
    let Failure {
        step: index,
        errno,
        detail,
        ended,
        ref said,
    } = *failure;
    let Some(placed) = plan.container.get(index as usize).filter(|_| errno != 0) else {
        let how = match ended {
            Some(Ended::Killed(libc::SIGKILL)) => {
                "it was killed: its memory limit may be too low".to_owned()
            }
            Some(Ended::Killed(signal)) => format!("it was ended by signal {signal}"),
            _ if errno != 0 => cause(errno, detail),
            Some(Ended::Exited(status)) => format!("it ended with status {status}"),
            _ => "it exited".to_owned(),
        };
        return Error::new(format!(
            "unable to start container process: container init failed: {how}"
        ));
    };
    let place = format!(
        "(step {index} of {}, from {})",
        plan.container.len(),
        placed.from
    );
    let hook = placed
        .from
        .strip_prefix("hooks.")
        .and_then(|from| from.split_once('['));
    let error = match (&placed.step, hook) {
        (Step::Hook { path, .. }, Some((list, rest))) => {
            let index = rest.trim_end_matches(']').parse().unwrap_or(0);
            let text = hook_sentence(list, index, path, &cause(errno, detail));
            let output = quoted(said);
            Error::new(format!("unable to start container process: {text}{output}"))
        }
        _ => Error::new(format!(
            "unable to start container process: {}",
            sentence(&placed.step, errno, detail, &place)
        )),
    };
    match &placed.step {
        Step::Program { .. } | Step::Exec { .. } => error.with_status(shell_status(errno)),
        _ => error,
    }
}

/// The exit status of a shell: 127 for a program that does not exist, 126 for one that cannot be
/// executed.
fn shell_status(errno: i32) -> u8 {
    if errno == Errno::ENOENT as i32 {
        127
    } else {
        126
    }
}

/// The shell's exit status if execve(2) refused the program after `start`. The child has written
/// the reason to the container's stderr.
pub fn refused_program(child: &Child) -> Option<u8> {
    let report = child.page.report();
    let errno = report.errno.load(Ordering::Acquire);
    let refused = Detail::from_code(report.detail.load(Ordering::Relaxed)) == Detail::Execve;
    (refused && errno != 0).then(|| shell_status(errno))
}

/// The error of a step between `start` and execve(2). `start` does not have the plan, but the only
/// steps there are startContainer hooks.
pub fn start_error(spec: &Spec, fault: &[u8]) -> Error {
    let StartFault {
        steps,
        errno,
        detail,
    } = StartFault::from_bytes(fault);
    let index = steps.saturating_sub(1) as usize;
    let hook = spec
        .config()
        .hooks
        .as_ref()
        .and_then(|hooks| hooks.start_container.get(index));
    let why = cause(errno, detail);
    Error::new(match hook {
        Some(hook) => format!(
            "unable to start container process: {}{}",
            hook_sentence("startContainer", index, &hook.path, &why),
            quoted(fault.get(FAULT_SIZE..).unwrap_or_default())
        ),
        None => format!("unable to start container process: {why}"),
    })
}

/// The message of a failed hook, with the list and the index in it, as runc has them.
fn hook_sentence(list: &str, index: usize, path: &str, why: &str) -> String {
    format!("error running hook #{index}: error running {list} hook #{index}: {path}: {why}")
}

/// What a failed hook said, for its error.
fn quoted(text: &[u8]) -> String {
    match String::from_utf8_lossy(text).trim() {
        "" => String::new(),
        text => format!(", output: {text}"),
    }
}

/// The message of one failed step. Engines match the messages of a missing program, a bad working
/// directory and a failed hook.
pub fn sentence(step: &Step, errno: i32, detail: u32, place: &str) -> String {
    let why = cause(errno, detail);
    match step {
        Step::Program { name, .. } => match Detail::from_code(detail) {
            Detail::Plain if name.contains('/') => format!("exec: \"{name}\": stat {name}: {why}"),
            _ => format!("exec: \"{name}\": {why}"),
        },
        Step::Exec { args, .. } => {
            let name = args.first().map(String::as_str).unwrap_or_default();
            if errno == Errno::ENOEXEC as i32 {
                format!("exec {name}: exec format error")
            } else {
                format!("exec {name}: {why}")
            }
        }
        Step::WorkingDirectory { path, .. } if Detail::from_code(detail) == Detail::CwdOutside => {
            why.replace("{path}", path)
        }
        Step::WorkingDirectory { path, .. } => {
            format!("chdir to cwd (\"{path}\") set in config.json failed: {why}")
        }
        Step::Hook { path, .. } => format!("error running hook {path}: {why} {place}"),
        other => format!("{}: {why} {place}", operation(other)),
    }
}

/// What a step does, and to which object.
fn operation(step: &Step) -> String {
    match step {
        Step::Barrier { kind } => format!("wait for hull at the barrier {kind:?}"),
        Step::Set {
            what: Attribute::Rlimit,
            number,
            ..
        } => {
            let limit = u32::try_from(*number).ok().and_then(rlimits::name);
            format!("error setting rlimits: {}", limit.unwrap_or("unknown"))
        }
        Step::Set { what, .. } => attribute(*what).to_owned(),
        Step::Join { kind, .. } => format!(
            "join the {} namespace",
            crate::spec::names::kind_name(*kind)
        ),
        Step::Unshare { flags } => {
            format!("make a {} namespace", crate::spec::names::kind_name(*flags))
        }
        Step::Ids { uid, gid, .. } => format!("become user {uid} and group {gid}"),
        Step::Keyring { name } => format!("join session keyring {name}"),
        Step::Propagation { .. } => "set the propagation of /".to_owned(),
        Step::Root { .. } => "attach the root file system".to_owned(),
        Step::Scratch {} => "make the scratch file system".to_owned(),
        Step::Gather {} => "attach the layered root file system".to_owned(),
        Step::Layer { source, upper, .. } => {
            format!("put an overlay on {source}, with its changes in {upper}")
        }
        Step::Mount {
            target,
            fstype,
            source,
            ..
        } => format!(
            "error mounting \"{source}\" to rootfs at \"{target}\": mount {fstype} on {target}"
        ),
        Step::Bind { target, source, .. } => {
            format!("error mounting \"{source}\" to rootfs at \"{target}\": bind on {target}")
        }
        Step::Copy { source, .. } => format!("copy the mounts of {source}"),
        Step::Uncover { path } => format!("unmount the host's {path}"),
        Step::Attributes { target, .. } => format!("change the mount at {target}"),
        Step::Protect {
            target,
            how: Protection::Mask,
        } => format!("can't mask path \"{target}\""),
        Step::Protect { target, .. } => format!("can't make \"{target}\" read-only"),
        Step::Node { path, .. } => format!("error creating device nodes: make {path}"),
        Step::Symlink { path, target } => format!("link {path} to {target}"),
        Step::Console { .. } => "set up the console".to_owned(),
        Step::Leave { .. } => "pivot_root: leave the old root".to_owned(),
        Step::Sysctl { path, value } => format!(
            "write sysctl {} = {value:?}",
            path.trim_start_matches("sys/").replace('/', ".")
        ),
        Step::Label { file, value } => format!("unable to apply label {value:?} to {file}"),
        Step::Register { target, .. } => format!("register an interpreter with {target}"),
        Step::Bounding { .. } => "drop capabilities from the bounding set".to_owned(),
        Step::Capabilities { .. } => "unable to apply caps".to_owned(),
        Step::Filter { .. } => "error loading seccomp filter".to_owned(),
        Step::WaitStart {} => "wait for start".to_owned(),
        Step::Enroll { .. } => "join the cgroup".to_owned(),
        Step::Hook { path, .. } => format!("run hook {path}"),
        Step::WorkingDirectory { path, .. } => format!("enter {path}"),
        Step::Program { name, .. } => format!("find {name}"),
        Step::Exec { .. } => "exec".to_owned(),
    }
}

fn attribute(what: Attribute) -> &'static str {
    match what {
        Attribute::Hostname => "sethostname",
        Attribute::Domainname => "setdomainname",
        Attribute::Dumpable => "become undumpable",
        Attribute::Personality => "set the personality",
        Attribute::Scheduler => "error setting scheduler",
        Attribute::IoPriority => "error setting io priority",
        Attribute::MemoryPolicy => "error setting memory policy",
        Attribute::Affinity => "set the CPU affinity",
        Attribute::Umask => "set the umask",
        Attribute::NoNewPrivileges => "set no_new_privs",
        Attribute::Signals => "reset signals",
        Attribute::Session => "make a session",
        Attribute::Loopback => "bring loopback up",
        Attribute::Descriptors => "mark descriptors close-on-exec",
        Attribute::Rlimit => "error setting rlimits",
        Attribute::Stdio => "change the owner of stdio",
        Attribute::NullDevice => "replace the host's null device by the container's",
        Attribute::ParentDeath => "set the parent death signal",
    }
}

/// The outcomes of steps with a policy, from the child's report page.
pub fn decided(plan: &Plan, child: &Child) -> Vec<PolicyOutcome> {
    let report = child.page.report();
    let count = report.outcomes.load(Ordering::Acquire) as usize;
    let codes = report.outcome.iter().take(count);
    let codes: Vec<u32> = codes.map(|code| code.load(Ordering::Relaxed)).collect();
    outcomes(plan, &codes)
}

/// The same from the codes in the page: each has the outcome in the lowest byte, and the index of
/// the step in the upper 24 bits.
pub fn outcomes(plan: &Plan, codes: &[u32]) -> Vec<PolicyOutcome> {
    let decided = |code: &u32| {
        let step = code >> 8;
        let placed = plan.container.get(step as usize);
        PolicyOutcome {
            step,
            from: placed
                .map(|placed| placed.from.to_string())
                .unwrap_or_default(),
            outcome: Outcome::name(*code).to_owned(),
        }
    };
    codes.iter().map(decided).collect()
}
