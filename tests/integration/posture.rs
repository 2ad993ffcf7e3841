//! The posture of every process that there is between `create` and the end: what it may do, what it
//! holds, and where it is. One golden text for all; `UPDATE_GOLDEN=1` writes it anew.

use crate::support::{Bundle, harness, leaks, runtime, until};
use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;

tests![processes_have_the_posture_of_the_golden_text];

fn golden() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/integration/posture.golden"
    ))
}

/// What a descriptor leads to, without what differs from run to run.
fn descriptor(pid: i32, fd: &str) -> String {
    let path = format!("/proc/{pid}/fd/{fd}");
    let text = fs::read_link(&path)
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default();
    match text.split_once(':') {
        Some((kind, _)) if !text.starts_with('/') => kind.to_owned(),
        _ if text.ends_with("exec.fifo") || text.ends_with("exec.fifo (deleted)") => {
            "the fifo of start".to_owned()
        }
        _ if text == "/dev/null" => text,
        _ => match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => "a folder".to_owned(),
            Ok(meta) if meta.is_file() => "a file".to_owned(),
            _ => "something".to_owned(),
        },
    }
}

/// One process, line by line. `is_hull`: what it has from its caller, the test, differs by machine.
fn posture(name: &str, pid: i32, is_hull: bool) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut text = format!("{name}\n");
    for field in [
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "SigIgn",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
    ] {
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{field}:")))
            .unwrap_or_default()
            .trim();
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let callers = own.lines().any(|line| {
            line.strip_prefix(&format!("{field}:"))
                .is_some_and(|text| text.trim() == value)
        });
        let value = if is_hull && callers {
            "its caller's"
        } else {
            value
        };
        let _ = writeln!(
            text,
            "  {field} {}",
            value.split_whitespace().collect::<Vec<_>>().join(" ")
        );
    }
    let other = |kind: &str| {
        fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
            != fs::read_link(format!("/proc/self/ns/{kind}")).ok()
    };
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let _ = writeln!(
        text,
        "  namespaces of its own: {}",
        kinds
            .into_iter()
            .filter(|kind| other(kind))
            .collect::<Vec<_>>()
            .join(" ")
    );
    // proc(5): the files of a process that is not dumpable belong to the host's root, whoever it
    // runs as.
    let owner = fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
    let _ = writeln!(text, "  its files in /proc belong to {owner}");
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let _ = writeln!(
        text,
        "  runs {}",
        program.file_name().unwrap_or_default().display()
    );
    let _ = writeln!(
        text,
        "  cwd {}",
        if fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.as_os_str() == "/") {
            "/"
        } else {
            "elsewhere"
        }
    );
    let mut fds: Vec<i32> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    fds.sort_unstable();
    let link = |pid: &str, fd: &i32| fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
    let callers = |fd: &i32| is_hull && link("self", fd) == link(&pid.to_string(), fd);
    let mut held: Vec<String> = fds
        .iter()
        .filter(|fd| **fd > 2 && !callers(fd))
        .map(|fd| descriptor(pid, &fd.to_string()))
        .collect();
    held.sort();
    let _ = writeln!(text, "  holds beyond 0, 1, 2: {}", held.join(", "));
    text
}

/// A process of the container by its arguments, as the host sees it.
fn find(argument: &str) -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (line == format!("sleep\0{argument}\0")).then_some(pid)
    })
}

/// The four processes of one bundle: created, started, entered, and hull itself in the foreground.
fn of_bundle(name: &str, b: &mut Bundle) -> String {
    let mut text = String::new();
    // Numbers that no other process sleeps for.
    let (inner, foreground) = (
        format!("2{}", std::process::id()),
        format!("3{}", std::process::id()),
    );
    let c = b.create();
    text += &posture(&format!("{name}: init, created"), c.pid(), false);
    c.start();
    let pid = c.pid();
    text += &posture(&format!("{name}: the program"), pid, false);
    c.exec_with(&["--detach"], &["sleep", &inner]).success();
    until("the second program", || find(&inner).is_some());
    text += &posture(&format!("{name}: exec"), find(&inner).unwrap(), false);
    drop(c);
    b.args(&["sleep", &foreground]);
    b.write();
    let mut command = b
        .runtime
        .command(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
    let mut hull = leaks::spawn(command.stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
    until("the program in the foreground", || {
        find(&foreground).is_some()
    });
    text += &posture(
        &format!("{name}: hull, in the foreground"),
        hull.id().cast_signed(),
        true,
    );
    b.call(&["kill", &b.id, "KILL"]).success();
    assert!(harness::wait_within(&mut hull, runtime::LIMIT));
    leaks::OWN.lock().unwrap().remove(&hull.id().cast_signed());
    hull.wait().unwrap();
    text
}

fn processes_have_the_posture_of_the_golden_text() {
    only_hull!("the text is hull's");
    let mut plain = Bundle::sleeper();
    let mut user = Bundle::with_user_namespace();
    user.args(&["sleep", "1000"]).set("/process/noNewPrivileges", json!(false)).set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["chroot"], "action": "SCMP_ACT_ERRNO" }] }),
    );
    user.set(
        "/process/user",
        json!({ "uid": 7, "gid": 8, "additionalGids": [9] }),
    );
    let text = of_bundle("plain", &mut plain)
        + &of_bundle("in a user namespace, with a filter", &mut user);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(golden(), &text).unwrap();
    }
    let was = fs::read_to_string(golden()).unwrap();
    for (line, (was, is)) in was.lines().zip(text.lines()).enumerate() {
        assert_eq!(is, was, "line {} of the golden text", line + 1);
    }
    assert_eq!(text.lines().count(), was.lines().count(), "{text}");
}
