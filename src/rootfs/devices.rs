//! Plans the device nodes and the symbolic links of `/dev`. A user namespace cannot make device
//! nodes, so the host's are bound there.

use crate::spec::config::Device;
use crate::spec::mount_options::MountOptions;
use crate::spec::names::inside_path;
use crate::step::container::Step;
use crate::step::draft::Draft;
use crate::step::draft::Namespaces;
use crate::{Error, Result};

/// The default devices: path, major and minor number (config-linux.md, Default Devices).
const DEFAULTS: [(&str, i64, i64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The default links: path and target (config-linux.md, Dev symbolic links).
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Adds the steps that fill `/dev`, unless the config binds a directory of the host there.
///
/// # Errors
/// A mount option is unknown; a device has an unknown type or a number out of range.
pub fn devices(draft: &mut Draft, namespaces: &Namespaces) -> Result<()> {
    let spec = draft.spec;
    let mut bound = false;
    for mount in &spec.config().mounts {
        let options = MountOptions::parse(&mount.options)?;
        bound |= inside_path(&mount.destination) == "/dev"
            && (options.bind.is_some() || mount.typ.as_deref() == Some("bind"));
    }
    if bound {
        return Ok(());
    }
    let none = Vec::new();
    let asked = spec
        .config()
        .linux
        .as_ref()
        .map_or(&none, |linux| &linux.devices);
    let bind = namespaces.user || draft.facts.in_user_namespace;
    // What the config mounts in the place of a device is what the container sees.
    let mounts = &spec.config().mounts;
    let covered = |path: &str| {
        let mut targets = mounts.iter().map(|mount| inside_path(&mount.destination));
        targets.any(|target| target == path)
    };
    for (path, major, minor) in DEFAULTS {
        if !covered(path) && !asked.iter().any(|device| inside_path(&device.path) == path) {
            let device = libc::makedev(major as u32, minor as u32);
            let step = Step::Node {
                path: path.into(),
                mode: libc::S_IFCHR | 0o666,
                device,
                uid: 0,
                gid: 0,
                bind,
            };
            draft.container(step, "[default device]");
        }
    }
    // A device without a path is there for the cgroup's rules alone, as in runc.
    let nodes = asked.iter().enumerate();
    for (index, device) in
        nodes.filter(|(_, device)| !device.path.is_empty() && !covered(&inside_path(&device.path)))
    {
        let step =
            node(device, bind).map_err(|error| error.within(format!("linux.devices[{index}]")))?;
        draft.container(step, format!("linux.devices[{index}]"));
    }
    draft.container(
        Step::Symlink {
            path: "/dev/ptmx".into(),
            target: "pts/ptmx".into(),
        },
        "[default link]",
    );
    for (path, target) in LINKS {
        draft.container(
            Step::Symlink {
                path: path.into(),
                target: target.into(),
            },
            "[default link]",
        );
    }
    if draft.facts.kcore {
        draft.container(
            Step::Symlink {
                path: "/dev/core".into(),
                target: "/proc/kcore".into(),
            },
            "[default link]",
        );
    }
    Ok(())
}

fn node(device: &Device, bind: bool) -> Result<Step> {
    let Device {
        path,
        typ,
        major,
        minor,
        file_mode,
        uid,
        gid,
    } = device;
    let kind = match typ.as_str() {
        "c" | "u" => libc::S_IFCHR,
        "b" => libc::S_IFBLK,
        "p" => libc::S_IFIFO,
        other => return Err(Error::new(format!("unknown device type {other:?}"))),
    };
    let number = |value: Option<i64>| {
        u32::try_from(value.unwrap_or(0))
            .map_err(|_| Error::new(format!("{path}: a device number is out of range")))
    };
    // A fifo has no device number, so those of the config are ignored.
    let device = if kind == libc::S_IFIFO {
        0
    } else {
        libc::makedev(number(*major)?, number(*minor)?)
    };
    Ok(Step::Node {
        path: inside_path(path),
        mode: kind | (file_mode.unwrap_or(0o666) & 0o7777),
        device,
        uid: uid.unwrap_or(0),
        gid: gid.unwrap_or(0),
        bind: bind && kind != libc::S_IFIFO,
    })
}
