//! An ordinary user's machine. All that there is of it on the host lives in a user namespace
//! (user_namespaces(7)), whose root is the monitor: it may mount the shares, redirect packets and
//! give files to the ids that the user has been granted. Those ids of the host are mapped there;
//! the guest sees files as that namespace does, so a user namespace of the config's maps the same
//! ids to themselves in it.

use crate::facts::Facts;
use crate::namespaces::subid::Maps;
use crate::spec::Spec;
use crate::spec::config::IdMapping;
use crate::step::host::{HostStep, MapWriter};
use crate::sys::{ids, socket};
use crate::{Context, Error, Result};

/// `CLONE_NEW*` of the monitor.
pub const KINDS: u64 = (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64;
/// What the monitor hears when its maps are written.
pub const MAPPED: &[u8] = b"i";

/// The ids of the user namespace, and who writes its maps.
#[derive(Clone, Debug)]
pub struct Own {
    maps: Maps,
    writers: [(MapWriter, bool); 2],
}

impl Own {
    /// What an ordinary user's machine needs, and the config with the guest's ids; nothing for
    /// root, in whatever user namespace.
    ///
    /// # Errors
    /// The ids that the config maps are not the user's.
    pub fn of(spec: &Spec, facts: &Facts) -> Result<Option<(Self, Spec)>> {
        if nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let mapped = spec.config().linux.as_ref().map(|linux| Maps {
            uid: linux.uid_mappings.clone(),
            gid: linux.gid_mappings.clone(),
        });
        let maps = match mapped.filter(|maps| !maps.uid.is_empty() && !maps.gid.is_empty()) {
            Some(maps) => maps,
            None => Maps::of_user(
                nix::unistd::geteuid().as_raw(),
                nix::unistd::getegid().as_raw(),
            ),
        };
        if !maps.has(0, 0) {
            return Err(Error::new(
                "linux.uidMappings: the VM backend needs the container's root mapped: it serves \
                    the files",
            ));
        }
        let facts = facts.clone().for_mappings();
        let writer = |uid, map: &[IdMapping], from: &str| {
            crate::namespaces::plan::map_writer(&facts, uid, map)
                .map(|method| (method.writer, method.deny_setgroups))
                .map_err(|error| error.within(from))
        };
        let writers = [
            writer(true, &maps.uid, "linux.uidMappings")?,
            writer(false, &maps.gid, "linux.gidMappings")?,
        ];
        let guests = if spec
            .namespace(oci_spec::runtime::LinuxNamespaceType::User)
            .is_some()
        {
            spec.with_mappings(to_themselves(&maps.uid), to_themselves(&maps.gid))
        } else {
            spec.with_mappings(Vec::new(), Vec::new())
        };
        Ok(Some((Self { maps, writers }, guests)))
    }

    /// The host steps that map the monitor's ids.
    pub fn steps(&self) -> Vec<HostStep> {
        [(true, &self.maps.uid), (false, &self.maps.gid)]
            .into_iter()
            .zip(&self.writers)
            .map(
                |((uid, mappings), (writer, deny_setgroups))| HostStep::IdMap {
                    uid,
                    mappings: mappings.clone(),
                    writer: writer.clone(),
                    deny_setgroups: *deny_setgroups,
                },
            )
            .collect()
    }

    /// The monitor becomes root of its user namespace.
    ///
    /// # Errors
    /// the parent process exited.
    pub fn become_root(&self, maker: i32) -> Result<()> {
        let mut word = [0_u8; 1];
        if socket::recv(maker, &mut word) != Ok(MAPPED.len()) {
            return Err(Error::new("the parent process exited"));
        }
        ids::setresgid(0).on("become", "root of the user namespace")?;
        ids::setresuid(0).on("become", "root of the user namespace")?;
        // That took it away (prctl(2)).
        ids::prctl(libc::PR_SET_DUMPABLE, 1, 0)
            .on("become", "dumpable")
            .map(drop)
    }

    /// An id without rights to be QEMU's: root's, which has no capabilities either then, where
    /// there is no other.
    pub fn unprivileged(&self, nobody: u32) -> u32 {
        if self.maps.has(nobody, nobody) {
            nobody
        } else {
            0
        }
    }
}

/// The same ids, mapped to themselves.
fn to_themselves(map: &[IdMapping]) -> Vec<IdMapping> {
    map.iter()
        .map(|run| IdMapping {
            host_id: run.container_id,
            ..run.clone()
        })
        .collect()
}
