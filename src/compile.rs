//! Compiles a bundle and the command's options into a plan, for both backends.

#![forbid(unsafe_code)]

use crate::Result;
use crate::cgroups::{self, request::Driver};
use crate::facts::Facts;
use crate::namespaces::subid::{Layout, Maps};
use crate::plan;
use crate::security::seccomp::{self, Filter};
use crate::spec::Spec;
use crate::state::network_namespace;
use crate::stdio::notify;
use crate::step::draft::{Plan, PlanRequest};
use crate::step::layers::Layers;
use crate::store::Store;
use crate::sys::mountinfo;
use std::path::{Path, PathBuf};

/// Who makes the containers' cgroups: `--cgroup-manager` (crun's option), or `--systemd-cgroup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupManager {
    /// hull, in the mounted cgroup file systems.
    #[default]
    Cgroupfs,
    /// systemd: of the system, or of the user.
    Systemd,
    /// Nobody: the container stays in the cgroup of hull's caller.
    Disabled,
}

/// The options of `create` and `run`.
#[derive(Clone, Default)]
pub struct CreateOptions {
    /// `--cgroup-manager`.
    pub cgroup_manager: CgroupManager,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--preserve-fds`.
    pub preserve_fds: u32,
    /// `--pid-file`.
    pub pid_file: Option<PathBuf>,
    /// `--pidfd-socket`: the socket to which hull sends a pidfd of init.
    pub pidfd_socket: Option<PathBuf>,
    /// The layers of the root file system; nothing if it is the config's root alone.
    pub layers: Option<Layers>,
    /// A fresh process (`hull init`) executes the container steps.
    pub fresh_init: bool,
    /// hull has `NOTIFY_SOCKET` in its environment, so the container gets a notification socket.
    pub notify: bool,
    /// `--network`, and the options that belong to it.
    pub network: crate::net::setup::NetworkOptions,
    /// `--vm`, and the options that belong to it.
    pub vm: crate::settings::vm::VmOptions,
}

impl CreateOptions {
    /// Who makes the cgroup.
    pub fn cgroup_driver(&self, facts: &Facts) -> Driver {
        match self.cgroup_manager {
            CgroupManager::Cgroupfs => Driver::Cgroupfs,
            CgroupManager::Systemd => Driver::Systemd {
                user: facts.euid != 0,
            },
            CgroupManager::Disabled => Driver::Disabled,
        }
    }

    /// Those of the options that apply to the plan in the guest.
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
    /// What this host can do.
    pub facts: Facts,
    /// The steps.
    pub plan: Plan,
    /// The networks that the container is attached to.
    pub network: Option<crate::net::setup::Setup>,
    /// The files of stdin, stdout and stderr ([`stdio`]).
    pub stdio: Vec<String>,
}

/// Compiles the plan of a bundle. It reads the state of the host and changes nothing.
///
/// # Errors
/// The network options are wrong; the Facts cannot be read; the config asks for something that this
/// host cannot do.
pub fn compile(store: &Store, spec: &Spec, id: &str, options: &CreateOptions) -> Result<Compiled> {
    let (spec, network) = options
        .network
        .apply(store, id, spec, &|other| network_namespace(store, other))?;
    let spec = if options.notify {
        notify::add_mount(&spec, &store.directory(id))?
    } else {
        spec
    };
    let (spec, facts) = with_own_ids(Facts::probe(&spec)?, spec);
    let stdio = stdio();
    let null_stdio = stdio
        .iter()
        .enumerate()
        .filter(|(_, name)| *name == "/dev/null")
        .map(|(number, _)| 1 << number)
        .sum();
    let request = PlanRequest {
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

/// Adds id maps of the user's own ids to an unprivileged user's config that has none (`crun spec
/// --rootless` writes such configs).
fn with_own_ids(facts: Facts, spec: Spec) -> (Spec, Facts) {
    if facts.privileged || !spec.lacks_mappings() {
        return (spec, facts);
    }
    let Maps { uid, gid } = Maps::of_user(facts.euid, facts.egid, Layout::Root);
    (spec.with_mappings(uid, gid), facts.for_mappings())
}

/// Collects what the plan is compiled from besides Spec and Facts: the command's options, the
/// cgroup's plan and the compiled filter.
///
/// # Errors
/// libseccomp refuses the filter; the config has limits that this host does not have.
pub fn request(
    store: &Store,
    spec: &Spec,
    facts: &Facts,
    id: &str,
    options: &CreateOptions,
) -> Result<PlanRequest> {
    let config = spec.config();
    let linux = config.linux.as_ref();
    let rootless = !facts.privileged || facts.in_user_namespace;
    let cgroup = cgroups::request::CgroupRequest {
        id,
        path: linux.and_then(|linux| linux.cgroups_path.as_deref()),
        driver: options.cgroup_driver(facts),
        resources: linux.and_then(|linux| linux.resources.as_ref()),
        device_rules: !rootless,
        annotations: &config.annotations,
        rootless,
    };
    let filter = filter(store, spec)?;
    let (extra_env, listen_fds) = socket_activation();
    Ok(PlanRequest {
        id: id.to_owned(),
        no_pivot: options.no_pivot,
        revealing: if options.no_pivot {
            whole_kernel_mounts(&spec.rootfs())?
        } else {
            Vec::new()
        },
        no_new_keyring: options.no_new_keyring,
        preserve_fds: options.preserve_fds + listen_fds,
        extra_env,
        cgroup: Some(cgroups::plan::plan(&cgroup, &facts.cgroups)?),
        filter,
        layers: options.layers.clone(),
        network: None,
        null_stdio: 0,
        dies_with_parent: false,
    })
}

/// Where a whole procfs or sysfs is mounted outside the root filesystem, the last mount first.
///
/// # Errors
/// Reading mountinfo fails.
fn whole_kernel_mounts(rootfs: &Path) -> Result<Vec<String>> {
    let mounts = mountinfo::of("self")?;
    let whole = mounts.into_iter().rev().filter(|mount| {
        matches!(mount.fstype.as_str(), "proc" | "sysfs")
            && mount.root == Path::new("/")
            && !mount.mount_point.starts_with(rootfs)
    });
    Ok(whole
        .filter_map(|mount| mount.mount_point.into_os_string().into_string().ok())
        .collect())
}

/// The seccomp filter of a config. It is compiled once for each profile and then cached, because
/// libseccomp needs more time for it than hull needs for everything else.
///
/// # Errors
/// The profile is wrong, or libseccomp refuses it.
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
        Ok(directory) => seccomp::cache::compile_cached(seccomp, &directory)?,
        Err(_) => seccomp::compile(seccomp)?,
    };
    for warning in &filter.warnings {
        crate::log::debug(|| warning);
    }
    Ok(Some(filter))
}

/// The most descriptors that a program can inherit: the kernel's default limit of open files
/// (proc_sys_fs(5), nr_open).
pub const MOST_PRESERVED: u32 = 1 << 20;

/// The variables and the number of the sockets that systemd opened for hull, which the container
/// inherits (sd_listen_fds(3)): they count only where `LISTEN_PID` is hull itself. In the container
/// `LISTEN_PID` is 1, its init, as in runc.
pub fn socket_activation() -> (Vec<String>, u32) {
    let number = |name: &str| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse::<u32>().ok())
    };
    let count = number("LISTEN_FDS").filter(|count| *count <= MOST_PRESERVED);
    let mine = count.is_some() && number("LISTEN_PID") == Some(std::process::id());
    let count = count.filter(|_| mine).unwrap_or(0);
    if count == 0 {
        return (Vec::new(), 0);
    }
    let mut env = vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()];
    if let Ok(names) = std::env::var("LISTEN_FDNAMES") {
        env.push(format!("LISTEN_FDNAMES={names}"));
    }
    (env, count)
}

/// The targets of `/proc/self/fd/0` to `2`, which a checkpoint needs.
pub fn stdio() -> Vec<String> {
    (0..3)
        .map(|n| {
            std::fs::read_link(format!("/proc/self/fd/{n}"))
                .map(|p| p.to_string_lossy().into_owned())
                .unwrap_or_default()
        })
        .collect()
}
