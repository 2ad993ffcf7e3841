//! `create`: Spec and Facts to plan, the plan to the backend, the record to disk.

use crate::backend::Created;
use crate::backend::namespaces::{Namespaces, Role, Target};
use crate::backend::{self, run};
use crate::compile::{self, Compiled, CreateOptions};
use crate::container::Container;
use crate::facts::Facts;
use crate::net::setup::Setup;
use crate::settings::vm;
use crate::spec::Spec;
use crate::state::{Made, Phase, Record, VERSION, network_namespace};
use crate::stdio::notify;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::sys::replace::{Lasting, replace};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::path::Path;

/// What is created, where, and for whom.
struct CreateRequest<'a> {
    store: &'a Store,
    id: &'a str,
    options: &'a CreateOptions,
    console: Option<Fd>,
}

/// Makes a container that waits for `start`. On an error nothing of it is left.
///
/// # Errors
/// Of whatever step failed.
pub fn create(
    store: &Store,
    id: &str,
    spec: &Spec,
    options: &CreateOptions,
    console: Option<Fd>,
) -> Result<(Container, Created)> {
    check_console(spec, console.as_ref())?;
    crate::store::check_id(id)?;
    let request = CreateRequest {
        store,
        id,
        options,
        console,
    };
    match options.vm.for_spec(spec)? {
        Some(vm) => {
            vm.warnings.iter().for_each(|text| crate::log::warn(text));
            request.create_vm(spec, vm)
        }
        None => request.create_namespaces(spec),
    }
}

/// A terminal needs somebody who takes it, and a taker a terminal (runc's words).
fn check_console(spec: &Spec, console: Option<&Fd>) -> Result<()> {
    let process = spec.config().process.as_ref();
    match (process.is_some_and(|process| process.terminal), console) {
        (true, None) => Err(Error::new(
            "cannot allocate tty if hull will detach without setting console socket",
        )),
        (false, Some(_)) => Err(Error::new(
            "cannot use console socket if hull will not detach or allocate tty",
        )),
        _ => Ok(()),
    }
}

impl CreateRequest<'_> {
    /// With the namespace backend.
    fn create_namespaces(self, spec: &Spec) -> Result<(Container, Created)> {
        let Self {
            store, id, options, ..
        } = self;
        let compiled = compile::compile(store, spec, id, options)?;
        compiled.plan.log_warnings();
        check_preserved(options.preserve_fds)?;
        mark_close_on_exec(options.preserve_fds + compile::socket_activation().1);
        let lock = store.make(id)?;
        let prepared = self.prepare_directory(compiled.network.as_ref());
        let result = prepared.and_then(|()| self.make(compiled));
        if result.is_err() {
            if spec.namespace(LinuxNamespaceType::Mount).is_none() {
                let _ = crate::rootfs::teardown::unmount_below(&spec.rootfs());
            }
            let _ = store.remove(id);
        }
        drop(lock);
        result
    }

    /// With the VM backend.
    fn create_vm(self, spec: &Spec, vm: vm::VmOptions) -> Result<(Container, Created)> {
        let Self {
            store, id, options, ..
        } = self;
        if options.preserve_fds > 0 || compile::socket_activation().1 > 0 {
            return Err(Error::new(
                "descriptors of the host (--preserve-fds, LISTEN_FDS) cannot cross into a virtual \
                 machine",
            ));
        }
        let of_container = |other: &str| network_namespace(store, other);
        let (spec, network) = options.network.apply(store, id, spec, &of_container)?;
        let spec = if options.notify {
            notify::add_guest_mount(&spec)
        } else {
            spec
        };
        mark_close_on_exec(0);
        let facts = Facts::probe(&spec)?;
        let lock = store.make(id)?;
        let prepared = self.prepare_directory(network.as_ref());
        let result = prepared.and_then(|()| self.make_vm(&spec, &facts, vm, network.as_ref()));
        if result.is_err() {
            let _ = store.remove(id);
        }
        drop(lock);
        result
    }

    /// What the container's directory holds before anything is made: its hosts and resolv.conf, and
    /// the directory of its notification socket.
    fn prepare_directory(&self, network: Option<&Setup>) -> Result<()> {
        let directory = self.store.directory(self.id);
        if let Some(setup) = network {
            setup.prepare_files(&directory)?;
        }
        if self.options.notify {
            notify::make_directory(&directory)?;
        }
        Ok(())
    }

    fn make(self, compiled: Compiled) -> Result<(Container, Created)> {
        let Compiled {
            spec,
            facts,
            plan,
            network: _,
            stdio,
        } = compiled;
        let directory = self.store.directory(self.id);
        let mut record = blank_record(self.id, &spec, facts, self.options, stdio);
        let mut write = |made: Made| {
            record.fill(made)?;
            record.write(self.store)
        };
        let mut namespaces = Namespaces {
            target: Target {
                spec: &spec,
                id: self.id,
                directory: &directory,
            },
            plan: &plan,
            console: self.console,
            fresh_init: self.options.fresh_init,
            role: Role::Create(&mut write),
        };
        let done = run::run(&plan.host, plan.slots, &directory, &mut namespaces)?;
        backend::log_container_steps(&plan, &done.child);
        let created = Created::of(done, plan)?;
        let container = Container::made(record, self.store);
        let resources = spec
            .config()
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref());
        if let (Some(resources), Ok(Some(group))) = (resources, container.group()) {
            super::update::warn_of_kernel_memory(&group, resources);
        }
        announce_or_delete(container, created, self.options)
    }

    fn make_vm(
        self,
        spec: &Spec,
        facts: &Facts,
        vm: vm::VmOptions,
        network: Option<&Setup>,
    ) -> Result<(Container, Created)> {
        let directory = self.store.directory(self.id);
        let mut record = blank_record(self.id, spec, facts.clone(), self.options, compile::stdio());
        let mut write = |made: Made| {
            record.fill(made)?;
            record.write(self.store)
        };
        let created = crate::vm::backend::create(crate::vm::backend::Request {
            target: Target {
                spec,
                id: self.id,
                directory: &directory,
            },
            store: self.store,
            options: self.options,
            vm,
            facts,
            network,
            console: self.console,
            record: &mut write,
        })?;
        announce_or_delete(Container::made(record, self.store), created, self.options)
    }
}

/// A container that its caller cannot be told of is taken down.
fn announce_or_delete(
    container: Container,
    created: Created,
    options: &CreateOptions,
) -> Result<(Container, Created)> {
    match announce(&container, &created.child.pidfd, options) {
        Ok(()) => Ok((container, created)),
        Err(error) => {
            let _ = container.take_down();
            Err(error)
        }
    }
}

/// What hull's caller left open beyond what the program shall have reaches nobody: hooks would
/// inherit it. Before kernel 5.11 it is left to the child, which closes them by itself.
fn mark_close_on_exec(preserved: u32) {
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

/// The record of a container of which nothing is made yet.
pub fn blank_record(
    id: &str,
    spec: &Spec,
    facts: Facts,
    options: &CreateOptions,
    stdio: Vec<String>,
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

/// Tells the caller who init is: by pid file and by pidfd.
///
/// # Errors
/// The file cannot be written, or the socket's owner is gone.
pub fn announce(container: &Container, pidfd: &Fd, options: &CreateOptions) -> Result<()> {
    if let Some(path) = &options.pidfd_socket {
        let socket =
            crate::sys::socket::connect(path).on("connect to pidfd socket", path.display())?;
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
    let text = pid.to_string();
    replace(path, text.as_bytes(), 0o666, Lasting::Process)
        .map_err(|error| error.within("pid file"))
}

/// Whether a container's processes die with its init: it has a process namespace of its own.
pub fn has_pid_namespace(spec: &Spec) -> bool {
    spec.namespace(LinuxNamespaceType::Pid)
        .is_some_and(|n| n.path.as_deref().unwrap_or_default().is_empty())
}
