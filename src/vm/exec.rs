//! `exec` in a VM: the plan is made on the host, the guest executes it, and a process of hull's on the
//! host stands for the program.

use crate::namespaces::spawn::Child;
use crate::process::exec::ExecRequest;
use crate::security::rlimits;
use crate::spec::config::Process;
use crate::state::{Record, VmRecord};
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::sys::file;
use crate::sys::page::Page;
use crate::sys::process::{self, Cloned};
use crate::vm::channel::client;
use crate::vm::channel::client::News;
use crate::vm::{proxy, task};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType as Kind;

/// Where the exec happens.
pub struct Target<'a> {
    /// The containers' store.
    pub store: &'a Store,
    /// The container's record.
    pub record: &'a Record,
    /// What the record has of its VM.
    pub vm: &'a VmRecord,
}

/// Another program in the guest. The process that is answered stands for it.
///
/// # Errors
/// The VM does not answer; the program is missing; the guest's kernel refuses a step.
pub fn exec(target: &Target, process: &Process, console: Option<Fd>) -> Result<Child> {
    let Target { store, record, vm } = target;
    // Only a container with a user namespace has a network namespace in the guest.
    let user = record.spec.namespace(Kind::User).is_some();
    let guest_kinds = |kind: Kind| {
        kind == Kind::Uts
            || (kind != Kind::Network || user) && record.spec.namespace(kind).is_some()
    };
    let spec = &record.spec;
    let request = ExecRequest {
        user_namespace: user,
        may_set_groups: true,
        keep_groups: spec
            .config()
            .annotations
            .get("run.oci.keep_original_groups")
            .is_some_and(|value| value == "1"),
        filter: crate::compile::filter(store, spec)?,
        preserve_fds: 0,
        cgroups: 0,
        personality: spec
            .config()
            .linux
            .as_ref()
            .and_then(|linux| linux.personality.clone()),
        keyring: (!record.no_new_keyring).then(|| format!("_ses.{}", record.id)),
    };
    let mut process = process.clone();
    // Labels of the host's security modules mean nothing to the guest's kernel.
    (process.apparmor_profile, process.selinux_label) = (None, None);
    let mut facts = vm.facts.clone();
    let limits = rlimits::parse(&process.rlimits)?;
    facts.hard_limits = limits.iter().map(|limit| (limit.resource, 0)).collect();
    let plan = crate::process::exec::exec(&process, &facts, &request)?;
    for warning in &plan.warnings {
        crate::log::warn(warning);
    }
    let kinds = [
        Kind::Cgroup,
        Kind::Ipc,
        Kind::Mount,
        Kind::Network,
        Kind::Pid,
        Kind::Time,
        Kind::Uts,
    ];
    let mask = kinds
        .into_iter()
        .filter(|kind| guest_kinds(*kind))
        .fold(0, |mask, kind| mask | kind as u32);
    let outside = limits
        .into_iter()
        .filter(|limit| !crate::process::plan::sets_itself(limit, &facts, user))
        .collect();
    let task = task::exec(
        &plan,
        mask,
        user,
        process.oom_score_adj,
        outside,
        process.terminal,
    );
    let size = process.console_size.clone().unwrap_or_default();
    let clamp = |value: u64| value.min(u64::from(u16::MAX)) as u16;
    let job = proxy::Job {
        directory: &store.directory(&record.id),
        task,
        plan: &plan,
        console,
        patience: client::patience()?,
        size: (clamp(size.height), clamp(size.width)),
    };
    start(job)
}

/// The exec's process, and its first word.
fn start(job: proxy::Job) -> Result<Child> {
    let (sync, theirs) = crate::sys::fd::socket_pair()?;
    let page = Page::new().on("make", "the report page")?;
    let child = match process::clone(0, None).on("clone", "the exec's process")? {
        Cloned::Child => {
            let console = job.console.as_ref().map_or(-1, |console| console.0);
            file::close_all_but(3, &mut [theirs.0, console]);
            proxy::run(job, &theirs)
        }
        Cloned::Parent { pid, pidfd } => Child {
            pid,
            pidfd: Fd(pidfd),
            sync,
            page,
        },
    };
    drop(theirs);
    let error = match client::receive::<News>(&child.sync)? {
        Some((News::Ready(..), _)) => return Ok(child),
        Some((News::Failed(text, status), _)) => status
            .map_or(Error::new(text.clone()), |status| {
                Error::new(text).with_status(status)
            }),
        _ => Error::new("the exec's process ended before its program ran"),
    };
    let _ = process::wait(child.pidfd.0, false);
    Err(error)
}
