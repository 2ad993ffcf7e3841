//! The config that a person would have had to write.

use crate::adhoc::flags::{Ask, Filter};
use crate::adhoc::users::Who;
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

/// What the host adds to what was asked.
pub struct Host {
    /// Who the program runs as.
    pub who: Who,
    /// The maps of a new user namespace, where one is made.
    pub maps: Option<Maps>,
    /// hull may make cgroups and devices.
    pub privileged: bool,
    /// Places that begin as empty file systems in memory, with their modes.
    pub fresh: Vec<(String, u32)>,
    /// hull's own terminal: rows and columns.
    pub window: Option<(u16, u16)>,
    /// hull's TERM.
    pub term: Option<String>,
}

/// Writes the config.
///
/// # Errors
/// The filter's file cannot be read.
pub fn generate(ask: &Ask, host: &Host) -> Result<Config> {
    let root = ask
        .rootfs
        .to_str()
        .ok_or_else(|| Error::new(format!("--rootfs {}: not UTF-8", ask.rootfs.display())))?;
    Ok(Config {
        oci_version: "1.3.0".into(),
        root: Some(Root {
            path: root.to_owned(),
            readonly: ask.read_only,
        }),
        mounts: mounts(ask, host)?,
        process: Some(process(ask, host)),
        hostname: Some(ask.hostname.clone()),
        linux: Some(linux(ask, host)?),
        ..Config::default()
    })
}

fn process(ask: &Ask, host: &Host) -> Process {
    let names = caps::names(ask.capabilities);
    let term = host
        .term
        .as_deref()
        .filter(|term| !term.is_empty() && ask.tty)
        .unwrap_or(if ask.tty { "xterm" } else { "" });
    let mut env = vec![
        format!("PATH={SEARCH_PATH}"),
        format!("HOSTNAME={}", ask.hostname),
    ];
    env.extend((!term.is_empty()).then(|| format!("TERM={term}")));
    // Where a name comes twice, the last one stands alone.
    for variable in &ask.env {
        let name = variable.split('=').next().unwrap_or_default();
        env.retain(|earlier| earlier.split('=').next() != Some(name));
        env.push(variable.clone());
    }
    let Who { uid, gid, groups } = host.who.clone();
    Process {
        terminal: ask.tty,
        console_size: host
            .window
            .filter(|_| ask.tty)
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
        args: ask.command.clone(),
        env,
        cwd: ask.workdir.clone(),
        capabilities: Some(Capabilities {
            bounding: names.clone(),
            effective: names.clone(),
            permitted: names,
            ..Capabilities::default()
        }),
        ..Process::default()
    }
}

fn mount(destination: &str, fstype: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        typ: Some(fstype.into()),
        source: Some(source.into()),
        options: options.iter().map(ToString::to_string).collect(),
        ..Mount::default()
    }
}

fn mounts(ask: &Ask, host: &Host) -> Result<Vec<Mount>> {
    const QUIET: [&str; 3] = ["nosuid", "noexec", "nodev"];
    let mut pts = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    // Group 5 is `tty` on every Linux; a single mapped id does not have it.
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
    for (target, mode) in &host.fresh {
        list.push(mount(
            target,
            "tmpfs",
            "tmpfs",
            &["nosuid", "nodev", &format!("mode={mode:o}")],
        ));
    }
    for volume in &ask.volumes {
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

fn linux(ask: &Ask, host: &Host) -> Result<Linux> {
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
        // Without a path it would lie below the caller's own, and share its limits.
        cgroups_path: host.privileged.then(|| format!("/hull/{}", ask.id)),
        resources: resources(ask, host),
        seccomp: seccomp(ask)?,
        masked_paths: MASKED_PATHS.map(String::from).into(),
        readonly_paths: READONLY_PATHS.map(String::from).into(),
        ..Linux::default()
    })
}

fn resources(ask: &Ask, host: &Host) -> Option<Resources> {
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
        // Swap is counted with memory: a limit that could be passed by swapping would be none.
        memory: ask.memory.map(|bytes| Memory {
            limit: Some(bytes),
            swap: Some(bytes),
            ..Memory::default()
        }),
        cpu: ask.cpu_quota.map(|quota| Cpu {
            quota: Some(quota),
            period: Some(100_000),
            ..Cpu::default()
        }),
        pids: ask.pids.map(|limit| Pids { limit: Some(limit) }),
        ..Resources::default()
    };
    (resources != Resources::default()).then_some(resources)
}

fn seccomp(ask: &Ask) -> Result<Option<Seccomp>> {
    match &ask.filter {
        Filter::Default => Ok(Some(default_profile::profile(ask.capabilities))),
        Filter::Unconfined => Ok(None),
        Filter::File(path) => read_filter(path).map(Some),
    }
}

/// A `linux.seccomp` section. An engine's own profile looks like one, and means another thing: its
/// rules have conditions of their own.
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
