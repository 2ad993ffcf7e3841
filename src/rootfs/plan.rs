//! The root file system and the mounts.

use crate::cgroups;
use crate::security::lsm;
use crate::spec::config::Mount;
use crate::spec::mount_options::MountOptions;
use crate::spec::names::inside_path;
use crate::step::container::{Create, Leave, Refused, Step, slot};
use crate::step::draft::Draft;
use crate::step::draft::Namespaces;
use crate::step::host::HostStep;
use crate::step::host::{IdMap, Open};
use crate::sys::mount::ATTR_RDONLY;
use crate::{Error, Result};
use std::borrow::Cow;
use std::path::PathBuf;

const MS_REC: u64 = libc::MS_REC;

/// What the mounts of the new namespaces do with events of the host: `rootfsPropagation`, slave when it
/// is not given (as runc has it).
fn base_propagation(draft: &Draft) -> u64 {
    let linux = draft.spec.config().linux.as_ref();
    match linux
        .and_then(|linux| linux.rootfs_propagation.as_deref())
        .unwrap_or_default()
    {
        "private" | "rprivate" => libc::MS_PRIVATE,
        "shared" | "rshared" => libc::MS_SHARED,
        "unbindable" | "runbindable" => libc::MS_UNBINDABLE,
        _ => libc::MS_SLAVE,
    }
}

fn is_bind(mount: &Mount, options: &MountOptions) -> bool {
    options.bind.is_some() || mount.typ.as_deref() == Some("bind")
}

fn source_path(draft: &Draft, mount: &Mount) -> PathBuf {
    draft
        .spec
        .bundle()
        .join(mount.source.as_deref().unwrap_or_default())
}

/// Whether a privileged child without a user namespace needs hull to open its mount sources: for an
/// id map, or copies that stay peers of the host's mounts. Otherwise it opens them itself before it
/// leaves the old root, in the order of the mounts.
fn needs_opened(draft: &Draft) -> bool {
    let mapped = |mount: &Mount| {
        !mount.uid_mappings.is_empty()
            || mount
                .options
                .iter()
                .any(|option| option == "idmap" || option == "ridmap")
    };
    base_propagation(draft) == libc::MS_SHARED || draft.spec.config().mounts.iter().any(mapped)
}

/// Whether hull opens the mount sources for the child.
fn opens_sources(draft: &Draft, namespaces: &Namespaces) -> bool {
    draft.facts.privileged && (namespaces.user || needs_opened(draft))
}

/// For a child in a user namespace, sources are opened by hull with its privileges: the child may
/// lack the right to reach them.
pub fn open_sources(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    let config = draft.spec.config();
    draft.sources = vec![slot::NONE; config.mounts.len()];
    if !opens_sources(draft, namespaces) {
        return match config
            .mounts
            .iter()
            .position(|mount| !mount.uid_mappings.is_empty())
            .filter(|_| !draft.facts.privileged)
        {
            Some(index) => Err(Error::new(format!(
                "mounts[{index}]: an id-mapped mount needs CAP_SYS_ADMIN"
            ))),
            None => Ok(()),
        };
    }
    // Propagation of the copies: what `/` of the new mount namespace would have given them.
    let propagation = match base_propagation(draft) {
        libc::MS_SHARED => 0,
        other => other,
    };
    if draft.request.layers.is_none() {
        // Never a peer of the host's: what is mounted below while the container is made must not
        // show there, and pivot_root(2) refuses a shared root. `shared` is set last.
        let own = if propagation == 0 {
            libc::MS_SLAVE
        } else {
            propagation
        };
        let what = Open::Tree {
            path: draft.spec.rootfs(),
            recursive: true,
            propagation: own,
            id_map: None,
            link: false,
        };
        draft.host(
            HostStep::Open {
                slot: slot::ROOT,
                what,
            },
            "root.path",
        );
    }
    for (index, mount) in config.mounts.iter().enumerate() {
        let options = MountOptions::parse(&mount.options)?;
        if !is_bind(mount, &options) || options.remount {
            continue;
        }
        let what = Open::Tree {
            path: source_path(draft, mount),
            recursive: options.bind == Some(true),
            propagation,
            id_map: id_map(draft, mount, &options)?,
            link: options.copy_symlink,
        };
        draft.sources[index] = draft.open(what, format!("mounts[{index}].source"));
    }
    Ok(())
}

/// The ids of a mapped mount: its own, or with the bare option those of the container's user
/// namespace.
fn id_map(draft: &Draft, mount: &Mount, options: &MountOptions) -> Result<Option<IdMap>> {
    let recursive = options.id_map == Some(true);
    if !mount.uid_mappings.is_empty() {
        return Ok(Some(IdMap {
            uid: mount.uid_mappings.clone(),
            gid: mount.gid_mappings.clone(),
            recursive,
        }));
    }
    match (options.id_map, &draft.spec.config().linux) {
        (Some(_), Some(linux)) if !linux.uid_mappings.is_empty() => Ok(Some(IdMap {
            uid: linux.uid_mappings.clone(),
            gid: linux.gid_mappings.clone(),
            recursive,
        })),
        (Some(_), _) => Err(Error::new(format!(
            "mount on {}: idmap needs mappings, or a user namespace that has them",
            mount.destination
        ))),
        (None, _) => Ok(None),
    }
}

/// The root file system takes its place.
pub fn root(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    if !namespaces.mount {
        let path = path_text(draft.spec.rootfs())?;
        draft.container(
            Step::Root {
                path,
                recursive: false,
                propagation: 0,
                attach: false,
            },
            "root.path",
        );
        return Ok(());
    }
    // The host's mounts are about to be left, and nothing done to them may reach the host.
    let flags = MS_REC
        | if base_propagation(draft) == libc::MS_PRIVATE {
            libc::MS_PRIVATE
        } else {
            libc::MS_SLAVE
        };
    draft.container(Step::Propagation { flags }, "linux.rootfsPropagation");
    if let Some(layers) = draft.request.layers.clone() {
        return crate::rootfs::layers::root(draft, &layers);
    }
    let path = path_text(draft.spec.rootfs())?;
    draft.container(
        Step::Root {
            path,
            recursive: true,
            propagation: 0,
            attach: true,
        },
        "root.path",
    );
    Ok(())
}

fn path_text(path: PathBuf) -> Result<String> {
    path.into_os_string()
        .into_string()
        .map_err(|path| Error::new(format!("path {} is not UTF-8", path.to_string_lossy())))
}

/// A new file system's options with `linux.mountLabel`. procfs, sysfs and mqueue take none, and a
/// mount that names a context keeps it.
fn labelled(draft: &Draft, fstype: &str, data: &str) -> String {
    match &draft.label {
        Some(label)
            if !["proc", "sysfs", "mqueue"].contains(&fstype) && !data.contains("context=") =>
        {
            if data.is_empty() {
                label.clone()
            } else {
                format!("{data},{label}")
            }
        }
        _ => data.to_owned(),
    }
}

fn take_label(draft: &mut Draft) -> Result<()> {
    let asked = draft
        .spec
        .config()
        .linux
        .as_ref()
        .and_then(|linux| linux.mount_label.as_deref());
    match lsm::mount_label(asked, &draft.facts.lsm.unwrap_or_default())? {
        lsm::MountLabel::None => {}
        lsm::MountLabel::Option(label) => draft.label = Some(label),
        lsm::MountLabel::Off(warning) => draft.warn(warning),
    }
    Ok(())
}

/// The mounts, in the config's order.
pub fn mounts(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    let spec = draft.spec;
    take_label(draft)?;
    for (index, mount) in spec.config().mounts.iter().enumerate() {
        let Mount {
            destination,
            typ,
            source: _,
            options,
            uid_mappings: _,
            gid_mappings: _,
        } = mount;
        let from: Cow<'static, str> = format!("mounts[{index}]").into();
        let options = MountOptions::parse(options)?;
        let target = inside_path(destination);
        if options.remount {
            let (set, clear) = options.attributes();
            let propagation = options.propagation & !MS_REC;
            draft.container(
                Step::Attributes {
                    target,
                    set,
                    clear,
                    recursive: false,
                    propagation,
                    missing: false,
                },
                from,
            );
        } else if is_bind(mount, &options) {
            bind(draft, mount, index, target, &options)?;
        } else if matches!(typ.as_deref(), Some("cgroup" | "cgroup2")) {
            cgroup(draft, namespaces, target, &options, &from)?;
        } else {
            file_system(draft, namespaces, mount, target, &options, from)?;
        }
    }
    Ok(())
}

/// What may be bound below /proc: what lxcfs and its kin put there, and nothing that security rests
/// on (CVE-2019-16884).
fn check_proc(target: &str, source: &str) -> Result<bool> {
    const ALLOWED: [&str; 12] = [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/net/dev",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/crypto/fips_enabled",
        "/proc/sys/fs/binfmt_misc",
    ];
    if target == "/proc" {
        return if source == "/proc" {
            Ok(true)
        } else {
            Err(Error::new(format!(
                "{target:?} cannot be mounted because it is not of type proc"
            )))
        };
    }
    if !target.starts_with("/proc/") {
        return Ok(false);
    }
    if ALLOWED.contains(&target) || source.starts_with("/proc/") && source == target {
        return Ok(true);
    }
    Err(Error::new(format!(
        "{target:?} cannot be mounted because it is inside /proc"
    )))
}

fn bind(
    draft: &mut Draft,
    mount: &Mount,
    index: usize,
    target: String,
    options: &MountOptions,
) -> Result<()> {
    let from = format!("mounts[{index}]");
    let source = path_text(source_path(draft, mount))?;
    let in_proc = check_proc(&target, &source).map_err(|error| error.within(&from))?;
    if !options.data.is_empty() {
        draft.warn(format!(
            "{from}: a bind mount has no file system options of its own: {} left out",
            options.data
        ));
    }
    let (set, clear) = options.attributes();
    let (rset, rclear) = options.recursive_attributes();
    draft.container(
        Step::Bind {
            target,
            slot: draft.sources[index],
            source,
            recursive: options.bind == Some(true),
            create: Create::LikeSource,
            in_proc,
            link: options.copy_symlink,
            set,
            clear,
            rset,
            rclear,
            propagation: options.propagation,
        },
        from,
    );
    Ok(())
}

fn file_system(
    draft: &mut Draft,
    namespaces: &Namespaces,
    mount: &Mount,
    target: String,
    options: &MountOptions,
    from: Cow<'static, str>,
) -> Result<()> {
    let fstype = mount.typ.clone().unwrap_or_default();
    let is_kernel = fstype == "proc" || fstype == "sysfs";
    if target.starts_with("/proc/") || (target == "/proc" && fstype != "proc") {
        check_proc(&target, "").map_err(|error| error.within(&from))?;
    }
    if fstype.is_empty()
        && mount.source.as_deref().unwrap_or_default().is_empty()
        && options.data.is_empty()
    {
        return Err(Error::new(format!("{from}: mount on {target} has no type")));
    }
    // A read-only /dev is filled first; a read-only tmpfs elsewhere is made so once it is copied
    // into.
    let late_ro = target == "/dev" && options.flags & libc::MS_RDONLY != 0;
    let flags = options.flags & if late_ro { !libc::MS_RDONLY } else { !0 };
    let refused = match fstype.as_str() {
        "sysfs" if namespaces.user || draft.facts.in_user_namespace => Refused::BindHost,
        "mqueue" if draft.facts.in_user_namespace => Refused::Skip,
        _ => Refused::Fail,
    };
    draft.container(
        Step::Mount {
            target,
            source: mount
                .source
                .clone()
                .filter(|source| !source.is_empty())
                .unwrap_or_else(|| fstype.clone()),
            data: labelled(draft, &fstype, &options.data),
            fstype,
            flags,
            propagation: options.propagation & !MS_REC,
            create: Create::Directory,
            refused,
            follow: !is_kernel,
            copy_up: options.copy_up,
        },
        from,
    );
    Ok(())
}

/// A mount of type cgroup: the hierarchies of the host's tree, or the one of v2.
fn cgroup(
    draft: &mut Draft,
    namespaces: &Namespaces,
    target: String,
    options: &MountOptions,
    from: &str,
) -> Result<()> {
    let Some(plan) = &draft.request.cgroup else {
        return Ok(());
    };
    let mounts = cgroups::mounts::mounts_for_container(plan, namespaces.cgroup);
    let refused = if namespaces.user || draft.facts.in_user_namespace {
        Refused::Skip
    } else {
        Refused::Fail
    };
    for mount in mounts {
        let path = format!("{target}{}", mount.below());
        let flags = options.flags;
        match mount {
            cgroups::mounts::CgroupMount::Tmpfs => {
                let flags = flags & !libc::MS_RDONLY;
                let data = labelled(draft, "tmpfs", "mode=755,nr_blocks=0");
                let step = fs_step(
                    path,
                    "tmpfs",
                    "tmpfs",
                    (flags, options.propagation),
                    &data,
                    Refused::Fail,
                );
                draft.container(step, from.to_owned());
            }
            cgroups::mounts::CgroupMount::File {
                fstype, data, host, ..
            } => {
                // v2 takes any source; the host's directory is what is bound where the kernel refuses
                // the mount.
                let (source, refused) = if fstype == "cgroup2" {
                    (host.as_str(), Refused::BindHost)
                } else {
                    ("cgroup", refused)
                };
                draft.container(
                    fs_step(
                        path,
                        fstype,
                        source,
                        (flags, options.propagation),
                        &data,
                        refused,
                    ),
                    from.to_owned(),
                );
            }
            cgroups::mounts::CgroupMount::Bind { source, .. } => {
                let (set, clear) = options.attributes();
                let step = Step::Bind {
                    target: path,
                    slot: slot::NONE,
                    source,
                    recursive: true,
                    create: Create::Directory,
                    in_proc: false,
                    link: false,
                    set,
                    clear,
                    rset: 0,
                    rclear: 0,
                    propagation: options.propagation,
                };
                draft.container(step, from.to_owned());
            }
            cgroups::mounts::CgroupMount::Symlink { to, .. } => {
                draft.container(Step::Symlink { path, target: to }, from.to_owned())
            }
        }
    }
    if options.flags & libc::MS_RDONLY != 0 {
        draft.container(
            Step::Attributes {
                target,
                set: ATTR_RDONLY,
                clear: 0,
                recursive: false,
                propagation: 0,
                missing: true,
            },
            from.to_owned(),
        );
    }
    Ok(())
}

fn fs_step(
    target: String,
    fstype: &str,
    source: &str,
    (flags, propagation): (u64, u64),
    data: &str,
    refused: Refused,
) -> Step {
    Step::Mount {
        target,
        fstype: fstype.to_owned(),
        source: source.to_owned(),
        flags,
        data: data.to_owned(),
        propagation: propagation & !MS_REC,
        create: Create::Directory,
        refused,
        follow: true,
        copy_up: false,
    }
}

/// The old root is left, and the new one gets its final attributes.
pub fn leave(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    let spec = draft.spec;
    let (how, from) = match (namespaces.mount, draft.request.no_pivot) {
        (false, _) => (Leave::Chroot, "[no mount namespace]"),
        (true, true) => (Leave::Move, "[--no-pivot]"),
        (true, false) => (Leave::Pivot, "[pivot_root]"),
    };
    draft.container(Step::Leave { how }, from);
    for (index, mount) in spec.config().mounts.iter().enumerate() {
        let options = MountOptions::parse(&mount.options)?;
        if inside_path(&mount.destination) == "/dev"
            && !is_bind(mount, &options)
            && options.flags & libc::MS_RDONLY != 0
        {
            let step = Step::Attributes {
                target: "/dev".into(),
                set: ATTR_RDONLY,
                clear: 0,
                recursive: false,
                propagation: 0,
                missing: false,
            };
            draft.container(step, format!("mounts[{index}]"));
        }
    }
    let readonly = namespaces.mount
        && spec
            .config()
            .root
            .as_ref()
            .is_some_and(|root| root.readonly);
    if let Some(cwd) = spec
        .config()
        .process
        .as_ref()
        .map(|process| process.cwd.clone())
    {
        draft.container(
            Step::WorkingDirectory {
                path: cwd,
                create: true,
            },
            "process.cwd",
        );
    }
    if readonly {
        let layers = draft.request.layers.clone().unwrap_or_default();
        for target in layers
            .overlays()
            .map(crate::spec::names::inside_path)
            .filter(|target| target != "/")
            .chain(["/".to_owned()])
        {
            let step = Step::Attributes {
                target,
                set: ATTR_RDONLY,
                clear: 0,
                recursive: false,
                propagation: 0,
                missing: false,
            };
            draft.container(step, "root.readonly");
        }
    }
    Ok(())
}

/// The root's propagation is set last: an unbindable mount could not be masked any more, and a
/// shared one would show what is mounted.
pub fn propagation(draft: &mut Draft) {
    let spec = draft.spec;
    let asked = spec
        .config()
        .linux
        .as_ref()
        .and_then(|linux| linux.rootfs_propagation.as_deref())
        .unwrap_or_default();
    if !matches!(asked, "" | "slave" | "rslave") {
        let propagation = base_propagation(draft);
        let step = Step::Attributes {
            target: "/".into(),
            set: 0,
            clear: 0,
            recursive: asked.starts_with('r'),
            propagation,
            missing: false,
        };
        draft.container(step, "linux.rootfsPropagation");
    }
}
