//! Pure parts on faked trees; the rest on this machine's own cgroups, under absolute names that
//! each test removes.

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

/// This machine's tree.
fn here() -> crate::cgroups::tree::Tree {
    crate::cgroups::tree::Tree::probe(
        nix::unistd::geteuid().as_raw(),
        crate::facts::in_user_namespace(),
    )
    .unwrap()
}
