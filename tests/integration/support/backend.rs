//! The backend in which the suite runs: with `HULL_TEST_BACKEND=vm` every container that a test
//! makes gets a VM, and nothing else changes.
//!
//! The tests that do not apply in VM mode are in [`NOT_APPLICABLE`], each with its reason; the
//! harness skips them and prints the reason.

use super::{fixture, harness, leaks, users};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The annotation by which a bundle chooses its backend.
pub const ANNOTATION: &str = "org.hull.backend";
/// Its value for the namespace backend. (That for the VM backend is `vm`.)
pub const NAMESPACES: &str = "namespaces";

/// Whether the suite runs in VM mode.
pub fn is_vm() -> bool {
    std::env::var_os("HULL_TEST_BACKEND").is_some_and(|backend| backend == "vm")
}

/// Debian's kernel package, unpacked by the script that prepares the test VM too; skips the test
/// where the package is not available.
pub fn kernel() -> PathBuf {
    if let Some(found) = std::env::var_os("HULL_TEST_VM_KERNEL") {
        return found.into();
    }
    if !Path::new("/usr/bin/qemu-system-x86_64").exists() {
        harness::skip("QEMU is not installed".to_owned());
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/prepare");
    let output = leaks::output(&mut Command::new(script)).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let directory = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("kernel="));
    let image = directory.and_then(|directory| {
        let entries = std::fs::read_dir(format!("{directory}/boot")).ok()?;
        entries
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().contains("vmlinuz-"))
    });
    image.unwrap_or_else(|| {
        harness::skip(format!(
            "no kernel for a guest: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    })
}

/// The same kernel at a path that ordinary users can read: this function binds its directory there,
/// for this process and all that it starts.
pub fn readable_kernel() -> PathBuf {
    static BOUND: OnceLock<PathBuf> = OnceLock::new();
    let bind = || {
        let image = kernel();
        if std::env::var_os("HULL_TEST_VM_KERNEL").is_some() {
            return image;
        }
        // Not below the suite's scratch directory: an ordinary user's overlay cannot have a layer
        // there beside a mount that the host made.
        let target = PathBuf::from("/mnt");
        let directory = image.parent().and_then(Path::parent).unwrap();
        users::private_mounts();
        rustix::mount::mount_bind(directory, &target).unwrap();
        target.join("boot").join(image.file_name().unwrap())
    };
    BOUND.get_or_init(bind).clone()
}

/// A command line of the runtime, with the flags of VM mode after a verb that makes a container.
pub fn with_flags(program: &Path, args: &[&str], user: Option<u32>) -> Vec<String> {
    let mut all: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let verb = all.iter().position(|arg| arg == "run" || arg == "create");
    // The arguments of another verb may have the same text.
    let verb =
        verb.filter(|at| (*at == 0 || all[0].starts_with('-')) && super::runtime::is_hull(program));
    if let Some(at) = verb.filter(|_| is_vm() && !args.contains(&"--vm")) {
        let kernel = if user.is_some() {
            readable_kernel()
        } else {
            kernel()
        };
        all.splice(
            at + 1..at + 1,
            [
                "--vm".to_owned(),
                "--vm-kernel".to_owned(),
                kernel.display().to_string(),
            ],
        );
    }
    all
}

/// Makes one cache of initramfs images for the whole suite, and one for ordinary users: each test
/// has a state directory of its own, in which the cache would be.
pub fn share_cache(state: &Path, user: Option<u32>) {
    let shared = fixture::suite_scratch().join(if user.is_some() { "@vm-user" } else { "@vm" });
    std::fs::create_dir_all(&shared).unwrap();
    std::fs::create_dir_all(state).unwrap();
    let link = state.join("@vm");
    std::fs::remove_file(&link).ok();
    std::os::unix::fs::symlink(&shared, link).unwrap();
    if user.is_some() {
        std::os::unix::fs::chown(&shared, user, user).unwrap();
        std::os::unix::fs::chown(state, user, user).unwrap();
    }
}

/// Why a test (`module::name`) does not apply in VM mode; none where it does.
pub fn not_applicable(test: &str) -> Option<&'static str> {
    let fits = |pattern: &str| {
        pattern
            .strip_suffix('*')
            .map_or(pattern == test, |start| test.starts_with(start))
    };
    NOT_APPLICABLE
        .iter()
        .find(|(_, tests)| tests.iter().any(|pattern| fits(pattern)))
        .map(|(reason, _)| *reason)
}

/// Reasons, each with the tests that it holds for: names, or beginnings of names with a `*`.
const NOT_APPLICABLE: &[(&str, &[&str])] = &[
    (
        "checkpoint and restore are refused in VM mode",
        &["checkpoint*", "net_restore::*"],
    ),
    (
        "a config without a network namespace asks for the host's network, which a VM cannot have",
        &["commands::spec_rootless_runs_as_an_ordinary_user"],
    ),
    (
        "the share server on the host enforces the flags of the host's mount, and the guest does \
            not show them",
        &["mounts::bind_keeps_locked_flags_in_a_user_namespace"],
    ),
    (
        "the share server maps the host's ids of a user namespace: in the guest its ids are \
            mapped to themselves, and the host sees none of its processes",
        &[
            "user_namespaces::ordinary_user_is_root_in_the_container",
            "adhoc_run::an_ordinary_user_runs_on_the_hosts_root",
            "user_namespaces::ordinary_user_execs_into_the_container",
            "user_namespaces::ordinary_user_without_mappings_is_root_in_the_container",
        ],
    ),
    (
        "the test makes its VM itself: it tests the VM backend in every run of the suite",
        &["vm_*"],
    ),
    (
        "the test makes no container",
        &["package::*", "completions::*"],
    ),
    (
        "the namespace backend alone has --fresh-init: the guest's hull is such a process",
        &["fresh_init::*"],
    ),
    (
        "the test looks at the program through the host's /proc, cgroups or network namespace, \
            and the program is in the guest",
        &[
            "hooks::poststart_runs_in_start_after_the_program_has_begun",
            "resources_enforced::delete_force_of_a_frozen_sub_cgroup",
            "cgroups_tree::limit_below_*",
            "cgroups_tree::ordinary_user_in_a_delegated_tree_has_limits",
            "hardening::created_container_waits_with_its_own_rights_only",
            "net_guard::the_gateways_address_cannot_be_taken",
        ],
    ),
    (
        "the namespaces are the guest's: of the host's, a VM gets only the interfaces of the \
            network namespace and the names of the uts namespace",
        &[
            "namespaces::namespaces_left_out_are_the_runtimes",
            "namespaces::namespaces_are_joined_by_path",
            "namespaces::pid_namespace_is_joined_by_path",
            "namespaces::mount_namespace_is_joined_by_path",
            "namespaces::network_namespace_of_a_joined_user_namespace",
            "user_namespaces::joined_user_namespace_shows_what_runc_shows",
            "user_namespaces::joined_user_namespace_is_the_one_named",
        ],
    ),
    (
        "the test looks at processes of the namespace backend; vm_lifecycle looks at those of the \
            VM backend",
        &["descriptors::processes_of_hull_that_live_on_close_inherited_descriptors"],
    ),
    (
        "descriptors of the host are refused (--preserve-fds, LISTEN_FDS)",
        &[
            "descriptors::preserved_descriptors_reach_the_program",
            "descriptors::exec_preserves_descriptors",
            "descriptors::listen_descriptors_reach_the_program",
        ],
    ),
    (
        "stdin, stdout and stderr of a program in a VM are pipes of the guest",
        &["adhoc_logs::the_container_has_no_descriptors_of_the_keeper"],
    ),
    (
        "the test watches processes and system calls of the namespace backend on the host",
        &[
            "posture::processes_have_the_posture_of_the_golden_text",
            "threads::one_thread_when_a_process_is_added",
            "threads::one_thread_when_namespaces_are_joined",
            "threads::one_thread_with_hooks_and_limits",
        ],
    ),
    (
        "a cgroup of the host is refused (--cgroup)",
        &["cgroups_tree::exec_into_a_sub_cgroup"],
    ),
    (
        "the guest's kernel runs programs of another architecture anyway: nothing is missing",
        &["foreign::errors_tell_what_a_foreign_bundle_needs"],
    ),
    (
        "a seccomp listener is refused: the guest's kernel would have to ask a process on the host",
        &[
            "seccomp::listener_*",
            "seccomp::notify_on_the_handoffs_own_call_is_an_error",
        ],
    ),
    (
        "the guest's kernel, root file system and cgroup tree differ from those that runc's \
            container sees on the host",
        &[
            "user_namespaces::root_without_user_namespace_sees_what_runc_shows",
            "user_namespaces::new_user_namespace_shows_what_runc_shows",
            "user_namespaces::ordinary_user_sees_what_runc_shows",
        ],
    ),
    (
        "the processes are the guest's, and ps(1) is the host's",
        &["commands::ps_takes_options_of_ps"],
    ),
    (
        "--keep-changes is refused: the upper directory of an overlay cannot be on the share",
        &[
            "adhoc_run::changes_are_kept_with_keep_changes",
            "adhoc_run::an_ordinary_users_changes_are_kept",
        ],
    ),
    (
        "the cgroup tree of a guest has one container, in /hull",
        &[
            "cgroups_path::relative_cgroups_path_is_below_the_callers_cgroup",
            "cgroups_path::nested_cgroups_path",
        ],
    ),
    (
        "hull sets limits of disks, packet classes and CPU sets on the host, for the VM as a whole",
        &[
            "resources_limits::block_io_*",
            "resources_limits::cpu_sets",
            "resources_limits::network_*",
            "resources_limits::cpu_real_time",
            "resources_enforced::disk_throttle_slows",
            "resources_enforced::cpu_set_is_the_programs",
            "resources_enforced::network_*",
        ],
    ),
    (
        "labels of the host's security modules mean nothing to the guest's kernel, and hull \
            leaves them out",
        &["process::apparmor_*", "process::selinux_*"],
    ),
    (
        "later mounts on the host do not reach the guest, nor the reverse",
        &[
            "root_filesystem::rootfs_propagation_kinds",
            "root_filesystem::private_mount_gets_nothing_from_the_host",
            "root_filesystem::shared_mount_gives_mounts_to_the_host",
            "root_filesystem::slave_mount_gets_the_hosts_mounts",
            "root_filesystem::propagation_of_each_kind",
        ],
    ),
    (
        "a VM cannot have a network device of the host",
        &["net_devices::*"],
    ),
    (
        "a VM cannot have the host's network, nor share that of another container",
        &["net_networks::network_of_the_host_and_of_another_container"],
    ),
    (
        "createContainer hooks are refused: their program is on the host and the namespaces are \
            the guest's",
        &[
            "hooks::create_container_hooks_see_the_mounts",
            "hooks::create_container_failure_stops_create",
        ],
    ),
    (
        "the line discipline is that of the guest's terminal, and the host's terminal is raw",
        &["terminal::output_settings_are_the_kernels"],
    ),
    (
        "a guest has every capability",
        &["capabilities::capability_that_the_host_lacks_is_a_warning"],
    ),
    (
        "a VM cannot have a character device of the host",
        &[
            "devices::further_devices_are_made",
            "resources_enforced::device_rules_are_replaced_by_update",
        ],
    ),
    (
        "the test looks at the cgroup from the container, where the same limit slows it down",
        &["resources_enforced::memory_high_slows"],
    ),
    (
        "the cgroup of a paused guest cannot be read",
        &["resources_enforced::freezer_stops_the_clock"],
    ),
    (
        "the directories of an overlay are on the host",
        &["mounts::overlay_from_options"],
    ),
    (
        "the guest mounts what is below a volume when a program enters it, with the volume's own \
            flags",
        &[
            "mounts::read_only_bind_keeps_submounts_writable",
            "mounts::recursive_read_only_reaches_submounts",
            "mounts::recursive_attributes",
        ],
    ),
    (
        "hundreds of starts take hours under emulation",
        &[
            "load::*",
            "fault_injection::*",
            "races::*",
            "net_stress::a_hundred_*",
            "net_stress::a_kill_*",
        ],
    ),
];
