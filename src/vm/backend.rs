//! The VM backend: the host's half of a container that lives in a VM of its own. The guest executes
//! the rest of the host steps, and the container steps.

use crate::backend::Created;
use crate::backend::barrier::{BarrierError, BarrierResult};
use crate::backend::namespaces::{Recorder, Target, open_common};
use crate::backend::run::{self, Backend, CloneRequest, Network, Progress};
use crate::binfmt;
use crate::cgroups;
use crate::compile::CreateOptions;
use crate::facts::Facts;
use crate::namespaces::spawn::Child;
use crate::net::netlink::Namespace;
use crate::net::setup::Setup;
use crate::settings::values::{Engine, RootFrom};
use crate::spec::Spec;
use crate::spec::config::Hook;
use crate::state::{self, PolicyOutcome, VmRecord, network_namespace};
use crate::step::container::Barrier;
use crate::step::draft::{Placed, Plan};
use crate::step::host::{HookList, HostStep, Open};
use crate::store::Store;
use crate::sys::fd::{Fd, socket_pair};
use crate::sys::page::Page;
use crate::sys::process::{self, Cloned};
use crate::sys::{file, socket};
use crate::vm;
use crate::vm::boot::{initramfs, kernel};
use crate::vm::channel::client;
use crate::vm::channel::client::ToParent;
use crate::vm::monitor::config::MonitorConfig as Monitor;
use crate::vm::rootless::{self, IdMaps};
use crate::vm::translate;
use crate::vm::translate::{Share, Translated};
use crate::vm::vmm::Accelerator;
use crate::{Context, Error, Result};
use std::time::Duration;

/// How long a guest may take to come to the wait for start, in seconds: emulation on a busy host
/// is slow.
const BOOT: u64 = 120;

/// What a container in a VM is made of.
pub struct Request<'a> {
    /// Whose steps they are; the config is the bundle's.
    pub target: Target<'a>,
    /// The containers' store.
    pub store: &'a Store,
    /// What create was asked.
    pub options: &'a CreateOptions,
    /// What was asked of the VM.
    pub vm: crate::settings::vm::VmOptions,
    /// What the host can do.
    pub facts: &'a Facts,
    /// The networks of hull's that it is put on.
    pub network: Option<&'a Setup>,
    /// The socket that takes the terminal.
    pub console: Option<Fd>,
    /// Writes the record.
    pub record: &'a mut Recorder<'a>,
}

/// Makes a container in a VM; it waits for start.
///
/// # Errors
/// What is not applicable in VM mode; the VM does not boot; a container step of the guest's failed.
/// Everything made is undone.
pub fn create(request: Request) -> Result<Created> {
    let Prepared {
        monitor,
        plan,
        steps,
        slots,
    } = prepare(&request)?;
    let directory = request.target.directory;
    let release = monitor.kernel.release.clone();
    let mut backend = VmBackend {
        target: request.target,
        console: request.console,
        vm: VmRecord {
            // Known when the guest has booted.
            facts: request.facts.clone(),
            kernel: release,
            accelerator: monitor.accelerator.name().to_owned(),
            memory: monitor.memory,
            memory_max: monitor.memory_max,
            cpus: monitor.cpus,
        },
        monitor: Some(monitor),
        outcomes: Vec::new(),
        record: request.record,
    };
    let done = run::run(&steps, slots, directory, &mut backend)?;
    Created::of(done, plan)
}

/// The VM in the place of a child on this kernel: clone makes its monitor, and the monitor's
/// messages are the barriers.
struct VmBackend<'a> {
    target: Target<'a>,
    console: Option<Fd>,
    /// Until it is made.
    monitor: Option<Monitor>,
    /// What the guest's policies decided.
    outcomes: Vec<PolicyOutcome>,
    vm: VmRecord,
    record: &'a mut Recorder<'a>,
}

impl Backend for VmBackend<'_> {
    fn stopped(&mut self) {
        crate::hooks::host::poststop(self.target.spec, self.target.id);
    }

    fn open(&mut self, what: &Open) -> Result<Fd> {
        match what {
            Open::StartFifo => self.target.start_fifo(),
            Open::ConsoleSocket => self.console.take().ok_or_else(|| {
                Error::new("cannot allocate tty if hull will detach without setting console socket")
            }),
            other => open_common(other),
        }
    }

    /// The monitor: born in the container's cgroup, hull's own child, as a container's init is.
    fn clone(&mut self, birth: CloneRequest) -> Result<Child> {
        let monitor = self.monitor.take();
        let monitor = monitor.ok_or_else(|| Error::new("the plan makes two monitors"))?;
        let (sync, theirs) = socket_pair()?;
        let page = Page::new().on("make", "the report page")?;
        match process::clone(birth.flags, birth.cgroup).on("clone", "the container's monitor")? {
            Cloned::Child => {
                let monitor = monitor.with_slots(birth.slots);
                // The maker's are not the monitor's: whoever waits for the start, or for the lock,
                // waits for the last of them to close.
                file::close_all_but(3, &mut monitor.descriptors(theirs.0));
                vm::monitor::run(monitor, theirs, page)
            }
            Cloned::Parent { pid, pidfd } => Ok(Child {
                pid,
                pidfd: Fd(pidfd),
                sync,
                page,
            }),
        }
    }

    fn network(&mut self, network: Network, child: Option<&Child>) -> Result<()> {
        let (Network::Attach(setup), Some(child)) = (network, child) else {
            return Err(Error::new(
                "a device of the host is not applicable in VM mode",
            ));
        };
        let namespace = Namespace::of_process(child.pid)?;
        let Target { id, directory, .. } = self.target;
        crate::net::attach::attach(setup, id, &namespace, child.pid, directory)
    }

    fn hook(&mut self, list: HookList, index: usize, hook: &Hook, child: &Child) -> Result<()> {
        self.target.hook(list, index, hook, child.pid)
    }

    fn record(&mut self, made: Progress) -> Result<()> {
        match made {
            Progress::Cgroup(cgroup) => (self.record)(state::Made {
                cgroup: Some(cgroup),
                ..state::Made::default()
            }),
            Progress::Process { child, cgroup } => (self.record)(state::Made {
                pid: child.pid,
                cgroup,
                outcomes: std::mem::take(&mut self.outcomes),
                vm: Some(self.vm.clone()),
            }),
        }
    }

    fn child_failed(&mut self, _child: &Child) -> Error {
        Error::new(
            "the container's monitor ended before the container was made: its memory limit may be \
             too low",
        )
    }

    fn wait(&mut self, child: &Child, kind: Barrier) -> BarrierResult {
        match (client::receive::<ToParent>(&child.sync)?, kind) {
            (Some((ToParent::NetworkReady, _)), Barrier::Hooks) => Ok(()),
            (Some((ToParent::Ready(outcomes, facts), _)), Barrier::Ready) => {
                let facts = facts.ok_or_else(|| Error::new("the monitor names no facts"))?;
                (self.outcomes, self.vm.facts) = (outcomes, *facts);
                Ok(())
            }
            (Some((ToParent::Failed(text, status), _)), _) => {
                let error = Error::new(text);
                Err(BarrierError::Error(match status {
                    Some(status) => error.with_status(status),
                    None => error,
                }))
            }
            (Some(_), _) => Err(BarrierError::Error(Error::new(
                "the container's monitor says what is not expected",
            ))),
            (None, _) => Err(BarrierError::Child),
        }
    }

    fn release(&mut self, child: &Child, kind: Barrier) -> BarrierResult {
        let word = match kind {
            Barrier::Placed => rootless::MAPPED,
            _ => &[b'0' + kind as u8],
        };
        socket::send(child.sync.0, word).map_err(|_| BarrierError::Child)
    }
}

/// Where the root filesystem comes from, and whether an image of it is made.
struct RootImage<'a> {
    from: &'a RootFrom,
    make: bool,
}

/// The guest's config, and what it will execute, by what every kernel of these years can. An
/// image of the root is made only if it is to be.
fn compile(
    store: &Store,
    spec: &Spec,
    id: &str,
    options: &CreateOptions,
    root: RootImage,
) -> Result<(Translated, CreateOptions, Plan)> {
    let mut translated = translate::translate(spec, options.layers.as_ref())?;
    translate::root_from_image(&mut translated, root.from, spec, root.make.then_some(store))?;
    translated.add_interpreter(binfmt::of_bundle(spec)?);
    let facts = translate::facts::guest_facts(&translated.spec, None);
    let create = CreateOptions {
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
    plan.warnings.extend(
        resources
            .map(translate::limits::without_effect)
            .unwrap_or_default(),
    );
    vm::plan::guest(&plan, &[])?;
    Ok((translated, create, plan))
}

/// What a VM would be made of, for `hull plan`.
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
    /// The host's steps.
    pub host: Vec<Placed<HostStep>>,
    /// The guest's: its host steps, and the container steps.
    pub guest: Plan,
}

/// Looks, and makes nothing.
///
/// # Errors
/// As [`create`], as far as they are known without a VM.
pub fn preview(
    store: &Store,
    spec: &Spec,
    id: &str,
    options: &CreateOptions,
    vm: &crate::settings::vm::VmOptions,
) -> Result<Preview> {
    let of_container = |other: &str| network_namespace(store, other);
    let (spec, network) = options.network.apply(store, id, spec, &of_container)?;
    let spec = if options.notify {
        crate::stdio::notify::add_guest_mount(&spec)
    } else {
        spec
    };
    let facts = Facts::probe(&spec)?;
    let (own, guests) = IdMaps::for_spec(&spec, &facts)?.unzip();
    let root = RootImage {
        from: &vm.root(),
        make: false,
    };
    let guests = guests.as_ref().unwrap_or(&spec);
    let (translated, _, plan) = compile(store, guests, id, options, root)?;
    let kernel = kernel::find(vm.kernel.as_deref())?;
    let accelerator = accelerator(store, vm.engine.unwrap_or_default())?;
    let (memory, memory_max, cpus) = (vm.memory(&spec), vm.memory_max(&spec), vm.cpus(&spec));
    let cgroup = host_cgroup(&HostCgroup {
        spec: &spec,
        id,
        options,
        facts: &facts,
        memory: memory + vm.plugged(&spec),
    })?;
    let (host, _) = vm::plan::host(vm::plan::HostRequest {
        spec: &spec,
        cgroup,
        own: own.as_ref(),
        network: network.as_ref(),
    });
    let guest = Plan {
        host: vm::plan::guest(&plan, &[])?.steps,
        ..plan
    };
    Ok(Preview {
        kernel,
        accelerator,
        memory,
        memory_max,
        cpus,
        shares: translated.shares,
        host,
        guest,
    })
}

/// What is ready before anything of the container is made.
struct Prepared {
    monitor: Monitor,
    /// The guest's plan, for the words of a failure.
    plan: Plan,
    /// The host's steps.
    steps: Vec<Placed<HostStep>>,
    /// How many slots they use.
    slots: u32,
}

/// All that can fail without a VM, before there is one.
fn prepare(request: &Request) -> Result<Prepared> {
    let Request {
        target,
        store,
        options,
        vm: asked,
        ..
    } = request;
    let spec = target.spec;
    let (own, guests) = IdMaps::for_spec(spec, request.facts)?.unzip();
    let root = RootImage {
        from: &asked.root(),
        make: true,
    };
    let guests = guests.as_ref().unwrap_or(spec);
    let (translated, create, plan) = compile(store, guests, target.id, options, root)?;
    plan.log_warnings();
    let (memory, plugged) = (asked.memory(spec), asked.plugged(spec));
    let cgroup = host_cgroup(&HostCgroup {
        spec,
        id: target.id,
        options,
        facts: request.facts,
        memory: memory + plugged,
    })?;
    let (steps, slots) = vm::plan::host(vm::plan::HostRequest {
        spec,
        cgroup,
        own: own.as_ref(),
        network: request.network,
    });
    let kernel = kernel::find(asked.kernel.as_deref())?;
    let initramfs = initramfs::find_or_make(store, &kernel)?;
    let kernel = vm::boot::vmlinux::find_or_make(store, kernel)?;
    let monitor = Monitor {
        id: target.id.to_owned(),
        directory: target.directory.to_owned(),
        store: (*store).clone(),
        accelerator: accelerator(store, asked.engine.unwrap_or_default())?,
        memory,
        memory_max: asked.memory_max(spec),
        plugged,
        cpus: asked.cpus(spec),
        timeout: Duration::from_secs(asked.boot_timeout.unwrap_or(BOOT)),
        spec: translated.spec,
        create,
        options: asked.clone(),
        kernel,
        initramfs,
        shares: translated.shares,
        open_disks: translated
            .disks
            .iter()
            .map(vm::boot::disk::Disk::open)
            .collect::<Result<_>>()?,
        disks: translated.disks,
        nodes: translated.nodes,
        interpreter: translated.interpreter,
        network: translated.network,
        start: Fd(-1),
        id_maps: own,
        tasks: Vec::new(),
        console: None,
    };
    Ok(Prepared {
        monitor,
        plan,
        steps,
        slots,
    })
}

/// KVM where it is asked for and can run a kernel, and where nothing is asked. Emulation for that
/// reason is said once a boot to a person, and to every log.
fn accelerator(store: &Store, engine: Engine) -> Result<Accelerator> {
    if engine == Engine::Qemu {
        return Ok(Accelerator::Tcg);
    }
    match (vm::vmm::probe::probe(), engine) {
        (Ok(()), _) => Ok(Accelerator::Kvm),
        (Err(error), Engine::Kvm) => Err(error),
        (Err(error), _) => {
            let said = format!("the VM is emulated, which is slow: {error}");
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

/// What the host's cgroup of a VM is planned from.
struct HostCgroup<'a> {
    spec: &'a Spec,
    id: &'a str,
    options: &'a CreateOptions,
    facts: &'a Facts,
    /// What the guest's memory may come to, in bytes.
    memory: u64,
}

/// The host's cgroup: it holds all the VM's processes, and limits what is the host's.
fn host_cgroup(request: &HostCgroup) -> Result<cgroups::plan::Plan> {
    let HostCgroup {
        spec,
        id,
        options,
        facts,
        memory,
    } = request;
    let config = spec.config();
    let linux = config.linux.as_ref();
    let resources =
        translate::limits::host_limits(linux.and_then(|linux| linux.resources.as_ref()), *memory);
    let asked = cgroups::request::CgroupRequest {
        id,
        path: linux.and_then(|linux| linux.cgroups_path.as_deref()),
        driver: options.cgroup_driver(facts),
        resources: Some(&resources),
        device_rules: false,
        annotations: &config.annotations,
        rootless: !facts.privileged || facts.in_user_namespace,
    };
    cgroups::plan::plan(&asked, &facts.cgroups)
}
