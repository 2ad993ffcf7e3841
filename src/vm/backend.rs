//! the VM backend's `outside`: the host's part of a container that lives in a machine of its own.
//! The guest executes the rest.

use crate::backend::Made;
use crate::backend::undo::Unfinished;
use crate::binfmt;
use crate::cgroups;
use crate::cgroups::group::Group;
use crate::cgroups::plan::Driver;
use crate::compile::Options;
use crate::facts::Facts;
use crate::hooks::host;
use crate::namespaces::spawn::Child;
use crate::settings::vm::Engine;
use crate::settings::vm::RootFrom;
use crate::spec::Spec;
use crate::spec::config::Hook;
use crate::spec::state::state_document;
use crate::state::Decided;
use crate::state::VmRecord;
use crate::state::network_namespace;
use crate::step::draft::Plan;
use crate::store::START_FIFO;
use crate::store::Store;
use crate::sys::fd::Fd;
use crate::sys::page::Page;
use crate::sys::process::{self, Cloned};
use crate::sys::{file, socket};
use crate::vm;
use crate::vm::boot::{initramfs, kernel};
use crate::vm::channel::client;
use crate::vm::channel::client::News;
use crate::vm::engine::Accelerator;
use crate::vm::monitor::boot::Job as Monitor;
use crate::vm::rootless;
use crate::vm::rootless::Own;
use crate::vm::translate;
use crate::vm::translate::{Share, Translated};
use crate::{Context, Error, Result};
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::time::Duration;

/// How long a guest may take to stand before its program, in seconds: emulation on a busy machine
/// is slow.
const BOOT: u64 = 120;

/// What is to be made.
pub struct Job<'a> {
    /// The containers' store.
    pub store: &'a Store,
    /// The container's id.
    pub id: &'a str,
    /// The container's directory.
    pub directory: &'a Path,
    /// The bundle's config.
    pub spec: &'a Spec,
    /// What create was asked.
    pub options: &'a Options,
    /// The networks of hull's that it is put on.
    pub network: Option<&'a crate::net::setup::Setup>,
    /// What was asked of the machine.
    pub machine: crate::settings::vm::Options,
    /// The socket that takes the terminal.
    pub console: Option<Fd>,
    /// Writes the record: (pid, cgroup, outcomes, machine).
    pub record: &'a mut dyn FnMut(
        i32,
        Option<cgroups::group::Record>,
        Vec<Decided>,
        Option<VmRecord>,
    ) -> Result<()>,
}

/// Makes a container in VM mode; it waits for start.
///
/// # Errors
/// What cannot cross; the machine's; those of `inside`, in the namespace backend's words. Everything made
/// is undone.
pub fn execute(job: &mut Job) -> Result<Made> {
    let host = Facts::probe(job.spec)?;
    let (monitor, start, inside) = prepare(job)?;
    let (accelerator, memory, memory_max, cpus) = (
        monitor.accelerator,
        monitor.memory,
        monitor.memory_max,
        monitor.cpus,
    );
    let release = monitor.kernel.release.clone();
    let mut made = Unfinished::new(job.directory.to_owned());
    let by_systemd = job.options.systemd_cgroup;
    let plan = host_cgroup(job, &host, memory + monitor.plugged)?;
    (job.record)(0, Some(plan.record()), Vec::new(), None)?;
    let mut monitor = monitor;
    if !by_systemd {
        let mut group = Group::create(&plan)?;
        group.apply(&plan)?;
        monitor.tasks = group
            .join_fds()?
            .into_iter()
            .map(|fd| Fd(fd.into_raw_fd()))
            .collect();
        made.group = Some(group);
    }
    let child = start_monitor(&made, monitor)?;
    let pid = child.pid;
    made.child = Some(child);
    if by_systemd {
        let mut group = Group::start(&plan, nix::unistd::Pid::from_raw(pid))?;
        group.apply(&plan)?;
        made.group = Some(group);
    }
    let (outcomes, facts) = attend(job, &made)?;
    let record = VmRecord {
        facts,
        kernel: release,
        accelerator: accelerator.name().to_owned(),
        memory,
        memory_max,
        cpus,
    };
    (job.record)(
        pid,
        made.group.as_ref().map(Group::record),
        outcomes,
        Some(record),
    )?;
    let gone = || Error::new("the container's monitor is gone");
    socket::send(monitor_of(&made)?.sync.0, b"r").map_err(|_| gone())?;
    let child = made.done().ok_or_else(gone)?;
    Ok(Made {
        child,
        start,
        plan: inside,
    })
}

/// The guest's config, and what it will execute, by what every kernel of these years can. An
/// image of the root is made only if it is to be.
fn compile(
    store: &Store,
    spec: &Spec,
    id: &str,
    options: &Options,
    (root, make): (&RootFrom, bool),
) -> Result<(Translated, Options, Plan)> {
    let mut translated = translate::translate(spec, options.layers.as_ref())?;
    vm::boot::disk::root_from_image(&mut translated, root, spec, make.then_some(store))?;
    translated.add_interpreter(binfmt::of_bundle(spec)?);
    let facts = translate::facts(&translated.spec, None);
    let create = Options {
        systemd_cgroup: false,
        layers: translated.layers.take(),
        ..options.for_guest()
    };
    let request = crate::compile::request(store, &translated.spec, &facts, id, &create)?;
    let mut plan = crate::plan::plan(&translated.spec, &facts, &request)?;
    let resources = spec
        .config()
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref());
    plan.warnings
        .extend(resources.map(translate::without_effect).unwrap_or_default());
    vm::task::create(&plan, &[])?;
    Ok((translated, create, plan))
}

/// What a machine would be made of, for `hull plan`.
pub struct Preview {
    /// The kernel that it would boot.
    pub kernel: kernel::Kernel,
    /// How.
    pub accelerator: Accelerator,
    /// Its memory, in bytes.
    pub memory: u64,
    /// What that may grow to, where it is more.
    pub memory_max: Option<u64>,
    /// Its processors.
    pub cpus: u32,
    /// What the guest would see of the host.
    pub shares: Vec<Share>,
    /// What it would execute.
    pub plan: Plan,
}

/// Looks, and makes nothing.
///
/// # Errors
/// As [`execute`], as far as they are known without a machine.
pub fn preview(
    store: &Store,
    spec: &Spec,
    id: &str,
    options: &Options,
    machine: &crate::settings::vm::Options,
) -> Result<Preview> {
    let (spec, _) = options
        .network
        .apply(store, id, spec, &|other| network_namespace(store, other))?;
    let spec = if options.notify {
        crate::stdio::notify::add_to_guest(&spec)
    } else {
        spec
    };
    let spec = Own::of(&spec)?.map_or(spec, |(_, guests)| guests);
    let (translated, _, plan) = compile(store, &spec, id, options, (&machine.root(), false))?;
    let kernel = kernel::find(machine.kernel.as_deref())?;
    let accelerator = accelerator(store, machine.engine.unwrap_or_default())?;
    let (memory, memory_max, cpus) = (
        machine.memory(&spec),
        machine.memory_max(&spec),
        machine.cpus(&spec),
    );
    Ok(Preview {
        kernel,
        accelerator,
        memory,
        memory_max,
        cpus,
        shares: translated.shares,
        plan,
    })
}

/// All that can fail without a machine, before there is one.
fn prepare(job: &mut Job) -> Result<(Monitor, Fd, Plan)> {
    let machine = job.machine.clone();
    let (own, spec) = Own::of(job.spec)?.unzip();
    let (translated, create, plan) = compile(
        job.store,
        spec.as_ref().unwrap_or(job.spec),
        job.id,
        job.options,
        (&machine.root(), true),
    )?;
    plan.warnings
        .iter()
        .for_each(|warning| crate::log::warn(warning));
    plan.remarks
        .iter()
        .for_each(|remark| crate::log::remark(remark));
    let kernel = kernel::find(machine.kernel.as_deref())?;
    let initramfs = initramfs::find_or_make(job.store, &kernel)?;
    let kernel = vm::boot::vmlinux::find_or_make(job.store, kernel)?;
    let path = job.directory.join(START_FIFO);
    let name = crate::sys::fd::c_path(&path)?;
    file::mknodat(libc::AT_FDCWD, &name, libc::S_IFIFO | 0o600, 0).on("make", path.display())?;
    let open = || {
        file::openat(libc::AT_FDCWD, &name, libc::O_RDWR, 0)
            .map(Fd)
            .on("open", path.display())
    };
    let start = open()?;
    let monitor = Monitor {
        id: job.id.to_owned(),
        directory: job.directory.to_owned(),
        store: job.store.clone(),
        accelerator: accelerator(job.store, machine.engine.unwrap_or_default())?,
        memory: machine.memory(job.spec),
        memory_max: machine.memory_max(job.spec),
        plugged: machine.plugged(job.spec),
        cpus: machine.cpus(job.spec),
        timeout: Duration::from_secs(machine.boot_timeout.unwrap_or(BOOT)),
        spec: translated.spec,
        create,
        options: machine,
        kernel,
        initramfs,
        shares: translated.shares,
        opened: translated
            .disks
            .iter()
            .map(vm::boot::disk::Disk::open)
            .collect::<Result<_>>()?,
        disks: translated.disks,
        nodes: translated.nodes,
        interpreter: translated.interpreter,
        network: translated.network,
        start: open()?,
        own,
        tasks: Vec::new(),
        console: job.console.take(),
        facts: None,
        interfaces: Vec::new(),
        sessions: 0,
    };
    Ok((monitor, start, plan))
}

/// KVM where it is asked for and can run a kernel, and where nothing is asked. Emulation for that
/// reason is said once a boot to a person, and to every log.
fn accelerator(store: &Store, engine: Engine) -> Result<Accelerator> {
    if engine == Engine::Qemu {
        return Ok(Accelerator::Tcg);
    }
    match (vm::engine::probe::probe(), engine) {
        (Ok(()), _) => Ok(Accelerator::Kvm),
        (Err(error), Engine::Kvm) => Err(error),
        (Err(error), _) => {
            let said = format!("the machine is emulated, which is slow: {error}");
            let mark = store.cache("vm")?.join("emulated");
            let boot = crate::sys::procfs::boot_id();
            if std::fs::read_to_string(&mark).is_ok_and(|text| text == boot)
                || !std::io::IsTerminal::is_terminal(&std::io::stderr())
            {
                crate::log::remark(&said);
            } else {
                crate::log::warn(&said);
                std::fs::write(&mark, boot).on("write", mark.display())?;
            }
            Ok(Accelerator::Tcg)
        }
    }
}

fn host_cgroup(job: &Job, host: &Facts, memory: u64) -> Result<cgroups::plan::Plan> {
    let config = job.spec.config();
    let linux = config.linux.as_ref();
    let resources =
        translate::host_limits(linux.and_then(|linux| linux.resources.as_ref()), memory);
    let driver = if job.options.systemd_cgroup {
        Driver::Systemd {
            user: host.euid != 0,
        }
    } else {
        Driver::Cgroupfs
    };
    let request = cgroups::plan::Request {
        id: job.id,
        path: linux.and_then(|linux| linux.cgroups_path.as_deref()),
        driver,
        resources: Some(&resources),
        device_rules: false,
        annotations: &config.annotations,
        rootless: !host.privileged || host.in_user_namespace,
    };
    cgroups::plan::plan(&request, &host.cgroups)
}

fn monitor_of(made: &Unfinished) -> Result<&Child> {
    made.child
        .as_ref()
        .ok_or_else(|| Error::new("there is no monitor"))
}

/// The monitor: born in the container's cgroup, hull's own child, as a container's first process
/// is.
fn start_monitor(made: &Unfinished, monitor: Monitor) -> Result<Child> {
    let (sync, theirs) = crate::sys::fd::socket_pair()?;
    let page = Page::new().on("make", "the report page")?;
    let cgroup = made
        .group
        .as_ref()
        .and_then(Group::clone_fd)
        .map(|fd| std::os::fd::AsRawFd::as_raw_fd(&fd));
    let own = monitor.own.clone();
    let kinds = if own.is_some() { rootless::KINDS } else { 0 };
    match process::clone(kinds, cgroup).on("clone", "the container's monitor")? {
        Cloned::Child => {
            // The maker's are not the monitor's: whoever waits for the start, or for the lock,
            // waits for the last of them to close.
            file::close_all_but(3, &mut monitor.descriptors(theirs.0));
            vm::monitor::run(monitor, theirs, page)
        }
        Cloned::Parent { pid, pidfd } => {
            drop((theirs, monitor));
            own.map_or(Ok(()), |own| own.grant(pid, sync.0))?;
            Ok(Child {
                pid,
                pidfd: Fd(pidfd),
                sync,
                page,
            })
        }
    }
}

/// Hears the monitor until the container is made. Its hooks of the host run when its namespaces
/// there are, and before the machine: a hook may be what brings the network (Docker's is), which
/// the machine then finds.
fn attend(job: &Job, made: &Unfinished) -> Result<(Vec<Decided>, Facts)> {
    let child = monitor_of(made)?;
    loop {
        match client::receive::<News>(&child.sync)? {
            Some((News::Placed, _)) => {
                if let Some(setup) = job.network {
                    crate::net::attach::attach(
                        setup,
                        job.id,
                        &crate::net::netlink::Namespace::of_process(child.pid)?,
                        child.pid,
                        job.directory,
                    )?;
                }
                run_hooks(job, child.pid)?;
                socket::send(child.sync.0, b"p").on("speak to", "the container's monitor")?;
            }
            Some((News::Ready(outcomes, facts), _)) => {
                let facts = facts.ok_or_else(|| Error::new("the monitor names no facts"))?;
                return Ok((outcomes, *facts));
            }
            Some((News::Failed(text, status), _)) => {
                let error = Error::new(text);
                return Err(status.map_or(error.clone(), |status| error.with_status(status)));
            }
            None => {
                return Err(Error::new(
                    "the container's monitor ended before the container was made: its memory \
                        limit may be too low",
                ));
            }
        }
    }
}

fn run_hooks(job: &Job, pid: i32) -> Result<()> {
    let Some(all) = &job.spec.config().hooks else {
        return Ok(());
    };
    let lists: [(&str, &Vec<Hook>, &str); 2] = [
        ("prestart", &all.prestart, "created"),
        ("createRuntime", &all.create_runtime, "creating"),
    ];
    for (list, members, status) in lists {
        for (index, hook) in members.iter().enumerate() {
            let state = state_document(job.spec, job.id, status, Some(pid));
            host::run(list, index, hook, &state, job.spec.bundle())?;
        }
    }
    Ok(())
}
