//! The security posture of the processes of a container and of hull: their rights, descriptors,
//! namespaces and working directories, in one golden text. `UPDATE_GOLDEN=1` writes it again.

use crate::support::{Bundle, leaks, runtime, until};
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

/// The file of a descriptor, without what differs from run to run.
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
            Ok(meta) if meta.is_dir() => "a directory".to_owned(),
            Ok(meta) if meta.is_file() => "a file".to_owned(),
            _ => "something".to_owned(),
        },
    }
}

/// The lines of one process. hull itself (`is_hull`) has values of its caller, the test, which
/// differ from host to host.
fn posture(name: &str, pid: i32, is_hull: bool) -> String {
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
        let value = status_line(&pid.to_string(), field);
        let value = if is_hull && value == status_line("self", field) {
            "its caller's".to_owned()
        } else {
            value
        };
        let _ = writeln!(text, "  {field} {value}");
    }
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}"));
    let is_own = |kind: &&str| {
        link(&format!("ns/{kind}")).ok() != fs::read_link(format!("/proc/self/ns/{kind}")).ok()
    };
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let own: Vec<&str> = kinds.into_iter().filter(is_own).collect();
    let _ = writeln!(text, "  namespaces of its own: {}", own.join(" "));
    // proc(5): the files of a process that is not dumpable belong to the host's root, whatever its
    // user is.
    let owner = fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
    let _ = writeln!(text, "  its files in /proc belong to {owner}");
    let program = link("exe").unwrap();
    let program = program.file_name().unwrap_or_default().display();
    let _ = writeln!(text, "  runs {program}");
    let in_root = link("cwd").is_ok_and(|cwd| cwd.as_os_str() == "/");
    let _ = writeln!(text, "  cwd {}", if in_root { "/" } else { "elsewhere" });
    let held = descriptors(pid, is_hull).join(", ");
    let _ = writeln!(text, "  holds beyond 0, 1, 2: {held}");
    text
}

/// A value of a process's status file, with single blanks.
fn status_line(pid: &str, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{field}:")));
    let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    words.join(" ")
}

/// The files of a process's descriptors beyond 2; without those that hull has from its caller.
fn descriptors(pid: i32, is_hull: bool) -> Vec<String> {
    let link = |pid: &str, fd: &i32| fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
    let is_callers = |fd: &i32| is_hull && link("self", fd) == link(&pid.to_string(), fd);
    let fds = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut all: Vec<String> = fds
        .filter(|fd| *fd > 2 && !is_callers(fd))
        .map(|fd| descriptor(pid, &fd.to_string()))
        .collect();
    all.sort();
    all
}

/// The pid on the host of a `sleep` with this argument.
fn find(argument: &str) -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (line == format!("sleep\0{argument}\0")).then_some(pid)
    })
}

/// The four processes of one bundle: init before start, the program, that of an exec, and hull
/// itself in the foreground.
fn of_bundle(name: &str, b: &mut Bundle) -> String {
    let mut text = String::new();
    // Arguments that no other `sleep` has.
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
    let hull = leaks::spawn(command.stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
    until("the program in the foreground", || {
        find(&foreground).is_some()
    });
    text += &posture(
        &format!("{name}: hull, in the foreground"),
        hull.id().cast_signed(),
        true,
    );
    b.call(&["kill", &b.id, "KILL"]).success();
    runtime::wait(hull, runtime::LIMIT);
    text
}

// Attack: posture
fn processes_have_the_posture_of_the_golden_text() {
    only_hull!("the golden text is hull's");
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
