//! The pure parts on trees of other hosts; the rest on the host's own cgroups, under absolute names
//! that each test removes.

mod bpf;
mod devices;
mod fake;
mod kernel;
mod mounts;
mod plan;
mod systemd;
mod tree;
mod update;
mod watch;

/// The host's tree.
fn here() -> crate::cgroups::tree::Tree {
    crate::cgroups::tree::Tree::probe(
        nix::unistd::geteuid().as_raw(),
        crate::facts::in_user_namespace(),
    )
    .unwrap()
}
