//! Runs one bundle under runc and under the runtime, and compares what a program in the container
//! sees.

use super::bundle::Bundle;
use super::{runtime, users};
use std::path::PathBuf;

/// What the program reports, section by section. [`normalised`] removes what differs from run to
/// run.
const PROBE: &str = r#"
echo "[status]"; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Umask|SigBlk|Threads|Speculation|Cpus_allowed_list|Mems_allowed_list|CoreDumping|THP)' /proc/self/status
echo "[pids]"; grep -E '^NS' /proc/self/status | awk '{print $1, NF}'
echo "[mounts]"; cat /proc/self/mountinfo
echo "[cgroup]"; cat /proc/self/cgroup
echo "[fds]"; ls /proc/self/fd | grep -vx 3
echo "[environment]"; env | sort
echo "[limits]"; cat /proc/self/limits
echo "[oom]"; cat /proc/self/oom_score_adj
echo "[sched]"; ls /proc/self/timerslack_ns
echo "[dev]"; ls -lan /dev | sed -E 's/ (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) .*[0-9:]{4,5} / /'
echo "[cwd]"; pwd; hostname
echo "[namespaces]"; ls /proc/self/ns | sort
echo "[personality]"; cat /proc/self/personality
echo "[maps]"; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups
echo "[session]"; awk '{print $5 == $6, $7}' /proc/1/stat
"#;

/// Asserts that the program sees the same under runc as under the runtime. Skips the test where
/// runc is not installed.
#[track_caller]
pub fn with_runc(bundle: &mut Bundle) {
    let Some(runc) = users::runc() else {
        skip!("runc is not installed, there is nothing to compare with")
    };
    bundle.args(&["/bin/sh", "-c", PROBE]);
    let theirs = view(bundle, runc);
    let ours = view(bundle, runtime::path());
    let different = difference(&theirs, &ours);
    assert!(
        different.is_empty(),
        "runc's view (-) and ours (+):\n{}",
        different.join("\n")
    );
}

#[track_caller]
fn view(bundle: &Bundle, program: PathBuf) -> Vec<String> {
    let mut one = bundle.clone();
    one.runtime.program = program;
    normalised(&one.run().success().stdout)
}

fn normalised(text: &str) -> Vec<String> {
    let mut section = "";
    let mut lines = vec![];
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        }
        if section == "[dev]" && line.ends_with(" mqueue") {
            continue;
        }
        let line = if section == "[mounts]" && !line.starts_with('[') {
            intended(&mount_line(line))
        } else {
            line.to_owned()
        };
        lines.push(format!("{section} {line}"));
    }
    lines
}

/// Removes what differs by intent, each with its reason:
/// - a mask's tmpfs may be bounded (`size`, `nr_inodes`): it is read-only and nothing is to be
///   stored in it;
/// - the tmpfs that holds the cgroup hierarchies may be read-only where runc's is writable;
/// - runc hands ignored signals on, and hull does not (process.rs has a test);
/// - the owner of an mqueue in a user namespace (mounts.rs has a test).
fn intended(line: &str) -> String {
    if !line.contains(" - tmpfs ") || line.contains(" /dev") {
        return line.to_owned();
    }
    let (flags, data) = line.rsplit_once(' ').unwrap_or((line, ""));
    let kept: Vec<&str> = data
        .split(',')
        .filter(|o| !o.starts_with("size=") && !o.starts_with("nr_inodes="))
        .collect();
    let flags = flags.replace(" /sys/fs/cgroup rw,", " /sys/fs/cgroup ro,");
    format!("{flags} {}", kept.join(","))
}

/// A line of mountinfo without its ids, its device number and peer groups; what is mounted, where,
/// and with which options stays.
fn mount_line(line: &str) -> String {
    let fields: Vec<&str> = line.split(' ').collect();
    let dash = fields
        .iter()
        .position(|f| *f == "-")
        .unwrap_or(fields.len());
    let tags = fields[6..dash]
        .iter()
        .map(|t| t.split(':').next().unwrap_or(t))
        .collect::<Vec<_>>();
    format!(
        "{} {} {} {} - {}",
        fields[3],
        fields[4],
        fields[5],
        tags.join(" "),
        fields[dash + 1..].join(" ")
    )
}

/// The lines that only one of two texts has, marked with its side.
fn difference(a: &[String], b: &[String]) -> Vec<String> {
    let without = |x: &[String], y: &[String]| {
        let mut rest = y.to_vec();
        x.iter()
            .filter(|l| {
                rest.iter()
                    .position(|r| r == *l)
                    .map(|i| rest.remove(i))
                    .is_none()
            })
            .cloned()
            .collect::<Vec<_>>()
    };
    let minus = without(a, b).into_iter().map(|l| format!("- {l}"));
    minus
        .chain(without(b, a).into_iter().map(|l| format!("+ {l}")))
        .collect()
}
