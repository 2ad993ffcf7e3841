//! `events`, in the format of runc, and `stats`, as a table and as JSON.

use crate::support::cgroups::{self, Version};
use crate::support::{Bundle, fixture, leaks, until};
use serde_json::{Value, json};
use std::fs;

tests![
    events_stats_are_the_cgroups,
    events_report_out_of_memory,
    events_report_out_of_memory_of_the_first_process,
    events_report_pressure,
    events_end_with_the_container,
    stats_are_a_table_and_json,
    stats_of_a_stopped_container_are_an_error,
];

fn events_stats_are_the_cgroups() {
    let b = Bundle::limited(&json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } }));
    let c = b.started();
    let text = c.call(&["events", "--stats"]).success().stdout;
    let stats: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats["type"], "stats");
    assert_eq!(stats["id"], b.id.as_str());
    assert_eq!(stats["data"]["pids"]["current"], 1);
    assert_eq!(stats["data"]["pids"]["limit"], 20);
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert!(stats["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
    assert!(stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    drop(c);
}

/// Starts `events`, waits for its first line, calls `go`, and returns the output when it has an
/// `oom` event or has ended.
fn events_of(b: &Bundle, go: impl Fn()) -> String {
    let file = fixture::new_dir("events").join("out");
    let mut command = b.runtime.command(&["events", "--interval", "1s", &b.id]);
    let mut child = leaks::spawn(command.stdout(fs::File::create(&file).unwrap())).unwrap();
    let text = || fs::read_to_string(&file).unwrap();
    until("the first statistics", || text().contains("stats"));
    go();
    until("the event or the end", || {
        text().contains("\"oom\"") || child.try_wait().unwrap().is_some()
    });
    child.kill().ok();
    child.wait().unwrap();
    text()
}

fn events_report_out_of_memory() {
    let mut b = Bundle::limited(&json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } }));
    b.args(&[
        "/bin/sh",
        "-c",
        "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; tail /dev/zero; sleep 1000",
    ]);
    let c = b.started();
    assert_has!(
        events_of(&b, || drop(c.exec(&["touch", "/dev/shm/go"]).success())),
        "\"oom\""
    );
}

/// The OOM kill ends the container, whose cgroup may be removed at once: the event comes anyway.
fn events_report_out_of_memory_of_the_first_process() {
    only_hull!("runc 1.1.5 may lose it");
    let mut b = Bundle::limited(&json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } }));
    b.args(&[
        "/bin/sh",
        "-c",
        "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exec tail /dev/zero",
    ]);
    let c = b.started();
    let events = events_of(&b, || {
        c.exec(&["touch", "/dev/shm/go"]).success();
        c.wait_for("stopped");
        c.call(&["delete"]).success();
    });
    assert_has!(events, "\"oom\"");
}

fn events_report_pressure() {
    only_hull!("runc 1.1.5 does not report pressure");
    if cgroups::version("cpu") == Version::V1
        || !std::path::Path::new("/proc/pressure/cpu").exists()
    {
        skip!("cgroup v2 alone reports pressure");
    }
    let b = Bundle::sleeper();
    let c = b.started();
    let stats: Value =
        serde_json::from_str(&c.call(&["events", "--stats"]).success().stdout).unwrap();
    for part in ["cpu", "memory", "blkio"] {
        let psi = &stats["data"][part]["psi"];
        assert!(
            psi["some"]["avg10"].is_number() && psi["full"]["total"].is_number(),
            "{part}: {stats}"
        );
    }
}

fn events_end_with_the_container() {
    only_hull!("runc's end with the cgroup");
    let b = Bundle::sleeper();
    let c = b.started();
    let file = fixture::new_dir("events").join("out");
    let mut command = b.runtime.command(&["events", "--interval", "100ms", &b.id]);
    let mut child = leaks::spawn(command.stdout(fs::File::create(&file).unwrap())).unwrap();
    until("two samples", || {
        fs::read_to_string(&file).unwrap().matches("stats").count() >= 2
    });
    c.kill("KILL").success();
    let mut status = None;
    until("the end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success());
    for line in fs::read_to_string(&file).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&event["type"], &event["id"]),
            (&json!("stats"), &json!(b.id))
        );
    }
    assert_has!(c.call(&["events", "--stats"]).failure(), "is not running");
}

fn stats_are_a_table_and_json() {
    only_hull!("runc has no such command");
    let mut b =
        Bundle::limited(&json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } }));
    b.args(&["/bin/sh", "-c", "sleep 1000 & while :; do :; done"]);
    let c = b.started();
    until("both processes", || c.processes().len() == 2);
    let table = b.call(&["stats", "--no-stream"]).success().stdout;
    let lines: Vec<&str> = table.lines().collect();
    let cells = |line: &str| -> Vec<String> {
        line.split("   ")
            .map(|cell| cell.trim().to_owned())
            .filter(|cell| !cell.is_empty())
            .collect()
    };
    let heading = [
        "ID",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET IO",
        "BLOCK IO",
        "PIDS",
    ];
    assert_eq!(cells(lines[0]), heading, "{table}");
    let row = cells(lines[1]);
    assert_eq!(
        (lines.len(), &row[0], &row[6][..]),
        (2, &b.id, "2"),
        "{table}"
    );
    assert!(row[2].ends_with(" / 67.11MB"), "{table}");
    assert!(
        !table.contains('\x1b'),
        "no control characters but to a terminal"
    );
    let text = c
        .call(&["stats", "--no-stream", "--format", "json"])
        .success()
        .stdout;
    let stats: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats.as_array().unwrap().len(), 1);
    let stats = &stats[0];
    assert_eq!(
        (&stats["id"], &stats["mem_limit"], &stats["pids"]),
        (&json!(b.id), &json!(64 << 20), &json!(2))
    );
    assert!(stats["mem_usage"].as_u64().unwrap() > 0);
    // The program wants one CPU all the time; how much of it it gets depends on the host's load.
    assert!(stats["cpu_percent"].as_f64().unwrap() > 0.0, "{stats}");
}

fn stats_of_a_stopped_container_are_an_error() {
    only_hull!("runc has no such command");
    let b = Bundle::sh("true");
    let c = b.started();
    c.wait_for("stopped");
    assert_has!(
        c.call(&["stats", "--no-stream"]).failure(),
        "is not running"
    );
    assert_has!(
        b.call(&["stats", "none"]).failure(),
        "container does not exist"
    );
    let all = b
        .call(&["stats", "--no-stream", "--format", "json"])
        .success()
        .stdout;
    assert_eq!(all, "[]\n");
}
