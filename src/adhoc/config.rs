//! Generates the config of an ad hoc container, as its user would have to write it in a bundle.

use crate::adhoc::layers::Tmpfs;
use crate::adhoc::options::{AdhocOptions, Filter};
use crate::adhoc::users::UserIds;
use crate::namespaces::subid::Maps;
use crate::security::{caps, default_profile};
use crate::spec::config::{
    Capabilities, Config, ConsoleSize, Cpu, DeviceRule, Linux, Memory, Mount, Namespace, Pids,
    Process, Resources, Root, Seccomp, User,
};
use crate::spec::default::{MASKED_PATHS, READONLY_PATHS, SEARCH_PATH};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::path::Path;

/// What the config needs besides the flags.
pub struct Host {
    /// UserIds the program runs as.
    pub user: UserIds,
    /// The id maps of the new user namespace, where there is one.
    pub maps: Option<Maps>,
    /// Whether hull may create cgroups and devices.
    pub privileged: bool,
    /// The directories that are tmpfs.
    pub tmpfs: Vec<Tmpfs>,
    /// The size of hull's terminal: rows and columns.
    pub window: Option<(u16, u16)>,
    /// The value of TERM that hull has.
    pub term: Option<String>,
}

/// Generates the config.
///
/// # Errors
/// A path is not UTF-8; the file of `--seccomp` cannot be read, or is not a `linux.seccomp`
/// section.
pub fn generate(options: &AdhocOptions, host: &Host) -> Result<Config> {
    let root = options
        .rootfs
        .to_str()
        .ok_or_else(|| Error::new(format!("--rootfs {}: not UTF-8", options.rootfs.display())))?;
    Ok(Config {
        oci_version: "1.3.0".into(),
        root: Some(Root {
            path: root.to_owned(),
            readonly: options.read_only,
        }),
        mounts: mounts(options, host)?,
        process: Some(process(options, host)),
        hostname: Some(options.hostname.clone()),
        annotations: options
            .keep_groups
            .then(|| ("run.oci.keep_original_groups".to_owned(), "1".to_owned()))
            .into_iter()
            .collect(),
        linux: Some(linux(options, host)?),
        ..Config::default()
    })
}

fn process(options: &AdhocOptions, host: &Host) -> Process {
    let names = caps::names(options.capabilities);
    let term = host
        .term
        .as_deref()
        .filter(|term| !term.is_empty() && options.tty)
        .unwrap_or(if options.tty { "xterm" } else { "" });
    let mut env = vec![
        format!("PATH={SEARCH_PATH}"),
        format!("HOSTNAME={}", options.hostname),
    ];
    env.extend((!term.is_empty()).then(|| format!("TERM={term}")));
    // Of variables with the same name, only the last one stays.
    for variable in &options.env {
        let name = variable.split('=').next().unwrap_or_default();
        env.retain(|earlier| earlier.split('=').next() != Some(name));
        env.push(variable.clone());
    }
    let UserIds { uid, gid, groups } = host.user.clone();
    Process {
        terminal: options.tty,
        console_size: host
            .window
            .filter(|_| options.tty)
            .map(|(rows, columns)| ConsoleSize {
                height: rows.into(),
                width: columns.into(),
            }),
        user: User {
            uid,
            gid,
            additional_gids: groups,
            ..User::default()
        },
        args: options.command.clone(),
        env,
        cwd: options.workdir.clone(),
        capabilities: Some(Capabilities {
            bounding: names.clone(),
            effective: names.clone(),
            permitted: names,
            ..Capabilities::default()
        }),
        ..Process::default()
    }
}

fn mount(destination: &str, fstype: &str, source: &str, flags: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        typ: Some(fstype.into()),
        source: Some(source.into()),
        options: flags.iter().map(ToString::to_string).collect(),
        ..Mount::default()
    }
}

fn mounts(options: &AdhocOptions, host: &Host) -> Result<Vec<Mount>> {
    const QUIET: [&str; 3] = ["nosuid", "noexec", "nodev"];
    let mut pts = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    // Group 5 is `tty` on Linux; devpts refuses a group that is not mapped.
    pts.extend(
        host.maps
            .as_ref()
            .is_none_or(|maps| maps.has_group(5))
            .then_some("gid=5"),
    );
    let mut list = vec![
        mount("/proc", "proc", "proc", &QUIET),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount("/dev/pts", "devpts", "devpts", &pts),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &QUIET),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
    ];
    if host.privileged {
        list.push(mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ));
    }
    for Tmpfs { target, mode } in &host.tmpfs {
        list.push(mount(
            target,
            "tmpfs",
            "tmpfs",
            &["nosuid", "nodev", &format!("mode={mode:o}")],
        ));
    }
    // Parents first, however they were given: a later mount on a parent would cover the others.
    let mut volumes: Vec<_> = options.volumes.iter().collect();
    volumes.sort_by_key(|volume| Path::new(&volume.target).components().count());
    for volume in volumes {
        let source = volume
            .source
            .to_str()
            .ok_or_else(|| Error::new(format!("-v {}: not UTF-8", volume.source.display())))?;
        let options: &[&str] = if volume.read_only {
            &["rbind", "rprivate", "rro"]
        } else {
            &["rbind", "rprivate"]
        };
        list.push(mount(&volume.target, "bind", source, options));
    }
    Ok(list)
}

fn linux(options: &AdhocOptions, host: &Host) -> Result<Linux> {
    let kinds = [
        Kind::Pid,
        Kind::Mount,
        Kind::Ipc,
        Kind::Uts,
        Kind::Cgroup,
        Kind::Network,
    ];
    let namespaces = kinds
        .into_iter()
        .chain(host.maps.is_some().then_some(Kind::User))
        .map(|kind| Namespace {
            typ: Some(kind),
            path: None,
        });
    let (uid_mappings, gid_mappings) = host
        .maps
        .clone()
        .map(|maps| (maps.uid, maps.gid))
        .unwrap_or_default();
    Ok(Linux {
        namespaces: namespaces.collect(),
        uid_mappings,
        gid_mappings,
        // Without a path the cgroup would be below the caller's own, and share its limits.
        cgroups_path: host.privileged.then(|| format!("/hull/{}", options.id)),
        resources: resources(options, host),
        seccomp: seccomp(options)?,
        masked_paths: MASKED_PATHS.map(String::from).into(),
        readonly_paths: READONLY_PATHS.map(String::from).into(),
        ..Linux::default()
    })
}

fn resources(options: &AdhocOptions, host: &Host) -> Option<Resources> {
    let denied = DeviceRule {
        allow: false,
        access: Some("rwm".into()),
        ..DeviceRule::default()
    };
    let resources = Resources {
        devices: if host.privileged {
            vec![denied]
        } else {
            Vec::new()
        },
        // The same limit for memory and swap together, so that the program cannot exceed it by
        // swapping.
        memory: options.memory.map(|bytes| Memory {
            limit: Some(bytes),
            swap: Some(bytes),
            ..Memory::default()
        }),
        cpu: options.cpu_quota.map(|quota| Cpu {
            quota: Some(quota),
            period: Some(100_000),
            ..Cpu::default()
        }),
        pids: options.pids.map(|limit| Pids { limit: Some(limit) }),
        ..Resources::default()
    };
    (resources != Resources::default()).then_some(resources)
}

fn seccomp(options: &AdhocOptions) -> Result<Option<Seccomp>> {
    match &options.filter {
        Filter::Default => Ok(Some(default_profile::profile(options.capabilities))),
        Filter::Unconfined => Ok(None),
        Filter::File(path) => read_filter(path).map(Some),
    }
}

/// Reads a `linux.seccomp` section. It refuses an engine's profile, which looks similar, but whose
/// rules have conditions that only the engine evaluates.
fn read_filter(path: &Path) -> Result<Seccomp> {
    let shown = path.display();
    let text = std::fs::read(path).on("--seccomp: read", path.display())?;
    let refuse = |why: &str| Error::new(format!("--seccomp {shown}: {why}"));
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| refuse(&error.to_string()))?;
    let conditional = |rule: &serde_json::Value| {
        ["includes", "excludes", "minKernel", "name"]
            .iter()
            .any(|key| rule.get(key).is_some())
    };
    if value.get("archMap").is_some()
        || value["syscalls"]
            .as_array()
            .is_some_and(|rules| rules.iter().any(conditional))
    {
        return Err(refuse(
            "this is an engine's profile; hull takes the linux.seccomp section of a config.json",
        ));
    }
    if value.get("defaultAction").is_none() {
        return Err(refuse(
            "defaultAction is missing; hull takes the linux.seccomp section of a config.json",
        ));
    }
    serde_json::from_value(value).map_err(|error| refuse(&error.to_string()))
}
