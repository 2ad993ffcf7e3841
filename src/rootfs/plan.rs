//! Plans the root file system and the mounts.

use crate::cgroups;
use crate::security::lsm;
use crate::spec::config::Mount;
use crate::spec::mount_options::MountOptions;
use crate::spec::names::inside_path;
use crate::step::container::{Create, Cwd, Leave, Refused, Step, slot};
use crate::step::draft::Draft;
use crate::step::draft::Namespaces;
use crate::step::host::HostStep;
use crate::step::host::{IdMap, Open};
use crate::sys::mount::ATTR_RDONLY;
use crate::{Error, Result};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

const MS_REC: u64 = libc::MS_REC;

/// The propagation of mounts in a new mount namespace: `linux.rootfsPropagation`, or slave if it is
/// not given, as in runc.
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

/// Whether hull must open the mount sources even for a privileged child without a user namespace:
/// for an id map, or for copies that stay peers of the host's mounts. Otherwise the child opens
/// them itself in the order of the mounts, before it changes its root.
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

/// Adds the host steps that open the mount sources. hull opens them with its privileges for a child
/// in a user namespace, which may have no permission to reach them.
///
/// # Errors
/// An id-mapped mount without privileges or without mappings; an unknown mount option.
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
    // The copies get the propagation that they would inherit from `/` of the new mount namespace.
    let propagation = match base_propagation(draft) {
        libc::MS_SHARED => 0,
        other => other,
    };
    if draft.request.layers.is_none() {
        // The root is never a peer of a mount of the host: mounts below it must not propagate to
        // the host, and pivot_root(2) refuses a shared root. `shared` is set last.
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
        let id_map = id_map(draft, mount, &options)?;
        if id_map.is_none() && shown_by_earlier(draft, index).is_some() {
            continue;
        }
        let what = Open::Tree {
            path: source_path(draft, mount),
            recursive: options.bind == Some(true),
            propagation,
            id_map,
            link: options.copy_symlink,
        };
        draft.sources[index] = draft.open(what, format!("mounts[{index}].source"));
    }
    Ok(())
}

/// The path in the container's root of a source that an earlier mount shows: the source lies in the
/// root filesystem, below that mount's target. On the host there is nothing at the path.
fn shown_by_earlier(draft: &Draft, index: usize) -> Option<String> {
    if draft.request.layers.is_some() {
        return None;
    }
    let mounts = &draft.spec.config().mounts;
    let source = source_path(draft, mounts.get(index)?);
    let inside = Path::new("/").join(source.strip_prefix(draft.spec.rootfs()).ok()?);
    let mut earlier = mounts.iter().take(index);
    earlier
        .any(|mount| {
            let target = inside_path(&mount.destination);
            target != "/" && inside.starts_with(target)
        })
        .then(|| inside.to_str().map(str::to_owned))
        .flatten()
}

/// Adds the steps that copy the host's root for later bind mounts of `/`: once the container's root
/// is attached, a copy of the host's tree shows it too.
///
/// # Errors
/// An unknown mount option.
fn copies_of_root(draft: &mut Draft) -> Result<()> {
    let mut next = slot::FIRST_COPY;
    for (index, mount) in draft.spec.config().mounts.iter().enumerate() {
        let options = MountOptions::parse(&mount.options)?;
        let opened = draft
            .sources
            .get(index)
            .is_some_and(|held| *held != slot::NONE);
        let of_root = source_path(draft, mount) == Path::new("/");
        if opened || !of_root || !is_bind(mount, &options) || options.remount {
            continue;
        }
        draft.container(
            Step::Copy {
                slot: next,
                source: "/".into(),
                recursive: options.bind == Some(true),
                link: false,
            },
            format!("mounts[{index}].source"),
        );
        draft.sources[index] = next;
        next += 1;
    }
    Ok(())
}

/// The id map of a mount: its own, or with the option `idmap` alone that of the container's user
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

/// Adds the steps that attach the root file system.
///
/// # Errors
/// A path is not UTF-8.
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
    // Changes to the copies of the host's mounts must not propagate to the host.
    let flags = MS_REC
        | if base_propagation(draft) == libc::MS_PRIVATE {
            libc::MS_PRIVATE
        } else {
            libc::MS_SLAVE
        };
    draft.container(Step::Propagation { flags }, "linux.rootfsPropagation");
    copies_of_root(draft)?;
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

/// The options of a new file system, with `linux.mountLabel` added. procfs, sysfs and mqueue accept
/// no label, and a mount that has an SELinux context keeps it.
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

/// Adds the steps of `mounts`, in the order of the config.
///
/// # Errors
/// An unknown mount option; a forbidden mount below `/proc`; a file system without a type.
pub fn mounts(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    let spec = draft.spec;
    take_label(draft)?;
    // Directories of mounts to come are made on these first.
    let mut read_only: Vec<(String, String)> = Vec::new();
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
            bind(draft, namespaces, index, target, &options)?;
        } else if let Some(fstype @ ("cgroup" | "cgroup2")) = typ.as_deref() {
            let only_v2 = fstype == "cgroup2";
            if cgroup(draft, namespaces, &target, &options, only_v2, &from)? {
                read_only.push((target, from.into_owned()));
            }
        } else if file_system(draft, namespaces, mount, &target, &options, &from)? {
            read_only.push((target, from.into_owned()));
        }
    }
    for (target, from) in read_only {
        let step = Step::Attributes {
            target,
            set: ATTR_RDONLY,
            clear: 0,
            recursive: false,
            propagation: 0,
            missing: true,
        };
        draft.container(step, from);
    }
    Ok(())
}

/// Checks a bind below `/proc`: those that lxcfs and similar programs need are permitted, and those
/// that could defeat a protection are not (CVE-2019-16884). Returns whether the target is in
/// `/proc`.
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
    namespaces: &Namespaces,
    index: usize,
    target: String,
    options: &MountOptions,
) -> Result<()> {
    let from = format!("mounts[{index}]");
    let mount = &draft.spec.config().mounts[index];
    let (source, held) = match (draft.sources[index], shown_by_earlier(draft, index)) {
        (slot::NONE, Some(inside)) => (inside, slot::IN_ROOT),
        (held, _) => (path_text(source_path(draft, mount))?, held),
    };
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
            slot: held,
            source,
            recursive: options.bind == Some(true),
            create: Create::LikeSource,
            in_proc,
            link: options.copy_symlink,
            set,
            clear,
            // In a new user namespace the source's flags are locked (mount_namespaces(7)), also
            // where hull has opened the source, and the kernel does not know.
            implied: if namespaces.user {
                0
            } else {
                options.implied()
            },
            locked: namespaces.user,
            rset,
            rclear,
            propagation: options.propagation,
        },
        from,
    );
    Ok(())
}

/// Adds the step of a new file system. Returns whether it becomes read-only after all mounts.
fn file_system(
    draft: &mut Draft,
    namespaces: &Namespaces,
    mount: &Mount,
    target: &str,
    options: &MountOptions,
    from: &str,
) -> Result<bool> {
    let fstype = mount.typ.clone().unwrap_or_default();
    let is_kernel = fstype == "proc" || fstype == "sysfs";
    // runc lets a tmpfs cover a directory of /proc, and so do engines' users (`--tmpfs /proc/acpi`).
    if target == "/proc" && fstype != "proc" || target.starts_with("/proc/") && fstype != "tmpfs" {
        check_proc(target, "").map_err(|error| error.within(from))?;
    }
    if target == "/" {
        return Err(Error::new(format!(
            "{from}: a new file system of type {fstype:?} cannot cover the root; a bind mount on / \
             can"
        )));
    }
    if fstype.is_empty()
        && mount.source.as_deref().unwrap_or_default().is_empty()
        && options.data.is_empty()
    {
        return Err(Error::new(format!("{from}: mount on {target} has no type")));
    }
    // A tmpfs becomes read-only after all mounts, since targets of later ones are made in it, and
    // /dev after its nodes are made. (One that takes a copy is made read-only by the step itself.)
    let read_only = options.flags & libc::MS_RDONLY != 0;
    let late_ro = read_only && (target == "/dev" || fstype == "tmpfs" && !options.copy_up);
    let flags = options.flags & if late_ro { !libc::MS_RDONLY } else { !0 };
    let refused = match fstype.as_str() {
        "sysfs" if namespaces.user || draft.facts.in_user_namespace => Refused::BindHost,
        "mqueue" if draft.facts.in_user_namespace => Refused::Skip,
        _ => Refused::Fail,
    };
    draft.container(
        Step::Mount {
            target: target.to_owned(),
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
        from.to_owned(),
    );
    Ok(late_ro && target != "/dev")
}

/// Adds the steps of a mount of type cgroup: one for each v1 hierarchy of the host, or one for v2.
/// Returns whether the target becomes read-only after all mounts.
fn cgroup(
    draft: &mut Draft,
    namespaces: &Namespaces,
    target: &str,
    options: &MountOptions,
    only_v2: bool,
    from: &str,
) -> Result<bool> {
    let Some(plan) = &draft.request.cgroup else {
        return Ok(false);
    };
    let mounts = cgroups::mounts::mounts_for_container(plan, namespaces.cgroup, only_v2);
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
                let step = CgroupFileSystem {
                    target: path,
                    fstype: "tmpfs",
                    source: "tmpfs",
                    flags,
                    data: &data,
                    propagation: options.propagation,
                    refused: Refused::Fail,
                }
                .step();
                draft.container(step, from.to_owned());
            }
            cgroups::mounts::CgroupMount::File {
                fstype, data, host, ..
            } => {
                // cgroup2 ignores its source. The host's directory is bound if the kernel refuses
                // the mount.
                let (source, refused) = if fstype == "cgroup2" {
                    (host.as_str(), Refused::BindHost)
                } else {
                    ("cgroup", refused)
                };
                let step = CgroupFileSystem {
                    target: path,
                    fstype,
                    source,
                    flags,
                    data: &data,
                    propagation: options.propagation,
                    refused,
                }
                .step();
                draft.container(step, from.to_owned());
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
                    implied: options.implied(),
                    locked: false,
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
    Ok(options.flags & libc::MS_RDONLY != 0)
}

/// A file system of a mount of type cgroup; the fields are those of [`Step::Mount`].
struct CgroupFileSystem<'a> {
    target: String,
    fstype: &'a str,
    source: &'a str,
    flags: u64,
    data: &'a str,
    propagation: u64,
    refused: Refused,
}

impl CgroupFileSystem<'_> {
    fn step(self) -> Step {
        Step::Mount {
            target: self.target,
            fstype: self.fstype.to_owned(),
            source: self.source.to_owned(),
            flags: self.flags,
            data: self.data.to_owned(),
            propagation: self.propagation & !MS_REC,
            create: Create::Directory,
            refused: self.refused,
            follow: true,
            copy_up: false,
        }
    }
}

/// Adds the steps that change the root, and those that then make `/dev` and the root read-only.
///
/// # Errors
/// An unknown mount option.
pub fn leave(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    let spec = draft.spec;
    let (how, from) = match (namespaces.mount, draft.request.no_pivot) {
        (false, _) => (Leave::Chroot, "[no mount namespace]"),
        (true, true) => (Leave::Move, "[--no-pivot]"),
        (true, false) => (Leave::Pivot, "[pivot_root]"),
    };
    for path in &draft.request.revealing {
        draft.container(Step::Uncover { path: path.clone() }, from);
    }
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
                how: Cwd::Make,
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

/// Adds the step that sets the root's propagation. It comes last: paths on an unbindable mount
/// cannot be masked any more, and the masks on a shared one would propagate.
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
