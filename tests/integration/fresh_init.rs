//! `--fresh-init`: the container steps are bytes and a table of slots, so that a new process which
//! reads them makes the same container as the cloned child. The guest's hull in the VM backend is
//! such a process.

use crate::support::console::FdSocket;
use crate::support::{Bundle, fixture, runtime};
use serde_json::json;
use std::fs;

tests![
    fresh_init_makes_the_default_container,
    fresh_init_in_a_user_namespace,
    fresh_init_with_a_terminal,
    fresh_init_with_hooks,
    fresh_init_with_every_kind_of_step,
    fresh_init_in_joined_namespaces,
    fresh_init_of_an_ordinary_user,
    fresh_init_passes_preserved_descriptors_on,
    fresh_init_says_why_it_failed,
];

/// Writes all that the first process can know of itself and its environment to a file, without the
/// numbers that differ from run to run.
const PROBE: &str = r#"
{
echo "[status]"; grep -vE '^(State|Vm|Rss|Hugetlb|voluntary|nonvoluntary|SigQ)' /proc/1/status
echo "[mounts]"; awk '{ n = 7; while ($n != "-") n++; $1 = $2 = $3 = ""; print }' /proc/1/mountinfo | sed -E 's/(shared|master|propagate_from):[0-9]+/\1/g'
echo "[cgroup]"; cat /proc/1/cgroup
echo "[fds]"; for f in 0 1 2 3 4 5 6 7 8 9 10 20 30; do [ -e /proc/1/fd/$f ] && [ $f != 10 ] && echo "$f $(stat -L -c '%F %t:%T %u' /proc/1/fd/$f)"; done; cd /proc/1/fd; echo *; cd /
echo "[environment]"; tr '\0' '\n' < /proc/1/environ | sort
echo "[arguments]"; tr '\0' '\n' < /proc/1/cmdline | wc -l; cat /proc/1/comm
echo "[limits]"; cat /proc/1/limits
echo "[oom]"; cat /proc/1/oom_score_adj
echo "[slack]"; cat /proc/1/timerslack_ns
echo "[dev]"; ls -lan /dev /dev/pts | sed -E 's/ (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) .*[0-9:]{4,5} / /; s/^total.*//'
echo "[place]"; pwd; hostname; umask; readlink /proc/1/root /proc/1/cwd
echo "[personality]"; cat /proc/1/personality
echo "[maps]"; cat /proc/1/uid_map /proc/1/gid_map /proc/1/setgroups
echo "[session]"; awk '{ print $5, $6, $7, $18, $19, $20, $40, $41 }' /proc/1/stat
echo "[priority]"; ionice -p 1
echo "[clock]"; cat /proc/1/timens_offsets
echo "[network]"; cat /proc/net/dev | cut -d: -f1; cat /proc/sys/net/ipv4/ip_forward
} > /tmp/seen 2>&1
"#;

/// Runs the bundle with a cloned child and with a new process, and asserts that the output is the
/// same.
#[track_caller]
fn same_both_ways(b: &mut Bundle) {
    only_hull!("runc has no --fresh-init");
    b.writable();
    b.args(&["/bin/sh", "-c", PROBE]);
    let cloned = seen(b, false);
    let fresh = seen(b, true);
    assert_has!(cloned, "[network]");
    assert!(cloned.lines().count() > 80, "{cloned}");
    let different: Vec<_> = cloned
        .lines()
        .zip(fresh.lines())
        .filter(|(a, b)| a != b)
        .map(|(a, b)| format!("- {a}\n+ {b}"))
        .collect();
    assert!(
        cloned == fresh,
        "cloned (-) and fresh (+), {} and {} lines:\n{}",
        cloned.lines().count(),
        fresh.lines().count(),
        different.join("\n")
    );
}

#[track_caller]
fn seen(b: &Bundle, fresh: bool) -> String {
    let notes = [
        b.rootfs().join("tmp/seen"),
        b.rootfs().join("tmp/start-hook"),
        b.dir.join("create-hook"),
    ];
    notes.iter().for_each(|path| drop(fs::remove_file(path)));
    let socket = (b.spec["process"]["terminal"] == true).then(FdSocket::new);
    let mut flags = if fresh { vec!["--fresh-init"] } else { vec![] };
    if let Some(socket) = &socket {
        flags.extend(["--console-socket", socket.path.to_str().unwrap()]);
    }
    let (c, out) = b.try_create(&flags);
    out.success();
    let c = c.unwrap();
    let terminal = socket.map(|socket| socket.terminal());
    c.start();
    c.wait_for("stopped");
    drop(terminal);
    let seen = fs::read_to_string(b.rootfs().join("tmp/seen")).unwrap();
    notes[1..]
        .iter()
        .fold(seen, |all, path| all + &runtime::text(path))
}

fn fresh_init_makes_the_default_container() {
    same_both_ways(&mut Bundle::new());
}

fn fresh_init_in_a_user_namespace() {
    let mut b = Bundle::with_user_namespace();
    b.push("/linux/namespaces", json!({ "type": "cgroup" }));
    same_both_ways(&mut b);
}

fn fresh_init_with_a_terminal() {
    let mut b = Bundle::new();
    b.set("/process/terminal", json!(true));
    b.set("/process/consoleSize", json!({ "height": 33, "width": 77 }));
    same_both_ways(&mut b);
}

/// The test compares the arguments, environment, state and descriptors of hooks too.
fn fresh_init_with_hooks() {
    let mut b = Bundle::new();
    let report = "echo \"[hook $0]\"; env | sort; cd /proc/self/fd; echo *; cd /; sed -E \
        's/\"pid\": *[0-9]+/pid/'";
    let create = format!("({report}) > {}/create-hook", b.dir.display());
    b.push("/hooks/createContainer", json!({ "path": "/bin/sh", "args": ["sh", "-c", create, "create"], "env": ["PATH=/usr/bin:/bin", "A=b"] }));
    let start = format!("({report}) > /tmp/start-hook");
    b.push(
        "/hooks/startContainer",
        json!({ "path": "/bin/sh", "args": ["sh", "-c", start, "start"], "env": ["PATH=/bin"] }),
    );
    same_both_ways(&mut b);
    assert_has!(runtime::text(b.dir.join("create-hook")), "[hook create]");
    assert_has!(
        runtime::text(b.rootfs().join("tmp/start-hook")),
        "[hook start]"
    );
}

fn fresh_init_with_every_kind_of_step() {
    let mut b = Bundle::new();
    b.mount("/home", "tmpfs", "tmpfs", &["tmpcopyup"]);
    b.mount("/mnt", "bind", "/etc", &["rbind", "ro"]);
    b.set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }));
    b.set("/linux/personality", json!({ "domain": "LINUX" }));
    b.set("/linux/rootfsPropagation", json!("rshared"));
    b.push("/linux/devices", json!({ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 384, "uid": 7, "gid": 8 }));
    b.push("/linux/namespaces", json!({ "type": "time" }));
    b.set(
        "/linux/timeOffsets",
        json!({ "boottime": { "secs": 500, "nanosecs": 3 } }),
    );
    b.set("/domainname", json!("domain"));
    b.set(
        "/process/user",
        json!({ "uid": 0, "gid": 5, "additionalGids": [10, 29], "umask": 23 }),
    );
    b.set("/process/oomScoreAdj", json!(321));
    b.set(
        "/process/ioPriority",
        json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 }),
    );
    b.set(
        "/process/scheduler",
        json!({ "policy": "SCHED_BATCH", "nice": 7 }),
    );
    b.set("/process/noNewPrivileges", json!(false));
    let rule = json!({ "names": ["kexec_load"], "action": "SCMP_ACT_ERRNO" });
    b.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }),
    );
    same_both_ways(&mut b);
}

/// Joining namespaces needs an intermediate process.
fn fresh_init_in_joined_namespaces() {
    let mut owner = Bundle::sleeper();
    owner.add_user_namespace();
    let c = owner.started();
    let mut b = Bundle::new();
    for (kind, file) in [("user", "user"), ("network", "net"), ("ipc", "ipc")] {
        b.join(kind, format!("/proc/{}/ns/{file}", c.pid()));
    }
    fixture::give_to(
        &b.rootfs(),
        crate::support::users::MAPPED,
        crate::support::users::MAPPED,
    );
    same_both_ways(&mut b);
}

fn fresh_init_of_an_ordinary_user() {
    same_both_ways(&mut Bundle::of_ordinary_user());
}

/// The new process gets no descriptor of hull's own, and init closes the others: the caller's
/// descriptors of `--preserve-fds` pass through both.
fn fresh_init_passes_preserved_descriptors_on() {
    only_hull!("runc has no --fresh-init");
    let b = Bundle::sh("cd /proc/self/fd; echo *; cat <&3");
    b.write();
    fs::write(b.dir.join("given"), "words\n").unwrap();
    let script = "exec 3< $0/given 4< /dev/null; exec \"$@\"";
    let plain = b.runtime.command(&[
        "run",
        "--fresh-init",
        "--preserve-fds",
        "1",
        "--bundle",
        b.dir.to_str().unwrap(),
        &b.id,
    ]);
    let mut c = std::process::Command::new("sh");
    c.args(["-c", script])
        .arg(&b.dir)
        .arg(plain.get_program())
        .args(plain.get_args())
        .stdin(std::process::Stdio::null());
    let out = runtime::finish(c, runtime::LIMIT).success().stdout;
    let (fds, words) = out.split_once('\n').unwrap();
    // The shell reads the directory by a descriptor of its own.
    assert_eq!(fds, "0 1 2 3 4", "{out}");
    assert_eq!(words, "words\n");
}

/// The new process shares the page of the error report, although it is no clone.
fn fresh_init_says_why_it_failed() {
    only_hull!("runc has no --fresh-init");
    let mut b = Bundle::new();
    b.args(&["/no/such/program"]);
    let (_, cloned) = b.try_create(&[]);
    let (_, fresh) = b.try_create(&["--fresh-init"]);
    assert_eq!(fresh.clone().failure(), cloned.failure());
    assert_has!(fresh.failure(), "no such file or directory");
}
