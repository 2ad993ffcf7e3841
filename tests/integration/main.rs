//! The integration suite: each test runs the real binary on a bundle of its own and looks at the
//! container, the kernel and the host.
//!
//! Where a subject is tested:
//!
//! - commands: `lifecycle` (create, start, state, kill, delete, run, pause, resume), `exec`,
//!   `update`, `events_and_stats`, `commands` (list, ps, spec, features, the log), `completions`;
//! - errors in the bundle and in arguments: `bad_input`;
//! - `process`: `process`, `capabilities`, `terminal`, `descriptors`, `stdio`, `streams`,
//!   `readiness`;
//! - `root`, masked and read-only paths, propagation: `root_filesystem`;
//! - `mounts`: `mounts`; `linux.devices`: `devices`; `hooks`: `hooks`;
//! - `linux.namespaces`, sysctls, time offsets: `namespaces`; id mappings: `user_namespaces`;
//! - `linux.cgroupsPath`: `cgroups_path`, `cgroups_tree` (v2's rules, delegation, systemd);
//! - `linux.resources`: `resources_limits` (each limit is set), `resources_enforced` (it acts);
//! - `linux.seccomp`: `seccomp`; `linux.netDevices`: `net_devices`;
//! - containers from flags (`run --rootfs`): `adhoc_run`, `adhoc_logs`;
//! - hull's own networks: `net_networks`, `net_guard` (spoofing), `net_coexistence` (Docker,
//!   Podman, reloads), `net_rootless`, `net_restore`, `net_stress`;
//! - checkpoint, restore and clone: `checkpoint` and `checkpoint_*`;
//! - the VM backend: `vm_*`; bundles for another architecture: `foreign`;
//! - security: `hardening` (by CVE), `races`, `posture`, `threads`, `fresh_init`;
//! - load and faults: `load`, `fault_injection`, `net_stress`, `checkpoint_safety`, `vm_failures`;
//! - the Debian package: `package`.
//!
//! `HULL_RUNTIME=/usr/sbin/runc` runs the suite on another runtime: each test was first proved on
//! runc. A test of what only hull or a newer runc has is skipped there, with the reason.
//! `HULL_TEST_BACKEND=vm` runs it in VM mode (`tests/vm-backend`). Arguments are filters on the
//! tests' names; `--list`, `--skip`, `--jobs` and `--nocapture` are as usual. `HULL_LOAD_RUNS` is
//! the number of runs of the tests of `load`, `HULL_RACE_SECONDS` the time of each test of `races`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // test code

#[macro_use]
mod support;

mod adhoc_logs;
mod adhoc_run;
mod bad_input;
mod capabilities;
mod cgroups_path;
mod cgroups_tree;
mod checkpoint;
mod checkpoint_export;
mod checkpoint_memory;
mod checkpoint_net;
mod checkpoint_options;
mod checkpoint_requests;
mod checkpoint_safety;
mod checkpoint_state;
mod checkpoint_tmpfs;
mod commands;
mod completions;
mod descriptors;
mod devices;
mod events_and_stats;
mod exec;
mod fault_injection;
mod foreign;
mod fresh_init;
mod hardening;
mod hooks;
mod lifecycle;
mod load;
mod mounts;
mod namespaces;
mod net_coexistence;
mod net_devices;
mod net_guard;
mod net_networks;
mod net_restore;
mod net_rootless;
mod net_stress;
mod package;
mod posture;
mod process;
mod races;
mod readiness;
mod resources_enforced;
mod resources_limits;
mod root_filesystem;
mod seccomp;
mod stdio;
mod streams;
mod terminal;
mod threads;
mod update;
mod user_namespaces;
mod vm_channel;
mod vm_choice;
mod vm_commands;
mod vm_disks;
mod vm_failures;
mod vm_lifecycle;
mod vm_memory;
mod vm_qemu;
mod vm_refused;
mod vm_rootless;
mod vm_share;

/// Every test of the suite, module by module.
const MODULES: &[&[support::harness::Test]] = &[
    adhoc_logs::TESTS,
    adhoc_run::TESTS,
    bad_input::TESTS,
    capabilities::TESTS,
    cgroups_path::TESTS,
    cgroups_tree::TESTS,
    checkpoint::TESTS,
    checkpoint_export::TESTS,
    checkpoint_memory::TESTS,
    checkpoint_net::TESTS,
    checkpoint_options::TESTS,
    checkpoint_requests::TESTS,
    checkpoint_safety::TESTS,
    checkpoint_state::TESTS,
    checkpoint_tmpfs::TESTS,
    commands::TESTS,
    completions::TESTS,
    descriptors::TESTS,
    devices::TESTS,
    events_and_stats::TESTS,
    exec::TESTS,
    fault_injection::TESTS,
    foreign::TESTS,
    fresh_init::TESTS,
    hardening::TESTS,
    hooks::TESTS,
    lifecycle::TESTS,
    load::TESTS,
    mounts::TESTS,
    namespaces::TESTS,
    net_coexistence::TESTS,
    net_devices::TESTS,
    net_guard::TESTS,
    net_networks::TESTS,
    net_restore::TESTS,
    net_rootless::TESTS,
    net_stress::TESTS,
    package::TESTS,
    posture::TESTS,
    process::TESTS,
    races::TESTS,
    readiness::TESTS,
    resources_enforced::TESTS,
    resources_limits::TESTS,
    root_filesystem::TESTS,
    seccomp::TESTS,
    stdio::TESTS,
    streams::TESTS,
    terminal::TESTS,
    threads::TESTS,
    update::TESTS,
    user_namespaces::TESTS,
    vm_channel::TESTS,
    vm_choice::TESTS,
    vm_commands::TESTS,
    vm_disks::TESTS,
    vm_failures::TESTS,
    vm_lifecycle::TESTS,
    vm_memory::TESTS,
    vm_qemu::TESTS,
    vm_refused::TESTS,
    vm_rootless::TESTS,
    vm_share::TESTS,
];

fn main() -> std::process::ExitCode {
    support::harness::main(MODULES)
}
