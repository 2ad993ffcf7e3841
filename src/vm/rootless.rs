//! Rootless VMs: hull's user is not root. The monitor, the share server and QEMU then run in a user
//! namespace (user_namespaces(7)) in which the monitor is root: there it may mount the shares,
//! redirect packets, and give files to the subordinate ids of hull's user. The guest sees the ids
//! of that namespace, so a user namespace of the config maps each id to itself within the guest.

use crate::facts::Facts;
use crate::namespaces::subid::{Layout, Maps};
use crate::spec::Spec;
use crate::spec::config::IdMapping;
use crate::step::host::{HostStep, MapWriter};
use crate::sys::{ids, socket};
use crate::{Context, Error, Result};

/// `CLONE_NEW*` flags with which a rootless monitor is cloned.
pub(crate) const CLONE_FLAGS: u64 = (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64;
/// The message to the monitor that its id maps are written.
pub(crate) const MAPPED: &[u8] = b"i";

/// The id maps of the monitor's user namespace, and who writes them.
#[derive(Clone, Debug)]
pub struct IdMaps {
    maps: Maps,
    /// For the uid and the gid map: the writer, and whether `setgroups` must be denied before.
    writers: [(MapWriter, bool); 2],
}

impl IdMaps {
    /// The id maps for a container, and its config with the mappings that apply in the guest; or
    /// `None` if hull runs as root, in any user namespace. `facts` are the host's for this config.
    ///
    /// # Errors
    /// The config does not map the container's root; hull's user may not map the ids
    /// (`/etc/subuid`, newuidmap(1)).
    pub fn for_spec(spec: &Spec, facts: &Facts) -> Result<Option<(Self, Spec)>> {
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
                Layout::Root,
            ),
        };
        if !maps.has(0, 0) {
            return Err(Error::new(
                "linux.uidMappings: the VM backend needs a mapping of the container's root, as \
                    which the share server accesses the files",
            ));
        }
        let facts = facts.clone().for_mappings();
        let writer = |uid, map: &[IdMapping], field: &str| {
            crate::namespaces::plan::map_writer(&facts, uid, map)
                .map(|method| (method.writer, method.deny_setgroups))
                .map_err(|error| error.within(field))
        };
        let writers = [
            writer(true, &maps.uid, "linux.uidMappings")?,
            writer(false, &maps.gid, "linux.gidMappings")?,
        ];
        let guest_spec = if spec
            .namespace(oci_spec::runtime::LinuxNamespaceType::User)
            .is_some()
        {
            spec.with_mappings(identity(&maps.uid), identity(&maps.gid))
        } else {
            spec.with_mappings(Vec::new(), Vec::new())
        };
        Ok(Some((Self { maps, writers }, guest_spec)))
    }

    /// The host steps that write the id maps of the monitor.
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

    /// In the monitor: waits until its id maps are written and becomes root of its user namespace.
    /// `parent` is the socket to the process that writes them.
    ///
    /// # Errors
    /// The parent process exited; setresgid(2) or setresuid(2) fails.
    pub fn become_root(&self, parent: i32) -> Result<()> {
        let mut byte = [0_u8; 1];
        if socket::recv(parent, &mut byte) != Ok(MAPPED.len()) {
            return Err(Error::new("the parent process exited"));
        }
        ids::setresgid(0).on("become", "root of the user namespace")?;
        ids::setresuid(0).on("become", "root of the user namespace")?;
        // A change of the effective uid clears the dumpable flag (PR_SET_DUMPABLE(2const)), and
        // with it access to /proc/self.
        ids::prctl(libc::PR_SET_DUMPABLE, 1, 0)
            .on("set", "PR_SET_DUMPABLE")
            .map(drop)
    }

    /// The id as which QEMU runs: `nobody` if the maps have it, otherwise 0, which has no
    /// capabilities in QEMU's process either.
    pub fn unprivileged(&self, nobody: u32) -> u32 {
        if self.maps.has(nobody, nobody) {
            nobody
        } else {
            0
        }
    }
}

/// Maps each id of the container to itself.
fn identity(map: &[IdMapping]) -> Vec<IdMapping> {
    map.iter()
        .map(|range| IdMapping {
            host_id: range.container_id,
            ..range.clone()
        })
        .collect()
}
