//! The container's namespaces that CRIU does not create or does not fill.

use crate::facts::{Facts, Owner};
use crate::spec::Spec;
use oci_spec::runtime::LinuxNamespaceType;

/// A namespace that the container joined by path. It exists independently of the container, and
/// CRIU must not create it.
pub(super) struct JoinedNamespace {
    /// The kind in CRIU's options: `net` or `pid`.
    pub kind: &'static str,
    /// The label in the images, which is runc's.
    pub label: &'static str,
    /// Path of the namespace's file.
    pub path: String,
}

/// The label of a network namespace that CRIU does not create, which is runc's.
pub(super) const NETWORK_LABEL: &str = "extRootNetNS";

/// The network and PID namespaces that are joined by path. At restore CRIU joins the other kinds by
/// their paths (`join_ns`).
pub(super) fn joined(facts: &Facts) -> Vec<JoinedNamespace> {
    let kinds = [
        (libc::CLONE_NEWNET, "net", NETWORK_LABEL),
        (libc::CLONE_NEWPID, "pid", "extRootPidNS"),
    ];
    let known = facts
        .joined
        .iter()
        .filter(|joined| joined.owner != Owner::Own);
    known
        .filter_map(|joined| {
            let (_, kind, label) = kinds
                .iter()
                .find(|(flag, ..)| *flag as u32 == joined.kind)?;
            Some(JoinedNamespace {
                kind,
                label,
                path: joined.path.clone(),
            })
        })
        .collect()
}

/// Whether the container has a network namespace that was created with it.
pub(super) fn has_own_network(spec: &Spec) -> bool {
    spec.namespace(LinuxNamespaceType::Network)
        .is_some_and(|namespace| namespace.path.is_none())
}

/// Whether the container's own network namespace is in the state to which hull and the hooks
/// brought it at create. Then CRIU leaves it empty at dump, as runc always makes it do, and at
/// restore hull and the hooks set it up again.
///
/// That is so where hooks may have moved links into it, whose peers CRIU cannot create, and where
/// no process of the container can have changed anything in it (capabilities(7)). Otherwise CRIU
/// dumps and restores all of it. `hulls_network` says that hull attached the container to its own
/// networks.
pub(super) fn is_network_as_created(spec: &Spec, hulls_network: bool) -> bool {
    let config = spec.config();
    let bounding = config
        .process
        .as_ref()
        .and_then(|process| process.capabilities.as_ref())
        .map(|all| &all.bounding);
    let may_change = bounding.is_some_and(|bounding| {
        bounding
            .iter()
            .any(|name| matches!(name.as_str(), "CAP_NET_ADMIN" | "CAP_SYS_ADMIN"))
    });
    has_own_network(spec) && !hulls_network && (hooks_may_add_links(spec) || !may_change)
}

/// Whether there are hooks that may move network links into the container's network namespace.
pub(super) fn hooks_may_add_links(spec: &Spec) -> bool {
    let hooks = spec.config().hooks.as_ref();
    hooks.is_some_and(|hooks| {
        !hooks.prestart.is_empty()
            || !hooks.create_runtime.is_empty()
            || !hooks.create_container.is_empty()
    })
}
