//! Finds what a test, and the suite as a whole, left behind on the host.

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The state of the host that containers could change, as lines to compare.
pub struct Host(BTreeSet<String>);

impl Host {
    /// Reads mounts, cgroups, network namespaces, links and firewall rules.
    pub fn now() -> Self {
        let mut lines = BTreeSet::new();
        for l in mounts() {
            lines.insert(format!("mount {l}"));
        }
        for d in cgroups("hull-test-") {
            lines.insert(format!("cgroup {}", d.display()));
        }
        for n in std::fs::read_dir("/run/netns")
            .into_iter()
            .flatten()
            .flatten()
        {
            lines.insert(format!("network namespace {}", n.file_name().display()));
        }
        for n in std::fs::read_dir("/sys/class/net")
            .into_iter()
            .flatten()
            .flatten()
        {
            lines.insert(format!("link {}", n.file_name().display()));
        }
        if let Ok(out) = Command::new("nft").args(["list", "ruleset"]).output() {
            let rules = String::from_utf8_lossy(&out.stdout).into_owned();
            lines.extend(
                rules
                    .lines()
                    .filter(|l| l.starts_with("table"))
                    .map(|l| format!("nft {l}")),
            );
        }
        Self(lines)
    }

    /// What is on the host now and was not then, together with processes that the suite got as
    /// orphans. Others may use the host too: of mounts and cgroups, only those with the suite's own
    /// names count.
    pub fn left_since(&self) -> Vec<String> {
        let own = |l: &&String| {
            let shared = l.starts_with("mount ") || l.starts_with("cgroup ");
            !shared || l.contains(&format!("hull-test-{}", std::process::id()))
        };
        let mut left: Vec<String> = Self::now()
            .0
            .difference(&self.0)
            .filter(own)
            .cloned()
            .collect();
        left.extend(end_orphans(|_| true));
        left
    }
}

fn mounts() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|l| l.split(' ').nth(4).map(str::to_owned))
        .collect()
}

/// The cgroup directories of every hierarchy whose own name starts with `prefix`, children before
/// their parents.
pub fn cgroups(prefix: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    for root in super::cgroups::roots() {
        for d in std::fs::read_dir(root).into_iter().flatten().flatten() {
            if d.file_name().to_string_lossy().starts_with(prefix) {
                below(&d.path(), &mut found);
            }
        }
    }
    found
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    for d in std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|d| d.path().is_dir())
    {
        below(&d.path(), found);
    }
    found.push(dir.to_owned());
}

/// What the test with this pid left behind; this function then removes all of it, so that one leak
/// is one failure.
pub fn after_test(pid: u32, scratch: &Path) -> Vec<String> {
    // A frozen process cannot be killed.
    for d in cgroups(&format!("hull-test-{pid}-")) {
        std::fs::write(d.join("freezer.state"), "THAWED").ok();
        std::fs::write(d.join("cgroup.freeze"), "0").ok();
    }
    let mut left = end_orphans(|environ| environ.contains(&scratch.display().to_string()));
    for d in cgroups(&format!("hull-test-{pid}-")) {
        left.push(format!("cgroup {}", d.display()));
        for task in std::fs::read_to_string(d.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
        {
            end(task.parse().unwrap_or(0));
        }
        remove_cgroup(&d);
    }
    for m in mounts()
        .into_iter()
        .rev()
        .filter(|m| Path::new(m).starts_with(scratch))
    {
        rustix::mount::unmount(&m, rustix::mount::UnmountFlags::DETACH).ok();
        left.push(format!("mount {m}"));
    }
    for state in std::fs::read_dir(scratch).into_iter().flatten().flatten() {
        for id in std::fs::read_dir(state.path().join("state"))
            .into_iter()
            .flatten()
            .flatten()
        {
            // No id begins so: it is a cache of hull.
            if !id.file_name().to_string_lossy().starts_with('@') {
                left.push(format!("state {}", id.path().display()));
            }
        }
    }
    if scratch.exists() && std::fs::remove_dir_all(scratch).is_err() {
        left.push(format!("files below {}", scratch.display()));
    }
    left
}

/// A process of a test that hangs.
pub struct Hung {
    /// Its state, its kernel stack and its command line.
    pub line: String,
    pidfd: Option<OwnedFd>,
}

impl Hung {
    /// Kills it, also where its parents have exited.
    pub fn end(&self) {
        let Some(pidfd) = &self.pidfd else { return };
        pidfd_send_signal(pidfd, Signal::KILL).ok();
        super::harness::readable_within(pidfd, Duration::from_secs(5));
    }
}

/// The processes that use a test's directory or are in its process group.
pub fn hung_processes(scratch: &Path) -> Vec<Hung> {
    let read = |pid: i32, name: &str| {
        let text = std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().replace('\0', " ")
    };
    let test = scratch
        .file_name()
        .map(|n| n.display().to_string())
        .unwrap_or_default();
    let (directory, group) = (scratch.display().to_string(), format!(" {test}"));
    let line = |pid: i32| {
        let stack: Vec<String> = read(pid, "stack")
            .lines()
            .take(5)
            .map(|l| l.trim_start_matches("[<0>] ").to_owned())
            .collect();
        let state = read(pid, "stat")
            .rsplit_once(") ")
            .map(|(_, rest)| rest.chars().take(1).collect::<String>())
            .unwrap_or_default();
        let line = format!(
            "{pid} {state} {} ({}): {}",
            read(pid, "wchan"),
            stack.join(" < "),
            read(pid, "cmdline")
        );
        Hung {
            line,
            pidfd: Pid::from_raw(pid).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok()),
        }
    };
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            pid.to_string() == test
                || [traces(*pid), read(*pid, "cmdline")]
                    .iter()
                    .any(|t| t.contains(&directory) || t.ends_with(&group))
        })
        .map(line)
        .collect()
}

fn remove_cgroup(dir: &Path) {
    let until = Instant::now() + Duration::from_secs(5);
    while std::fs::remove_dir(dir).is_err() && dir.exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The children that this process started itself and waits for itself. Locked while one is started,
/// so that the reaper does not take it for an orphan.
static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// The lock of [`OWN`], also after a panic of the thread that held it. The reaper waits meanwhile.
pub fn own() -> MutexGuard<'static, BTreeSet<i32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child that this process waits for itself.
pub fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let mut own = own();
    let child = command.spawn()?;
    own.insert(child.id().cast_signed());
    Ok(child)
}

/// Forgets a child that [`spawn`] started, after its end.
pub fn forget(child: &Child) {
    own().remove(&child.id().cast_signed());
}

/// Runs a command to its end, with no standard input; its output and status.
pub fn output(command: &mut Command) -> std::io::Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = spawn(command)?;
    let pid = child.id().cast_signed();
    let output = child.wait_with_output();
    own().remove(&pid);
    output
}

/// Runs a command to its end; whether it succeeded.
pub fn succeeds(command: &mut Command) -> bool {
    let Ok(mut child) = spawn(command) else {
        return false;
    };
    let status = child.wait();
    forget(&child);
    status.is_ok_and(|status| status.success())
}

/// Reaps the orphans that have exited.
pub fn reap_orphans() {
    let own = own();
    children()
        .into_iter()
        .filter(|pid| !own.contains(pid) && is_zombie(*pid))
        .for_each(reap);
}

/// The children of this process: those that it started, and the orphans that it got.
pub fn children() -> Vec<i32> {
    let mut all = vec![];
    for task in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(
            text.split_whitespace()
                .filter_map(|p| p.parse::<i32>().ok()),
        );
    }
    all
}

/// Whether a process is a zombie.
pub fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('Z'))
}

/// Whether a process has ended: it is a zombie or does not exist any more.
pub fn is_gone(pid: i32) -> bool {
    is_zombie(pid) || !Path::new(&format!("/proc/{pid}")).exists()
}

/// Reaps this process's orphans that have exited, and kills those that still run; gives a line for
/// each that it killed. `ours` chooses them by their [`traces`].
fn end_orphans(ours: impl Fn(&str) -> bool) -> Vec<String> {
    let mut left = vec![];
    let own = own();
    for pid in children().into_iter().filter(|pid| !own.contains(pid)) {
        if is_zombie(pid) {
            reap(pid);
            continue;
        }
        if !ours(&traces(pid)) {
            continue;
        }
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        left.push(format!(
            "process {pid}: {}",
            String::from_utf8_lossy(&line).replace('\0', " ")
        ));
        end(pid);
        reap(pid);
    }
    left
}

/// A process's environment, its mounts and its process group, by which it is known as a test's.
fn traces(pid: i32) -> String {
    let of = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    // 0 where the group is in another pid namespace, or the kernel's.
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid)))
        .map_or(0, nix::unistd::Pid::as_raw);
    format!(
        "{} {} {group}",
        String::from_utf8_lossy(&of("environ")),
        String::from_utf8_lossy(&of("mountinfo"))
    )
}

fn end(pid: i32) {
    if let Some(Ok(fd)) = Pid::from_raw(pid).map(|p| pidfd_open(p, PidfdFlags::empty())) {
        pidfd_send_signal(&fd, Signal::KILL).ok();
        super::harness::readable_within(&fd, Duration::from_secs(5));
    }
}

fn reap(pid: i32) {
    if let Some(p) = Pid::from_raw(pid) {
        waitpid(Some(p), WaitOptions::NOHANG).ok();
    }
}
