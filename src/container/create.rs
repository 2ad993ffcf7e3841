//! `create`: Spec and Facts to plan, the plan to the wall, the record to disk.

use super::{Container, notify};
use crate::cgroups::{self, Driver};
use crate::facts::Facts;
use crate::init::Held;
use crate::namespaces::own_ids::Maps;
use crate::plan::{self, Layers, Plan, Request};
use crate::security::seccomp::{self, Filter};
use crate::spec::Spec;
use crate::state::{self, Phase, Record, Store, VERSION};
use crate::wall::{self, Job, Made};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::path::{Path, PathBuf};

/// What `create` and `run` were asked besides the bundle.
#[derive(Clone, Default)]
pub struct Options {
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--preserve-fds`.
    pub preserve_fds: u32,
    /// `--pid-file`.
    pub pid_file: Option<PathBuf>,
    /// `--pidfd-socket`: takes a descriptor of init.
    pub pidfd_socket: Option<PathBuf>,
    /// What the root file system is put together of, where it is not the config's root alone.
    pub layers: Option<Layers>,
    /// A fresh process carries out `inside`.
    pub fresh_init: bool,
    /// The caller has a notification socket, and the container gets one too.
    pub notify: bool,
    /// Networks of hull's, and the namespace.
    pub network: crate::net::Asked,
    /// The second wall.
    pub vm: crate::vm::Options,
}

impl Options {
    /// What of these the guest's side carries out.
    pub fn for_guest(&self) -> Self {
        Self {
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            notify: self.notify,
            ..Self::default()
        }
    }
}

/// A compiled bundle.
pub struct Compiled {
    /// The config, as the command's options changed it.
    pub spec: Spec,
    /// What the host can do.
    pub facts: Facts,
    /// The steps.
    pub plan: Plan,
    /// The networks it is put on.
    pub network: Option<crate::net::Setup>,
    /// What stdin, stdout and stderr are ([`stdio`]).
    pub stdio: Vec<String>,
}

/// Compiles the plan of a bundle, and shows nothing to the host but questions.
///
/// # Errors
/// Of the config, the host, or both together.
pub fn compile(store: &Store, spec: &Spec, id: &str, options: &Options) -> Result<Compiled> {
    let (spec, network) = options.network.apply(store, id, spec)?;
    let spec = if options.notify {
        notify::add_to(&spec, &store.folder(id))?
    } else {
        spec
    };
    let (spec, facts) = with_own_ids(Facts::probe(&spec)?, spec)?;
    let stdio = stdio();
    let null_stdio = stdio
        .iter()
        .enumerate()
        .filter(|(_, name)| *name == "/dev/null")
        .map(|(number, _)| 1 << number)
        .sum();
    let request = Request {
        network: network.clone(),
        null_stdio,
        ..request(store, &spec, &facts, id, options)?
    };
    let plan = plan::plan(&spec, &facts, &request)?;
    Ok(Compiled {
        spec,
        facts,
        plan,
        network,
        stdio,
    })
}

/// Where an ordinary user's config is silent about ids (`crun spec --rootless` writes such ones),
/// they are the user's own.
fn with_own_ids(facts: Facts, spec: Spec) -> Result<(Spec, Facts)> {
    if facts.privileged || !spec.lacks_mappings() {
        return Ok((spec, facts));
    }
    let Maps { uid, gid } = Maps::of_user(facts.euid, facts.egid);
    let spec = spec.with_mappings(uid, gid);
    let facts = Facts::probe(&spec)?;
    Ok((spec, facts))
}

/// What the plan is made from besides Spec and Facts: the command's options, the cgroup's plan and
/// the compiled filter.
///
/// # Errors
/// A filter or limits that cannot be.
pub fn request(
    store: &Store,
    spec: &Spec,
    facts: &Facts,
    id: &str,
    options: &Options,
) -> Result<Request> {
    let config = spec.config();
    let linux = config.linux.as_ref();
    let rootless = !facts.privileged || facts.in_user_namespace;
    let driver = if options.systemd_cgroup {
        Driver::Systemd {
            user: facts.euid != 0,
        }
    } else {
        Driver::Cgroupfs
    };
    let asked = cgroups::Request {
        id,
        path: linux.and_then(|linux| linux.cgroups_path.as_deref()),
        driver,
        resources: linux.and_then(|linux| linux.resources.as_ref()),
        device_rules: !rootless,
        annotations: &config.annotations,
        rootless,
    };
    let filter = filter(store, spec)?;
    let (extra_env, listen_fds) = socket_activation();
    Ok(Request {
        id: id.to_owned(),
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        preserve_fds: options.preserve_fds + listen_fds,
        extra_env,
        cgroup: Some(cgroups::plan(&asked, &facts.cgroups)?),
        filter,
        layers: options.layers.clone(),
        network: None,
        null_stdio: 0,
        dies_with_parent: false,
    })
}

/// The filter of a config, compiled once for each content: that takes libseccomp longer than all
/// the rest takes hull.
///
/// # Errors
/// The profile cannot be carried out.
pub fn filter(store: &Store, spec: &Spec) -> Result<Option<Filter>> {
    let seccomp = spec
        .config()
        .linux
        .as_ref()
        .and_then(|linux| linux.seccomp.as_ref());
    let Some(seccomp) = seccomp.filter(|seccomp| seccomp::is_asked(seccomp)) else {
        return Ok(None);
    };
    let filter = match store.cache("seccomp") {
        Ok(folder) => seccomp::compile_cached(seccomp, &folder)?,
        Err(_) => seccomp::compile(seccomp)?,
    };
    for warning in &filter.warnings {
        crate::log::debug(|| warning);
    }
    Ok(Some(filter))
}

/// Sockets that systemd opened for hull are the container's (sd_listen_fds(3)); its first process
/// is 1 there, as runc has it.
fn socket_activation() -> (Vec<String>, u32) {
    let count = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|text| text.parse::<u32>().ok())
        .unwrap_or(0);
    if count == 0 {
        return (Vec::new(), 0);
    }
    let mut env = vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()];
    if let Ok(names) = std::env::var("LISTEN_FDNAMES") {
        env.push(format!("LISTEN_FDNAMES={names}"));
    }
    (env, count)
}

/// Makes a container that waits for `start`. On an error nothing of it is left.
///
/// # Errors
/// Of whatever step failed.
pub fn create(
    store: &Store,
    id: &str,
    spec: &Spec,
    options: &Options,
    console: Option<Held>,
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
    crate::state::check_id(id)?;
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
        Some(setup) => crate::net::names::prepare(&store.folder(id), setup),
        None => Ok(()),
    };
    let result = result.and_then(|()| {
        if options.notify {
            notify::make_folder(&store.folder(id))
        } else {
            Ok(())
        }
    });
    let result = result.and_then(|()| make(store, id, compiled, options, console));
    if result.is_err() {
        if spec.namespace(LinuxNamespaceType::Mount).is_none() {
            let _ = crate::rootfs::unmount_below(&spec.rootfs());
        }
        let _ = store.remove(id);
    }
    drop(lock);
    result
}

/// The same behind the second wall.
fn create_machine(
    store: &Store,
    id: &str,
    spec: &Spec,
    (options, machine): (&Options, crate::vm::Options),
    console: Option<Held>,
) -> Result<(Container, Made)> {
    if options.preserve_fds > 0 || socket_activation().1 > 0 {
        return Err(Error::new(
            "descriptors of the host (--preserve-fds, LISTEN_FDS) cannot cross into a virtual \
                machine",
        ));
    }
    let (spec, network) = options.network.apply(store, id, spec)?;
    let spec = if options.notify {
        notify::add_to_guest(&spec)
    } else {
        spec
    };
    keep_from_hooks(0);
    let facts = Facts::probe(&spec)?;
    let lock = store.make(id)?;
    let folder = store.folder(id);
    let mut record = blank_record(id, &spec, facts, (options, stdio()));
    let mut write = |pid: i32, cgroup, outcomes, machine| {
        record.vm = machine;
        fill_record(&mut record, pid, cgroup, outcomes)?;
        store.write(&record)
    };
    let prepared = network
        .as_ref()
        .map_or(Ok(()), |setup| crate::net::names::prepare(&folder, setup));
    let mut job = wall::vm::Job {
        store,
        id,
        folder: &folder,
        spec: &spec,
        options,
        network: network.as_ref(),
        machine,
        console,
        record: &mut write,
    };
    let prepared = prepared.and_then(|()| {
        if options.notify {
            notify::make_folder(&folder)
        } else {
            Ok(())
        }
    });
    let result = prepared
        .and_then(|()| wall::vm::carry_out(&mut job))
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
    console: Option<Held>,
) -> Result<(Container, Made)> {
    let Compiled {
        spec,
        facts,
        plan,
        network: _,
        stdio,
    } = compiled;
    let folder = store.folder(id);
    let mut record = blank_record(id, &spec, facts, (options, stdio));
    let mut write = |pid: i32, cgroup, outcomes| {
        fill_record(&mut record, pid, cgroup, outcomes)?;
        store.write(&record)
    };
    let mut job = Job {
        spec: &spec,
        id,
        folder: &folder,
        console,
        fresh_init: options.fresh_init,
        record: &mut write,
    };
    let made = wall::carry_out(plan, &mut job)?;
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
        boot_id: state::boot_id(),
        id: id.to_owned(),
        phase: Phase::Creating,
        pid: 0,
        start_time: 0,
        created: state::now(),
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
    cgroup: Option<cgroups::Record>,
    outcomes: Vec<state::Decided>,
) -> Result<()> {
    record.cgroup = cgroup;
    record.outcomes = outcomes;
    if pid > 0 {
        record.pid = pid;
        record.phase = Phase::Made;
        record.start_time = state::process_stat(pid)
            .map(|(_, started)| started)
            .ok_or_else(|| Error::new("the container's process is gone"))?;
    }
    Ok(())
}

/// Tells the caller who init is: by pid file and by pidfd.
///
/// # Errors
/// The file cannot be written, or the socket's owner is gone.
pub fn announce(container: &Container, pidfd: &Held, options: &Options) -> Result<()> {
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

/// What stdin, stdout and stderr are, which a checkpoint must know.
pub fn stdio() -> Vec<String> {
    (0..3)
        .map(|n| {
            std::fs::read_link(format!("/proc/self/fd/{n}"))
                .map(|p| p.to_string_lossy().into_owned())
                .unwrap_or_default()
        })
        .collect()
}

/// Whether a container's processes die with its init: it has a process namespace of its own.
pub fn has_pid_namespace(spec: &Spec) -> bool {
    spec.namespace(LinuxNamespaceType::Pid)
        .is_some_and(|n| n.path.as_deref().unwrap_or_default().is_empty())
}
