//! What the program inherits of its caller: descriptors, the standard streams and the session
//! keyring, and nothing else; and the files and sockets by which the caller gets the pid.

use crate::support::backend::is_vm;
use crate::support::{Bundle, Container, fixture, runtime};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

tests![
    program_sees_three_descriptors,
    exec_sees_three_descriptors,
    stray_descriptors_do_not_reach_the_program,
    processes_of_hull_that_live_on_close_inherited_descriptors,
    preserved_descriptors_reach_the_program,
    exec_preserves_descriptors,
    preserving_a_closed_descriptor_is_an_error,
    listen_descriptors_reach_the_program,
    standard_streams_are_the_runtimes_own,
    closed_standard_streams_are_survived,
    session_keyring_is_the_containers,
    no_new_keyring_keeps_the_callers,
    working_directory_in_a_descriptor_is_refused,
    exec_working_directory_in_a_descriptor_is_refused,
    pid_file_in_a_missing_directory_is_an_error,
    pidfd_socket_gets_the_pidfd,
];

/// Runs a command of the runtime through a shell that opens descriptors first.
fn through_shell(b: &Bundle, set_up: &str, args: &[&str]) -> runtime::Output {
    let plain = b.runtime.command(args);
    let mut c = Command::new("bash");
    c.args(["-c", &format!("{set_up}; exec \"$@\""), "bash"])
        .arg(plain.get_program())
        .args(plain.get_args());
    c.stdin(std::process::Stdio::null())
        .env("HULL_TEST_DIR", fixture::test_scratch());
    runtime::finish(c, runtime::LIMIT)
}

fn run_through_shell(b: &Bundle, set_up: &str, flags: &[&str]) -> runtime::Output {
    b.write();
    let dir = b.dir.to_str().unwrap().to_owned();
    let args = [&["run", "--bundle", &dir], flags, &[&b.id]].concat();
    through_shell(b, set_up, &args)
}

/// The open descriptors of a process of the host.
fn open_in(pid: impl std::fmt::Display) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut all: Vec<u32> = entries
        .map(|d| d.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    all.sort_unstable();
    all
}

fn wait_for_sleep(pid: impl std::fmt::Display) {
    runtime::until("the program", || {
        runtime::text(format!("/proc/{pid}/cmdline")).starts_with("sleep")
    });
}

/// The open descriptors of the program of an exec, which is `sleep 999`.
fn open_in_exec(b: &Bundle, set_up: &str) -> Vec<u32> {
    let pid = exec_through_shell(b, set_up, &[], &["sleep", "999"]);
    if !is_vm() {
        wait_for_sleep(&pid);
        return open_in(pid);
    }
    let script = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline | grep -q '^sleep 999' && ls \
        $p/fd; done";
    let mut all: Vec<u32> = Vec::new();
    runtime::until("the program", || {
        let said = b.call(&["exec", &b.id, "sh", "-c", script]).stdout;
        all = said
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        !all.is_empty()
    });
    all
}

/// `create` through a shell, and `start`; returns when the program is `sleep`.
fn started_through_shell<'a>(b: &'a Bundle, set_up: &str, flags: &[&str]) -> Container<'a> {
    b.write();
    let args = [
        &["create", "--bundle", b.dir.to_str().unwrap()],
        flags,
        &[&b.id],
    ]
    .concat();
    through_shell(b, set_up, &args).success();
    let c = Container::new(b);
    c.start();
    runtime::until("the program", || {
        c.proc_file("cmdline").starts_with("sleep")
    });
    c
}

/// `exec --detach` through a shell; the pid.
fn exec_through_shell(b: &Bundle, set_up: &str, flags: &[&str], program: &[&str]) -> String {
    let file = fixture::new_dir("pid").join("pid");
    let args = [
        &["exec", "--detach", "--pid-file", file.to_str().unwrap()],
        flags,
        &[&b.id],
        program,
    ]
    .concat();
    through_shell(b, set_up, &args).success();
    fs::read_to_string(file).unwrap()
}

// Attack: CVE-2024-21626
fn program_sees_three_descriptors() {
    for mut b in [
        Bundle::new(),
        Bundle::with_user_namespace(),
        Bundle::of_ordinary_user(),
    ] {
        b.args(&["sleep", "1000"]);
        assert_eq!(b.started().descriptors(), [0, 1, 2]);
    }
}

// Attack: CVE-2024-21626
fn exec_sees_three_descriptors() {
    let b = Bundle::sleeper();
    let _c = b.started();
    assert_eq!(open_in_exec(&b, "true"), [0, 1, 2]);
}

const STRAY: &str = "exec 3</etc/passwd 4</etc 5</ 7</proc 9</etc/group 63</tmp";

// Attack: CVE-2024-21626
fn stray_descriptors_do_not_reach_the_program() {
    let b = Bundle::sleeper();
    let c = started_through_shell(&b, STRAY, &[]);
    assert_eq!(c.descriptors(), [0, 1, 2]);
    assert_eq!(open_in_exec(&b, STRAY), [0, 1, 2]);
}

/// A file that hull inherits of its caller. Processes of hull that live on without execve(2) must
/// close it.
pub struct Stray {
    _file: File,
}

impl Stray {
    const PATH: &str = "/etc/group";

    /// Opens the file. Every program that the test starts from now on inherits it.
    pub fn new() -> Self {
        let file = File::open(Self::PATH).unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        Self { _file: file }
    }

    /// What a process has open that it should not: the stray file, or a directory of a container's
    /// state, whose descriptor is the lock of the container.
    fn found_in(pid: impl std::fmt::Display, state: &Path) -> Vec<PathBuf> {
        let targets = open_in(&pid)
            .into_iter()
            .map(|number| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default());
        targets
            .filter(|path| {
                path == Path::new(Self::PATH) || (path.starts_with(state) && path.is_dir())
            })
            .collect()
    }

    /// Asserts that a process of hull has neither.
    pub fn is_not_in(&self, pid: impl std::fmt::Display, state: &Path) {
        assert_eq!(
            Self::found_in(&pid, state),
            [] as [PathBuf; 0],
            "open in {pid}: {}",
            runtime::text(format!("/proc/{pid}/comm")).trim()
        );
    }
}

/// The first process of a container without a program, and the keeper of a log. (`vm_lifecycle`
/// tests those of the VM backend.)
fn processes_of_hull_that_live_on_close_inherited_descriptors() {
    only_hull!("runc has no such processes");
    let stray = Stray::new();
    let mut b = Bundle::new();
    b.remove("/process");
    let (c, out) = b.try_create(&[]);
    out.success();
    let c = c.unwrap();
    stray.is_not_in(c.pid(), &b.runtime.state);
    // It also has the fifo of start and a socket to the process that made it.
    assert_eq!(
        open_in(c.pid())
            .iter()
            .filter(|number| **number > 2)
            .count(),
        2
    );

    let root = fixture::new_dir("root");
    fixture::fill_rootfs(&root);
    let id = format!("{}-kept", b.id);
    let flags = [
        "run",
        "-d",
        "--name",
        &id,
        "--rootfs",
        root.to_str().unwrap(),
        "--",
        "sleep",
        "1000",
    ];
    b.runtime.call(&flags).success();
    let lock = b.runtime.state.join(&id).join("log.lock");
    // The keeper closes them right after its start.
    runtime::until("the keeper to close them", || {
        holder_of(&lock).is_some_and(|keeper| Stray::found_in(keeper, &b.runtime.state).is_empty())
    });
    b.runtime.call(&["delete", "--force", &id]).success();
}

/// The process that has a file open.
fn holder_of(path: &Path) -> Option<u32> {
    let path = path.canonicalize().ok()?;
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.into_iter().find(|pid| {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        entries
            .into_iter()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path))
    })
}

/// A shell command that opens two files as descriptors 3 and 4, and others beyond them; and a
/// program that reads these two.
fn two_files() -> (String, String) {
    let dir = fixture::new_dir("preserved");
    fs::write(dir.join("three"), "third\n").unwrap();
    fs::write(dir.join("four"), "fourth\n").unwrap();
    let script = "cat <&3 > /dev/shm/3; cat <&4 > /dev/shm/4; echo $LISTEN_FDS $LISTEN_PID > \
        /dev/shm/listen; exec sleep 1000";
    (
        format!("exec 3<{0}/three 4<{0}/four 5</etc 6</", dir.display()),
        script.to_owned(),
    )
}

fn in_shm(c: &Container, file: &str) -> String {
    runtime::text(format!("/proc/{}/root/dev/shm/{file}", c.pid()))
}

fn preserved_descriptors_reach_the_program() {
    let (set_up, script) = two_files();
    let b = Bundle::sh(&script);
    let c = started_through_shell(&b, &set_up, &["--preserve-fds", "2"]);
    assert_eq!(
        (in_shm(&c, "3").as_str(), in_shm(&c, "4").as_str()),
        ("third\n", "fourth\n")
    );
    assert_eq!(open_in(c.pid()), [0, 1, 2, 3, 4]);
}

fn exec_preserves_descriptors() {
    let (set_up, script) = two_files();
    let b = Bundle::sleeper();
    let c = b.started();
    let pid = exec_through_shell(
        &b,
        &set_up,
        &["--preserve-fds", "2"],
        &["sh", "-c", &script],
    );
    wait_for_sleep(&pid);
    assert_eq!(
        (in_shm(&c, "3").as_str(), in_shm(&c, "4").as_str()),
        ("third\n", "fourth\n")
    );
    assert_eq!(open_in(pid), [0, 1, 2, 3, 4]);
}

fn preserving_a_closed_descriptor_is_an_error() {
    only_hull!("runc 1.1.5 finds its own descriptors there");
    let b = Bundle::sh("true");
    let error = run_through_shell(&b, "exec 3<&- 4<&- 5<&-", &["--preserve-fds", "3"]).failure();
    assert_has!(error, "preserve");
}

fn listen_descriptors_reach_the_program() {
    let (set_up, script) = two_files();
    let b = Bundle::sh(&script);
    let c = started_through_shell(
        &b,
        &format!("{set_up}; export LISTEN_FDS=2 LISTEN_PID=$$"),
        &[],
    );
    assert_eq!(
        in_shm(&c, "listen"),
        "2 1\n",
        "the program is process 1, and LISTEN_PID says so"
    );
    assert_eq!(in_shm(&c, "4"), "fourth\n");
    assert_eq!(open_in(c.pid()), [0, 1, 2, 3, 4]);
}

fn standard_streams_are_the_runtimes_own() {
    let dir = fixture::new_dir("streams");
    let b = Bundle::sh("cat; echo to two >&2; readlink /proc/self/fd/1");
    b.write();
    let set_up = format!("exec <<<input >{0}/out 2>{0}/err", dir.display());
    through_shell(
        &b,
        &set_up,
        &["run", "--bundle", b.dir.to_str().unwrap(), &b.id],
    )
    .success();
    assert_has!(fs::read_to_string(dir.join("out")).unwrap(), "input\n");
    assert_eq!(fs::read_to_string(dir.join("err")).unwrap(), "to two\n");
}

fn closed_standard_streams_are_survived() {
    let mut b = Bundle::new();
    let dir = fixture::new_dir("closed");
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    b.mount("/mnt", "bind", dir.to_str().unwrap(), &["bind"]);
    b.args(&["/bin/sh", "-c", "ls -l /proc/1/fd > /mnt/seen"]);
    assert_eq!(run_through_shell(&b, "exec 0<&- 1>&- 2>&-", &[]).status, 0);
    let seen = fs::read_to_string(dir.join("seen")).unwrap();
    for line in seen.lines().filter(|l| l.contains(" -> ")) {
        let target = line.rsplit(" -> ").next().unwrap();
        assert!(
            ["/dev/null", "/mnt/seen"].contains(&target) || target.starts_with("pipe:"),
            "a stream is a file of the runtime's:\n{seen}"
        );
    }
}

fn session_keyring_is_the_containers() {
    let b = {
        let mut b = Bundle::new();
        b.args(&["/bin/probe", "--probe", "keyring"]);
        b
    };
    let text = b.run().success().stdout;
    assert!(text.starts_with("keyring;0;0;"), "{text}");
    assert!(
        text.trim_end().ends_with(&format!(";_ses.{}", b.id)),
        "{text}"
    );
    // Possessor: all rights; user: view, read, write and search, as runc gives.
    assert_eq!(text.split(';').nth(3), Some("3f1b0000"), "{text}");
}

fn no_new_keyring_keeps_the_callers() {
    let b = {
        let mut b = Bundle::new();
        b.args(&["/bin/probe", "--probe", "keyring"]);
        b
    };
    let text = b.run_with(&["--no-new-keyring"]).success().stdout;
    assert!(!text.contains(&b.id), "{text}");
}

/// Asserts that a working directory in a descriptor is refused, and that nothing of the host was
/// read.
#[track_caller]
fn refused(n: i32, out: &runtime::Output) {
    assert_ne!(
        out.status, 0,
        "descriptor {n}: {}{}",
        out.stdout, out.stderr
    );
    assert!(
        !out.stdout.contains("root:"),
        "descriptor {n} led to the host"
    );
}

/// CVE-2024-21626: a leaked descriptor of a directory of the host as the working directory.
// Attack: CVE-2024-21626
fn working_directory_in_a_descriptor_is_refused() {
    for n in (3..=12).chain([63]) {
        let mut b = Bundle::sh("cat etc/shadow ../../../../etc/shadow; pwd");
        b.set("/process/cwd", format!("/proc/self/fd/{n}").into());
        let out = run_through_shell(&b, STRAY, &[]);
        refused(n, &out);
    }
}

// Attack: CVE-2024-21626
fn exec_working_directory_in_a_descriptor_is_refused() {
    let b = Bundle::sleeper();
    let _c = b.started();
    for n in (3..=12).chain([63]) {
        let cwd = format!("/proc/self/fd/{n}");
        let out = through_shell(
            &b,
            STRAY,
            &[
                "exec",
                "--cwd",
                &cwd,
                &b.id,
                "sh",
                "-c",
                "cat etc/shadow ../../../etc/shadow",
            ],
        );
        refused(n, &out);
    }
}

fn pid_file_in_a_missing_directory_is_an_error() {
    let b = Bundle::sleeper();
    b.try_create(&["--pid-file", "/no/such/directory/pid"])
        .1
        .failure();
    assert_has!(b.call(&["state", &b.id]).failure(), "does not exist");
}

fn pidfd_socket_gets_the_pidfd() {
    only_hull!("runc 1.1.5 has no --pidfd-socket");
    let socket = crate::support::console::FdSocket::new();
    let b = Bundle::sleeper();
    let (c, out) = b.try_create(&["--pidfd-socket", socket.path.to_str().unwrap()]);
    out.success();
    let fds = socket.receive().fds;
    let info = fs::read_to_string(format!(
        "/proc/self/fdinfo/{}",
        std::os::fd::AsRawFd::as_raw_fd(&fds[0])
    ))
    .unwrap();
    assert_has!(info, &format!("Pid:\t{}\n", c.unwrap().pid())[..]);
}
