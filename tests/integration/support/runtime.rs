//! Drives the runtime: a command with a time limit, its output, and a guard that deletes the
//! container that a test created.

use super::bundle::Bundle;
use super::{backend, fixture, harness, leaks};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The factor by which every time limit is longer than usual: `HULL_TEST_PATIENCE`, for an emulated
/// host or guest.
pub fn patience() -> u32 {
    std::env::var("HULL_TEST_PATIENCE")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1)
}

/// The longest that one command of the runtime may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The runtime's path: `HULL_RUNTIME`, or the binary that was just built.
pub fn path() -> PathBuf {
    std::env::var_os("HULL_RUNTIME")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_hull")), PathBuf::from)
}

/// Whether the suite drives hull itself, and not another runtime.
pub fn drives_hull() -> bool {
    is_hull(&path())
}

/// Whether a program is hull.
pub fn is_hull(program: &Path) -> bool {
    program
        .file_name()
        .is_some_and(|n| n.to_string_lossy().starts_with("hull"))
}

/// crun 1.8 refuses a hybrid cgroup tree: this function gives the test a mount namespace in which
/// crun sees the v1 hierarchies only.
pub fn prepare_view() {
    if path().file_name().is_some_and(|n| n == "crun") {
        super::users::private_mounts();
        rustix::mount::unmount(
            "/sys/fs/cgroup/unified",
            rustix::mount::UnmountFlags::DETACH,
        )
        .ok();
    }
}

/// Reaps the processes that containers leave to this process, as an engine's shim does.
pub fn start_reaper() {
    std::thread::spawn(|| {
        loop {
            leaks::reap_orphans();
            std::thread::sleep(Duration::from_millis(25));
        }
    });
}

/// A runtime with a state directory of its own.
#[derive(Clone)]
pub struct Runtime {
    /// The program.
    pub program: PathBuf,
    /// Its `--root`.
    pub state: PathBuf,
    /// The ordinary user that it runs as; root where there is none.
    pub user: Option<u32>,
    /// Flags before the command's name.
    pub global: Vec<String>,
    /// Variables added to its environment.
    pub env: Vec<(String, String)>,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status; 128 and the signal's number where a signal ended it.
    pub status: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Fails the test where the status is not 0.
    #[track_caller]
    pub fn success(self) -> Self {
        assert!(
            self.status == 0,
            "status {}\nstdout: {}\nstderr: {}",
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails the test where the status is 0; gives the error's text in lower case.
    #[track_caller]
    pub fn failure(self) -> String {
        assert!(
            self.status != 0,
            "it should have failed\nstdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        assert!(
            !self.stderr.trim().is_empty(),
            "it failed with {} and did not say why",
            self.status
        );
        assert!(
            !self.stderr.contains("panicked at"),
            "it panicked:\n{}",
            self.stderr
        );
        self.stderr.to_lowercase()
    }
}

impl Runtime {
    /// The runtime under test.
    pub fn new(state: PathBuf) -> Self {
        Self {
            program: path(),
            state,
            user: None,
            global: vec![],
            env: vec![],
        }
    }

    /// Names a file of defaults with this text in the runtime's environment.
    pub fn set_defaults(&mut self, text: &str) {
        let file = fixture::new_dir("defaults").join("config.toml");
        fs::write(&file, text).unwrap();
        self.env
            .push(("HULL_CONFIG".into(), file.display().to_string()));
    }

    /// The command line, not started; standard input is `/dev/null`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(self.program_for_user());
        c.arg("--root")
            .arg(&self.state)
            .args(&self.global)
            .args(backend::with_flags(&self.program, args, self.user))
            .stdin(Stdio::null())
            .current_dir("/");
        c.env("HULL_TEST_DIR", fixture::test_scratch());
        if let Some(user) = self.user {
            c.uid(user)
                .gid(user)
                .env_remove("XDG_RUNTIME_DIR")
                .env("HOME", "/");
        }
        c.envs(self.env.iter().map(|(k, v)| (k, v)));
        c
    }

    /// An ordinary user may be unable to enter the directory of the build, and gets a copy.
    fn program_for_user(&self) -> PathBuf {
        if self.user.is_none() {
            return self.program.clone();
        }
        let copy = fixture::suite_scratch().join(self.program.file_name().unwrap());
        if !copy.exists() {
            let part = fixture::suite_scratch().join(format!("part-{}", std::process::id()));
            fs::copy(&self.program, &part).unwrap();
            fs::set_permissions(&part, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(&part, &copy).unwrap();
        }
        copy
    }

    /// Runs a command of the runtime to its end.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        finish(self.command(args), LIMIT)
    }

    /// Runs a command of the runtime to its end, with text on standard input.
    #[track_caller]
    pub fn call_with_input(&self, args: &[&str], input: &str) -> Output {
        let path = fixture::new_dir("stdin").join("input");
        fs::write(&path, input).unwrap();
        let mut c = self.command(args);
        c.stdin(fs::File::open(path).unwrap());
        finish(c, LIMIT)
    }
}

/// Runs a command to its end. Its output goes to files and not to pipes: a container outlives
/// `create` and would hold a pipe open.
#[track_caller]
pub fn finish(mut command: Command, limit: Duration) -> Output {
    let dir = fixture::new_dir("output");
    let open = |name: &str| {
        let file = fs::File::create(dir.join(name)).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o666))
            .unwrap();
        file
    };
    command.stdout(open("stdout")).stderr(open("stderr"));
    let mut child =
        leaks::spawn(&mut command).unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let in_time = harness::wait_within(&mut child, limit * patience());
    let status = child.wait().unwrap();
    leaks::forget(&child);
    let read =
        |name: &str| String::from_utf8_lossy(&fs::read(dir.join(name)).unwrap()).into_owned();
    let out = Output {
        status: number(status),
        stdout: read("stdout"),
        stderr: read("stderr"),
    };
    assert!(
        in_time,
        "hung: {command:?}\nstdout: {}\nstderr: {}",
        out.stdout, out.stderr
    );
    out
}

/// Waits for the end of a child that [`leaks::spawn`] started; its exit status as a shell gives it.
#[track_caller]
pub fn wait(mut child: Child, limit: Duration) -> i32 {
    let in_time = harness::wait_within(&mut child, limit * patience());
    let status = child.wait().unwrap();
    leaks::forget(&child);
    assert!(in_time, "hung: process {}", child.id());
    number(status)
}

/// An exit status as a shell gives it.
pub fn number(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Waits until a condition holds. The limit judges no speed: it tells a hang.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(40) * patience();
    while !condition() {
        assert!(Instant::now() < end, "timed out waiting for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A container that was created. Dropping it runs `delete --force`, also after a panic.
pub struct Container<'a> {
    /// Its bundle.
    pub bundle: &'a Bundle,
}

impl<'a> Container<'a> {
    /// The guard of the bundle's container.
    pub fn new(bundle: &'a Bundle) -> Self {
        Self { bundle }
    }

    /// A command that takes the container's id last.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        self.bundle.call(&[args, &[&self.bundle.id]].concat())
    }

    /// `start`, which must succeed.
    #[track_caller]
    pub fn start(&self) {
        self.call(&["start"]).success();
    }

    /// What `state` prints.
    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state"]).success().stdout).expect("state is not JSON")
    }

    /// The status that `state` prints.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"]
            .as_str()
            .expect("no status")
            .to_owned()
    }

    /// Waits for a status.
    #[track_caller]
    pub fn wait_for(&self, status: &str) {
        until(&format!("status {status}"), || self.status() == status);
    }

    /// The pid of the container's first process, on the host.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().expect("no pid")).unwrap()
    }

    /// `exec` of a program, in the foreground.
    #[track_caller]
    pub fn exec(&self, program: &[&str]) -> Output {
        self.exec_with(&[], program)
    }

    /// `exec` with flags before the id.
    #[track_caller]
    pub fn exec_with(&self, flags: &[&str], program: &[&str]) -> Output {
        self.bundle
            .call(&[&["exec"], flags, &[&self.bundle.id], program].concat())
    }

    /// `exec` of a process given as a document.
    #[track_caller]
    pub fn exec_process(&self, process: &Value) -> Output {
        let file = fixture::new_dir("process").join("process.json");
        fs::write(&file, process.to_string()).unwrap();
        self.bundle
            .call(&["exec", "--process", file.to_str().unwrap(), &self.bundle.id])
    }

    /// `kill` with a signal.
    #[track_caller]
    pub fn kill(&self, signal: &str) -> Output {
        self.bundle.call(&["kill", &self.bundle.id, signal])
    }

    /// The pid of the first process in the container's cgroup: on the host, or in VM mode in the
    /// guest.
    #[track_caller]
    pub fn pid_in_cgroup(&self) -> i32 {
        if backend::is_vm() { 1 } else { self.pid() }
    }

    /// A namespace of the first process.
    pub fn namespace(&self, kind: &str) -> String {
        if backend::is_vm() {
            return self
                .exec(&["readlink", &format!("/proc/1/ns/{kind}")])
                .success()
                .stdout
                .trim()
                .to_owned();
        }
        fs::read_link(format!("/proc/{}/ns/{kind}", self.pid()))
            .unwrap()
            .display()
            .to_string()
    }

    /// The pids that `ps` prints: those of the host, or in VM mode those of the guest.
    #[track_caller]
    pub fn processes(&self) -> Vec<i32> {
        serde_json::from_str(
            &self
                .bundle
                .call(&["ps", "--format", "json", &self.bundle.id])
                .success()
                .stdout,
        )
        .expect("ps is not JSON")
    }

    /// The path of the program that the first process runs.
    pub fn program(&self) -> PathBuf {
        if backend::is_vm() {
            return self
                .exec(&["readlink", "/proc/1/exe"])
                .success()
                .stdout
                .trim()
                .into();
        }
        fs::read_link(format!("/proc/{}/exe", self.pid())).unwrap()
    }

    /// The open descriptors of the first process.
    pub fn descriptors(&self) -> Vec<u32> {
        let names: Vec<String> = if backend::is_vm() {
            self.exec(&["ls", "/proc/1/fd"])
                .success()
                .stdout
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        } else {
            fs::read_dir(format!("/proc/{}/fd", self.pid()))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        let mut all: Vec<u32> = names.iter().map(|name| name.parse().unwrap()).collect();
        all.sort_unstable();
        all
    }

    /// A file below the first process's directory in `/proc`: that of the host, or in VM mode that
    /// of the container.
    pub fn proc_file(&self, name: &str) -> String {
        if backend::is_vm() {
            return self
                .exec(&["cat", &format!("/proc/1/{name}")])
                .success()
                .stdout;
        }
        fs::read_to_string(format!("/proc/{}/{name}", self.pid())).unwrap()
    }

    /// A line of the first process's status file, without its name.
    pub fn status_line(&self, name: &str) -> String {
        let text = self.proc_file("status");
        text.lines()
            .find_map(|l| l.strip_prefix(&format!("{name}:")))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let out = self.bundle.call(&["delete", "--force", &self.bundle.id]);
        if out.status != 0 && !std::thread::panicking() {
            panic!("delete --force failed: {}", out.stderr);
        }
    }
}

/// The text of a file, empty where there is none.
pub fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
