//! Containers from flags: `run --rootfs DIRECTORY -- COMMAND`, as root and as an ordinary user.

use crate::support::backend::is_vm;
use crate::support::console::Terminal;
use crate::support::fixture::{fill_rootfs, give_to, new_dir, write_executable};
use crate::support::leaks;
use crate::support::runtime::{LIMIT, Output, Runtime, text, until, wait};
use crate::support::users::ORDINARY;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

tests![
    the_hosts_own_root_can_be_used,
    an_ordinary_user_runs_on_the_hosts_root,
    only_the_containers_mounts_are_seen,
    changes_are_discarded,
    a_hard_link_to_a_file_of_the_root_is_one_file,
    changes_are_one_running_containers_at_a_time,
    the_hosts_root_is_a_volume,
    volumes_are_mounted_parents_first,
    changes_are_kept_with_keep_changes,
    an_ordinary_users_changes_are_kept,
    the_directory_itself_is_changed_with_read_write,
    exit_statuses_are_dockers,
    a_signal_without_a_handler_ends_the_program,
    a_program_may_catch_a_signal,
    a_terminal_passes_text_both_ways,
    without_a_terminal_the_container_has_none,
    stdin_is_closed_unless_it_is_asked_for,
    volumes_show_the_hosts_paths,
    limits_are_the_kernels,
    a_read_only_root_takes_no_writes,
    an_ordinary_users_read_only_root_takes_no_writes,
    capabilities_are_added_and_dropped,
    the_default_seccomp_profile_blocks,
    a_seccomp_profile_from_a_file,
    user_names_are_the_containers,
    the_environment_and_the_working_directory,
    other_commands_work_on_an_adhoc_container,
    malformed_options_are_errors,
];

fn hull() -> Runtime {
    only_hull!("runc has no run --rootfs");
    Runtime::new(new_dir("state"))
}

fn ordinary() -> Runtime {
    let mut runtime = hull();
    runtime.user = Some(ORDINARY);
    give_to(&runtime.state, ORDINARY, ORDINARY);
    runtime
}

fn small_root() -> PathBuf {
    let root = new_dir("root");
    fill_rootfs(&root);
    root
}

/// Runs a shell script on a root filesystem, and asserts that no record of the container is left.
#[track_caller]
fn sh(runtime: &Runtime, root: &Path, options: &[&str], script: &str) -> Output {
    let root = root.to_str().unwrap();
    let args = [
        &["run", "--rootfs", root],
        options,
        &["--", "sh", "-c", script],
    ]
    .concat();
    let output = runtime.call(&args);
    assert_eq!(
        containers(runtime),
        Vec::<String>::new(),
        "records are left"
    );
    output
}

fn containers(runtime: &Runtime) -> Vec<String> {
    let Ok(entries) = fs::read_dir(&runtime.state) else {
        return vec![];
    };
    entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('@'))
        .collect()
}

fn the_hosts_own_root_can_be_used() {
    let out = sh(
        &hull(),
        Path::new("/"),
        &["--name", "adhoc-host"],
        "id -u; hostname; ls /proc | head -n 1; cat /etc/os-release",
    )
    .success();
    let lines: Vec<&str> = out.stdout.lines().take(3).collect();
    assert_eq!(lines, ["0", "adhoc-host", "1"]);
    assert_has!(out.stdout, text("/etc/os-release"));
}

fn an_ordinary_user_runs_on_the_hosts_root() {
    let script = "id -u; hostname; ls /proc | head -n 1; cat /proc/self/uid_map; echo new > \
        /opt/adhoc-file && cat /opt/adhoc-file; \
                  echo x >> /etc/passwd || echo refused";
    let out = sh(&ordinary(), Path::new("/"), &["--hostname", "box"], script).success();
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!(lines[..3], ["0", "box", "1"]);
    assert_eq!(
        lines[3].split_whitespace().collect::<Vec<_>>()[..2],
        ["0".to_string(), ORDINARY.to_string()]
    );
    assert_eq!(
        lines[lines.len() - 2..],
        ["new", "refused"],
        "files of root cannot be changed"
    );
    assert!(!Path::new("/opt/adhoc-file").exists());
}

/// The host's mounts must not be above the new root, where `/..` would lead to them.
fn only_the_containers_mounts_are_seen() {
    for runtime in [hull(), ordinary()] {
        let out = sh(
            &runtime,
            Path::new("/"),
            &[],
            "cat /proc/self/mountinfo; echo; touch /tmp/mark; ls /../tmp/mark",
        )
        .success();
        let (mounts, rest) = out.stdout.split_once("\n\n").unwrap();
        let roots: Vec<&str> = mounts
            .lines()
            .filter(|line| line.split(' ').nth(4) == Some("/"))
            .collect();
        assert_eq!(roots.len(), 1, "{mounts}");
        let first = mounts.lines().next().unwrap();
        assert!(
            first.split(' ').nth(4) == Some("/") && !first.contains(" ext4 "),
            "{mounts}"
        );
        assert_eq!(
            mounts
                .lines()
                .filter(|line| line.split(' ').nth(4) == Some("/proc"))
                .count(),
            1,
            "{mounts}"
        );
        assert_eq!(rest.trim(), "/../tmp/mark");
    }
}

fn changes_are_discarded() {
    let root = small_root();
    let runtime = hull();
    let out = sh(
        &runtime,
        &root,
        &[],
        "echo changed > /etc/passwd; rm -r /home; mkdir /new; cat /etc/passwd; ls /",
    )
    .success();
    assert_has!(out.stdout, "changed");
    assert!(!out.stdout.contains("home"));
    assert_has!(text(root.join("etc/passwd")), "ada");
    assert!(root.join("home/ada").is_dir() && !root.join("new").exists());
}

/// A directory for the layers of an overlay on `/`: on another file system than the root.
fn elsewhere() -> Elsewhere {
    let path = PathBuf::from(format!(
        "/dev/shm/hull-test-{}-{}",
        std::process::id(),
        crate::support::fixture::unique()
    ));
    fs::create_dir(&path).unwrap();
    Elsewhere(path)
}

struct Elsewhere(PathBuf);
impl Drop for Elsewhere {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn changes_are_kept_with_keep_changes() {
    let (root, place, runtime) = (small_root(), elsewhere(), hull());
    let kept = place.0.join("kept");
    let option = kept.to_str().unwrap();
    sh(
        &runtime,
        &root,
        &["--keep-changes", option],
        "echo one > /etc/new; rm /etc/group; chmod 700 /tmp",
    )
    .success();
    assert_eq!(text(kept.join("etc/new")).trim(), "one");
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let whiteout = fs::symlink_metadata(kept.join("etc/group")).unwrap();
    assert!(
        whiteout.file_type().is_char_device() && whiteout.rdev() == 0,
        "a removed file is a whiteout"
    );
    assert!(root.join("etc/group").exists() && !root.join("etc/new").exists());
    assert_eq!(
        fs::read_dir(&place.0).unwrap().count(),
        1,
        "the work directory is left"
    );
    let again = sh(
        &runtime,
        &root,
        &["--keep-changes", option],
        "cat /etc/new; ls /etc",
    )
    .success();
    assert_eq!(
        again.stdout.lines().next(),
        Some("one"),
        "the next run does not see the kept changes"
    );
    assert!(!again.stdout.contains("group"));
    // The kernel does not take a layer that is within the lower directory.
    let within = root.join("var/kept");
    let refused = sh(
        &runtime,
        &root,
        &["--keep-changes", within.to_str().unwrap()],
        "true",
    );
    assert_eq!(refused.status, 125);
    assert_has!(refused.failure(), "give a directory elsewhere");
}

fn an_ordinary_users_changes_are_kept() {
    let (place, runtime) = (elsewhere(), ordinary());
    give_to(&place.0, ORDINARY, ORDINARY);
    let kept = place.0.join("kept");
    sh(
        &runtime,
        Path::new("/"),
        &["--keep-changes", kept.to_str().unwrap()],
        "echo one > /opt/new; echo two > /srv/new",
    )
    .success();
    assert_eq!(
        (
            text(kept.join("opt/new")).trim(),
            text(kept.join("srv/new")).trim()
        ),
        ("one", "two")
    );
    assert_eq!(
        fs::read_dir(&place.0).unwrap().count(),
        1,
        "a work directory is left"
    );
    assert!(!Path::new("/opt/new").exists());
}

fn the_directory_itself_is_changed_with_read_write() {
    let root = small_root();
    sh(&hull(), &root, &["--read-write"], "echo there > /etc/new").success();
    assert_eq!(text(root.join("etc/new")).trim(), "there");
}

fn exit_statuses_are_dockers() {
    let (root, runtime) = (small_root(), hull());
    fs::write(root.join("bin/plain"), "no program").unwrap();
    write_executable(&root.join("bin/strange"), "\u{7f}ELF nothing of the kind");
    write_executable(&root.join("bin/orphan"), "#!/no/such/interpreter\n");
    let run = |words: &[&str]| {
        runtime.call(&[&["run", "--rootfs", root.to_str().unwrap(), "--"], words].concat())
    };
    let expected: [(&[&str], i32, &str); 8] = [
        (&["true"], 0, ""),
        (&["sh", "-c", "exit 42"], 42, ""),
        (
            &["no-such-program"],
            127,
            "executable file not found in $path",
        ),
        (&["/bin/none"], 127, "no such file"),
        (&["/bin/plain"], 126, "permission denied"),
        (&["/etc"], 126, "is a directory"),
        (&["/bin/strange"], 126, "exec format error"),
        (&["/bin/orphan"], 127, "no such file"),
    ];
    for (words, status, said) in expected {
        let out = run(words);
        assert_eq!(out.status, status, "{words:?}: {}", out.stderr);
        assert_has!(out.stderr.to_lowercase(), said);
    }
    let killed = sh(&runtime, &root, &[], "sh -c 'kill -9 $$'; exit $?");
    assert_eq!(killed.status, 137);
    assert_eq!(
        runtime
            .call(&["run", "--rootfs", "/no/such/directory", "--", "true"])
            .status,
        125
    );
    assert_eq!(containers(&runtime), Vec::<String>::new());
}

/// Starts a `run` with pipes as its output.
fn started(runtime: &Runtime, args: &[&str]) -> std::process::Child {
    let mut command: Command = runtime.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    leaks::spawn(&mut command).unwrap()
}

/// Starts a program, sends the signal to `run` after the program's first byte; the exit status.
#[track_caller]
fn signalled(script: &[&str], signal: Signal) -> i32 {
    let (root, runtime) = (small_root(), hull());
    let mut child = started(
        &runtime,
        &[&["run", "--rootfs", root.to_str().unwrap(), "--"], script].concat(),
    );
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte)
        .expect("the program said nothing");
    kill_process(Pid::from_child(&child), signal).unwrap();
    let status = wait(child, LIMIT);
    assert_eq!(containers(&runtime), Vec::<String>::new());
    status
}

fn a_signal_without_a_handler_ends_the_program() {
    // The kernel takes no default action on the first process of a pid namespace. The program is
    // not started by a shell: busybox's handles SIGINT until its exec, and loses one that comes
    // just before.
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        assert_eq!(
            signalled(&["busybox", "tail", "-f", "/etc/passwd"], signal),
            status
        );
    }
}

fn a_program_may_catch_a_signal() {
    assert_eq!(
        signalled(
            &[
                "sh",
                "-c",
                "trap 'exit 9' TERM; echo; while :; do sleep 0.1; done"
            ],
            Signal::TERM
        ),
        9
    );
}

fn a_terminal_passes_text_both_ways() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let (root, runtime) = (small_root(), hull());
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, vec![]).unwrap().into_string().unwrap();
    let size = rustix::termios::Winsize {
        ws_row: 33,
        ws_col: 101,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    let slave = fs::File::options()
        .read(true)
        .write(true)
        .open(name)
        .unwrap();
    let script = "trap 'echo caught; exit 5' INT; tty; stty size; echo TERM=$TERM; read line; \
        echo got $line; while :; do sleep 0.1; done";
    let mut command = runtime.command(&[
        "run",
        "-it",
        "--rootfs",
        root.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        script,
    ]);
    command
        .env("TERM", "vt100")
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave);
    let child = leaks::spawn(&mut command).unwrap();
    drop(command);
    let mut terminal = Terminal(fs::File::from(master));
    let said = terminal.read_until("TERM=vt100");
    assert_has!(said, "/dev/pts/0");
    assert_has!(said, "33 101");
    terminal.write("words\n");
    terminal.read_until("got words");
    // Passed on as a byte: the container's terminal turns it into the signal.
    terminal.write("\u{3}");
    terminal.read_until("caught");
    assert_eq!(wait(child, LIMIT), 5);
}

fn without_a_terminal_the_container_has_none() {
    let out = sh(&hull(), &small_root(), &["-it"], "tty; echo TERM=$TERM");
    assert_eq!(out.stdout, "not a tty\nTERM=\n");
}

fn stdin_is_closed_unless_it_is_asked_for() {
    let (root, runtime) = (small_root(), hull());
    let root = root.to_str().unwrap();
    assert_eq!(
        runtime
            .call_with_input(&["run", "-i", "--rootfs", root, "--", "cat"], "words")
            .success()
            .stdout,
        "words"
    );
    assert_eq!(
        runtime
            .call_with_input(&["run", "--rootfs", root, "--", "cat"], "words")
            .success()
            .stdout,
        ""
    );
}

fn volumes_show_the_hosts_paths() {
    let (root, shared, runtime) = (small_root(), new_dir("shared"), hull());
    fs::write(shared.join("file"), "from the host").unwrap();
    let (rw, ro) = (
        format!("{}:/data", shared.display()),
        format!("{}:/fixed:ro", shared.display()),
    );
    let script = "cat /data/file; echo made > /data/made; touch /fixed/x || echo refused";
    let out = sh(&runtime, &root, &["-v", &rw, "-v", &ro], script).success();
    assert_has!(out.stdout, "from the host");
    assert_has!(out.stdout, "refused");
    assert_eq!(text(shared.join("made")).trim(), "made");
    assert!(!shared.join("x").exists() && !root.join("data").exists());
    let one = format!("{}:/etc/motd:ro", shared.join("file").display());
    assert_eq!(
        sh(&runtime, &root, &["-v", &one], "cat /etc/motd")
            .success()
            .stdout,
        "from the host"
    );
}

fn limits_are_the_kernels() {
    if is_vm() {
        let read = "cd /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup); cat memory.max \
            cpu.max pids.max";
        let out = sh(
            &hull(),
            &small_root(),
            &["--memory", "48m", "--cpus", "0.25", "--pids-limit", "17"],
            read,
        )
        .success();
        return assert_eq!(
            out.stdout.lines().collect::<Vec<_>>(),
            ["50331648", "25000 100000", "17"]
        );
    }
    let read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes \
        /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us \
                /sys/fs/cgroup/pids/pids.max";
    if !Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
        skip!("the memory controller is not on cgroup v1 here");
    }
    let out = sh(
        &hull(),
        &small_root(),
        &["--memory", "48m", "--cpus", "0.25", "--pids-limit", "17"],
        read,
    )
    .success();
    assert_eq!(
        out.stdout.lines().collect::<Vec<_>>(),
        ["50331648", "25000", "100000", "17"]
    );
    let out = sh(
        &hull(),
        &small_root(),
        &["--memory", "48m"],
        "head -c 200000000 /dev/zero | tail -c 199999999 | wc -c",
    );
    assert!(!out.stdout.contains("199999999"), "200 MB went into 48");
}

const TRY_WRITES: &str = "for at in / /etc /opt /usr; do touch $at/adhoc-x 2>/dev/null && echo \
    wrote $at; done; touch /dev/shm/x && echo memory";

fn a_read_only_root_takes_no_writes() {
    assert_eq!(
        sh(&hull(), Path::new("/"), &["--read-only"], TRY_WRITES)
            .success()
            .stdout,
        "memory\n"
    );
}

fn an_ordinary_users_read_only_root_takes_no_writes() {
    assert_eq!(
        sh(&ordinary(), Path::new("/"), &["--read-only"], TRY_WRITES)
            .success()
            .stdout,
        "memory\n"
    );
}

fn capabilities_are_added_and_dropped() {
    let (root, runtime) = (small_root(), hull());
    let mask = |options: &[&str]| {
        let out = sh(
            &runtime,
            &root,
            options,
            "grep -E 'Cap(Eff|Bnd)' /proc/self/status",
        )
        .success()
        .stdout;
        let masks: Vec<u64> = out
            .lines()
            .map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(masks[0], masks[1], "{out}");
        masks[0]
    };
    assert_eq!(mask(&[]), 0xa804_25fb, "Docker's set");
    assert_eq!(mask(&["--cap-drop", "ALL"]), 0);
    assert_eq!(
        mask(&["--cap-drop", "all", "--cap-add", "net_admin"]),
        1 << 12
    );
    assert_eq!(mask(&["--cap-drop", "CAP_CHOWN"]), 0xa804_25fa);
    let refused = sh(
        &runtime,
        &root,
        &["--cap-drop", "CHOWN"],
        "touch /tmp/x; chown 1:1 /tmp/x",
    );
    assert_has!(refused.failure(), "not permitted");
}

fn the_default_seccomp_profile_blocks() {
    let (root, runtime) = (small_root(), hull());
    let seccomp = |options: &[&str]| {
        sh(
            &runtime,
            &root,
            options,
            "grep Seccomp: /proc/self/status; unshare -U true && echo made",
        )
        .stdout
    };
    let filtered = seccomp(&[]);
    assert_has!(filtered, "2");
    assert!(
        !filtered.contains("made"),
        "a user namespace was made under the default filter"
    );
    let free = seccomp(&["--seccomp", "unconfined"]);
    assert_has!(free, "0");
    assert_has!(free, "made");
}

fn a_seccomp_profile_from_a_file() {
    let (root, runtime) = (small_root(), hull());
    let path = new_dir("filter").join("filter.json");
    let rule = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":5}]}"#;
    fs::write(&path, rule).unwrap();
    assert_has!(
        sh(
            &runtime,
            &root,
            &["--seccomp", path.to_str().unwrap()],
            "mkdir /tmp/x"
        )
        .failure(),
        "input/output error"
    );
    for (text, said) in [
        ("{", "eof"),
        (r#"{"archMap":[]}"#, "engine's profile"),
        ("{}", "defaultaction is missing"),
    ] {
        fs::write(&path, text).unwrap();
        let out = sh(
            &runtime,
            &root,
            &["--seccomp", path.to_str().unwrap()],
            "true",
        );
        assert_eq!(out.status, 125);
        assert_has!(out.failure(), said);
    }
}

fn user_names_are_the_containers() {
    let (root, runtime) = (small_root(), hull());
    let id = |user: &str| {
        sh(
            &runtime,
            &root,
            &["-u", user],
            "echo $(id -u):$(id -g):$(id -G)",
        )
        .success()
        .stdout
        .trim()
        .to_owned()
    };
    assert_eq!(id("ada"), "1000:1000:1000 10 29");
    assert_eq!(id("ada:audio"), "1000:29:29");
    assert_eq!(id("7:8"), "7:8:8");
    let unknown = sh(&runtime, &root, &["-u", "eve"], "true");
    assert_eq!(unknown.status, 125);
    assert_has!(unknown.failure(), "no user \"eve\"");
}

fn the_environment_and_the_working_directory() {
    let mut runtime = hull();
    runtime.env.push(("PASSED".into(), "on".into()));
    let options = [
        "-e",
        "A=1",
        "-e",
        "PASSED",
        "-e",
        "HULL_NOT_SET",
        "-e",
        "PATH=/bin",
        "-w",
        "/home/ada",
        "-u",
        "ada",
    ];
    let out = sh(&runtime, &small_root(), &options, "pwd; env")
        .success()
        .stdout;
    for line in [
        "/home/ada",
        "A=1",
        "PASSED=on",
        "PATH=/bin",
        "HOME=/home/ada",
    ] {
        assert!(
            out.lines().any(|found| found == line),
            "{line} is not in\n{out}"
        );
    }
    assert!(!out.contains("HULL_NOT_SET"));
}

fn other_commands_work_on_an_adhoc_container() {
    let (root, runtime) = (small_root(), hull());
    runtime
        .call(&[
            "run",
            "-d",
            "--name",
            "adhoc-life",
            "--rootfs",
            root.to_str().unwrap(),
            "--",
            "sleep",
            "1000",
        ])
        .success();
    let state = runtime.call(&["state", "adhoc-life"]).success().stdout;
    assert_has!(state, "\"status\": \"running\"");
    let out = runtime
        .call(&[
            "exec",
            "adhoc-life",
            "sh",
            "-c",
            "touch /tmp/x; ls /tmp; hostname",
        ])
        .success();
    assert_eq!(out.stdout, "x\nadhoc-life\n");
    assert_has!(runtime.call(&["list"]).success().stdout, "adhoc-life");
    let bundle = runtime.state.join("adhoc-life");
    assert_has!(
        runtime
            .call(&["plan", bundle.to_str().unwrap()])
            .success()
            .stdout,
        "Layer "
    );
    runtime.call(&["kill", "adhoc-life", "KILL"]).success();
    until("the end of the container", || {
        runtime
            .call(&["state", "adhoc-life"])
            .stdout
            .contains("stopped")
    });
    runtime.call(&["delete", "adhoc-life"]).success();
    assert!(!root.join("tmp/x").exists());
    assert!(leaks::cgroups("adhoc-life").is_empty());
}

fn malformed_options_are_errors() {
    let (root, runtime) = (small_root(), hull());
    let long = "x".repeat(300);
    let bad: &[(&[&str], &str)] = &[
        (&["--memory", "12q"], "not a size"),
        (&["--memory", ""], "not a size"),
        (&["--memory=-1"], "not a size"),
        (&["--cpus", "many"], "not a number of cpus"),
        (&["--cpus", "0"], "out of range"),
        (&["--pids-limit", "0"], "not a number of processes"),
        (&["-v", "/etc"], "two or three parts"),
        (&["-v", "/no/such/path:/x"], "no such file"),
        (&["-v", "/etc:x"], "must begin with /"),
        (&["-v", "/etc:/"], "root"),
        (&["-v", "/etc:/x:rx"], "neither ro nor rw"),
        (&["-v", "/etc:/proc/sys"], "inside /proc"),
        (&["-e", "=x"], "no name"),
        (&["-w", "tmp"], "must begin with /"),
        (&["-u", ""], "empty"),
        (&["-u", "0:eve"], "no group"),
        (&["--hostname", "a b"], "letters"),
        (&["--name", "a/b"], "invalid container id"),
        (&["--name", &long], "invalid container id"),
        (&["--cap-add", "FLY"], "no such capability"),
        (&["--cap-drop", ""], "no such capability"),
        (&["--seccomp", "/no/such/file"], "no such file"),
        (&["--keep-changes", "/no/such/directory/x"], "no such file"),
        (&["--bundle", "/tmp"], "with --rootfs there is none"),
        (&["--no-such-option"], "unexpected argument"),
    ];
    for (options, said) in bad {
        let out = sh(&runtime, &root, options, "true");
        assert_eq!(out.status, 125, "{options:?}: {}", out.stderr);
        assert_has!(out.failure(), said);
    }
    let nothing = runtime.call(&["run", "--rootfs", root.to_str().unwrap()]);
    assert_eq!(nothing.status, 125);
    let without = runtime.call(&["run", "--memory", "1m", "some-id"]);
    assert_has!(without.failure(), "--rootfs");
    let file = runtime.call(&[
        "run",
        "--rootfs",
        root.join("etc/passwd").to_str().unwrap(),
        "--",
        "true",
    ]);
    assert_eq!(file.status, 125);
    assert_has!(file.failure(), "not a directory");
}

fn a_hard_link_to_a_file_of_the_root_is_one_file() {
    let root = small_root();
    fs::write(root.join("file"), "text").unwrap();
    // Not for an ordinary user: overlayfs stores where a file came from only with
    // CAP_DAC_READ_SEARCH on the host.
    let script = "ln /file /link && stat -c '%d %i' /file /link /bin | sort | uniq -c";
    let args = [
        "run",
        "--rootfs",
        root.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        script,
    ];
    let out = hull().call(&args).success().stdout;
    let counts: Vec<&str> = out.lines().map(|line| line.trim_start()).collect();
    assert!(counts.iter().any(|line| line.starts_with("2 ")), "{out}");
    let devices: std::collections::BTreeSet<_> = counts
        .iter()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    assert_eq!(devices.len(), 1, "one file system has one device: {out}");
}

fn the_hosts_root_is_a_volume() {
    let root = small_root();
    let mark = new_dir("mark");
    fs::write(mark.join("file"), "here").unwrap();
    for runtime in [hull(), ordinary()] {
        let path = format!("/mnt{}/file", mark.display());
        let root = root.to_str().unwrap();
        let args = [
            "run",
            "--rootfs",
            root,
            "-v",
            "/:/mnt:ro",
            "--",
            "cat",
            &path,
        ];
        assert_eq!(runtime.call(&args).success().stdout, "here");
    }
}

fn volumes_are_mounted_parents_first() {
    let (parent, child) = (new_dir("parent"), new_dir("child"));
    fs::create_dir(parent.join("below")).unwrap();
    fs::write(child.join("file"), "text").unwrap();
    let below = format!("{}:/mnt/below", child.display());
    let above = format!("{}:/mnt", parent.display());
    let root = small_root();
    let root = root.to_str().unwrap();
    let args = ["run", "--rootfs", root, "-v", &below, "-v", &above, "--"];
    let args = [&args[..], &["cat", "/mnt/below/file"]].concat();
    assert_eq!(hull().call(&args).success().stdout, "text");
}

fn changes_are_one_running_containers_at_a_time() {
    let (root, changes) = (small_root(), new_dir("kept").join("changes"));
    let runtime = hull();
    let common = ["--rootfs", root.to_str().unwrap(), "--keep-changes"];
    let common = [&common[..], &[changes.to_str().unwrap(), "--"]].concat();
    let run = |flags: &[&str], program: &[&str]| {
        runtime.call(&[&["run"], flags, &common[..], program].concat())
    };
    run(&["-d", "--name", "changes-one"], &["sleep", "1000"]).success();
    assert_has!(
        run(&[], &["true"]).failure(),
        "container changes-one keeps its changes"
    );
    runtime.call(&["kill", "changes-one", "KILL"]).success();
    crate::support::until("it ends", || {
        runtime
            .call(&["state", "changes-one"])
            .stdout
            .contains("stopped")
    });
    run(&[], &["true"]).success();
    runtime.call(&["delete", "changes-one"]).success();
    run(&[], &["true"]).success();
}
