//! The wall behind which the suite runs: `HULL_TEST_WALL=vm` gives every container a machine of its
//! own, and nothing else changes.
//!
//! The tests that say nothing of a machine are in [`ELSEWHERE`], each with its reason; the harness
//! prints it and passes them over.

use super::{fixture, harness, leaks, users};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Whether containers get machines.
pub fn is_vm() -> bool {
    std::env::var_os("HULL_TEST_WALL").is_some_and(|wall| wall == "vm")
}

/// Debian's kernel package, unpacked by the script that the test machine uses too; skips the test
/// where it cannot be had.
pub fn kernel() -> PathBuf {
    if let Some(found) = std::env::var_os("HULL_TEST_VM_KERNEL") {
        return found.into();
    }
    if !Path::new("/usr/bin/qemu-system-x86_64").exists() {
        harness::skip("QEMU is not installed".to_owned());
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/prepare");
    let mut command = Command::new(script);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = leaks::spawn(&mut command)
        .unwrap()
        .wait_with_output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let folder = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("kernel="));
    let image = folder.and_then(|folder| {
        let entries = std::fs::read_dir(format!("{folder}/boot")).ok()?;
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

/// The same where ordinary users can read it: its folder is bound there, for this process and all
/// that it starts.
pub fn readable_kernel() -> PathBuf {
    static BOUND: OnceLock<PathBuf> = OnceLock::new();
    let bind = || {
        let image = kernel();
        if std::env::var_os("HULL_TEST_VM_KERNEL").is_some() {
            return image;
        }
        // Not below what the tests share: beside a mount of the host's an ordinary user's overlay
        // has no place.
        let place = PathBuf::from("/mnt");
        let folder = image.parent().and_then(Path::parent).unwrap();
        users::private_mounts();
        rustix::mount::mount_bind(folder, &place).unwrap();
        place.join("boot").join(image.file_name().unwrap())
    };
    BOUND.get_or_init(bind).clone()
}

/// A command line of a user's with the choice of the wall after the verb, where hull makes a
/// container by it.
pub fn with_flags(program: &Path, args: &[&str], user: Option<u32>) -> Vec<String> {
    let mut all: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let verb = all.iter().position(|arg| arg == "run" || arg == "create");
    // Words of other verbs may be called so too.
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

/// One cache of guests' first file systems for the whole suite, and one for ordinary users: each
/// test has a state directory of its own.
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

/// The file of defaults with lines about machines, for a bundle's container: who makes none does
/// not read them.
pub fn with_defaults(runtime: &mut super::runtime::Runtime, lines: &str) {
    let file = fixture::new_dir("defaults").join("config.toml");
    std::fs::write(&file, format!("[vm]\n{lines}\n")).unwrap();
    runtime
        .env
        .push(("HULL_CONFIG".into(), file.display().to_string()));
}

/// Why a test (`module::name`) says nothing of a machine; none where it runs.
pub fn elsewhere(test: &str) -> Option<&'static str> {
    let fits = |pattern: &str| {
        pattern
            .strip_suffix('*')
            .map_or(pattern == test, |start| test.starts_with(start))
    };
    ELSEWHERE
        .iter()
        .find(|(_, tests)| tests.iter().any(|pattern| fits(pattern)))
        .map(|(reason, _)| *reason)
}

/// Reasons, and the tests that each is of: names, or beginnings of names with a `*`.
const ELSEWHERE: &[(&str, &[&str])] = &[
    (
        "saving and restoring is refused behind this wall",
        &["checkpoint*", "net_saved::*"],
    ),
    (
        "a config without a network namespace means the host's network, which no machine can have",
        &["commands::spec_rootless_runs_as_an_ordinary_user"],
    ),
    (
        "flags of the host's mount hold at the share's server, and the guest does not show them",
        &["mounts::bind_keeps_locked_flags_in_a_user_namespace"],
    ),
    (
        "the host's ids of a user namespace are mapped at the machine's border: in the guest its \
            ids are mapped to themselves, and the host sees none of its processes",
        &[
            "user_namespaces::ordinary_user_is_root_inside",
            "people_run::an_ordinary_user_runs_on_the_hosts_root",
            "user_namespaces::ordinary_user_execs_into_the_container",
            "user_namespaces::ordinary_user_without_mappings_is_root_inside",
        ],
    ),
    (
        "the test makes its machines itself: it is the second wall's in every run of the suite",
        &["vm::*", "vm_*"],
    ),
    ("no container is made", &["package::*", "people_cli::*"]),
    (
        "a fresh process for inside is the first wall's: the guest's hull is one",
        &["fresh_init::*"],
    ),
    (
        "the test looks at the program through the host's /proc, cgroups or network namespace, \
            and the program is in the guest",
        &[
            "hooks::poststart_runs_in_start_after_the_program_has_begun",
            "resources_act::delete_force_of_a_frozen_sub_cgroup",
            "cgroups_tree::limit_below_*",
            "cgroups_tree::ordinary_user_in_a_delegated_tree_has_limits",
            "hardening::created_container_waits_with_its_own_rights_only",
            "net_guard::the_gateways_address_cannot_be_taken",
        ],
    ),
    (
        "the namespaces are the guest's: of the host's, only the network's interfaces and the uts \
            namespace's names cross",
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
        "the processes that live on are the first wall's; the second's own are looked at by a \
            test of its own",
        &["descriptors::what_lives_on_without_execve_lets_go"],
    ),
    (
        "descriptors of the host's are refused (--preserve-fds, LISTEN_FDS)",
        &[
            "descriptors::preserved_descriptors_reach_the_program",
            "descriptors::exec_preserves_descriptors",
            "descriptors::listen_descriptors_reach_the_program",
        ],
    ),
    (
        "stdin, stdout and stderr of a program in a machine are pipes of the guest's",
        &["people_logs::nothing_of_the_keeper_reaches_the_container"],
    ),
    (
        "the test watches hull's own processes and calls of the first wall on the host",
        &[
            "posture::processes_have_the_posture_of_the_golden_text",
            "threads::one_thread_when_a_process_is_added",
            "threads::one_thread_when_namespaces_are_joined",
            "threads::one_thread_with_hooks_and_limits",
        ],
    ),
    (
        "a cgroup of the host's is refused (--cgroup)",
        &["cgroups_tree::exec_into_a_sub_cgroup"],
    ),
    (
        "the guest's own kernel runs another architecture's programs without being asked: nothing \
            is missing",
        &["foreign::what_a_foreign_bundle_needs_is_said"],
    ),
    (
        "a seccomp listener is refused: the guest's kernel would have to ask the host",
        &[
            "seccomp::listener_*",
            "seccomp::notify_on_the_handoffs_own_call_is_an_error",
        ],
    ),
    (
        "another kernel, root file system and cgroup tree look other than those that runc's \
            container is shown on the host",
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
        "changes that are kept are refused: an overlay's upper folder cannot be on the share",
        &[
            "people_run::changes_are_kept_where_asked",
            "people_run::an_ordinary_users_changes_are_kept",
        ],
    ),
    (
        "a guest's cgroup tree has one container, in /hull",
        &[
            "resources::relative_cgroups_path_is_below_the_own",
            "resources::nested_cgroups_path",
        ],
    ),
    (
        "limits of disks, of packets' classes and of sets of processors are the host's, on the \
            machine as a whole",
        &[
            "resources_limits::block_io_*",
            "resources_limits::cpu_sets",
            "resources_limits::network_*",
            "resources_limits::cpu_real_time",
            "resources_act::disk_throttle_slows",
            "resources_act::cpu_set_is_the_programs",
            "resources_act::network_*",
        ],
    ),
    (
        "labels of the host's security modules mean nothing to the guest's kernel, and are left \
            out",
        &["process::apparmor_*", "process::selinux_*"],
    ),
    (
        "what is mounted on the host later does not come to the guest, nor the reverse",
        &[
            "root_filesystem::rootfs_propagation_kinds",
            "root_filesystem::private_mount_gets_nothing_from_the_host",
            "root_filesystem::shared_mount_gives_mounts_to_the_host",
            "root_filesystem::slave_mount_gets_the_hosts_mounts",
            "root_filesystem::propagation_of_each_kind",
        ],
    ),
    (
        "network devices of the host cannot cross",
        &["net_devices::*"],
    ),
    (
        "a machine cannot have the host's network, nor share that of a container beside it",
        &["net_networks::the_hosts_network_and_another_containers"],
    ),
    (
        "createContainer hooks are refused: their program is the host's and the namespaces are \
            the guest's",
        &[
            "hooks::create_container_hooks_see_the_mounts",
            "hooks::create_container_failure_stops_create",
        ],
    ),
    (
        "the terminal that edits is the guest's, and the host's end is raw",
        &["terminal::output_settings_are_the_kernels"],
    ),
    (
        "a guest has every capability",
        &["capabilities::capability_that_the_machine_lacks"],
    ),
    (
        "a device of the host cannot cross",
        &[
            "devices::further_devices_are_made",
            "resources_act::device_rules_are_replaced_by_update",
        ],
    ),
    (
        "who looks from within is held back by the same limit",
        &["resources_act::memory_high_slows"],
    ),
    (
        "a machine that is paused tells nothing of its cgroup",
        &["resources_act::freezer_stops_the_clock"],
    ),
    (
        "an overlay's folders are the host's",
        &["mounts::overlay_from_options"],
    ),
    (
        "what is mounted below a volume comes by itself when it is entered, with the volume's own \
            flags",
        &[
            "mounts::read_only_bind_keeps_submounts_writable",
            "mounts::recursive_read_only_reaches_submounts",
            "mounts::recursive_attributes",
        ],
    ),
    (
        "hundreds of starts, which are hours of emulation",
        &[
            "load::*",
            "injected::*",
            "races::*",
            "net_life::a_hundred_*",
            "net_life::a_kill_*",
        ],
    ),
];
