//! Behaviour by behaviour, against the real binary.
//!
//! `HULL_RUNTIME=/usr/sbin/runc` drives another runtime in hull's place: each test was first proved
//! on runc. What only hull or a newer runc does is skipped there, and says why. Arguments are
//! filters on the tests' names; `--list`, `--skip`, `--jobs`, `--nocapture` as usual.
//! `HULL_LOAD_RUNS` is the number of runs of the `load_` tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[macro_use]
mod support;

mod bad_input;
mod capabilities;
mod cgroups_tree;
mod checkpoint;
mod checkpoint_asked;
mod checkpoint_export;
mod checkpoint_life;
mod checkpoint_memory;
mod checkpoint_net;
mod checkpoint_options;
mod checkpoint_safety;
mod checkpoint_tmpfs;
mod checkpoint_world;
mod commands;
mod descriptors;
mod devices;
mod exec;
mod foreign;
mod fresh_init;
mod hardening;
mod hooks;
mod injected;
mod lifecycle;
mod load;
mod mounts;
mod namespaces;
mod net_devices;
mod net_guard;
mod net_life;
mod net_networks;
mod net_others;
mod net_rootless;
mod net_saved;
mod net_world;
mod package;
mod people_cli;
mod people_logs;
mod people_run;
mod posture;
mod process;
mod races;
mod readiness;
mod resources;
mod resources_act;
mod resources_limits;
mod root_filesystem;
mod seccomp;
mod terminal;
mod threads;
mod usage;
mod user_namespaces;
mod vm;
mod vm_channel;
mod vm_choice;
mod vm_disks;
mod vm_memory;
mod vm_own;
mod vm_refused;
mod vm_share;
mod vm_verbs;

/// Every test of the suite, module by module.
const MODULES: &[&[support::harness::Test]] = &[
    bad_input::TESTS,
    capabilities::TESTS,
    cgroups_tree::TESTS,
    checkpoint::TESTS,
    checkpoint_asked::TESTS,
    checkpoint_export::TESTS,
    checkpoint_life::TESTS,
    checkpoint_memory::TESTS,
    checkpoint_net::TESTS,
    checkpoint_options::TESTS,
    checkpoint_safety::TESTS,
    checkpoint_tmpfs::TESTS,
    commands::TESTS,
    descriptors::TESTS,
    devices::TESTS,
    exec::TESTS,
    foreign::TESTS,
    fresh_init::TESTS,
    hardening::TESTS,
    hooks::TESTS,
    injected::TESTS,
    lifecycle::TESTS,
    load::TESTS,
    mounts::TESTS,
    namespaces::TESTS,
    net_devices::TESTS,
    net_guard::TESTS,
    net_life::TESTS,
    net_networks::TESTS,
    package::TESTS,
    people_cli::TESTS,
    people_logs::TESTS,
    people_run::TESTS,
    net_others::TESTS,
    net_rootless::TESTS,
    net_saved::TESTS,
    posture::TESTS,
    process::TESTS,
    races::TESTS,
    readiness::TESTS,
    resources::TESTS,
    resources_act::TESTS,
    resources_limits::TESTS,
    root_filesystem::TESTS,
    seccomp::TESTS,
    terminal::TESTS,
    threads::TESTS,
    usage::TESTS,
    user_namespaces::TESTS,
    vm::TESTS,
    vm_channel::TESTS,
    vm_choice::TESTS,
    vm_disks::TESTS,
    vm_memory::TESTS,
    vm_own::TESTS,
    vm_refused::TESTS,
    vm_share::TESTS,
    vm_verbs::TESTS,
];

fn main() -> std::process::ExitCode {
    support::harness::main(MODULES)
}
