//! What an engine's pod gives its containers, and what of it a machine can have.
//!
//! | of the pod | in the machine |
//! |---|---|
//! | the sandbox container, which holds the namespaces | is none: it stays with the namespace backend |
//! | the network namespace | its interfaces are carried in ([`super::network`]) |
//! | the uts namespace | its names are the guest's |
//! | the ipc namespace | the guest has its own: System V objects and queues are a kernel's |
//! | `/dev/shm`, a tmpfs of the host | a tmpfs of the guest, as large: shared memory is a kernel's too |

use crate::spec::config::{Config, Mount, Namespace};
use crate::sys::fd::Fd;
use crate::sys::{namespace, process};
use crate::{Context, Error, Result};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::path::Path;

/// Makes the guest's own of the namespaces that a pod shares and a machine cannot join.
///
/// # Errors
/// The ipc namespace is none; the uts namespace cannot be asked for its names.
pub fn own(config: &mut Config) -> Result<()> {
    let namespaces = &mut config.linux.get_or_insert_default().namespaces;
    let given = |namespace: &Namespace| namespace.path.clone().filter(|path| !path.is_empty());
    for namespace in namespaces
        .iter_mut()
        .filter(|namespace| namespace.typ == Some(Kind::Ipc))
    {
        if let Some(path) = given(namespace) {
            let kind = namespace::kind(namespace::open(&path)?.0).on("look at namespace", &path)?;
            if kind != libc::CLONE_NEWIPC as u32 {
                return Err(Error::new(format!(
                    "linux.namespaces: {path} is a {} namespace, where ipc is asked for",
                    crate::spec::names::kind_name(kind)
                )));
            }
            crate::log::remark(&format!(
                "the ipc namespace {path} is the host's: the virtual machine has its own"
            ));
            namespace.path = None;
        }
    }
    // Without a uts namespace of its own a container has its host's names.
    let found = namespaces
        .iter_mut()
        .find(|namespace| namespace.typ == Some(Kind::Uts));
    let place = match &found {
        Some(namespace) => given(namespace),
        None => Some("/proc/self/ns/uts".to_owned()),
    };
    let Some(place) = place else { return Ok(()) };
    match found {
        Some(namespace) => namespace.path = None,
        None => namespaces.push(Namespace {
            typ: Some(Kind::Uts),
            ..Namespace::default()
        }),
    }
    let [host, domain] = names(&place)?;
    config.hostname = Some(host);
    config.domainname = Some(domain).filter(|name| !name.is_empty() && name != "(none)");
    Ok(())
}

/// Host name and domain name of a uts namespace. It is joined for that, and left: only there the
/// kernel tells them.
fn names(place: &str) -> Result<[String; 2]> {
    let join = |namespace: &Fd| {
        process::setns(namespace.0, libc::CLONE_NEWUTS as u64).on("join the uts namespace", place)
    };
    let (own, theirs) = (
        namespace::open("/proc/self/ns/uts")?,
        namespace::open(place)?,
    );
    join(&theirs)?;
    let read = |name: &str| {
        std::fs::read_to_string(Path::new("/proc/sys/kernel").join(name))
            .on("read the name of", place)
    };
    let names = read("hostname").and_then(|host| Ok([host, read("domainname")?]));
    join(&own)?;
    Ok(names?.map(|name| name.trim_end().to_owned()))
}

/// A bind mount of a tmpfs of the host's on `/dev/shm`, as CRI and Podman have it, becomes a tmpfs
/// of the guest's. Whether it was one.
pub fn own_shared_memory(mount: &mut Mount, path: &Path) -> bool {
    let Ok(about) = statfs(path) else {
        return false;
    };
    if mount.destination != "/dev/shm" || about.filesystem_type() != TMPFS_MAGIC {
        return false;
    }
    let bytes = about.blocks() * about.block_size().unsigned_abs();
    mount.typ = Some("tmpfs".into());
    mount.source = Some("shm".into());
    mount.options.retain(|option| {
        !matches!(option.as_str(), "bind" | "rbind" | "z" | "Z")
            && !option.ends_with("shared")
            && !option.ends_with("slave")
            && !option.ends_with("private")
    });
    mount.options.push("mode=1777".into());
    if bytes > 0 {
        mount.options.push(format!("size={bytes}"));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use serde_json::json;
    use std::path::PathBuf;

    fn spec(changes: &serde_json::Value) -> Spec {
        let mut config = json!({
            "ociVersion": "1.0.2", "root": { "path": "/" },
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["true"], "cwd": "/" },
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
        });
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        Spec::check(serde_json::from_value(config).unwrap(), PathBuf::from("/")).unwrap()
    }

    #[test]
    fn a_machine_without_names_of_its_own_has_those_of_its_host() {
        let mut config = spec(&json!({})).config().clone();
        own(&mut config).unwrap();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(config.hostname.as_deref(), Some(host.trim_end()));
        let uts = |config: &Config| {
            config
                .linux
                .as_ref()
                .unwrap()
                .namespaces
                .iter()
                .filter(|n| n.typ == Some(Kind::Uts))
                .count()
        };
        assert_eq!(uts(&config), 1);
        config.hostname = Some("its-own".into());
        own(&mut config).unwrap();
        assert_eq!(
            (config.hostname.as_deref(), uts(&config)),
            (Some("its-own"), 1)
        );
    }

    #[test]
    fn shared_memory_is_the_guests_own() {
        let mut mount = Mount {
            destination: "/dev/shm".into(),
            typ: Some("bind".into()),
            options: ["rbind", "rprivate", "nosuid"].map(str::to_owned).to_vec(),
            ..Mount::default()
        };
        assert!(!own_shared_memory(&mut mount, Path::new("/proc")));
        assert!(own_shared_memory(&mut mount, Path::new("/dev/shm")));
        assert_eq!(
            (mount.typ.as_deref(), &mount.options[..2]),
            (
                Some("tmpfs"),
                &["nosuid".to_owned(), "mode=1777".to_owned()][..]
            )
        );
        mount.destination = "/elsewhere".into();
        assert!(!own_shared_memory(&mut mount, Path::new("/dev/shm")));
    }
}
