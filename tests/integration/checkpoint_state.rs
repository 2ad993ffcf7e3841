//! The state that `restore` restores: threads, memory, files, pipes, sockets, timers, a terminal,
//! volumes, limits, ids and namespaces; and the hooks that it runs.

use crate::support::cgroups::by_version;
use crate::support::checkpoint::{
    COUNT, Checkpoint, ask, bundle, count, counter, passed, started, succeeds, version, with_criu,
    with_runc,
};
use crate::support::console::FdSocket;
use crate::support::runtime::drives_hull;
use crate::support::users::Holder;
use crate::support::{Bundle, Container, fixture, runtime, until};
use serde_json::json;
use std::collections::HashMap;
use std::fs;
use std::process::Stdio;

tests![
    threads_memory_files_pipes_sockets_and_timers_are_restored,
    volumes_are_bound_from_their_sources_again,
    limits_are_restored,
    a_user_namespace_is_restored,
    a_joined_network_namespace_is_joined_again,
    a_new_network_namespace_is_restored,
    a_terminal_is_sent_over_the_console_socket,
    hooks_run_as_under_runc,
    a_cgroup_namespace_is_restored,
];

fn threads_memory_files_pipes_sockets_and_timers_are_restored() {
    let mut b = with_criu(Bundle::new());
    b.args(&["/bin/probe", "--probe", "state"]);
    let c = started(&b);
    let before = ask(&b, "first");
    let threads = c.status_line("Threads");
    Checkpoint::round(&b, &[], &[]);
    let after = ask(&b, "last");
    let number = |of: &HashMap<String, String>, name: &str| of[name].parse::<u64>().unwrap();
    for name in ["shared", "counted"] {
        assert!(
            number(&after, name) > number(&before, name),
            "{name}: {before:?}, {after:?}"
        );
    }
    let expected = [
        ("timer", "true"),
        ("pipe", "in the pipe"),
        ("socket", "in the socket"),
        ("rest", "56789"),
        ("removed", "of a removed file"),
        ("accepted", "true"),
    ];
    for (name, value) in expected {
        assert_eq!(after[name], value, "{name}");
    }
    assert_eq!(c.status_line("Threads"), threads);
    let processes: u32 = c
        .exec(&["sh", "-c", "ls -d /proc/[0-9]* | wc -l"])
        .success()
        .stdout
        .trim()
        .parse()
        .unwrap();
    assert!(processes >= 3, "{processes}");
}

fn volumes_are_bound_from_their_sources_again() {
    let mut b = bundle(
        "i=0; while true; do i=$((i+1)); echo $i >/data/count; cat /ro/text >/data/seen; sleep \
            0.1; done",
    );
    let (data, ro) = (fixture::new_dir("data"), fixture::new_dir("ro"));
    fs::write(ro.join("text"), "one").unwrap();
    fs::create_dir(ro.join("deep")).unwrap();
    std::os::unix::fs::symlink("/mnt", b.rootfs().join("link")).unwrap();
    fs::write(fixture::test_scratch().join("file"), "a file").unwrap();
    b.mount("/data", "bind", data.to_str().unwrap(), &["rbind", "rw"]);
    b.mount("/ro", "bind", ro.to_str().unwrap(), &["bind", "ro"]);
    b.mount("/ro/deep", "bind", data.to_str().unwrap(), &["bind"]);
    b.mount("/link", "bind", data.to_str().unwrap(), &["bind"]);
    b.mount(
        "/etc/file",
        "bind",
        fixture::test_scratch().join("file").to_str().unwrap(),
        &["bind", "ro"],
    );
    b.mount("/scratch", "tmpfs", "tmpfs", &["mode=700"]);
    let c = started(&b);
    let number = || {
        runtime::text(data.join("count"))
            .trim()
            .parse::<u64>()
            .unwrap_or(0)
    };
    until("the counter", || number() > 2);
    c.exec(&["sh", "-c", "echo in memory >/scratch/text"])
        .success();
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    let stopped = number();
    fs::write(ro.join("text"), "two").unwrap();
    checkpoint.restored(&b, &[]);
    until("the counter to continue", || {
        number() > stopped && runtime::text(data.join("seen")) == "two"
    });
    let seen = c
        .exec(&[
            "sh",
            "-c",
            "cat /etc/file /scratch/text; until grep . /mnt/seen; do :; \
        done; touch /ro/x 2>&1; stat -c %a /scratch",
        ])
        .success()
        .stdout;
    for part in ["a file", "in memory", "two", "Read-only", "700"] {
        assert_has!(seen, part);
    }
}

fn limits_are_restored() {
    let mut b = counter();
    b.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    b.set("/linux/resources/pids", json!({ "limit": 77 }));
    b.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_NOFILE", "hard": 333, "soft": 222 }]),
    );
    let c = started(&b);
    passed(&b, 1);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    let out = checkpoint.restored(&b, &[]);
    assert_eq!(
        b.cgroup_value("memory", "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    assert_eq!(b.cgroup_file("pids", "pids.max"), "77");
    let limits = c.proc_file("limits");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert_eq!(
        line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(),
        ["222", "333"]
    );
    // criu before 3.19 does not restore no_new_privs, and hull says so.
    let kept = c.status_line("NoNewPrivs") == "1";
    assert!(kept || version().starts_with("3.1"), "{}", version());
    assert!(
        !drives_hull() || kept != out.stderr.contains("no_new_privs"),
        "{kept}: {}",
        out.stderr
    );
    assert_eq!(c.status_line("CapEff"), "0000000020000420");
}

fn a_user_namespace_is_restored() {
    let mut b = with_criu(Bundle::with_user_namespace());
    b.args(&["/bin/sh", "-c", COUNT]);
    let c = started(&b);
    let before = (passed(&b, 1), c.status_line("Uid"), c.proc_file("uid_map"));
    Checkpoint::round(&b, &[], &[]);
    passed(&b, before.0);
    assert_eq!(
        (c.status_line("Uid"), c.proc_file("uid_map")),
        (before.1, before.2)
    );
    assert_eq!(
        c.exec(&["sh", "-c", "echo x >/dev/null; id -u"])
            .success()
            .stdout
            .trim(),
        "0"
    );
    // A second time: hull must know the files that are bound in the place of device nodes.
    Checkpoint::round(&b, &[], &[]);
}

fn a_joined_network_namespace_is_joined_again() {
    let mut b = counter();
    let holder = Holder::new(&["--net"]);
    b.join("network", holder.path("net"));
    let c = started(&b);
    let before = passed(&b, 1);
    Checkpoint::round(&b, &[], &[]);
    passed(&b, before);
    let joined = fs::read_link(format!("/proc/{}/ns/net", c.pid())).unwrap();
    assert_eq!(joined, fs::read_link(holder.path("net")).unwrap());
}

/// hull sets its own settings of the namespace again; criu restores those that the container made.
fn a_new_network_namespace_is_restored() {
    only_hull!("runc leaves loopback down, and forgets the rest");
    let script = COUNT;
    for may_change in [false, true] {
        let mut b = bundle(script);
        b.set(
            "/linux/sysctl",
            json!({ "net.ipv4.ip_unprivileged_port_start": "99" }),
        );
        if may_change {
            b.push("/process/capabilities/bounding", json!("CAP_NET_ADMIN"));
        }
        let c = started(&b);
        passed(&b, 1);
        if may_change {
            c.exec(&[
                "--cap",
                "CAP_NET_ADMIN",
                "ip",
                "address",
                "add",
                "10.99.0.1/32",
                "dev",
                "lo",
            ])
            .success();
        }
        let checkpoint = Checkpoint::round(&b, &[], &[]);
        passed(&b, count(&b));
        let links = fs::read_dir(&checkpoint.images)
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("netdev-"))
            .count();
        assert_eq!(links, usize::from(may_change), "images of interfaces");
        let shown = c.exec(&["ip", "address", "show", "lo"]).success().stdout;
        assert!(
            shown.contains("UP") && shown.contains("127.0.0.1"),
            "{shown}"
        );
        assert_eq!(shown.contains("10.99.0.1"), may_change, "{shown}");
        if !may_change {
            assert_eq!(
                c.exec(&["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"])
                    .success()
                    .stdout,
                "99\n"
            );
        }
    }
}

fn a_terminal_is_sent_over_the_console_socket() {
    let mut b = bundle("n=0; while read line; do n=$((n+1)); echo \"line $n: $line.\"; done");
    b.set("/process/terminal", json!(true));
    b.write();
    let socket = FdSocket::new();
    let mut command = b.runtime.command(&[
        "run",
        "--detach",
        "--bundle",
        b.dir.to_str().unwrap(),
        "--console-socket",
        socket.path.to_str().unwrap(),
        &b.id,
    ]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let _c = Container::new(&b);
    assert!(succeeds(command));
    let mut terminal = socket.terminal();
    terminal.write("one\n");
    terminal.read_until("line 1: one.");
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    drop(terminal);
    checkpoint.restored(&b, &["--console-socket", socket.path.to_str().unwrap()]);
    let mut terminal = socket.terminal();
    terminal.write("two\n");
    terminal.read_until("line 2: two.");
}

fn hooks_run_as_under_runc() {
    let mut b = bundle("sleep 1000");
    let log = fixture::new_dir("hooks").join("log");
    for list in [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ] {
        let script = format!(
            "echo {list} $(grep -o '\"pid\":[^,]*' | tr -dc 0-9 | grep -c .) >>{}",
            log.display()
        );
        b.push(
            &format!("/hooks/{list}"),
            json!({ "path": "/bin/sh", "args": ["sh", "-c", script] }),
        );
    }
    let run = |b: &Bundle| {
        let c = started(b);
        let checkpoint = Checkpoint::new();
        checkpoint.dumped(b, &[]);
        fs::write(&log, "").unwrap();
        checkpoint.restore(b, &[]).success();
        let said = runtime::text(&log);
        drop(c);
        said
    };
    let runc = with_runc(&b);
    let (ours, theirs) = (run(&b), run(&runc));
    assert_eq!(ours, "prestart 1\ncreateRuntime 1\n");
    assert_eq!(ours, theirs);
}

fn a_cgroup_namespace_is_restored() {
    let mut b = counter();
    b.push("/linux/namespaces", json!({ "type": "cgroup" }));
    let c = started(&b);
    let before = passed(&b, 1);
    Checkpoint::round(&b, &[], &[]);
    passed(&b, before);
    assert_has!(
        c.exec(&["cat", "/proc/1/cgroup"]).success().stdout,
        by_version("memory", "memory:/\n", "0::/\n")
    );
    assert!(count(&b) > before);
}
