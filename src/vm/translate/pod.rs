//! Namespaces and shared memory that the containers of a pod share, and what a container in a VM
//! has in their place:
//!
//! - The sandbox container, which holds the namespaces, has no VM: it runs with the namespace
//!   backend.
//! - The network namespace: its interfaces are connected to the VM ([`crate::vm::network`]).
//! - The UTS namespace: its host name and domain name become the guest's.
//! - The IPC namespace: the guest has one of its own, since System V objects and message queues
//!   exist within one kernel.
//! - `/dev/shm`, a tmpfs of the host: a tmpfs of the same size in the guest, since shared memory
//!   exists within one kernel too.

use crate::spec::config::{Config, Mount, Namespace};
use crate::sys::fd::Fd;
use crate::sys::{namespace, process};
use crate::{Context, Error, Result};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::path::Path;

/// Replaces the IPC and UTS namespaces that the config joins by path by new namespaces in the
/// guest, and sets the config's host and domain name.
///
/// # Errors
/// The path of the IPC namespace is another kind of namespace; the UTS namespace cannot be joined,
/// or its names cannot be read.
pub(super) fn replace_namespaces(config: &mut Config) -> Result<()> {
    let namespaces = &mut config.linux.get_or_insert_default().namespaces;
    let path = |namespace: &Namespace| namespace.path.clone().filter(|path| !path.is_empty());
    for namespace in namespaces
        .iter_mut()
        .filter(|namespace| namespace.typ == Some(Kind::Ipc))
    {
        if let Some(path) = path(namespace) {
            let kind = namespace::kind(namespace::open(&path)?.0).on("query namespace", &path)?;
            if kind != libc::CLONE_NEWIPC as u32 {
                return Err(Error::new(format!(
                    "linux.namespaces: {path} is a {} namespace, not an ipc namespace",
                    crate::spec::names::kind_name(kind)
                )));
            }
            crate::log::remark(&format!(
                "the ipc namespace {path} is the host's: the virtual machine has its own"
            ));
            namespace.path = None;
        }
    }
    // A container without a UTS namespace has the names of its host.
    let uts = namespaces
        .iter_mut()
        .find(|namespace| namespace.typ == Some(Kind::Uts));
    let source = match &uts {
        Some(namespace) => path(namespace),
        None => Some("/proc/self/ns/uts".to_owned()),
    };
    let Some(source) = source else { return Ok(()) };
    match uts {
        Some(namespace) => namespace.path = None,
        None => namespaces.push(Namespace {
            typ: Some(Kind::Uts),
            ..Namespace::default()
        }),
    }
    let names = read_names(&source)?;
    config.hostname = Some(names.host);
    config.domainname = Some(names.domain).filter(|name| !name.is_empty() && name != "(none)");
    Ok(())
}

/// The names of a UTS namespace.
struct Names {
    host: String,
    domain: String,
}

/// Reads the names of a UTS namespace. The kernel has no call for it from outside, so hull joins
/// the namespace for a moment.
fn read_names(path: &str) -> Result<Names> {
    let join = |namespace: &Fd| {
        process::setns(namespace.0, libc::CLONE_NEWUTS as u64).on("join the uts namespace", path)
    };
    let own = namespace::open("/proc/self/ns/uts")?;
    let joined = namespace::open(path)?;
    join(&joined)?;
    let read = |name: &str| {
        std::fs::read_to_string(Path::new("/proc/sys/kernel").join(name))
            .map(|name| name.trim_end().to_owned())
            .on("read the names of", path)
    };
    let names = read("hostname").and_then(|host| {
        Ok(Names {
            host,
            domain: read("domainname")?,
        })
    });
    join(&own)?;
    names
}

/// Turns a bind mount of a tmpfs of the host on `/dev/shm`, as CRI and Podman write it, into a
/// tmpfs of the guest with the same size. Returns whether it was one.
pub(super) fn replace_shared_memory(mount: &mut Mount, source: &Path) -> bool {
    let Ok(filesystem) = statfs(source) else {
        return false;
    };
    if mount.destination != "/dev/shm" || filesystem.filesystem_type() != TMPFS_MAGIC {
        return false;
    }
    let bytes = filesystem.blocks() * filesystem.block_size().unsigned_abs();
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
    fn a_guest_without_a_uts_namespace_has_the_hosts_names() {
        let mut config = spec(&json!({})).config().clone();
        replace_namespaces(&mut config).unwrap();
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
        replace_namespaces(&mut config).unwrap();
        assert_eq!(
            (config.hostname.as_deref(), uts(&config)),
            (Some("its-own"), 1)
        );
    }

    #[test]
    fn the_hosts_shared_memory_becomes_a_tmpfs_of_the_guest() {
        let mut mount = Mount {
            destination: "/dev/shm".into(),
            typ: Some("bind".into()),
            options: ["rbind", "rprivate", "nosuid"].map(str::to_owned).to_vec(),
            ..Mount::default()
        };
        assert!(!replace_shared_memory(&mut mount, Path::new("/proc")));
        assert!(replace_shared_memory(&mut mount, Path::new("/dev/shm")));
        assert_eq!(
            (mount.typ.as_deref(), &mount.options[..2]),
            (
                Some("tmpfs"),
                &["nosuid".to_owned(), "mode=1777".to_owned()][..]
            )
        );
        mount.destination = "/elsewhere".into();
        assert!(!replace_shared_memory(&mut mount, Path::new("/dev/shm")));
    }
}
