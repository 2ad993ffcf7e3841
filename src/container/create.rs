//! `create`: Spec and Facts to plan, the plan to the backend, the record to disk.

use crate::backend;
use crate::backend::{Job, Made};
use crate::cgroups;
use crate::compile::Compiled;
use crate::compile::Options;
use crate::compile::compile;
use crate::compile::socket_activation;
use crate::compile::stdio;
use crate::container::Container;
use crate::facts::Facts;
use crate::spec::Spec;
use crate::state;
use crate::state::network_namespace;
use crate::state::{Phase, Record, VERSION};
use crate::stdio::notify;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::path::Path;

/// Makes a container that waits for `start`. On an error nothing of it is left.
///
/// # Errors
/// Of whatever step failed.
pub fn create(
    store: &Store,
    id: &str,
    spec: &Spec,
    options: &Options,
    console: Option<Fd>,
) -> Result<(Container, Made)> {
    let terminal = spec
        .config()
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    match (terminal, &console) {
        (true, None) => {
            return Err(Error::new(
                "cannot allocate tty if hull will detach without setting console socket",
            ));
        }
        (false, Some(_)) => {
            return Err(Error::new(
                "cannot use console socket if hull will not detach or allocate tty",
            ));
        }
        _ => {}
    }
    crate::store::check_id(id)?;
    if let Some(machine) = options.vm.for_spec(spec)? {
        return create_machine(store, id, spec, (options, machine), console);
    }
    let compiled = compile(store, spec, id, options)?;
    for warning in &compiled.plan.warnings {
        crate::log::warn(warning);
    }
    compiled
        .plan
        .remarks
        .iter()
        .for_each(|remark| crate::log::remark(remark));
    check_preserved(options.preserve_fds)?;
    keep_from_hooks(options.preserve_fds + socket_activation().1);
    let lock = store.make(id)?;
    let result = match &compiled.network {
        Some(setup) => crate::net::names::prepare(&store.directory(id), setup),
        None => Ok(()),
    };
    let result = result.and_then(|()| {
        if options.notify {
            notify::make_directory(&store.directory(id))
        } else {
            Ok(())
        }
    });
    let result = result.and_then(|()| make(store, id, compiled, options, console));
    if result.is_err() {
        if spec.namespace(LinuxNamespaceType::Mount).is_none() {
            let _ = crate::rootfs::teardown::unmount_below(&spec.rootfs());
        }
        let _ = store.remove(id);
    }
    drop(lock);
    result
}

/// The same in VM mode.
fn create_machine(
    store: &Store,
    id: &str,
    spec: &Spec,
    (options, machine): (&Options, crate::settings::vm::Options),
    console: Option<Fd>,
) -> Result<(Container, Made)> {
    if options.preserve_fds > 0 || socket_activation().1 > 0 {
        return Err(Error::new(
            "descriptors of the host (--preserve-fds, LISTEN_FDS) cannot cross into a virtual \
                machine",
        ));
    }
    let (spec, network) = options
        .network
        .apply(store, id, spec, &|other| network_namespace(store, other))?;
    let spec = if options.notify {
        notify::add_to_guest(&spec)
    } else {
        spec
    };
    keep_from_hooks(0);
    let facts = Facts::probe(&spec)?;
    let lock = store.make(id)?;
    let directory = store.directory(id);
    let mut record = blank_record(id, &spec, facts, (options, stdio()));
    let mut write = |pid: i32, cgroup, outcomes, machine| {
        record.vm = machine;
        fill_record(&mut record, pid, cgroup, outcomes)?;
        record.write(store)
    };
    let prepared = network.as_ref().map_or(Ok(()), |setup| {
        crate::net::names::prepare(&directory, setup)
    });
    let mut job = crate::vm::backend::Job {
        store,
        id,
        directory: &directory,
        spec: &spec,
        options,
        network: network.as_ref(),
        machine,
        console,
        record: &mut write,
    };
    let prepared = prepared.and_then(|()| {
        if options.notify {
            notify::make_directory(&directory)
        } else {
            Ok(())
        }
    });
    let result = prepared
        .and_then(|()| crate::vm::backend::execute(&mut job))
        .and_then(|made| {
            let container = Container {
                record,
                store: store.clone(),
            };
            match announce(&container, &made.child.pidfd, options) {
                Ok(()) => Ok((container, made)),
                Err(error) => {
                    let _ = container.take_down();
                    Err(error)
                }
            }
        });
    if result.is_err() {
        let _ = store.remove(id);
    }
    drop(lock);
    result
}

/// What hull's caller left open beyond what the program shall have reaches nobody: hooks would
/// inherit it. Before kernel 5.11 it is left to the child, which closes them by itself.
fn keep_from_hooks(preserved: u32) {
    let _ = crate::sys::file::cloexec_from(3_i32.saturating_add_unsigned(preserved));
}

/// A descriptor that is not open cannot be preserved (runc's words).
fn check_preserved(count: u32) -> Result<()> {
    for descriptor in 3..3 + count {
        if !Path::new(&format!("/proc/self/fd/{descriptor}")).exists() {
            return Err(Error::new(format!(
                "unable to preserve fd {descriptor}: please check that file descriptor \
                    {descriptor} is open"
            )));
        }
    }
    Ok(())
}

fn make(
    store: &Store,
    id: &str,
    compiled: Compiled,
    options: &Options,
    console: Option<Fd>,
) -> Result<(Container, Made)> {
    let Compiled {
        spec,
        facts,
        plan,
        network: _,
        stdio,
    } = compiled;
    let directory = store.directory(id);
    let mut record = blank_record(id, &spec, facts, (options, stdio));
    let mut write = |pid: i32, cgroup, outcomes| {
        fill_record(&mut record, pid, cgroup, outcomes)?;
        record.write(store)
    };
    let mut job = Job {
        spec: &spec,
        id,
        directory: &directory,
        console,
        fresh_init: options.fresh_init,
        record: &mut write,
    };
    let made = backend::execute(plan, &mut job)?;
    let container = Container {
        record,
        store: store.clone(),
    };
    if let (Some(resources), Ok(Some(group))) = (
        spec.config()
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref()),
        container.group(),
    ) {
        super::update::warn_of_kernel_memory(&group, resources);
    }
    if let Err(error) = announce(&container, &made.child.pidfd, options) {
        let _ = container.take_down();
        return Err(error);
    }
    Ok((container, made))
}

/// The record of a container of which nothing is made yet.
pub fn blank_record(
    id: &str,
    spec: &Spec,
    facts: Facts,
    (options, stdio): (&Options, Vec<String>),
) -> Record {
    Record {
        version: VERSION,
        boot_id: crate::sys::procfs::boot_id(),
        id: id.to_owned(),
        phase: Phase::Creating,
        pid: 0,
        start_time: 0,
        created: crate::sys::clock::now(),
        owner: facts.euid,
        spec: spec.clone(),
        facts,
        cgroup: None,
        layers: options.layers.clone(),
        outcomes: Vec::new(),
        stdio,
        no_new_keyring: options.no_new_keyring,
        vm: None,
    }
}

/// What is known of it now; with a process id, that it is made.
fn fill_record(
    record: &mut Record,
    pid: i32,
    cgroup: Option<cgroups::group::Record>,
    outcomes: Vec<state::Decided>,
) -> Result<()> {
    record.cgroup = cgroup;
    record.outcomes = outcomes;
    if pid > 0 {
        record.pid = pid;
        record.phase = Phase::Made;
        record.start_time = crate::sys::procfs::process_stat(pid)
            .map(|(_, started)| started)
            .ok_or_else(|| Error::new("the container's process is gone"))?;
    }
    Ok(())
}

/// Tells the caller who init is: by pid file and by pidfd.
///
/// # Errors
/// The file cannot be written, or the socket's owner is gone.
pub fn announce(container: &Container, pidfd: &Fd, options: &Options) -> Result<()> {
    if let Some(path) = &options.pidfd_socket {
        let socket = std::os::unix::net::UnixStream::connect(path)
            .on("connect to pidfd socket", path.display())?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
        crate::sys::socket::send_fd(raw, b"pidfd", pidfd.0)
            .on("send the pidfd to", path.display())?;
    }
    match &options.pid_file {
        Some(path) => write_pid_file(path, container.record.pid),
        None => Ok(()),
    }
}

/// Writes a pid file whole: a reader sees all of it or nothing.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}"));
    std::fs::write(&temporary, pid.to_string()).on("write", temporary.display())?;
    std::fs::rename(&temporary, path).on("write pid file", path.display())
}

/// Whether a container's processes die with its init: it has a process namespace of its own.
pub fn has_pid_namespace(spec: &Spec) -> bool {
    spec.namespace(LinuxNamespaceType::Pid)
        .is_some_and(|n| n.path.as_deref().unwrap_or_default().is_empty())
}
