//! What must hold of a config before hull plans anything: the clauses of the runtime spec. The
//! errors have runc's words where engines know them.

use super::config::{Config, Hook, Hooks, IdMapping, Linux, Mount, Process};
use super::mount_options::MountOptions;
use crate::{Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::path::Path;

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(message))
}

fn no_nul(name: &str, value: &str) -> Result<()> {
    if value.contains('\0') {
        refuse(format!("{name} contains a NUL byte"))
    } else {
        Ok(())
    }
}

/// Validates the whole document, for a bundle's directory.
///
/// # Errors
/// The first clause that the config breaks; the root file system cannot be opened, or is not a
/// directory.
pub fn config(config: &Config, bundle: &Path) -> Result<()> {
    version(&config.oci_version)?;
    let Some(root) = &config.root else {
        return refuse("root must be specified in config.json");
    };
    no_nul("root.path", &root.path)?;
    let rootfs = bundle.join(&root.path);
    match std::fs::metadata(&rootfs) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            return refuse(format!(
                "root file system {} is not a directory",
                rootfs.display()
            ));
        }
        Err(error) => return Err(Error::io("open root file system", rootfs.display(), &error)),
    }
    for (index, mount) in config.mounts.iter().enumerate() {
        self::mount(mount).map_err(|error| error.within(format!("mounts[{index}]")))?;
    }
    if let Some(process) = &config.process {
        self::process(process)?;
    }
    for (name, value) in [
        ("hostname", &config.hostname),
        ("domainname", &config.domainname),
    ] {
        no_nul(name, value.as_deref().unwrap_or_default())?;
    }
    if let Some(hooks) = &config.hooks {
        self::hooks(hooks)?;
    }
    if config.annotations.keys().any(String::is_empty) {
        return refuse("annotations: a key is empty");
    }
    match &config.linux {
        Some(linux) => self::linux(linux, config),
        None => refuse("linux section is missing: without namespaces there is no container"),
    }
}

/// Any 1.x is accepted: engines write 1.0.2-dev to 1.3.0 (config.md, Specification version).
fn version(version: &str) -> Result<()> {
    if version.is_empty() {
        return refuse("ociVersion is missing from config.json");
    }
    let mut parts = version
        .split(['-', '+'])
        .next()
        .unwrap_or_default()
        .split('.');
    let numbers = [parts.next(), parts.next(), parts.next()]
        .map(|part| part.and_then(|text| text.parse::<u32>().ok()));
    match (numbers, parts.next()) {
        ([Some(1), Some(_), Some(_)], None) => Ok(()),
        ([Some(_), Some(_), Some(_)], None) => refuse(format!(
            "ociVersion {version} is not supported: hull supports 1.x"
        )),
        _ => refuse(format!("ociVersion {version:?} is not a semantic version")),
    }
}

fn mount(mount: &Mount) -> Result<()> {
    no_nul("destination", &mount.destination)?;
    no_nul("source", mount.source.as_deref().unwrap_or_default())?;
    no_nul("type", mount.typ.as_deref().unwrap_or_default())?;
    if mount.destination.is_empty() {
        return refuse("destination is missing");
    }
    let options = MountOptions::parse(&mount.options)?;
    let is_bind = options.bind.is_some() || mount.typ.as_deref() == Some("bind");
    if is_bind && mount.source.as_deref().unwrap_or_default().is_empty() {
        return refuse(format!("bind mount on {} has no source", mount.destination));
    }
    if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
        return refuse(format!(
            "mount on {}: uidMappings and gidMappings must be given together",
            mount.destination
        ));
    }
    if !mount.uid_mappings.is_empty() && !is_bind {
        return refuse(format!(
            "mount on {}: id-mapped mounts are supported for bind mounts only",
            mount.destination
        ));
    }
    Ok(())
}

fn process(process: &Process) -> Result<()> {
    if process.args.is_empty() {
        return refuse("process.args must not be empty");
    }
    if process.cwd.is_empty() {
        return refuse("process.cwd must not be empty");
    }
    if !process.cwd.starts_with('/') {
        return refuse(format!(
            "process.cwd {:?} must be an absolute path",
            process.cwd
        ));
    }
    let strings = process
        .args
        .iter()
        .chain(&process.env)
        .chain([&process.cwd]);
    for value in strings
        .chain(&process.apparmor_profile)
        .chain(&process.selinux_label)
    {
        no_nul("process", value)?;
    }
    if let Some(umask) = process.user.umask
        && umask > 0o7777
    {
        return refuse(format!("process.user.umask {umask:o} is out of range"));
    }
    if let Some(score) = process.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return refuse(format!(
            "process.oomScoreAdj {score} is not between -1000 and 1000"
        ));
    }
    Ok(())
}

fn hooks(hooks: &Hooks) -> Result<()> {
    let Hooks {
        prestart,
        create_runtime,
        create_container,
        start_container,
        poststart,
        poststop,
    } = hooks;
    let lists = [
        ("prestart", prestart),
        ("createRuntime", create_runtime),
        ("createContainer", create_container),
        ("startContainer", start_container),
        ("poststart", poststart),
        ("poststop", poststop),
    ];
    for (name, list) in lists {
        for (index, hook) in list.iter().enumerate() {
            self::hook(hook).map_err(|error| error.within(format!("hooks.{name}[{index}]")))?;
        }
    }
    Ok(())
}

fn hook(hook: &Hook) -> Result<()> {
    let Hook {
        path,
        args,
        env,
        timeout,
    } = hook;
    for value in args.iter().chain(env).chain([path]) {
        no_nul("hook", value)?;
    }
    if !path.starts_with('/') {
        return refuse(format!("path {path:?} must be absolute"));
    }
    match timeout {
        Some(seconds) if *seconds <= 0 => {
            refuse(format!("timeout {seconds} must be greater than zero"))
        }
        _ => Ok(()),
    }
}

fn linux(linux: &Linux, config: &Config) -> Result<()> {
    for (index, namespace) in linux.namespaces.iter().enumerate() {
        let Some(kind) = namespace.typ else {
            return refuse(format!("linux.namespaces[{index}] has no type"));
        };
        if linux.namespaces[..index]
            .iter()
            .any(|earlier| earlier.typ == Some(kind))
        {
            return refuse(format!("malformed spec file: duplicated ns {kind}"));
        }
        if let Some(path) = namespace.path.as_deref().filter(|path| !path.is_empty())
            && !path.starts_with('/')
        {
            return refuse(format!("namespace path {path} must be absolute"));
        }
    }
    id_mappings(linux)?;
    time_offsets(linux)?;
    uts(linux, config)?;
    sysctls(linux)?;
    if let Some(propagation) = linux.rootfs_propagation.as_deref()
        && ![
            "",
            "shared",
            "slave",
            "private",
            "unbindable",
            "rshared",
            "rslave",
            "rprivate",
            "runbindable",
        ]
        .contains(&propagation)
    {
        return refuse(format!("rootfsPropagation={propagation} is not supported"));
    }
    for path in linux.masked_paths.iter().chain(&linux.readonly_paths) {
        no_nul("maskedPaths, readonlyPaths", path)?;
    }
    let restricts = !linux.masked_paths.is_empty() || !linux.readonly_paths.is_empty();
    if restricts && !has(linux, LinuxNamespaceType::Mount) {
        return refuse("unable to restrict sys entries without a private MNT namespace");
    }
    for (index, device) in linux.devices.iter().enumerate() {
        no_nul("path", &device.path)?;
        if !["b", "c", "u", "p"].contains(&device.typ.as_str()) {
            return refuse(format!(
                "linux.devices[{index}]: unknown device type {:?}",
                device.typ
            ));
        }
        if device.typ != "p" && (device.major.is_none() || device.minor.is_none()) {
            return refuse(format!(
                "linux.devices[{index}]: {} has no major and minor number",
                device.path
            ));
        }
    }
    Ok(())
}

fn has(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux
        .namespaces
        .iter()
        .any(|namespace| namespace.typ == Some(kind))
}

fn id_mappings(linux: &Linux) -> Result<()> {
    let user = linux
        .namespaces
        .iter()
        .find(|namespace| namespace.typ == Some(LinuxNamespaceType::User));
    let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    match user {
        None if mapped => {
            return refuse(
                "User namespace mappings specified, but user namespace isn't enabled in the config",
            );
        }
        // With neither, an ordinary user gets its own ids (`crate::compile::compile`), and a
        // privileged one an error.
        Some(namespace)
            if namespace.path.as_deref().unwrap_or_default().is_empty()
                && linux.uid_mappings.is_empty() != linux.gid_mappings.is_empty() =>
        {
            return refuse("linux.uidMappings and linux.gidMappings must be given together");
        }
        _ => {}
    }
    for (name, mappings) in [
        ("uidMappings", &linux.uid_mappings),
        ("gidMappings", &linux.gid_mappings),
    ] {
        overlap(mappings).map_err(|error| error.within(format!("linux.{name}")))?;
    }
    Ok(())
}

fn overlap(mappings: &[IdMapping]) -> Result<()> {
    for (index, mapping) in mappings.iter().enumerate() {
        let IdMapping {
            container_id,
            host_id,
            size,
        } = *mapping;
        if size == 0
            || container_id.checked_add(size - 1).is_none()
            || host_id.checked_add(size - 1).is_none()
        {
            return refuse(format!(
                "mapping {container_id}:{host_id}:{size} has an impossible size"
            ));
        }
        let meets = |a: u32, b: u32, b_size: u32| {
            u64::from(a) < u64::from(b) + u64::from(b_size)
                && u64::from(b) < u64::from(a) + u64::from(size)
        };
        let overlaps = |e: &IdMapping| {
            meets(container_id, e.container_id, e.size) || meets(host_id, e.host_id, e.size)
        };
        if mappings[..index].iter().any(overlaps) {
            return refuse(format!(
                "mapping {container_id}:{host_id}:{size} overlaps another"
            ));
        }
    }
    Ok(())
}

fn time_offsets(linux: &Linux) -> Result<()> {
    let time = linux
        .namespaces
        .iter()
        .find(|namespace| namespace.typ == Some(LinuxNamespaceType::Time));
    if linux.time_offsets.is_empty() {
        return Ok(());
    }
    match time {
        None => {
            return refuse(
                "time namespace offsets specified, but time namespace isn't enabled in the config",
            );
        }
        Some(namespace) if !namespace.path.as_deref().unwrap_or_default().is_empty() => {
            return refuse(
                "time namespace offsets specified, but time namespace is joined by path",
            );
        }
        Some(_) => {}
    }
    match linux
        .time_offsets
        .keys()
        .find(|clock| !["monotonic", "boottime"].contains(&clock.as_str()))
    {
        Some(clock) => refuse(format!("linux.timeOffsets: unknown clock {clock:?}")),
        None => Ok(()),
    }
}

/// Neither name is more than a line, nor speaks to the terminal on which it is printed.
fn uts(linux: &Linux, config: &Config) -> Result<()> {
    for (field, name) in [
        ("hostname", &config.hostname),
        ("domainname", &config.domainname),
    ] {
        let name = name.as_deref().unwrap_or_default();
        if name.chars().any(char::is_control) {
            return refuse(format!("{field} {name:?} has a control character"));
        }
    }
    if has(linux, LinuxNamespaceType::Uts) {
        return Ok(());
    }
    if !config.hostname.as_deref().unwrap_or_default().is_empty() {
        return refuse("unable to set hostname without a private UTS namespace");
    }
    if !config.domainname.as_deref().unwrap_or_default().is_empty() {
        return refuse("unable to set domainname without a private UTS namespace");
    }
    Ok(())
}

/// The namespace that a kernel parameter belongs to, and its name in messages; `None` where it is
/// the whole kernel's.
pub fn namespace_of_sysctl(key: &str) -> Option<(LinuxNamespaceType, &'static str)> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let key = dotted(key);
    if IPC.contains(&key.as_str()) || key.starts_with("fs.mqueue.") {
        Some((LinuxNamespaceType::Ipc, "IPC"))
    } else if key.starts_with("net.") {
        Some((LinuxNamespaceType::Network, "network"))
    } else if key == "kernel.domainname" {
        Some((LinuxNamespaceType::Uts, "UTS"))
    } else if key.starts_with("user.") {
        Some((LinuxNamespaceType::User, "user"))
    } else {
        None
    }
}

/// The error of a parameter that would be the host's.
pub fn sysctl_of_the_host(key: &str, name: &str) -> Error {
    Error::new(format!(
        "sysctl {:?} is not allowed in the hosts {name} namespace",
        dotted(key)
    ))
}

/// Only parameters that belong to one of the container's own namespaces may be set (runc's rule).
fn sysctls(linux: &Linux) -> Result<()> {
    for (key, value) in &linux.sysctl {
        no_nul("linux.sysctl", key)?;
        no_nul("linux.sysctl", value)?;
        let key = dotted(key);
        if key == "kernel.hostname" {
            return refuse(
                "sysctl \"kernel.hostname\" is not allowed as it conflicts with the OCI \
                    \"hostname\" field",
            );
        }
        let Some((needed, name)) = namespace_of_sysctl(&key) else {
            return refuse(format!(
                "sysctl {key:?} is not in a separate kernel namespace"
            ));
        };
        if !has(linux, needed) {
            return Err(sysctl_of_the_host(&key, name));
        }
        if key.split('.').any(|part| part.is_empty() || part == "..") {
            return refuse(format!("sysctl {key:?} is not a parameter's name"));
        }
    }
    Ok(())
}

/// A parameter's name with dots as separators: where a slash comes first, dots and slashes have
/// changed places (sysctl.d(5)).
pub fn dotted(key: &str) -> String {
    match key.find(['.', '/']).map(|at| key.as_bytes()[at]) {
        Some(b'/') => key
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}
