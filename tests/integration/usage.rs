//! What containers use: `events` in runc's lines, `stats` for people.

use crate::resources::limited;
use crate::support::{Bundle, fixture, until};
use serde_json::{Value, json};
use std::fs;

tests![
    events_stats_are_the_cgroups,
    events_tell_of_running_out_of_memory,
    events_end_with_the_container,
    stats_are_a_table_and_json,
    stats_of_what_does_not_run_is_an_error,
];

fn events_stats_are_the_cgroups() {
    let b = limited(json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } }));
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

fn events_tell_of_running_out_of_memory() {
    let mut b = limited(json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } }));
    b.args(&[
        "/bin/sh",
        "-c",
        "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; tail /dev/zero; sleep 1000",
    ]);
    let c = b.started();
    let file = fixture::new_dir("events").join("out");
    let mut command = b.runtime.command(&["events", "--interval", "1s", &b.id]);
    let mut child =
        crate::support::leaks::spawn(command.stdout(fs::File::create(&file).unwrap())).unwrap();
    until("the first statistics", || {
        fs::read_to_string(&file).unwrap().contains("stats")
    });
    c.exec(&["touch", "/dev/shm/go"]).success();
    until("the event", || {
        fs::read_to_string(&file)
            .unwrap()
            .lines()
            .any(|l| l.contains("\"oom\""))
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

fn events_end_with_the_container() {
    only_hull!("runc's end with the cgroup");
    let b = Bundle::sleeper();
    let c = b.started();
    let file = fixture::new_dir("events").join("out");
    let mut command = b.runtime.command(&["events", "--interval", "100ms", &b.id]);
    let mut child =
        crate::support::leaks::spawn(command.stdout(fs::File::create(&file).unwrap())).unwrap();
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
    let mut b = limited(json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } }));
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
    // One processor was wanted all the time; how much of it there was is the machine's affair.
    assert!(stats["cpu_percent"].as_f64().unwrap() > 0.0, "{stats}");
}

fn stats_of_what_does_not_run_is_an_error() {
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
